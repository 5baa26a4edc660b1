"""The engine: every task done once, past workers that die, hang or run out of memory."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from curation_worlds import Numbers, write_numbers
from PIL import Image

from selectivemae.core.errors import OutputError, UserError
from selectivemae.curation.engine import InternalError, run_stage
from selectivemae.curation.pool import LocalPool
from selectivemae.curation.tasks import Died, Done


@pytest.fixture(scope="module")
def pool() -> Iterator[LocalPool]:
    executor = LocalPool(2)
    yield executor
    executor.close()


def numbers(folder: Path) -> list[int]:
    return sorted(int(n) for path in folder.glob("*.txt") for n in path.read_text().split())


def test_tasks_are_done_once(pool: LocalPool, tmp_path: Path) -> None:
    tasks = [Numbers(f"t{i}", 10 * i, 10 * i + 10) for i in range(5)]
    seen: list[tuple[int, int]] = []
    stage = run_stage(pool, write_numbers, tasks, tmp_path, lambda done, total: seen.append((done, total)))
    assert numbers(tmp_path) == list(range(50))
    assert (stage.counts, stage.retries, seen[-1]) == ({"numbers": 50}, 0, (5, 5))
    (tmp_path / "t3.txt").unlink()
    again = run_stage(pool, write_numbers, tasks, tmp_path)
    assert again.counts == {"numbers": 50}
    assert not (tmp_path / "t3.txt").exists(), "a finished task was repeated"
    changed = [*tasks[:3], Numbers("t3", 30, 35), tasks[4]]
    assert run_stage(pool, write_numbers, changed, tmp_path).counts == {"numbers": 45}


def test_deadly_members_are_found_and_left_out(pool: LocalPool, tmp_path: Path) -> None:
    tasks = [Numbers("a", 0, 10), Numbers("b", 10, 30, deadly=(13, 21)), Numbers("c", 30, 40)]
    stage = run_stage(pool, write_numbers, tasks, tmp_path)
    assert [(q.task, q.member, q.reason) for q in stage.quarantined] == [
        ("b", 13, "worker_crash"),
        ("b", 21, "worker_crash"),
    ]
    assert "Segmentation fault" in stage.quarantined[0].stderr
    assert numbers(tmp_path) == [n for n in range(40) if n not in (13, 21)]
    again = run_stage(pool, write_numbers, tasks, tmp_path)
    assert again.quarantined == stage.quarantined
    assert again.retries == 0


def test_a_worker_that_dies_once_costs_nothing(pool: LocalPool, tmp_path: Path) -> None:
    stage = run_stage(pool, write_numbers, [Numbers("a", 0, 5, once=str(tmp_path / "died"))], tmp_path)
    assert (stage.quarantined, stage.retries) == ([], 1)
    assert numbers(tmp_path) == list(range(5))


class Unlucky(LocalPool):
    """The first ``deaths`` workers are killed while they start."""

    deaths = 2

    def _start(self) -> Any:
        worker = super()._start()
        if self._started <= self.deaths:
            worker.process.kill()
        return worker


def test_a_worker_that_is_killed_at_its_start_costs_nothing(tmp_path: Path) -> None:
    executor = Unlucky(1)
    stage = run_stage(executor, write_numbers, [Numbers("a", 0, 5), Numbers("b", 5, 7)], tmp_path)
    executor.deaths = 1 << 30
    executor.close()
    assert (stage.quarantined, stage.retries) == ([], 0)
    assert numbers(tmp_path) == list(range(7))
    with pytest.raises(UserError, match="cannot start"):
        run_stage(executor, write_numbers, [Numbers("c", 7, 9)], tmp_path)


class Haunted:
    """Every worker that is given a whole task dies ``deaths`` times; parts of tasks are done."""

    def __init__(self, deaths: int) -> None:
        self.deaths = deaths

    def run(self, job: Any, tasks: Any, folder: Path) -> Iterator[tuple[Any, Any]]:
        for task in tasks:
            if task.name == "a" and self.deaths > 0:
                self.deaths -= 1
                yield task, Died("oom", -1, "")
            else:
                yield task, Done(job(task, folder, lambda member, seconds: None))

    def close(self) -> None:
        pass


def test_blows_from_outside_blame_no_member(tmp_path: Path) -> None:
    """A worker is killed three times in one task, by no fault of a member: the task is done, nothing is left out."""
    stage = run_stage(Haunted(3), write_numbers, [Numbers("a", 0, 9)], tmp_path)
    assert (stage.quarantined, stage.counts) == ([], {"numbers": 9})
    (tmp_path / "a.done").unlink()
    with pytest.raises(OutputError, match=r"no half of its files does it alone.*--resume"):
        run_stage(Haunted(9), write_numbers, [Numbers("a", 0, 9)], tmp_path)


def test_a_member_that_hangs_is_cut_off(pool: LocalPool, tmp_path: Path) -> None:
    stage = run_stage(pool, write_numbers, [Numbers("a", 0, 3, slow=(1,))], tmp_path)
    assert [(q.member, q.reason) for q in stage.quarantined] == [(1, "timeout")]
    assert numbers(tmp_path) == [0, 2]


def full_disk(task: Numbers, folder: Path, mark) -> dict[str, int]:
    raise OutputError("no space left on the disk")


def bug(task: Numbers, folder: Path, mark) -> dict[str, int]:
    raise KeyError("a bug")


def greedy(task: Numbers, folder: Path, mark) -> dict[str, int]:
    mark(task.start, 60.0)
    try:
        bytearray(8 << 30)
    except MemoryError:
        return {"refused": 1}
    return {}


def test_errors_stop_the_stage_with_their_words(pool: LocalPool, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no space left"):
        run_stage(pool, full_disk, [Numbers("a", 0, 1)], tmp_path)
    with pytest.raises(InternalError, match=r"Traceback[\s\S]*a bug"):
        run_stage(pool, bug, [Numbers("a", 0, 1)], tmp_path)


def threads(task: Numbers, folder: Path, mark) -> dict[str, int]:
    square = np.ones((300, 300))
    assert (square @ square).all()  # more would be started here
    return {"threads": len(os.listdir("/proc/self/task"))}


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="needs /proc")
def test_workers_compute_with_one_thread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "3")
    executor = LocalPool(1)
    counts = run_stage(executor, threads, [Numbers("a", 0, 1)], tmp_path).counts
    executor.close()
    assert counts == {"threads": 1}
    assert os.environ["OPENBLAS_NUM_THREADS"] == "3"


def test_a_script_without_a_main_guard_is_told(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "from selectivemae.curation.config import CurateConfig\nfrom selectivemae.curation.run import curate\n"
        f"curate(CurateConfig(sources=[{str(tmp_path / 'images')!r}], out={str(tmp_path / 'corpus')!r}, workers=1))\n"
    )
    (tmp_path / "images").mkdir()
    Image.fromarray(np.arange(9216, dtype=np.uint8).reshape(96, 96)).save(tmp_path / "images" / "a.png")
    run = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=120)
    assert run.stderr.splitlines()[-1].endswith("call this under: if __name__ == '__main__': (exit code 1)")


def test_memory_of_workers_is_limited(tmp_path: Path) -> None:
    executor = LocalPool(1, memory=4 << 30)
    try:
        assert run_stage(executor, greedy, [Numbers("a", 0, 1)], tmp_path).counts == {"refused": 1}
    finally:
        executor.close()
