"""Randomness as pure functions: counter-based hashing, sample keys, and permutations with random access.

Nothing in training draws from a generator with state. Order, augmentation and selection are functions of
(seed, epoch, sample), so they depend on no worker, batch split, process or device (method.md, section 6).
The integer hash is splitmix64 (Steele, Lea & Flood, OOPSLA 2014); ``ops.noise`` evaluates the same one in torch.
"""

import numpy as np
from numpy.typing import NDArray

UInt64 = NDArray[np.uint64]
Int64 = NDArray[np.int64]

GOLDEN = 0x9E3779B97F4A7C15
_MASK = 0xFFFFFFFFFFFFFFFF
_ROUNDS = 6  # a Feistel network of 4 rounds is a pseudo-random permutation (Luby & Rackoff 1988); two to spare


def splitmix64(x: UInt64) -> UInt64:
    """Finaliser of splitmix64: a bijection of 64-bit integers, elementwise on a uint64 array of any shape."""
    with np.errstate(over="ignore"):
        x = x + np.uint64(GOLDEN)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return x ^ (x >> np.uint64(31))


def mix(*words: int | UInt64 | Int64) -> UInt64:
    """Hash a tuple of integers (scalars or arrays that broadcast) to uint64, by chaining ``splitmix64``."""
    state = np.asarray(0, dtype=np.uint64)
    for word in words:
        bits = np.asarray(word & _MASK if isinstance(word, int) else word)
        state = splitmix64(state ^ bits.astype(np.uint64))
    return state


def uniform(key: UInt64 | Int64, purpose: int) -> NDArray[np.float64]:
    """Uniform numbers in [0, 1) from keys, one per key; another ``purpose`` gives independent numbers."""
    return (mix(key, purpose) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def sample_key(seed: int, epoch: int, index: Int64) -> Int64:
    """Noise key (B,) int64 of samples: what augmentation and selection of a sample in an epoch are made from.

    ``index`` (B,) is the place of each sample in the sorted list of all samples.
    """
    return mix(seed, epoch, index).view(np.int64)


def permute(position: Int64, n: int, key: int) -> Int64:
    """Map positions 0..n-1 to a permutation of 0..n-1 chosen by ``key``, each look-up in O(1) memory.

    A balanced Feistel network on the smallest even number of bits that holds n, with cycle walking back into
    range (Black & Rogaway 2002). ``position`` may have any shape and order.
    """
    if n <= 1:
        return np.zeros_like(position)
    half = np.uint64((max((n - 1).bit_length(), 2) + 1) // 2)
    low = np.uint64((1 << int(half)) - 1)
    keys = [int(mix(key, r)) for r in range(_ROUNDS)]

    def encrypt(x: UInt64) -> UInt64:
        left, right = x >> half, x & low
        for k in keys:
            left, right = right, left ^ (splitmix64(right ^ np.uint64(k)) & low)
        return (left << half) | right

    out = encrypt(np.asarray(position).astype(np.uint64))
    while (outside := out >= np.uint64(n)).any():
        out = np.where(outside, encrypt(out), out)
    return out.astype(np.int64)


def epoch_order(seed: int, epoch: int, position: Int64, n: int) -> Int64:
    """Which of n samples stands at each position of an epoch's order (a permutation for every (seed, epoch))."""
    return permute(position, n, int(mix(seed, epoch, 0x0DE2)))
