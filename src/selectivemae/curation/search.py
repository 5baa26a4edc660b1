"""Exact search for all pairs of 64-bit codes within a Hamming distance, by combinations of intact bands.

Two codes at distance <= T, cut into M = T + K bands, agree in at least K of them. So for each of the C(M, K) sets of
bands the codes are put into buckets by the bits of the set, and only codes of one bucket are compared; nothing is
missed. A pair is given only in the first set that is intact in it, hence once (curation.md, section 5.3; the idea is
that of Manku, Jain & Das Sarma, WWW 2007).

The left side carries the codes of the 8 orientations, the right side the plain codes. (One canonical code in place of
the 8 would miss pairs: near codes can have distant canonical forms, and as the median is taken anew, a turned code is
no mere rearrangement of the plain one.) Everything is NumPy; memory beside the left side is about 40 bytes a code at
the peak, one bucket table and buffers of fixed size, so the left side may be a memory map.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import combinations, pairwise
from math import comb

import numpy as np
from numpy.typing import NDArray

UInt64 = NDArray[np.uint64]
Int64 = NDArray[np.int64]
UInt32 = NDArray[np.uint32]

BITS = 63  # the first of the 64 is always 0
TABLE_BITS = 24  # longest bucket address: a table of 2**24 places, 128 MiB
BLOCK_ROWS = 1 << 13  # of the left side at once: its buffers stay in the cache
TILE = 1 << 18  # pairs written out at once
DEEP = 1000  # steps of a block at most
NARROW = 4096  # codes that make a step worth while

# Nanoseconds of one step on one core, measured by benchmarks/curate_search.py; only their ratio matters.
_SORT, _LOOKUP, _TEST, _FILL = 90.0, 25.0, 4.0, 3.0


@dataclass(frozen=True)
class Matches:
    """Pairs found: row ``left`` under orientation ``orientation`` lies ``distance`` bits from row ``right``.

    All (n,): left, right int64 row numbers; orientation, distance uint8.
    """

    left: Int64
    right: Int64
    orientation: NDArray[np.uint8]
    distance: NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.left)

    def take(self, which: NDArray | slice) -> "Matches":
        """The pairs chosen by an index or a mask."""
        return Matches(self.left[which], self.right[which], self.orientation[which], self.distance[which])


def concatenate(parts: list[Matches]) -> Matches:
    """All pairs of ``parts`` in one, in their order."""
    if not parts:
        empty = np.empty(0, np.int64)
        return Matches(empty, empty, np.empty(0, np.uint8), np.empty(0, np.uint8))
    return Matches(
        np.concatenate([p.left for p in parts]),
        np.concatenate([p.right for p in parts]),
        np.concatenate([p.orientation for p in parts]),
        np.concatenate([p.distance for p in parts]),
    )


def intact_bands(left: int, right: int, threshold: int, orientations: int = 8) -> int:
    """K, the number of bands to look at together, with the least expected time for codes of even spread.

    ``left`` and ``right`` are the numbers of rows of the two sides.
    """

    def cost(k: int) -> float:
        sets = comb(threshold + k, k)
        address = min(k * BITS // (threshold + k), TABLE_BITS, right.bit_length() + 2)
        tests = orientations * left * right / 2**address
        return sets * (_SORT * right + _LOOKUP * orientations * left + _TEST * tests + _FILL * 2**address)

    return min(range(1, 6), key=cost)


def join(left: UInt64, right: UInt64, threshold: int, bands: int | None = None) -> Iterator[Matches]:
    """All (row of ``left``, row of ``right``, orientation) within ``threshold`` bits, each once, in portions.

    ``left`` (n, G) uint64 holds the codes of G orientations, ``right`` (m,) uint64 the plain codes; ``bands`` is K
    (chosen by cost when not given). The order of the pairs is fixed by the input alone.
    """
    intact = bands or intact_bands(len(left), len(right), threshold, left.shape[1])
    yield from _join(lambda low, high: np.asarray(left[low:high]), len(left), right, threshold, intact, half=False)


def join_self(codes: UInt64, threshold: int, bands: int | None = None) -> Iterator[Matches]:
    """All pairs of rows of ``codes`` (n, G) uint64 within ``threshold`` bits, each orientation of a pair once.

    Column 0 is the plain code. Of two rows the one that sorts first (by its codes, then by its place) is ``left``,
    the one that is turned; so the result does not depend on the order of the rows. Rows with the very same codes
    are compared with others only once and then written out.
    """
    order, bounds = _classes(codes)
    first = bounds[:-1]
    plain = np.ascontiguousarray(codes[order[first], 0])

    def turned(low: int, high: int) -> UInt64:
        return codes.take(order[first[low:high]], axis=0)

    intact = bands or intact_bands(len(first), len(first), threshold, codes.shape[1])
    for portion in _join(turned, len(first), plain, threshold, intact, half=True):
        yield from _members(portion, order, bounds)
    yield from _twins(codes, order, bounds, threshold)


def _classes(codes: UInt64) -> tuple[UInt32, UInt32]:
    """Rows in sorted order, and the bounds (classes + 1) of the classes of equal rows in it."""
    order = np.argsort(codes[:, 0], kind="stable").astype(np.uint32)  # half the memory for 13 million rows
    if not len(order):
        return order, np.zeros(1, np.uint32)
    plain = codes[order, 0]
    new = np.append(True, plain[1:] != plain[:-1])
    tied = ~new
    tied[:-1] |= ~new[1:]  # members of runs of equal plain codes: sort these by all columns
    places = np.flatnonzero(tied)
    if len(places):
        rows = codes[order[places]]
        inner = np.lexsort(rows.T[::-1])
        order[places], rows = order[places][inner], rows[inner]
        same = np.zeros(len(places), bool)
        same[1:] = (rows[1:] == rows[:-1]).all(axis=1)
        new[places] = ~same
    return order, np.flatnonzero(np.append(new, True)).astype(np.uint32)


def _members(found: Matches, order: UInt32, bounds: UInt32) -> Iterator[Matches]:
    """Pairs of classes written out as pairs of their rows."""
    deep, wide = (bounds[side + 1] - bounds[side] for side in (found.left, found.right))
    product = deep.astype(np.int64) * wide
    for low, high in _portions(product):
        part, each = found.take(slice(low, high)), product[low:high]
        rows = np.repeat(np.arange(len(part)), each)
        place = np.arange(len(rows)) - np.repeat(np.cumsum(each) - each, each)
        across = wide[low:high][rows]
        left = order[bounds[part.left][rows] + place // across]
        right = order[bounds[part.right][rows] + place % across]
        yield Matches(left.astype(np.int64), right.astype(np.int64), part.orientation[rows], part.distance[rows])


def _twins(codes: UInt64, order: UInt32, bounds: UInt32, threshold: int) -> Iterator[Matches]:
    """Pairs of rows inside each class of equal rows, for every orientation that maps the class near itself."""
    for cls in np.flatnonzero(np.diff(bounds) > 1):
        rows = order[bounds[cls] : bounds[cls + 1]].astype(np.int64)
        row = codes[rows[0]]
        distance = np.bitwise_count(row ^ row[0])
        near = np.flatnonzero(distance <= threshold)
        for i in range(len(rows) - 1):
            others = rows[i + 1 :]
            left, right = np.repeat(rows[i], len(others) * len(near)), np.repeat(others, len(near))
            orientation = np.tile(near.astype(np.uint8), len(others))
            yield Matches(left, right, orientation, np.tile(distance[near], len(others)))


def _portions(sizes: Int64) -> Iterator[tuple[int, int]]:
    """Cut items with these sizes into runs of about ``TILE`` in all (a larger single item is a run of its own)."""
    ends = np.cumsum(sizes)
    low = 0
    while low < len(sizes):
        before = ends[low] - sizes[low]
        high = max(low + 1, int(np.searchsorted(ends, before + TILE, side="right")))
        yield low, high
        low = high


class _Bands:
    """How 63 bits are cut into bands, and which of them a set of bands reads."""

    def __init__(self, count: int, intact: int, right: int) -> None:
        edges = [round(i * BITS / count) for i in range(count + 1)]
        self.masks = [((1 << (b - a)) - 1) << a for a, b in pairwise(edges)]
        self.edges = edges
        self.sets = list(combinations(range(count), intact))
        self.address_bits = min(TABLE_BITS, right.bit_length() + 2)  # more places than codes would be empty

    def fields(self, chosen: tuple[int, ...]) -> list[tuple[int, int]]:
        """(shift, mask) whose results side by side are the bucket's address: one for each run of adjacent bands."""
        out: list[tuple[int, int]] = []
        used = 0
        runs = [band for band in chosen if band - 1 not in chosen]
        for first in runs:
            last = first
            while last + 1 in chosen:
                last += 1
            width = min(self.edges[last + 1] - self.edges[first], self.address_bits - used)
            out.append((self.edges[first] - used, ((1 << width) - 1) << used))
            used += width
        return out

    def table_size(self, chosen: tuple[int, ...]) -> int:
        return 1 << sum(mask.bit_count() for _, mask in self.fields(chosen))

    def first_intact(self, difference: UInt64, chosen: tuple[int, ...]) -> NDArray[np.bool_]:
        """True where the chosen bands are the first K without a difference."""
        first = (difference & np.uint64(sum(self.masks[band] for band in chosen))) == 0
        for band in range(chosen[-1]):
            if band not in chosen:
                first &= (difference & np.uint64(self.masks[band])) != 0
        return first


