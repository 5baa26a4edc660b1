"""Orders and keys: bijections, even, and those of the published hash."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from selectivemae.core.order import epoch_order, mix, permute, sample_key, splitmix64, uniform

MASK = (1 << 64) - 1


def slow_splitmix64(x: int) -> int:
    """Java's SplittableRandom finaliser on Python's integers."""
    z = (x + 0x9E3779B97F4A7C15) & MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
    return z ^ (z >> 31)


def test_splitmix64_gives_the_published_sequence() -> None:
    # The first outputs of the generator with seed 1234567 (its authors' reference program).
    state, wanted = 1234567, [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431]
    got = [int(splitmix64(np.asarray((state + i * 0x9E3779B97F4A7C15) & MASK, np.uint64))) for i in range(4)]
    assert got == wanted


@given(st.lists(st.integers(-(2**63), 2**64 - 1), min_size=1, max_size=5))
@settings(deadline=None)
def test_mix_chains_the_hash_of_its_words(words: list[int]) -> None:
    state = 0
    for word in words:
        state = slow_splitmix64(state ^ (word & MASK))
    assert int(mix(*words)) == state


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 63, 64, 65, 255, 257, 1000, 1024, 1025, 4097, 70001])
def test_an_order_is_a_permutation(n: int) -> None:
    assert np.array_equal(np.sort(epoch_order(3, 2, np.arange(n), n)), np.arange(n))


@given(st.integers(2, 3000), st.integers(0, 2**64 - 1), st.integers(0, 2**31))
@settings(max_examples=50, deadline=None)
def test_a_look_up_does_not_depend_on_the_others(n: int, key: int, draw: int) -> None:
    some = np.random.default_rng(draw).integers(0, n, 5)
    whole = permute(np.arange(n), n, key)
    assert np.array_equal(permute(some, n, key), whole[some])
    assert np.array_equal(permute(some.reshape(5, 1), n, key), whole[some].reshape(5, 1))


def test_a_look_up_among_billions_takes_no_memory() -> None:
    n = 5_000_000_000
    got = permute(np.arange(1000) + n - 1000, n, 1)
    assert ((got >= 0) & (got < n)).all()
    assert len(np.unique(got)) == 1000


def test_epochs_and_seeds_differ() -> None:
    orders = [tuple(epoch_order(seed, epoch, np.arange(50), 50)) for seed in range(4) for epoch in range(4)]
    assert len(set(orders)) == 16
    fixed = np.mean([np.mean(np.array(o) == np.arange(50)) for o in orders])
    assert fixed < 0.08  # 1 / 50 by chance


def test_every_place_gets_every_sample_equally_often() -> None:
    n, keys = 12, 6000
    counts = np.zeros((n, n))
    for key in range(keys):
        counts[np.arange(n), permute(np.arange(n), n, int(mix(99, key)))] += 1
    assert chisquare(counts.ravel()).pvalue > 1e-4
    assert min(chisquare(row).pvalue for row in counts) > 1e-4


def test_every_order_of_few_samples_comes_equally_often() -> None:
    counts: dict[tuple[int, ...], int] = {}
    for key in range(7200):
        order = tuple(permute(np.arange(4), 4, int(mix(5, key))))
        counts[order] = counts.get(order, 0) + 1
    assert len(counts) == 24
    assert chisquare(list(counts.values())).pvalue > 1e-4


def test_uniform_numbers_are_even_and_independent_by_purpose() -> None:
    keys = sample_key(0, 0, np.arange(20000))
    one, other = uniform(keys, 1), uniform(keys, 2)
    assert ((one >= 0) & (one < 1)).all()
    for numbers in (one, other):
        assert chisquare(np.histogram(numbers, 50, (0, 1))[0]).pvalue > 1e-4
    assert abs(np.corrcoef(one, other)[0, 1]) < 0.03


def test_keys_of_samples_differ_and_stay() -> None:
    keys = {int(k) for seed in range(5) for epoch in range(5) for k in sample_key(seed, epoch, np.arange(100))}
    assert len(keys) == 2500
    # Resuming a run of an earlier version needs the same numbers for ever.
    words = 0
    for word in (7, 3, 11):
        words = slow_splitmix64(words ^ word)
    assert int(sample_key(7, 3, np.array([11]))[0]) == words - ((words >> 63) << 64)
