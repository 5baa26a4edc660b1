"""A running digest of which samples every global step saw, equal for any number of processes and workers.

Within a step the samples' hashes are added modulo 2^64, so neither order nor split matters and partial sums of
processes can be added; from step to step the sums are chained, so a step cannot be moved or left out.
"""

import numpy as np

from selectivemae.core.order import Int64, mix

_MASK = 0xFFFFFFFFFFFFFFFF


def step_sum(step: int, index: Int64) -> int:
    """Sum modulo 2^64 of the hashes of (step, sample) over the samples ``index`` (B,) that one process saw."""
    return int(np.sum(mix(step, index), dtype=np.uint64))


def combine(partial_sums: list[int]) -> int:
    """The global step's sum from those of all processes."""
    return sum(partial_sums) & _MASK


def chain(digest: int, total: int) -> int:
    """The digest (64 bits) after one more global step with sum ``total``; the first step starts from digest 0."""
    return int(mix(digest, total))