def _address(codes: UInt64, fields: list[tuple[int, int]]) -> UInt64:
    out = (codes >> np.uint64(fields[0][0])) & np.uint64(fields[0][1])
    for shift, mask in fields[1:]:
        part = codes >> np.uint64(shift)
        part &= np.uint64(mask)
        out |= part
    return out


class _Buckets:
    """The right side in the order of buckets: ``codes`` (m,) and the rows they come from (m,).

    ``spans`` holds for each address where its bucket starts (low half) and how many it holds (high half): one look
    in the table, one miss of the cache.
    """

    def __init__(self, right: UInt64, fields: list[tuple[int, int]], size: int) -> None:
        self.right, self.fields = right, fields
        places = np.empty(len(right), np.uint64)  # address and row in one number: sorted in place, and fast
        for low in range(0, len(right), BLOCK_ROWS):
            part = places[low : low + BLOCK_ROWS]
            part[:] = _address(right[low : low + BLOCK_ROWS], fields) << _HALF
            part |= np.arange(low, low + len(part), dtype=np.uint64)
        places.sort()
        self.rows = places.astype(np.uint32)
        places >>= _HALF
        spans = np.bincount(places.view(np.int64), minlength=size)
        del places
        before = 0
        for low in range(0, size, BLOCK_ROWS):  # in place: a table of 2**24 places is 128 MiB
            number = spans[low : low + BLOCK_ROWS]
            ends = np.cumsum(number) + before
            before = int(ends[-1])
            number[:] = (ends - number) | (number << 32)
        self.spans = spans.view(np.uint64)
        self.codes = right[self.rows]

    def forget(self, low: int, high: int) -> None:
        """Leave out rows ``low`` to ``high``: the next of those still there, as buckets keep the order of rows."""
        step = np.uint64(2**64 + 1 - 2**32)  # start + 1, number - 1
        np.add.at(self.spans, _address(self.right[low:high], self.fields).view(np.int64), step)

    def look_up(self, codes: UInt64) -> tuple[Int64, Int64]:
        """Start and number of the bucket of each code."""
        span = self.spans.take(_address(codes, self.fields).view(np.int64), mode="clip")
        return (span & _LOW).view(np.int64), (span >> _HALF).view(np.int64)


