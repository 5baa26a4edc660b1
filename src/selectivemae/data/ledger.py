"""A running digest of which samples every global step saw, equal for any number of processes and workers.

Within a step the samples' hashes are added modulo 2^64, so neither order nor split matters and partial sums of
processes can be added; from step to step the sums are chained, so a step cannot be moved or left out.
"""

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from selectivemae.core.order import Int64, mix

_MASK = 0xFFFFFFFFFFFFFFFF
_MOST = 1000  # steps whose sums wait on a device to be read


def step_sum(step: int, index: Int64) -> int:
    """Sum modulo 2^64 of the hashes of (step, sample) over the samples ``index`` (B,) that one process saw."""
    return int(np.sum(mix(step, index), dtype=np.uint64))


def combine(partial_sums: Sequence[int]) -> int:
    """The global step's sum from those of all processes."""
    return sum(partial_sums) & _MASK


def chain(digest: int, total: int) -> int:
    """The digest (64 bits) after one more global step with sum ``total``; the first step starts from digest 0."""
    return int(mix(digest, total))


class Ledger:
    """The digest of a run so far. Sums that lie on a device are read from it when the digest is asked for."""

    def __init__(self, digest: int = 0) -> None:
        self._digest = digest
        self._pending: list[Sequence[int] | Tensor] = []

    def add(self, partial_sums: Sequence[int] | Tensor) -> None:
        """Book a global step by the sums (W,) of its W parts."""
        self._pending.append(partial_sums)
        if len(self._pending) >= _MOST:
            self._read()

    @property
    def digest(self) -> int:
        """64 bits, of all steps booked."""
        self._read()
        return self._digest

    def _read(self) -> None:
        pending, self._pending = self._pending, []
        for sums in pending:
            parts = sums.tolist() if isinstance(sums, Tensor) else list(sums)
            self._digest = chain(self._digest, combine(parts))
