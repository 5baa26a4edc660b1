"""Which tiles of a spool are copies of another: exact, near, or of an evaluation set (curation.md, section 5).

The hash gives candidates, the 256-bit hash and the thumbs confirm them, the keep rule decides. All in the order of
tile ids, so the outcome is the same however the work before was cut and timed.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from selectivemae.curation.confirm import Preset, confirmed, correlation, distance256, same_aspect
from selectivemae.curation.groups import keep
from selectivemae.curation.search import Matches, concatenate, join, join_self
from selectivemae.curation.spool import Spool, fixed, words

Int64 = NDArray[np.int64]
_BATCH = 1 << 13  # pairs whose thumbs are compared at once


@dataclass(frozen=True)
class Side:
    """One side of a comparison: sizes (n, 2), 256-bit codes and thumbs by row number."""

    size: NDArray[np.int64]
    h256: Callable[[Int64], NDArray[np.uint64]]
    thumbs: Callable[[Int64], NDArray]


@dataclass(frozen=True)
class Pairs:
    """Candidates that were looked at: the matches, their 256-bit distance, correlation, and the verdict."""

    matches: Matches
    distance256: NDArray[np.uint16]
    correlation: NDArray[np.float64]
    confirmed: NDArray[np.bool_]

    def take(self, which: NDArray) -> "Pairs":
        """The pairs chosen by an index or a mask."""
        return Pairs(self.matches.take(which), self.distance256[which], self.correlation[which], self.confirmed[which])


@dataclass(frozen=True)
class Losses:
    """Rows dropped as copies: the row, why, the row that was kept instead (``keeper``; in the other side's numbering
    for ``eval_overlap`` and ``old_dup``), and the pair's figures (missing for exact copies)."""

    row: Int64
    reason: list[str]
    keeper: Int64
    distance64: Int64
    distance256: Int64
    correlation: NDArray[np.float64]
    orientation: Int64


def side(spool: Spool, rows: Int64) -> Side:
    """The given rows of a spool as a side."""
    size = np.stack([spool.column("width")[rows], spool.column("height")[rows]], axis=1).astype(np.int64)
    return Side(
        size,
        lambda which: spool.gather("h256", rows[which]),
        lambda which: spool.gather("thumbs", rows[which]),
    )


def examine(found: Iterator[Matches], left: Side, right: Side, preset: Preset) -> Pairs:
    """Look at candidates: the cheap tests first, the thumbs only of those that are left."""
    near: list[Matches] = []
    bits: list[NDArray[np.uint16]] = []
    for part in found:
        if not len(part):
            continue
        aspect = same_aspect(left.size[part.left], right.size[part.right], part.orientation, preset.aspect)
        part = part.take(aspect)
        distance = distance256(left.h256(part.left)[np.arange(len(part)), part.orientation], _plain(right, part.right))
        close = distance <= preset.far256
        near.append(part.take(close))
        bits.append(distance[close])
    matches = concatenate(near)
    distance = np.concatenate(bits) if bits else np.empty(0, np.uint16)
    order = np.lexsort((matches.orientation, matches.right, matches.left))
    matches, distance = matches.take(order), distance[order]
    likeness = np.zeros(len(matches))
    for low in range(0, len(matches), _BATCH):
        batch = slice(low, low + _BATCH)
        a, b = left.thumbs(matches.left[batch]), right.thumbs(matches.right[batch])
        likeness[batch] = correlation(a, b, matches.orientation[batch])
    verdict = confirmed(preset, np.ones(len(matches), bool), distance, likeness)
    return _best(Pairs(matches, distance, likeness, verdict))


def _plain(right: Side, rows: Int64) -> NDArray[np.uint64]:
    codes = right.h256(rows)
    return codes[:, 0] if codes.ndim == 3 else codes


def _best(pairs: Pairs) -> Pairs:
    """One line a pair: of several orientations the confirmed one with the least 256-bit distance."""
    m = pairs.matches
    order = np.lexsort((m.orientation, m.distance, pairs.distance256, ~pairs.confirmed, m.right, m.left))
    pairs = pairs.take(order)
    m = pairs.matches
    first = np.append(True, (m.left[1:] != m.left[:-1]) | (m.right[1:] != m.right[:-1])) if len(m) else order
    return pairs.take(np.flatnonzero(first))