_HALF, _LOW = np.uint64(32), np.uint64(2**32 - 1)


def _join(
    left: Callable[[int, int], UInt64], count: int, right: UInt64, threshold: int, intact: int, half: bool
) -> Iterator[Matches]:
    """``join`` of ``count`` rows, whose codes ``left(low, high)`` gives; with ``half`` only pairs left < right."""
    if not 0 <= threshold < BITS - 5:
        raise ValueError(f"threshold {threshold} must be from 0 to {BITS - 6}")
    if not count or not len(right):
        return
    cut = _Bands(threshold + intact, intact, len(right))
    for chosen in cut.sets:
        buckets = _Buckets(right, cut.fields(chosen), cut.table_size(chosen))
        for low in range(0, count, BLOCK_ROWS):
            high = min(low + BLOCK_ROWS, count)
            if half and low:  # pairs with rows before this block are known
                buckets.forget(low - BLOCK_ROWS, low)
            block = left(low, high)
            which, position, difference = _compare(block.reshape(-1), buckets, threshold)
            first = np.flatnonzero(cut.first_intact(difference, chosen))
            which, position, difference = which[first], position[first], difference[first]
            i, g = np.divmod(which, block.shape[1])
            i, j = i + low, buckets.rows[position].astype(np.int64)
            keep = np.flatnonzero(i < j) if half else slice(None)
            if len(i[keep]):
                distance = np.bitwise_count(difference[keep])
                yield Matches(i[keep], j[keep], g[keep].astype(np.uint8), distance)
        del buckets  # before the next are made: a third of a GB for 13 million codes


