"""What a run folder says of itself, read back without torch."""

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from selectivemae.core.config import read_yaml
from selectivemae.core.errors import DataError
from selectivemae.core.records import Quarantine, read_metrics

Record = dict[str, Any]


@dataclass(frozen=True)
class Saved:
    """One checkpoint, by its ``state.json``."""

    folder: Path
    state: Record

    @property
    def step(self) -> int:
        """Steps done."""
        return int(self.state["step"])


@dataclass(frozen=True)
class RunRecords:
    """Everything that lies in a run folder but weights; parts that are not there yet are empty."""

    folder: Path
    settings: Record
    about: dict[str, str]  # version, commit, command line
    train: list[Record]
    probes: list[Record]
    events: list[Record]
    checkpoints: list[Saved]
    quarantine: dict[str, tuple[str, int]] = field(default_factory=dict)  # id -> reason, times
    pictures: list[Path] = field(default_factory=list)  # reconstruction grids, oldest first
    evaluations: list[Record] = field(default_factory=list)  # of a fine-tuning, figures in percent
    judged: list[Path] = field(default_factory=list)  # pictures of its last evaluation
    maps: list[Path] = field(default_factory=list)  # previews of what ``predict`` made with it

    @property
    def last(self) -> Record:
        """The newest of the last "train" line and the last checkpoint; empty when there is neither."""
        lines = self.train[-1:] + [c.state for c in self.checkpoints[-1:]]
        return max(lines, key=lambda line: line["step"], default={})

    @property
    def progress(self) -> float:
        """Share of training done, in [0, 1]."""
        return float(self.last.get("progress", 0.0))

    @property
    def finished(self) -> bool:
        """Whether the budget is spent."""
        return self.progress >= 1.0

    @property
    def seconds(self) -> float:
        """Seconds of training, all sessions together."""
        return float(self.last.get("time_s", self.last.get("elapsed_s", 0.0)))

    @property
    def epochs(self) -> float:
        """Epochs done, with the fraction of the running one."""
        return float(self.last.get("epochs", self.last.get("epoch", 0.0)))


def is_run(folder: Path) -> bool:
    """Whether a folder is that of a run."""
    return (folder / "config.yaml").is_file()


def is_checkpoint(folder: Path) -> bool:
    """Whether a folder is one checkpoint."""
    return (folder / "state.json").is_file()


def read_run(folder: Path) -> RunRecords:
    """Read a run folder; it may still be written to. DataError when it is none, or a file in it is damaged."""
    if not is_run(folder):
        raise DataError(f"{folder} is no run folder: it has no config.yaml; give the --out of a pretrain")
    metrics = folder / "metrics.jsonl"
    lines = list(read_metrics(metrics)) if metrics.is_file() else []
    quarantine = folder / "quarantine.csv"
    return RunRecords(
        folder,
        read_yaml(folder / "config.yaml"),
        _head(folder / "config.yaml"),
        train=of_kind(lines, "train"),
        probes=of_kind(lines, "probe"),
        events=of_kind(lines, "event"),
        checkpoints=[read_saved(f.parent) for f in sorted(folder.glob("checkpoints/step-*/state.json"))],
        quarantine=Quarantine(quarantine).rows if quarantine.is_file() else {},
        pictures=sorted((folder / "pictures").glob("reconstruction-*.png")),
        evaluations=of_kind(lines, "eval"),
        judged=sorted((folder / "evaluation").glob("*.png")),
        maps=sorted((folder / "pictures").glob("map-*.png")),
    )


def of_kind(lines: Iterable[Record], kind: str) -> list[Record]:
    """The lines of one kind."""
    return [line for line in lines if line.get("kind") == kind]


def read_saved(folder: Path) -> Saved:
    """One checkpoint's state. DataError when it is damaged."""
    path = folder / "state.json"
    try:
        state = json.loads(path.read_text())
    except (OSError, ValueError) as e:
        raise DataError(f"{path} cannot be read ({e}): go on from an older checkpoint") from e
    return Saved(folder, state)


def _head(path: Path) -> dict[str, str]:
    """The ``# key: value`` lines at the head of a settings file."""
    head = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.startswith("# "):
            break
        key, _, value = line[2:].partition(": ")
        head[key] = value
    return head
