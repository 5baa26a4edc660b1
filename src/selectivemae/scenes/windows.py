"""Where the windows of a scene lie: pure functions of lengths in pixels.

Windows start at the multiples of ``stride``, counted in absolute pixels of the ground (``anchor`` is the absolute place
of the scene's first pixel), so that two files that show the same ground are cut at the same places. A scene that one
window covers is one window.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Int64 = NDArray[np.int64]


class Area(NamedTuple):
    """A rectangle of pixels of a scene."""

    x: int
    y: int
    width: int
    height: int


def window_starts(length: int, anchor: int, size: int, stride: int) -> Int64:
    """First pixels of the windows along an axis of ``length`` pixels, ascending; the first may be before the scene, and
    the last may reach over its end. Every pixel is in at least one window."""
    if length <= size:
        return np.zeros(1, np.int64)
    first = anchor // stride
    last = -((size - anchor - length) // stride)  # the first that reaches the end
    return np.arange(first, last + 1, dtype=np.int64) * stride - anchor


def meeting(starts: Int64, size: int, begin: int, end: int) -> Int64:
    """Those of the windows that meet the pixels [begin, end)."""
    return starts[(starts < end) & (starts + size > begin)]


def reflected(start: int, count: int, length: int) -> Int64:
    """Pixels (count,) that stand for ``start`` ... ``start + count - 1`` of an axis: what lies beyond an end is
    mirrored at the last pixel, which is not repeated."""
    if length == 1:
        return np.zeros(count, np.int64)
    period = 2 * (length - 1)
    place = np.arange(start, start + count) % period
    return np.minimum(place, period - place)


def panels(area: Area, limit: int, block: int) -> list[Area]:
    """An area cut into columns of about one width, at most ``limit`` pixels (at least ``block``), at multiples of
    ``block``."""
    first, end = area.x // block * block, area.x + area.width
    widest = max(1, limit // block)  # in blocks
    blocks = -(-(end - first) // block)
    width = -(-blocks // -(-blocks // widest)) * block
    cuts = range(first + width, end, width)
    return [Area(x, area.y, stop - x, area.height) for x, stop in zip([area.x, *cuts], [*cuts, end], strict=True)]


def ramp_weights(cells: int, overlap: int) -> Int64:
    """Weights (cells,) of a window along an axis, 1 ... 64: they rise over its first ``overlap`` cells, as sin^2, and
    fall over its last. At overlaps of up to half a window, neighbours add up to 64 everywhere."""
    rise = min(overlap, cells // 2)
    ramp = np.sin(np.pi / 2 * (np.arange(rise) + 0.5) / max(rise, 1)) ** 2
    up = np.clip(np.rint(64 * ramp), 1, 63).astype(np.int64)
    weights = np.full(cells, 64, np.int64)
    weights[:rise] = up
    weights[cells - rise :] = 64 - up
    return weights
