"""The noise of the device is the hash of ``core.order``, and its Gumbel numbers are Gumbel's."""

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import gumbel_r, kstest

from selectivemae.core import order
from selectivemae.ops import noise

Int64s = st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=20)


@given(Int64s)
@settings(deadline=None)
def test_the_hash_is_that_of_core_bit_for_bit(words: list[int]) -> None:
    x = np.array(words, np.int64)
    wanted = order.splitmix64(x.view(np.uint64)).view(np.int64)
    assert np.array_equal(noise.splitmix64(torch.from_numpy(x)).numpy(), wanted)


@given(Int64s, st.integers(0, 100))
@settings(deadline=None)
def test_uniform_numbers_are_the_first_bits_of_the_chained_hash(keys: list[int], purpose: int) -> None:
    key = np.array(keys, np.int64)
    bits = order.mix(key[:, None].view(np.uint64), purpose, np.arange(7)[None]) >> np.uint64(41)
    wanted = ((bits.astype(np.float64) + 0.5) / 2**23).astype(np.float32)
    got = noise.uniform(torch.from_numpy(key), purpose, 7).numpy()
    assert np.array_equal(got, wanted)
    assert ((got > 0) & (got < 1)).all()


def test_gumbel_numbers_are_gumbels() -> None:
    key = torch.from_numpy(order.sample_key(1, 2, np.arange(200)))
    drawn = noise.gumbel(key, 1, 50).numpy()
    assert np.isfinite(drawn).all()
    assert kstest(drawn.ravel(), gumbel_r.cdf).pvalue > 1e-3
    assert abs(np.corrcoef(drawn.ravel(), noise.gumbel(key, 2, 50).numpy().ravel())[0, 1]) < 0.05


def test_a_samples_noise_does_not_depend_on_its_batch() -> None:
    key = torch.from_numpy(order.sample_key(1, 2, np.arange(9)))
    assert torch.equal(noise.uniform(key, 3, 8)[4:5], noise.uniform(key[4:5], 3, 8))
    assert torch.equal(noise.uniform(key, 3, 8)[:, :5], noise.uniform(key, 3, 5))
