"""Who holds up the others, and what is said of it."""

import json
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from selectivemae.distributed.watch import Beat, Watch, suspects


class Board:
    """A store as torch's, in memory."""

    def __init__(self) -> None:
        self.notes: dict[str, bytes] = {}

    def set(self, key: str, value: str) -> None:
        self.notes[key] = value.encode()

    def get(self, key: str) -> bytes:
        return self.notes[key]

    def check(self, keys: list[str]) -> bool:
        return all(key in self.notes for key in keys)


def beat(count: int) -> dict[str, Any]:
    return {"count": count, "step": count // 3, "doing": "training", "alone": False, "host": "h", "pid": 1, "sent": 0}


@given(st.lists(st.integers(0, 3), min_size=2, max_size=9))
def test_those_behind_are_suspect_unless_all_stand_at_one_place(counts: list[int]) -> None:
    beats = {rank: beat(count) for rank, count in enumerate(counts)}
    found = suspects(beats, dict.fromkeys(beats, 0.0), 1.0)
    expected = [rank for rank, count in enumerate(counts) if count == min(counts)]
    assert found == (expected if len(set(counts)) > 1 else [])


def test_silence_is_more_suspect_than_being_behind() -> None:
    beats = {0: beat(1), 1: beat(9), 2: None}
    assert suspects(beats, {0: 0.0, 1: 5.0}, 1.0) == [1, 2]


@pytest.mark.parametrize("silent", [False, True])
def test_the_one_that_does_not_move_is_named_by_one_that_waits(silent: bool) -> None:
    """Process 1 stands still; its own thread goes on, or stands still as well (a stopped process)."""
    board, said = Board(), {0: [], 1: [], 2: []}
    watches = []
    for rank in range(3):
        place = Beat(host=f"host{rank}", pid=100 + rank)
        place.at(4 if rank == 1 else 5, "waiting for data" if rank == 1 else "training")
        place.count = 10 if rank == 1 else 12
        watches.append(Watch(board, rank, 3, place, 0.4, said[rank].append))
    for rank, watch in enumerate(watches):
        if silent and rank == 1:
            board.set("beat/1", json.dumps({**beat(10), "host": "host1", "pid": 101, "step": 4}))
        else:
            watch.start()
    time.sleep(1.2)
    for rank, watch in enumerate(watches):
        if not (silent and rank == 1):
            watch.stop()
    assert said[0][0].startswith("process 1 on host1, pid 101, in step 4 (")
    assert "has not moved for over 0.4 s" in said[0][0]
    assert said[2][0] == ""  # one of them is enough
    if not silent:
        assert said[1][0] == ""


def test_one_that_works_by_itself_is_waited_for_as_long_as_it_lives() -> None:
    """Process 0 evaluates for three time-outs while the others stand; then it hangs, and is named."""
    board, said = Board(), {0: [], 1: []}
    places = [Beat(step=4, count=10, host="host0", pid=100), Beat(step=5, count=12)]
    watches = [Watch(board, rank, 2, place, 0.4, said[rank].append) for rank, place in enumerate(places)]
    for watch in watches:
        watch.start()
    with places[0].by_itself("evaluation"):
        time.sleep(1.2)
        assert said == {0: [], 1: []}
    time.sleep(1.2)
    for watch in watches:
        watch.stop()
    assert said[1][0].startswith("process 0 on host0, pid 100, in step 4 (")
    assert said[0][0] == ""
