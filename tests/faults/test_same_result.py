"""What must not change a run's losses: accumulation, workers, and how often it looks or saves."""

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_runs import STEPS, losses, same_weights, train, weights, write_images

from selectivemae.core.errors import TrainingError
from selectivemae.core.records import read_metrics
from selectivemae.data.batch import Batch
from selectivemae.engine.checkpoint import read_checkpoint
from selectivemae.engine.state import StepOutput
from selectivemae.pretrain.objective import PretrainObjective


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_images(tmp_path_factory.mktemp("images"))


@pytest.fixture(scope="module")
def whole(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "whole"
    train(images, out)
    return out


@pytest.mark.parametrize("micro_batch", [1, 3])
def test_accumulation_equals_the_whole_batch(images: Path, whole: Path, tmp_path: Path, micro_batch: int) -> None:
    train(images, tmp_path / "run", micro_batch=micro_batch)
    got, wanted = losses(tmp_path / "run"), losses(whole)
    assert max(abs(got[step] - wanted[step]) for step in wanted) < 1e-3  # rounding, made larger by 25 steps
    assert abs(got[1] - wanted[1]) < 1e-6


@pytest.mark.slow
def test_workers_do_not_change_a_run(images: Path, whole: Path, tmp_path: Path) -> None:
    train(images, tmp_path / "run", workers=2)
    assert losses(tmp_path / "run") == losses(whole)
    assert same_weights(tmp_path / "run", whole)


def test_logging_and_saving_do_not_change_a_run(images: Path, whole: Path, tmp_path: Path) -> None:
    train(images, tmp_path / "run", checkpoint_steps=3, log_every=5)
    assert same_weights(tmp_path / "run", whole)
    every, wanted = losses(tmp_path / "run"), losses(whole)
    assert list(every) == [5, 10, 15, 20, 25]
    for step, loss in every.items():  # the mean since the line before
        assert abs(loss - sum(wanted[s] for s in range(step - 4, step + 1)) / 5) < 1e-6


def test_another_seed_is_another_run(images: Path, whole: Path, tmp_path: Path) -> None:
    train(images, tmp_path / "run", seed=1)
    assert losses(tmp_path / "run")[1] != losses(whole)[1]
    assert not same_weights(tmp_path / "run", whole)


def spoil(monkeypatch: pytest.MonkeyPatch, steps: set[int], how: str) -> None:
    """Make the loss of one sample, or every gradient, no number at some steps."""
    step, calls = PretrainObjective.step, 0

    def spoilt(self: PretrainObjective, batch: Batch, progress: float) -> StepOutput:
        nonlocal calls
        calls += 1
        loss = step(self, batch, progress).loss
        if calls not in steps:
            return StepOutput(loss)
        if how == "loss":
            return StepOutput(torch.where(torch.arange(len(loss)) == 1, float("nan"), loss))
        return StepOutput(loss + (loss - loss.detach()).abs().sqrt())  # 0, of infinite slope

    monkeypatch.setattr(PretrainObjective, "step", spoilt)


def events(out: Path) -> list[dict[str, Any]]:
    return [r for r in read_metrics(out / "metrics.jsonl") if r["kind"] == "event"]


@pytest.mark.parametrize(("how", "named"), [("loss", 1), ("gradient", 4)])
def test_a_step_that_is_not_finite_is_skipped_and_its_samples_named(images, whole, tmp_path, monkeypatch, how, named):
    spoil(monkeypatch, {1, 2, 4}, how)
    train(images, tmp_path / "run", epochs=1.0)
    found = events(tmp_path / "run")
    assert [r["step"] for r in found] == [1, 2, 4]
    assert [r["of"] for r in found] == [named] * 3
    assert all(id.startswith(f"{images.name}/part") and id.endswith(".jpg") for r in found for id in r["ids"])
    assert list(losses(tmp_path / "run")) == [1, 2, 3, 4, 5]
    assert all(bool(value.isfinite().all()) for value in weights(tmp_path / "run").values())


def test_a_skipped_step_leaves_weights_and_moments_alone(images: Path, tmp_path: Path, monkeypatch) -> None:
    spoil(monkeypatch, set(range(2, 4)), "loss")
    out = tmp_path / "run"
    train(images, out, samples_seen=12, epochs=None, checkpoint_steps=1, keep=9)
    first, last = (read_checkpoint(out / "checkpoints" / f"step-{n:08d}") for n in (1, 3))
    assert all(torch.equal(first.model[k], last.model[k]) for k in first.model)
    assert all(torch.equal(first.optimizer[k], last.optimizer[k]) for k in first.optimizer)


@pytest.mark.parametrize("log_every", [1, 20])
def test_three_in_a_row_stop_with_the_state_saved(images: Path, tmp_path: Path, monkeypatch, log_every: int) -> None:
    spoil(monkeypatch, {6, 7, 8}, "loss")
    out = tmp_path / "run"
    with pytest.raises(TrainingError, match="not finite 3 steps in a row \\(last step 8\\)"):
        train(images, out, log_every=log_every, checkpoint_steps=None)
    assert [r["step"] for r in events(out)] == [6, 7, 8]
    assert all(bool(value.isfinite().all()) for value in weights(out).values())
    monkeypatch.undo()
    assert train(images, out, resume=True, log_every=log_every).steps == STEPS


def test_flags_that_are_read_late_are_read_before_the_end(images: Path, tmp_path: Path, monkeypatch) -> None:
    spoil(monkeypatch, {4}, "loss")
    train(images, tmp_path / "run", epochs=1.0, log_every=20)
    assert [r["step"] for r in events(tmp_path / "run")] == [4]


def test_a_rate_beyond_all_reason_stops_with_weights_that_are_numbers(images: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="lower the learning rate"):
        train(images, tmp_path / "run", lr=1e30, warmup_epochs=0.0)
    assert all(bool(value.isfinite().all()) for value in weights(tmp_path / "run").values())
