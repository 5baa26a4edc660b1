"""Counter-based noise on the device: the integer hash of ``core.order``, in torch.

Integer arithmetic on int64 wraps the same on every device, so the noise of a sample depends on its key alone:
not on device, batch, process or worker.
"""

import torch
from torch import Tensor


def _signed(x: int) -> int:
    return x - (1 << 64) if x >= 1 << 63 else x


_GOLDEN = _signed(0x9E3779B97F4A7C15)
_M1 = _signed(0xBF58476D1CE4E5B9)
_M2 = _signed(0x94D049BB133111EB)


def _shift_right(x: Tensor, bits: int) -> Tensor:
    """Logical (not arithmetic) right shift of int64."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def splitmix64(x: Tensor) -> Tensor:
    """Finaliser of splitmix64 on an int64 tensor, bit for bit ``core.order.splitmix64``."""
    x = x + _GOLDEN
    x = (x ^ _shift_right(x, 30)) * _M1
    x = (x ^ _shift_right(x, 27)) * _M2
    return x ^ _shift_right(x, 31)


def uniform(key: Tensor, purpose: int, n: int) -> Tensor:
    """Uniform float32 numbers (B, n) strictly inside (0, 1) from keys (B,) int64.

    Each ``purpose`` gives independent numbers. They are multiples of 2^-23 shifted by half a step, so each is
    exact in float32.
    """
    counter = torch.arange(n, device=key.device, dtype=torch.int64)
    state = splitmix64(splitmix64(key) ^ purpose)
    bits = _shift_right(splitmix64(state[:, None] ^ counter[None]), 41)
    return (bits.float() + 0.5) * 2.0**-23


def gumbel(key: Tensor, purpose: int, n: int) -> Tensor:
    """Standard Gumbel noise (B, n) float32: added to logits, the k highest are a draw of k without replacement
    with softmax probabilities (Gumbel-top-k, arXiv 1903.06059)."""
    return -torch.log(-torch.log(uniform(key, purpose, n)))
