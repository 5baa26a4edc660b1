"""The figures of a run in TensorBoard or Weights & Biases as well (extra ``track``).

RUN/
  tensorboard/   event files: ``tensorboard --logdir RUN/tensorboard``
  wandb/         offline runs, one a session: nothing is sent before ``wandb sync RUN/wandb/offline-run-*``
"""

import os
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

from selectivemae.core.errors import ConfigError
from selectivemae.core.records import Metrics


class Tracker(Protocol):
    """Where figures go beside ``metrics.jsonl``."""

    def log(self, figures: Mapping[str, float], step: int) -> None:
        """Take the figures of a step, by names such as ``train/loss``."""
        ...

    def close(self) -> None:
        """Write what is left."""
        ...


class TrackedMetrics(Metrics):
    """The metrics file, whose numbers go to trackers too."""

    def __init__(self, path: Path, resume_step: int | None, trackers: Sequence[Tracker]) -> None:
        super().__init__(path, resume_step)
        self.trackers = trackers

    def write(self, kind: str, step: int, **figures: Any) -> None:
        """Append one line, and pass its numbers on as ``kind/name``."""
        super().write(kind, step, **figures)
        numbers = {f"{kind}/{name}": float(value) for name, value in figures.items() if isinstance(value, int | float)}
        for tracker in self.trackers:
            tracker.log(numbers, step)

    def close(self) -> None:
        """Close the file and the trackers."""
        super().close()
        for tracker in self.trackers:
            tracker.close()


class TensorBoard:
    """Event files under ``RUN/tensorboard``; a resumed run hides what came after its checkpoint."""

    def __init__(self, out: Path, resume_step: int | None) -> None:
        from torch.utils.tensorboard import SummaryWriter

        purge = None if resume_step is None else resume_step + 1
        self.writer = SummaryWriter(str(out / "tensorboard"), purge_step=purge)

    def log(self, figures: Mapping[str, float], step: int) -> None:
        """One scalar each."""
        for name, value in figures.items():
            self.writer.add_scalar(name, value, step)

    def close(self) -> None:
        """Flush and close."""
        self.writer.close()


class WeightsAndBiases:
    """An offline run under ``RUN/wandb``; the variable WANDB_MODE=online, set by the user, sends at once."""

    def __init__(self, out: Path, settings: Mapping[str, Any]) -> None:
        import wandb  # pyright: ignore[reportMissingImports] (an extra)

        self.run = wandb.init(
            project="selectivemae",
            name=out.name,
            group=out.name,
            dir=out,
            config=dict(settings),
            mode="online" if os.environ.get("WANDB_MODE") == "online" else "offline",
            settings=wandb.Settings(console="off", silent=True, disable_git=True, save_code=False),
        )

    def log(self, figures: Mapping[str, float], step: int) -> None:
        """All figures of a line at once."""
        self.run.log(dict(figures), step=step)

    def close(self) -> None:
        """Finish the run."""
        self.run.finish()


def check_trackers(names: Sequence[str]) -> None:
    """ConfigError when a tracker's package is not installed."""
    for name in names:
        if find_spec(name) is None:
            raise ConfigError(
                f"--track {name} needs the package {name}, which is not installed: pip install 'selectivemae[track]'"
            )


def open_metrics(out: Path, resume_step: int | None, trackers: Sequence[str], settings: Mapping[str, Any]) -> Metrics:
    """The metrics of a run folder, tracked where ``trackers`` are named."""
    opened: list[Tracker] = []
    for name in dict.fromkeys(trackers):
        opened.append(TensorBoard(out, resume_step) if name == "tensorboard" else WeightsAndBiases(out, settings))
    return TrackedMetrics(out / "metrics.jsonl", resume_step, opened)
