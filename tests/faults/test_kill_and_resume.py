"""A run that was killed, stopped or damaged ends as one that never was: same losses, same weights to the bit."""

import os
import random
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from tiny_runs import STEPS, ledger, leftovers, losses, same_weights, start, train, write_images

from selectivemae.core.errors import CheckpointError, Interrupted
from selectivemae.engine import checkpoint
from selectivemae.engine.checkpoint import newest_checkpoint
from selectivemae.engine.loop import Trainer

pytestmark = pytest.mark.fault


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_images(tmp_path_factory.mktemp("images"))


@pytest.fixture(scope="module")
def whole(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run from beginning to end in one go."""
    out = tmp_path_factory.mktemp("runs") / "whole"
    assert train(images, out).steps == STEPS
    return out


def check_same(run: Path, whole: Path) -> None:
    got, wanted = losses(run), losses(whole)
    assert got.keys() == wanted.keys() == set(range(1, STEPS + 1))
    assert max(abs(got[step] - wanted[step]) for step in wanted) <= 1e-6
    assert ledger(run) == ledger(whole)
    assert same_weights(run, whole)
    assert leftovers(run) == []


def dies_after_step(images: Path, out: Path, number: int, delay: float, resume: bool) -> None:
    """A run that is killed ``delay`` seconds after its step ``number`` began, wherever that is."""
    step, armed = Trainer.step, False

    def deadly(self: Trainer, batch: Any, state: Any) -> None:
        nonlocal armed
        if state.step >= number and not armed:
            armed = True
            threading.Timer(delay, os.kill, (os.getpid(), signal.SIGKILL)).start()
        time.sleep(0.01)
        step(self, batch, state)

    Trainer.step = deadly
    train(images, out, resume=resume)


def dies_in_checkpoint(images: Path, out: Path, number: int, place: str, resume: bool, **settings: Any) -> None:
    """A run that is killed in its ``number``-th checkpoint: ``within`` its files, or ``before`` the name is known."""
    name = {"within": "_write_tensors", "before": "atomic_write"}[place]
    real, calls = getattr(checkpoint, name), 0
    files = 3 if "prune_ratio" in settings else 2  # of tensors in a checkpoint

    def deadly(*arguments: Any) -> None:
        nonlocal calls
        calls += 1
        if place == "before" and calls == number:
            os.kill(os.getpid(), signal.SIGKILL)
        real(*arguments)
        if (
            place == "within" and calls == files * (number - 1) + 1
        ):  # the weights lie there, the optimizer's state does not
            os.kill(os.getpid(), signal.SIGKILL)

    setattr(checkpoint, name, deadly)
    train(images, out, resume=resume, **settings)


def test_five_sigkills(images: Path, whole: Path, tmp_path: Path) -> None:
    out, draw = tmp_path / "run", random.Random(7)
    deaths = [(dies_after_step, draw.randrange(5, 10), draw.uniform(0, 0.04), False)]
    deaths += [(dies_after_step, draw.randrange(10, 13), draw.uniform(0, 0.04), True)]
    deaths += [(dies_in_checkpoint, 1, place, True) for place in ("within", "before", "within")]
    for death, *how in deaths:
        process = start(death, images, out, *how)
        process.join()
        assert process.exitcode == -signal.SIGKILL
    assert train(images, out, resume=True).steps == STEPS
    check_same(out, whole)


def test_a_kill_before_the_first_checkpoint_begins_anew(images: Path, whole: Path, tmp_path: Path) -> None:
    process = start(dies_in_checkpoint, images, tmp_path / "run", 1, "within", False)
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert newest_checkpoint(tmp_path / "run" / "checkpoints") == (None, [])
    train(images, tmp_path / "run", resume=True)
    check_same(tmp_path / "run", whole)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_saves_the_state(images: Path, whole: Path, tmp_path: Path, monkeypatch, number: int, code: int):
    step = Trainer.step

    def signalled(self: Trainer, batch: Any, state: Any) -> None:
        if state.step == 7:
            os.kill(os.getpid(), number)
        step(self, batch, state)

    monkeypatch.setattr(Trainer, "step", signalled)
    handlers = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with pytest.raises(Interrupted, match="continue with --resume") as stopped:
        train(images, tmp_path / "run")
    assert stopped.value.exit_code == code
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == handlers
    assert list(losses(tmp_path / "run")) == list(range(1, 9))  # the running step is finished
    monkeypatch.undo()
    saved, _ = newest_checkpoint(tmp_path / "run" / "checkpoints")
    assert saved is not None
    assert saved.state["step"] == 8
    train(images, tmp_path / "run", resume=True)
    check_same(tmp_path / "run", whole)


def test_a_pruned_run_resumes_exactly(images: Path, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"prune_ratio": 0.5, "epochs": 8.0}
    done = train(images, tmp_path / "whole", **settings)
    assert 20 < done.steps < 40  # some samples were left out
    for number, place in ((2, "within"), (1, "before"), (1, "within")):
        resume = (tmp_path / "run").exists()
        process = start(dies_in_checkpoint, images, tmp_path / "run", number, place, resume, **settings)
        process.join()
        assert process.exitcode == -signal.SIGKILL
    assert train(images, tmp_path / "run", resume=True, **settings).steps == done.steps
    assert losses(tmp_path / "run") == losses(tmp_path / "whole")
    assert ledger(tmp_path / "run") == ledger(tmp_path / "whole")
    assert same_weights(tmp_path / "run", tmp_path / "whole")


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.safetensors", "state.json", "SHA256SUMS"])
def test_a_damaged_checkpoint_is_noticed_and_the_one_before_used(images: Path, whole: Path, tmp_path: Path, name: str):
    out = tmp_path / "run"
    train(images, out, epochs=3.0)
    newest = out / "checkpoints" / "step-00000015"
    content = bytearray((newest / name).read_bytes())
    content[len(content) // 2] ^= 0x90  # beyond ASCII as well
    (newest / name).write_bytes(content)
    train(images, out, resume=True, keep=1)
    assert "step-00000015 is damaged" in (out / "log.txt").read_text()
    assert [f.name for f in (out / "checkpoints").glob("step-*")] == ["step-00000025"]
    # Which checkpoint was used does not show in what comes of it; the schedule of 5 epochs began late, so only
    # the samples are those of the whole run.
    assert ledger(out) == ledger(whole)


@pytest.mark.parametrize("content", [b"", b"\0" * 200])
def test_an_emptied_list_of_checksums_is_damage(images: Path, tmp_path: Path, content: bytes) -> None:
    train(images, tmp_path / "run", epochs=2.0)
    (tmp_path / "run" / "checkpoints" / "step-00000010" / "SHA256SUMS").write_bytes(content)
    found, problems = newest_checkpoint(tmp_path / "run" / "checkpoints")
    assert found is not None
    assert (found.state["step"], len(problems)) == (5, 1)


def test_without_a_whole_checkpoint_nothing_is_trained_over(images: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    train(images, out, epochs=2.0)
    for folder in (out / "checkpoints").glob("step-*"):
        (folder / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"no whole checkpoint is left: .*model\.safetensors is missing"):
        train(images, out, resume=True)


def test_damaged_checkpoints_do_not_crowd_out_whole_ones(tmp_path: Path) -> None:
    for step in (5, 10, 15, 20):
        (tmp_path / f"step-{step:08d}").mkdir()
    checkpoint.prune_checkpoints(tmp_path, newest=12, keep=1, keep_every=5)
    assert sorted(f.name for f in tmp_path.iterdir()) == ["step-00000005", "step-00000010"]
    checkpoint.prune_checkpoints(tmp_path, newest=10, keep=1, keep_every=0)
    assert [f.name for f in tmp_path.iterdir()] == ["step-00000010"]


def test_a_finished_run_is_left_alone_and_can_be_made_longer(images: Path, whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    train(images, out, epochs=3.0)
    saved = out / "checkpoints" / "step-00000015" / "model.safetensors"
    before = saved.stat().st_ino
    (out / "encoder.safetensors").unlink()  # as if a kill had come just after the checkpoint
    assert train(images, out, epochs=3.0, resume=True).steps == 15
    assert saved.stat().st_ino == before
    assert (out / "encoder.safetensors").exists()
    assert train(images, out, resume=True).steps == STEPS
    assert ledger(out) == ledger(whole)
