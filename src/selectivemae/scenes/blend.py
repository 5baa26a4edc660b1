"""Weighted sums of overlapping windows in whole numbers.

Values are rounded to multiples of 2^-18 of their bound and summed as integers, so that the sums do not depend on the
order of the windows to the last bit: whole or in parts, on one device or several, the map is the same.
"""

import numpy as np
import torch
from torch import Tensor

from selectivemae.scenes.windows import Int64, ramp_weights

_BITS = 18  # of a value; 12 more are the weight's, so that a sum of weight 64 * 64 fits in 32
_WIDE_BITS = 34  # of a value in 64-bit sums


class Blend:
    """The sums of a row of windows, ``rows`` cells high and ``columns`` wide, for K bands.

    ``add`` windows of the row, ``take`` the rows that no later window meets, and go on with the next row. 64-bit sums
    (``wide``) are for functions whose windows may overlap by more than half, and for values that need to be finer.
    """

    def __init__(
        self, bands: int, rows: int, columns: int, overlap: int, bound: float, device: torch.device, *, wide: bool
    ) -> None:
        self.rows, self.overlap = rows, overlap
        self.unit = unit_of(bound, wide=wide)
        self.bound = bound
        kind = torch.int64 if wide else torch.int32
        self.sums = torch.zeros((bands, rows, columns), dtype=kind, device=device)
        along = torch.from_numpy(ramp_weights(rows, overlap)).to(device, kind)
        self._weight = along[:, None] * along[None, :]

    def add(self, values: Tensor, columns: Int64) -> None:
        """Add windows (B, K, rows, rows) float32 that begin at ``columns`` (B,) cells."""
        if values.is_cuda and not self.sums.is_cuda:  # the first windows of a scene may have been without any data
            self.sums, self._weight = self.sums.to(values.device), self._weight.to(values.device)
        wide = values.to(self.sums.device).clamp(-self.bound, self.bound)
        if self.sums.dtype == torch.int64:
            wide = wide.double()
        whole = (wide * self.unit).round_().to(self.sums.dtype).mul_(self._weight)
        for window, column in zip(whole, columns.tolist(), strict=True):
            self.sums[:, :, column : column + self.rows] += window

    def take(self, rows: int) -> Tensor:
        """The sums (K, rows, columns) of the first ``rows`` rows; the rest moves up, and zeros follow."""
        done = self.sums[:, :rows].clone()
        keep = self.sums[:, rows:].clone()
        self.sums[:, : keep.shape[1]] = keep
        self.sums[:, keep.shape[1] :] = 0
        return done


def unit_of(bound: float, *, wide: bool) -> float:
    """What a value of 1 counts in sums of weight 1."""
    return 2.0 ** (_WIDE_BITS if wide else _BITS) / bound


def total_weights(starts: Int64, size: int, overlap: int, begin: int, end: int) -> Int64:
    """Sum of the weights (end - begin,) that windows at ``starts`` give the cells [begin, end) of an axis."""
    along = ramp_weights(size, overlap)
    total = np.zeros(end - begin, np.int64)
    for start in starts.tolist():
        low, high = max(start, begin), min(start + size, end)
        if low < high:
            total[low - begin : high - begin] += along[low - start : high - start]
    return total
