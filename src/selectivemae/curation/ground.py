"""Copies told by where they lie on Earth, for what the hash cannot see: shifted, turned and re-projected ones
(curation.md, sections 5.5 and 5.7)."""

from dataclasses import dataclass
from datetime import date

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from shapely import STRtree, box

Int64 = NDArray[np.int64]
SAME_IOU = 0.9  # intersection over union of two footprints that are one
SAME_GSD = 0.25  # most that their ground sampling distances may differ, in octaves
COVERED = 0.5  # share of the smaller footprint by which an image counts as ground of an evaluation set
COLUMNS = ("lon_min", "lat_min", "lon_max", "lat_max", "gsd_m", "datetime")
_AT_ONCE = 1 << 16


@dataclass(frozen=True)
class Ground:
    """Where tiles lie: bounds (n, 4) in degrees (west, south, east, north; NaN unknown), metres a pixel (n,), date."""

    bounds: NDArray[np.float64]
    gsd: NDArray[np.float64]
    date: pa.ChunkedArray


def ground(rows: pa.Table) -> Ground:
    """Where the tiles of a table with the columns ``COLUMNS`` lie."""
    *sides, gsd = (rows.column(n).to_numpy(zero_copy_only=False).astype(np.float64) for n in COLUMNS[:5])
    return Ground(np.stack(sides, axis=1), gsd, rows.column("datetime"))


def same_ground(left: Ground, right: Ground) -> tuple[Int64, Int64]:
    """Pairs whose footprints and ground sampling distances are the same, as row numbers, sorted."""
    a, b, shared = _intersections(left.bounds, right.bounds)
    union = _areas(left.bounds[a]) + _areas(right.bounds[b]) - shared
    with np.errstate(invalid="ignore", divide="ignore"):
        octaves = np.abs(np.log2(left.gsd[a] / right.gsd[b]))
    keep = (shared >= SAME_IOU * union) & (octaves < SAME_GSD)
    return a[keep], b[keep]


def covered(left: Ground, right: Ground) -> tuple[Int64, Int64]:
    """Pairs of which one covers at least half of the other's ground, whatever the date and scale, sorted."""
    a, b, shared = _intersections(left.bounds, right.bounds)
    keep = shared >= COVERED * np.minimum(_areas(left.bounds[a]), _areas(right.bounds[b]))
    return a[keep], b[keep]


def other_date(a: str | None, b: str | None) -> bool | None:
    """Whether two dates (``YYYY``, ``YYYY-MM`` or ``YYYY-MM-DD``) lie more than a day apart; None where one is missing.

    Dates of different precision are other dates when what both say differs.
    """
    if not a or not b:
        return None
    length = min(len(a), len(b))
    if length < len("YYYY-MM-DD"):
        return a[:length] != b[:length]
    try:
        return abs((date.fromisoformat(a[:10]) - date.fromisoformat(b[:10])).days) > 1
    except ValueError:  # no day of the calendar: only equal or not
        return a != b


def _intersections(left: NDArray[np.float64], right: NDArray[np.float64]) -> tuple[Int64, Int64, NDArray[np.float64]]:
    """Pairs of bounds that overlap, and the area they share in square degrees; sorted by left, then right."""
    places, others = (np.flatnonzero(np.isfinite(b).all(axis=1) & (b[:, 2] - b[:, 0] < 180)) for b in (left, right))
    tree = STRtree(box(*right[others].T))
    found: list[tuple[Int64, Int64]] = []
    for low in range(0, len(places), _AT_ONCE):
        part = places[low : low + _AT_ONCE]
        here, there = tree.query(box(*left[part].T))
        found.append((part[here], others[there]))
    if not found:
        none = np.empty(0, np.int64)
        return none, none, np.empty(0)
    a, b = (np.concatenate(side).astype(np.int64) for side in zip(*found, strict=True))
    width = np.minimum(left[a, 2], right[b, 2]) - np.maximum(left[a, 0], right[b, 0])
    height = np.minimum(left[a, 3], right[b, 3]) - np.maximum(left[a, 1], right[b, 1])
    shared = np.maximum(width, 0) * np.maximum(height, 0)
    order = np.lexsort((b, a))
    order = order[shared[order] > 0]
    return a[order], b[order], shared[order]


def _areas(bounds: NDArray[np.float64]) -> NDArray[np.float64]:
    return (bounds[:, 2] - bounds[:, 0]) * (bounds[:, 3] - bounds[:, 1])
