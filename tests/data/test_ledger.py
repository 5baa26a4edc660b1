"""The ledger against plain Python integers, and its independence of order and split."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from selectivemae.data.ledger import chain, combine, step_sum

MASK = 2**64 - 1
INDICES = st.lists(st.integers(0, 2**40), min_size=1, max_size=40)


def splitmix(x: int) -> int:
    """Reference in Python integers (Steele, Lea & Flood 2014)."""
    x = (x + 0x9E3779B97F4A7C15) & MASK
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & MASK
    return x ^ (x >> 31)


def pair(a: int, b: int) -> int:
    return splitmix(splitmix(a) ^ b)


@given(st.integers(0, 2**50), INDICES)
def test_sum_of_hashes(step: int, index: list[int]) -> None:
    assert step_sum(step, np.array(index)) == sum(pair(step, i) for i in index) & MASK


@given(st.integers(0, 2**50), INDICES, st.integers(1, 5), st.randoms(use_true_random=False))
def test_any_split_in_any_order(step: int, index: list[int], world: int, random) -> None:
    whole = step_sum(step, np.array(index))
    random.shuffle(index)
    assert combine([step_sum(step, np.array(index[rank::world], dtype=np.int64)) for rank in range(world)]) == whole


def test_a_step_can_be_neither_moved_nor_changed() -> None:
    def run(steps: list[list[int]]) -> int:
        digest = 0
        for step, index in enumerate(steps):
            digest = chain(digest, step_sum(step, np.array(index)))
        return digest

    digests = {run(s) for s in ([[1, 2], [3, 4]], [[3, 4], [1, 2]], [[1, 3], [2, 4]], [[1, 2], [3, 4], []], [[1, 2]])}
    assert len(digests) == 5
    assert (
        run([[2, 1], [4, 3]])
        == run([[1, 2], [3, 4]])
        == pair(pair(0, step_sum(0, np.array([1, 2]))), step_sum(1, np.array([3, 4])))
    )