def ranks(spool: Spool, rows: Int64, priority: dict[str, int]) -> Int64:
    """Place of each row in the order of who stays: priority of the source, pixels that carry detail, quality of the
    compression and lack of no data, coordinates, id."""
    pixels = spool.column("width")[rows].astype(np.float64) * spool.column("height")[rows]
    effective = np.round(pixels * spool.column("detail")[rows])
    quality = np.round(spool.column("quality")[rows] * (1 - spool.column("nodata")[rows]), 1)
    located = ~np.isnan(spool.column("lon_min")[rows].astype(np.float64))
    urgency = np.array([priority[name] for name in spool.column("source")[rows]], np.int64)
    order = np.lexsort((np.arange(len(rows)), ~located, -quality, -effective, urgency))
    rank = np.empty(len(rows), np.int64)
    rank[order] = np.arange(len(rows))
    return rank


def exact_copies(spool: Spool, rows: Int64, rank: Int64) -> tuple[Int64, Int64]:
    """Rows whose pixels equal those of a better row, and that row (both as places in ``rows``)."""
    content = words(fixed(spool.rows.column("content_id"), 32))[rows]
    order = np.lexsort((rank, *content.T))
    ordered = content[order]
    new = np.append(True, (ordered[1:] != ordered[:-1]).any(axis=1)) if len(order) else np.empty(0, bool)
    leader = order[np.flatnonzero(new)][np.cumsum(new) - 1] if len(order) else order
    copies = np.flatnonzero(~new)
    return order[copies], leader[copies]


def near_copies(spool: Spool, rows: Int64, preset: Preset) -> Pairs:
    """Candidate pairs among ``rows`` (as places in it), looked at; windows of one scene that overlap are left out."""
    codes = spool.gather("h64", rows)
    mine = side(spool, rows)
    pairs = examine(join_self(codes, preset.distance64), mine, mine, preset)
    apart = ~_overlap_by_design(spool, rows[pairs.matches.left], rows[pairs.matches.right])
    return pairs.take(np.flatnonzero(apart))


def overlaps(spool: Spool, rows: Int64, others: Int64, preset: Preset) -> Pairs:
    """Pairs of ``others`` (left, turned) and ``rows`` (right) of one spool, looked at."""
    found = join(spool.gather("h64", others), np.ascontiguousarray(spool.gather("h64", rows)[:, 0]), preset.distance64)
    return examine(found, side(spool, others), side(spool, rows), preset)


def _overlap_by_design(spool: Spool, left: Int64, right: Int64) -> NDArray[np.bool_]:
    def of(rows: Int64) -> dict[str, Any]:
        taken = spool.rows.select(["source", "container", "member", "win_x", "win_y", "win_w", "win_h"]).take(rows)
        return {name: taken.column(name).to_numpy(zero_copy_only=False) for name in taken.column_names}

    a, b = of(left), of(right)
    same = np.ones(len(left), bool)
    for name in ("source", "container", "member"):
        same &= a[name] == b[name]
    for start, length in (("win_x", "win_w"), ("win_y", "win_h")):
        begin = np.maximum(a[start], b[start]).astype(np.int64)
        end = np.minimum(a[start].astype(np.int64) + a[length], b[start].astype(np.int64) + b[length])
        same &= begin < end
    return same


def settle(rows: Int64, rank: Int64, copies: tuple[Int64, Int64], pairs: Pairs) -> tuple[Losses, Int64]:
    """Apply the keep rule. Returns the losses (row numbers of the spool) and the group of each of ``rows``.

    ``pairs`` are between leaders of exact copies; a copy of a row that goes hangs on what is kept in its stead.
    """
    edges = pairs.take(np.flatnonzero(pairs.confirmed))
    m = edges.matches
    result = keep(rank, m.left, m.right)
    near = np.flatnonzero(result.edge >= 0)
    edge = result.edge[near]
    copy, leader = copies
    group = result.group.copy()
    group[copy] = result.group[leader]
    none = np.full(len(copy), -1, np.int64)
    losses = Losses(
        row=rows[np.concatenate([near, copy])],
        reason=["near_dup"] * len(near) + ["exact_dup"] * len(copy),
        keeper=rows[np.concatenate([result.keeper[near], result.keeper[leader]])],
        distance64=np.concatenate([m.distance[edge].astype(np.int64), none]),
        distance256=np.concatenate([edges.distance256[edge].astype(np.int64), none]),
        correlation=np.concatenate([edges.correlation[edge], np.full(len(copy), np.nan)]),
        orientation=np.concatenate([m.orientation[edge].astype(np.int64), none]),
    )
    return losses, rows[group] if len(rows) else group