def _compare(codes: UInt64, buckets: _Buckets, threshold: int) -> tuple[Int64, Int64, UInt64]:
    """Compare every one of ``codes`` (b,) with its bucket: (place in codes, place in bucket order, difference).

    Codes with the fullest buckets come first, so that those with more than p to compare are the first so many: each
    step compares these with the p-th of their bucket. When few are left, they are compared with all the rest at once.
    """
    start, number = buckets.look_up(codes)
    deep = np.minimum(number, DEEP)
    order = np.argsort((DEEP - deep).astype(np.uint16), kind="stable")
    start, codes = start.take(order), codes.take(order)
    longer = len(codes) - np.cumsum(np.bincount(deep, minlength=DEEP))  # how many have more than p to compare
    other, distance = np.empty_like(codes), np.empty(len(codes), np.uint8)
    found: list[tuple[Int64, Int64, UInt64]] = []
    depth = 0
    while depth < DEEP and (n := int(longer[depth])) >= NARROW:
        buckets.codes[depth:].take(start[:n], out=other[:n], mode="clip")
        np.bitwise_xor(other[:n], codes[:n], out=other[:n])
        np.bitwise_count(other[:n], out=distance[:n])
        near = np.flatnonzero(distance[:n] <= threshold)
        if len(near):
            found.append((near, start[near] + depth, other[near]))
        depth += 1
    rest = order[: longer[min(depth, DEEP - 1)]]
    found += _compare_rest(codes, start + depth, number[rest] - depth, buckets, threshold)
    which, position, difference = (np.concatenate(part) for part in zip(*found, strict=True)) if found else _NOTHING
    return order[which], position, difference


_NOTHING = (np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.uint64))


def _compare_rest(
    codes: UInt64, start: Int64, number: Int64, buckets: _Buckets, threshold: int
) -> Iterator[tuple[Int64, Int64, UInt64]]:
    """The same for the first codes, as many as ``number`` has: all pairs written out."""
    for low, high in _portions(number):
        each = number[low:high]
        which = np.repeat(np.arange(low, high), each)
        place = np.arange(len(which)) + np.repeat(start[low:high] - (np.cumsum(each) - each), each)
        difference = codes.take(which) ^ buckets.codes.take(place)
        near = np.flatnonzero(np.bitwise_count(difference) <= threshold)
        if len(near):
            yield which[near], place[near], difference[near]
