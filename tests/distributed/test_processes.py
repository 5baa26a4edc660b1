"""Several processes train as one does: same losses, same samples, and what goes wrong in one is known to all."""

import json
import os
import re
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from rank_runs import notes_of, outcome, ranks, train, write_images
from tiny_runs import same_weights, weights

from selectivemae.engine.checkpoint import newest_checkpoint
from selectivemae.engine.hooks import checkpoint

pytestmark = pytest.mark.slow

MANY: dict[str, Any] = {"batch_size": 8, "samples_seen": 96, "epochs": None, "checkpoint_steps": 3}


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_images(tmp_path_factory.mktemp("images"))


@pytest.fixture(scope="module")
def one(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one process, with pruning."""
    folder = tmp_path_factory.mktemp("runs")
    (result,) = ranks(1, folder, train, images, folder / "one", prune_ratio=0.4, **MANY)
    assert result["result"]["steps"] == 12, result
    return folder / "one"


def check_same(run: Path, one: Path, tolerance: float) -> None:
    """Losses, gradient norms and samples of every step are those of one process."""
    (got, ledger), (wanted, wanted_ledger) = outcome(run), outcome(one)
    assert got.keys() == wanted.keys()
    for name in ("loss", "grad_norm"):
        differences = [abs(got[s][name] - wanted[s][name]) / abs(wanted[s][name]) for s in wanted]
        assert differences[0] < 1e-5, name
        assert max(differences) < tolerance, name
    assert [got[s]["ledger"] for s in wanted] == [wanted[s]["ledger"] for s in wanted]
    assert ledger == wanted_ledger


@pytest.mark.parametrize(("world", "settings"), [(2, {}), (4, {"micro_batch": 1}), (2, {"gradient_precision": "bf16"})])
def test_the_same_losses_and_samples_as_one_process(
    images: Path, one: Path, tmp_path: Path, world: int, settings: dict[str, Any]
) -> None:
    done = ranks(world, tmp_path / "notes", train, images, tmp_path / "run", prune_ratio=0.4, **settings, **MANY)
    assert [d["result"]["steps"] for d in done] == [12] * world
    check_same(tmp_path / "run", one, 0.02)


@pytest.mark.skipif(not any(map(shutil.which, ("g++", "clang++"))), reason="torch.compile needs a C++ compiler")
@pytest.mark.parametrize("micro_batch", [None, 2])
def test_two_compiled_processes_are_as_an_eager_one(
    images: Path, one: Path, tmp_path: Path, micro_batch: int | None
) -> None:
    how = {"compile": "on", "micro_batch": micro_batch, "prune_ratio": 0.4}
    done = ranks(2, tmp_path / "notes", train, images, tmp_path / "run", **how, **MANY, seconds=400)
    assert [d.get("result", d).get("steps") for d in done] == [12, 12], [*done, *notes_of(tmp_path / "notes")]
    check_same(tmp_path / "run", one, 0.02)


def test_from_one_to_two_processes_and_back_in_the_middle_of_an_epoch(images: Path, one: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    for world, step in ((1, 2), (2, 6), (1, None)):
        # The last process gets SIGTERM: all stop after the same step, and the state is saved.
        misbehave = {"what": "terminate", "rank": world - 1, "step": step}
        done = ranks(
            world, tmp_path / "notes", train, images, out, resume=True, misbehave=misbehave, prune_ratio=0.4, **MANY
        )
        if step is None:
            assert done[0]["result"]["steps"] == 12
            continue
        assert [d.get("code") for d in done] == [143] * world, [*done, *notes_of(tmp_path / "notes")]
        assert [bool(d["error"]) for d in done] == [True, False][:world]  # process 0 alone says it
        saved, _ = newest_checkpoint(out / "checkpoints")
        assert saved is not None
        assert saved.state["step"] == step + world  # several agree while they do one step more
    check_same(out, one, 0.02)


def stopped_while_saving(images: Path, out: Path, ends: Path) -> None:
    """A training whose last checkpoint takes a while, in which the launcher repeats its SIGTERM, as they do."""
    rank, save = os.environ["RANK"], checkpoint.save_checkpoint

    def slow(*arguments: Any) -> Path:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(1.5)
        return save(*arguments)

    checkpoint.save_checkpoint = slow
    try:
        misbehave = {"what": "terminate", "rank": 1, "step": 2}
        train(images, out, misbehave=misbehave, **MANY | {"checkpoint_steps": None})
    finally:
        (ends / rank).write_text(str(time.monotonic()))


def test_the_others_stay_until_the_state_is_saved(images: Path, tmp_path: Path) -> None:
    """A launcher kills what is left of a job soon after one of its processes has ended."""
    done = ranks(2, tmp_path / "notes", stopped_while_saving, images, tmp_path / "run", tmp_path)
    assert [d["code"] for d in done] == [143, 143], done
    assert done[0]["error"] == "stopped after step 4; continue with --resume"
    saved, _ = newest_checkpoint(tmp_path / "run" / "checkpoints")
    assert saved is not None
    assert saved.state["step"] == 4
    written = (saved.folder / "state.json").stat().st_mtime
    now, clock = time.time(), time.monotonic()
    assert all(float((tmp_path / str(rank)).read_text()) - clock + now > written - 0.1 for rank in range(2))


def test_a_step_that_is_not_finite_in_one_process_is_skipped_by_all(images: Path, tmp_path: Path) -> None:
    misbehave = {"what": "poison", "rank": 1, "step": 3}
    done = ranks(2, tmp_path / "notes", train, images, tmp_path / "run", misbehave=misbehave, **MANY)
    assert [d["result"]["steps"] for d in done] == [12, 12]
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    (event,) = [r for r in lines if r["kind"] == "event"]
    assert (event["event"], event["step"]) == ("not_finite", 4)
    assert all(v.isfinite().all() for v in weights(tmp_path / "run").values())


def test_out_of_memory_in_one_process_halves_the_micro_batch_of_all(images: Path, one: Path, tmp_path: Path) -> None:
    misbehave = {"what": "memory", "rank": 1, "fits": 1}
    done = ranks(2, tmp_path / "notes", train, images, tmp_path / "run", misbehave=misbehave, prune_ratio=0.4, **MANY)
    assert [d["result"]["steps"] for d in done] == [12, 12]
    check_same(tmp_path / "run", one, 0.02)


def test_an_unusable_file_that_another_process_meets_is_in_the_quarantine(images: Path, tmp_path: Path) -> None:
    data = write_images(tmp_path / "data")
    (data / "part0" / "000.jpg").write_bytes(b"no image")
    (data / "part1" / "001.jpg").write_bytes(b"neither")
    done = ranks(2, tmp_path / "notes", train, data, tmp_path / "run", **MANY)
    assert done[0]["result"]["bad"] == 2
    rows = (tmp_path / "run" / "quarantine.csv").read_text().splitlines()[1:]
    single = ranks(1, tmp_path / "notes", train, data, tmp_path / "single", **MANY)
    assert single[0]["result"]["bad"] == 2
    assert rows == (tmp_path / "single" / "quarantine.csv").read_text().splitlines()[1:]  # as often, too


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"batch_size": 7}, "--batch-size 7 cannot be divided among 2 processes: use a multiple, such as 6"),
        ({"compile": "graphs"}, "--compile graphs is for one process, whose gradients stay in place: use --compile on"),
    ],
)
def test_what_does_not_fit_is_said_once(images: Path, tmp_path: Path, settings: dict[str, Any], message: str) -> None:
    done = ranks(2, tmp_path / "notes", train, images, tmp_path / "run", **MANY | settings)
    assert [d["code"] for d in done] == [2, 2]
    assert done[0]["error"] == message
    assert done[1]["kind"] == "ElsewhereError"
    assert not (tmp_path / "run").exists()


def other_data(images: Path, others: Path, out: Path) -> dict[str, Any]:
    """A training whose second process sees other data."""
    return train(images if os.environ["RANK"] == "0" else others, out, **MANY)


def test_processes_that_see_other_data_are_named(images: Path, tmp_path: Path) -> None:
    others = write_images(tmp_path / "others", n=19)
    done = ranks(2, tmp_path / "notes", other_data, images, others, tmp_path / "run")
    assert re.match(
        r"process 1 on .* has other data than process 0 on .* \(19 images, \S+ there, 20 images, \S+ here; also ",
        done[0]["error"],
    )
    assert done[1]["kind"] == "ElsewhereError"


def other_settings(images: Path, out: Path) -> dict[str, Any]:
    """A training whose second process is told otherwise."""
    more = {} if os.environ["RANK"] == "0" else {"seed": 3, "weight_decay": 0.1}
    return train(images, out, **MANY | more)


def test_processes_that_are_told_otherwise_are_named(images: Path, tmp_path: Path) -> None:
    done = ranks(2, tmp_path / "notes", other_settings, images, tmp_path / "run")
    assert re.match(
        r"process 1 on \S+ has other --weight-decay than process 0 on \S+ "
        r"\(0.1 there, 0.05 here; also other --seed\): give all processes the same",
        done[0]["error"],
    )
    assert done[1]["kind"] == "ElsewhereError"
    assert not (tmp_path / "run").exists()


def test_an_error_of_one_process_ends_all(images: Path, tmp_path: Path) -> None:
    misbehave = {"what": "error", "rank": 1, "step": 5}
    done = ranks(2, tmp_path / "notes", train, images, tmp_path / "run", misbehave=misbehave, **MANY)
    assert done[1]["error"] == "the disk of this process is gone"
    assert (done[0]["kind"], done[0]["error"]) == ("ElsewhereError", "")


@pytest.mark.fault
@pytest.mark.parametrize("what", ["hang", "stop"])
def test_a_process_that_hangs_is_named_and_the_job_ends(images: Path, tmp_path: Path, what: str) -> None:
    misbehave = {"what": what, "rank": 1, "step": 5}
    done = ranks(
        2,
        tmp_path / "notes",
        train,
        images,
        tmp_path / "run",
        misbehave=misbehave,
        hang_timeout=2.0,
        seconds=12,
        **MANY,
    )
    assert done[0] == {"exit": 2}
    assert done[1] == {"exit": 2 if what == "hang" else "still running"}  # a stopped one is the launcher's to kill
    notes = "".join((tmp_path / "notes" / f"{rank}.err").read_text() for rank in range(2))
    said = [line for line in notes.splitlines() if line.startswith("selectivemae: ")]
    assert 1 <= len(said) <= 2  # process 1 may add that process 0 is gone
    step = r"in step \d \((training|records|waiting for data)\)"
    assert re.match(rf"selectivemae: process 1 on \S+, pid \d+, {step} has not moved for over 2 s", said[0])


@pytest.mark.fault
def test_a_killed_process_ends_the_job_and_a_restart_goes_on(images: Path, one: Path, tmp_path: Path) -> None:
    """As a launcher does it that restarts all when one has gone; without --resume."""
    out = tmp_path / "run"
    for attempt, (rank, step) in enumerate([(1, 1), (0, 5), (1, 10)]):
        misbehave = {"what": "kill", "rank": rank, "step": step}
        done = ranks(
            2, tmp_path / "notes", train, images, out, attempt=attempt, misbehave=misbehave, prune_ratio=0.4, **MANY
        )
        assert done[rank] == {"exit": -9}
        assert done[1 - rank]["kind"] == "ProcessError"
        assert f"process {1 - rank} lost another one in step {step + 1}" in done[1 - rank]["error"]
    done = ranks(2, tmp_path / "notes", train, images, out, attempt=3, prune_ratio=0.4, **MANY)
    assert [d["result"]["steps"] for d in done] == [12, 12]
    undisturbed = tmp_path / "undisturbed"
    ranks(2, tmp_path / "notes", train, images, undisturbed, prune_ratio=0.4, **MANY)
    assert same_weights(out, undisturbed)
    assert outcome(out)[0] == {
        step: figures | {k: outcome(out)[0][step][k] for k in ("time_s", "images_per_s", "wait_s")}
        for step, figures in outcome(undisturbed)[0].items()
    }
