"""What processes tell each other arrives as it was said."""

import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rank_runs import ranks

from selectivemae.core.errors import DataError
from selectivemae.data.ledger import Ledger, chain, combine, step_sum
from selectivemae.distributed.each_step import Agreement, gather_outcome, outcome_bytes
from selectivemae.distributed.gather import (
    broadcast_data,
    broadcast_tensors,
    gather_data,
    gather_numbers,
    same_everywhere,
    together,
)
from selectivemae.distributed.group import Group
from selectivemae.engine.launch import processes
from selectivemae.engine.memory import fitting, out_of_memory

WORLD, BATCH = 3, 4
TENSORS = {
    "scalar": torch.tensor(2.5), "none": torch.zeros(0, 3), "half": torch.arange(6).reshape(2, 3).to(torch.bfloat16),
    "turned": torch.arange(6.0).reshape(2, 3).T, "large": torch.tensor([2**62 + 1, -1]), "bool": torch.tensor([True]),
}  # fmt: skip


def everything() -> dict[str, Any]:
    """One of each, in a process among others."""
    with processes("cpu", 60, 60) as group:
        rank, main = group.rank, group.is_main
        data = broadcast_data(group, {"Größe": [1, None]} if main else None)
        tensors = broadcast_tensors(group, TENSORS if main else {})
        agreement = Agreement(group, 2)
        said = [agreement.exchange([10 * turn + rank, -rank]) for turn in range(3)]
        places = torch.arange(WORLD * BATCH)[rank::WORLD]
        partial = step_sum(7, places.numpy())
        index, loss, weight, sums, means = gather_outcome(
            group, places, places * 0.5, places * 2.0, partial, {"b": torch.tensor(float(rank)), "a": torch.tensor(4.0)}
        )
        with together(group):
            pass
        same_everywhere(group, {"data": "x"})
        return {
            "numbers": gather_numbers(group, -rank), "lists": gather_data(group, "ä" * rank), "data": data,
            "equal": all(torch.equal(tensors[k], v) and tensors[k].dtype == v.dtype for k, v in TENSORS.items()),
            "said": [*said, agreement.finish()], "index": index.tolist(), "loss": loss.tolist(),
            "weight": weight.tolist(), "sum": combine(sums.tolist()), "means": {k: float(v) for k, v in means.items()},
        }  # fmt: skip


@pytest.mark.slow
def test_three_processes_hear_the_same(tmp_path: Path) -> None:
    done = [d["result"] for d in ranks(WORLD, tmp_path, everything, seconds=60)]
    assert done[0] == done[1] == done[2]
    heard = done[0]
    places = list(range(WORLD * BATCH))
    assert heard["numbers"] == [0, -1, -2]
    assert heard["lists"] == ["", "ä", "ää"]
    assert heard["data"] == {"Größe": [1, None]}
    assert heard["equal"]
    assert heard["said"] == [[0, 0], [2, 0], [12, 0], [22, 0]]  # a step later
    assert heard["index"] == places
    assert heard["loss"] == [0.5 * p for p in places]
    assert heard["weight"] == [2.0 * p for p in places]
    assert heard["sum"] == step_sum(7, np.array(places))
    assert heard["means"] == {"a": 4.0, "b": 1.0}


def one_fails() -> int:
    """Process 1 of two cannot go on."""
    with processes("cpu", 60, 60) as group, together(group):
        if not group.is_main:
            raise DataError("no disk here")
    return 0


@pytest.mark.slow
def test_what_fails_in_one_fails_in_all_and_is_said_once(tmp_path: Path) -> None:
    done = ranks(2, tmp_path, one_fails, seconds=60)
    assert [(d["kind"], d["error"], d["code"]) for d in done] == [
        ("ElsewhereError", "", 2),
        ("DataError", "no disk here", 2),
    ]


def slow_to_say(folder: Path) -> int:
    """Process 1 of three cannot go on, and takes a while to say so; each notes whether it had said it when it left."""
    said = folder / "said"
    try:
        with processes("cpu", 60, 60) as group:
            try:
                with together(group):
                    if group.rank == 1:
                        raise DataError("no disk here")
            finally:
                if group.rank == 1:
                    time.sleep(1.0)
                    said.touch()
    finally:
        (folder / os.environ["RANK"]).write_text(str(said.exists()))
    return 0


@pytest.mark.slow
def test_others_stay_until_the_one_that_fails_can_say_why(tmp_path: Path) -> None:
    """A launcher ends what is left of a job soon after the first has left it."""
    done = ranks(3, tmp_path, slow_to_say, tmp_path, seconds=60)
    assert [d["error"] for d in done] == ["", "no disk here", ""]
    assert [(tmp_path / str(rank)).read_text() for rank in range(3)] == ["True"] * 3


def test_a_process_by_itself_talks_to_nobody() -> None:
    group = Group.single()
    assert gather_data(group, "a") == ["a"]
    assert gather_numbers(group, 3) == [3]
    assert broadcast_data(group, None) is None
    assert broadcast_tensors(group, TENSORS).keys() == TENSORS.keys()
    same_everywhere(group, {"data": "x"})
    with pytest.raises(DataError), together(group):
        raise DataError("mine")


def test_a_ledger_that_is_read_late_is_the_same() -> None:
    sums = [[2**63 + 5, 2**64 - 1], [3], [2**64 - 7, 9, 1]]
    late, expected = Ledger(11), 11
    for parts in sums:
        signed = [s - 2**64 if s >= 2**63 else s for s in parts]
        late.add(torch.tensor(signed) if len(parts) > 1 else parts)
        expected = chain(expected, sum(parts) % 2**64)
    assert late.digest == expected
    assert late.digest == expected  # looking changes nothing


def test_bytes_of_an_outcome() -> None:
    assert outcome_bytes(BATCH, 2) == 8 * BATCH + 8 + 4 * BATCH + 4 * BATCH + 8


def test_images_that_fit_by_measured_memory() -> None:
    assert fitting(total=1000, before=120, peak=320, images=10) == 40
    assert fitting(total=1000, before=990, peak=995, images=1) == 0


def test_a_cpu_without_memory_is_known() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60, dtype=torch.uint8)
    assert out_of_memory(caught.value)
    assert not out_of_memory(RuntimeError("shapes do not fit"))
