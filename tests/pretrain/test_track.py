"""Figures in TensorBoard and Weights & Biases, read back by their own readers."""

import subprocess
import sys
from pathlib import Path

import pytest

from selectivemae.core.errors import ConfigError
from selectivemae.core.records import read_metrics
from selectivemae.pretrain import track

LINES = [("train", 1, {"loss": 1.5, "phase": "near"}), ("train", 2, {"loss": 1.25}), ("probe", 2, {"knn": 50.0})]


def write(out: Path, trackers: list[str], resume_step: int | None = None) -> None:
    metrics = track.open_metrics(out, resume_step, trackers, {"model": "vit_tiny_patch16"})
    for kind, step, figures in LINES:
        metrics.write(kind, step, **figures)
    metrics.close()


def test_the_file_is_the_same_with_and_without_trackers(tmp_path: Path):
    write(tmp_path, [])
    got = list(read_metrics(tmp_path / "metrics.jsonl"))
    assert got == [{"kind": kind, "step": step} | figures for kind, step, figures in LINES]


def test_tensorboard_reads_what_was_written(tmp_path: Path):
    pytest.importorskip("tensorboard", reason="the extra track is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    write(tmp_path, ["tensorboard"])
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert sorted(events.Tags()["scalars"]) == ["probe/knn", "train/loss"]
    assert [(e.step, e.value) for e in events.Scalars("train/loss")] == [(1, 1.5), (2, 1.25)]
    assert [(e.step, e.value) for e in events.Scalars("probe/knn")] == [(2, 50.0)]


@pytest.mark.slow
def test_weights_and_biases_writes_an_offline_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    pytest.importorskip("wandb", reason="the extra track is not installed")
    monkeypatch.delenv("WANDB_MODE", raising=False)
    # A process of its own: what its helper writes is all there when it has ended.
    code = f"from pathlib import Path; from test_track import write; write(Path({str(tmp_path)!r}), ['wandb'])"
    subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parent, check=True)
    (run,) = (tmp_path / "wandb").glob("offline-run-*")
    (data,) = run.glob("*.wandb")
    assert b"train/loss" in data.read_bytes()


def test_a_tracker_that_is_not_installed_is_one_clear_line(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(track, "find_spec", lambda name: None)
    track.check_trackers([])
    with pytest.raises(ConfigError, match=r"--track wandb needs the package wandb.*selectivemae\[track\]"):
        track.check_trackers(["wandb"])
