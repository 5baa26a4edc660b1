"""The engine: every task done once, past workers that die, hang or run out of memory."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from curation_worlds import Numbers, write_numbers

from selectivemae.core.errors import OutputError, UserError
from selectivemae.curation.engine import InternalError, run_stage
from selectivemae.curation.pool import LocalPool


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


def test_memory_of_workers_is_limited(tmp_path: Path) -> None:
    executor = LocalPool(1, memory=4 << 30)
    try:
        assert run_stage(executor, greedy, [Numbers("a", 0, 1)], tmp_path).counts == {"refused": 1}
    finally:
        executor.close()
