"""Exact search for all pairs of 64-bit codes within a Hamming distance, by combinations of intact bands.

Two codes at distance <= T, cut into M = T + K bands, agree in at least K of them. So for each of the C(M, K) sets of
bands the codes are put into buckets by the bits of the set, and only codes of one bucket are compared; nothing is
missed. A pair is given only in the first set that is intact in it, hence once (curation.md, section 5.3; the idea is
that of Manku, Jain & Das Sarma, WWW 2007).

The left side carries the codes of the 8 orientations, the right side the plain codes. Everything is NumPy; memory is
the right side (12 bytes a code), one bucket table and buffers of fixed size, so the left side may be a memory map.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations, pairwise
from math import comb

import numpy as np
from numpy.typing import NDArray

UInt64 = NDArray[np.uint64]
Int64 = NDArray[np.int64]
UInt32 = NDArray[np.uint32]

BITS = 63  # the first of the 64 is always 0
TABLE_BITS = 24  # longest bucket address: a table of 2**24 places, 64 MiB
BLOCK_ROWS = 1 << 16
TILE = 1 << 18  # pairs compared in one step
HOT_RUN = 100_000  # a bucket this full is worth a word in the report

# Nanoseconds of one step on one core, measured by benchmarks/curate_search.py; only their ratio matters.
_SORT, _LOOKUP, _TEST = 90.0, 14.0, 7.0


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
        table = 2**address * (1 + left / BLOCK_ROWS)  # filled once, then moved on for every block
        return sets * (_SORT * right + _LOOKUP * orientations * left + _TEST * tests + table)

    return min(range(1, 6), key=cost)


def join(left: UInt64, right: UInt64, threshold: int, bands: int | None = None) -> Iterator[Matches]:
    """All (row of ``left``, row of ``right``, orientation) within ``threshold`` bits, each once, in portions.

    ``left`` (n, G) uint64 holds the codes of G orientations, ``right`` (m,) uint64 the plain codes; ``bands`` is K
    (chosen by cost when not given). The order of the pairs is fixed by the input alone.
    """
    yield from _join(left, right, threshold, bands, half=False)


def join_self(codes: UInt64, threshold: int, bands: int | None = None) -> Iterator[Matches]:
    """All pairs of rows of ``codes`` (n, G) uint64 within ``threshold`` bits, each orientation of a pair once.

    Column 0 is the plain code. Of two rows the one that sorts first (by its codes, then by its place) is ``left``,
    the one that is turned; so the result does not depend on the order of the rows. Rows with the very same codes
    are compared with others only once and then written out.
    """
    order, first = _classes(codes)
    size = np.diff(np.append(first, np.uint32(len(order))))
    representative = order[first]
    for portion in _join(codes, np.ascontiguousarray(codes[representative, 0]), threshold, bands, True, representative):
        yield from _members(portion, order, first, size)
    yield from _twins(codes, order, first, size, threshold)


def _classes(codes: UInt64) -> tuple[UInt32, UInt32]:
    """Rows in sorted order, and the start of every class of equal rows in it."""
    order = np.argsort(codes[:, 0], kind="stable").astype(np.uint32)  # half the memory for 13 million rows
    if not len(order):
        return order, order
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
    return order, np.flatnonzero(new).astype(np.uint32)


def _members(found: Matches, order: UInt32, first: UInt32, size: UInt32) -> Iterator[Matches]:
    """Pairs of classes written out as pairs of their rows."""
    product = size[found.left].astype(np.int64) * size[found.right]
    for low, high in _portions(product):
        part, each = found.take(slice(low, high)), product[low:high]
        rows = np.repeat(np.arange(len(part)), each)
        place = np.arange(len(rows)) - np.repeat(np.cumsum(each) - each, each)
        wide = size[part.right][rows]
        left = order[first[part.left][rows] + place // wide]
        right = order[first[part.right][rows] + place % wide]
        yield Matches(left.astype(np.int64), right.astype(np.int64), part.orientation[rows], part.distance[rows])


def _twins(codes: UInt64, order: UInt32, first: UInt32, size: UInt32, threshold: int) -> Iterator[Matches]:
    """Pairs of rows inside each class of equal rows, for every orientation that maps the class near itself."""
    for cls in np.flatnonzero(size > 1):
        rows = order[first[cls] : first[cls] + size[cls]].astype(np.int64)
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
        self.pieces = [(a, b - a) for a, b in pairwise(edges)]
        self.sets = list(combinations(range(count), intact))
        self.address_bits = min(TABLE_BITS, right.bit_length() + 2)  # more places than codes would be empty

    def address(self, codes: UInt64, chosen: tuple[int, ...]) -> UInt32:
        """Bucket of each code: the bits of the chosen bands side by side, at most ``address_bits`` of them."""
        out = np.zeros(codes.shape, np.uint64)
        used = 0
        for band in chosen:
            shift, width = self.pieces[band]
            width = min(width, self.address_bits - used)
            out |= ((codes >> np.uint64(shift)) & np.uint64((1 << width) - 1)) << np.uint64(used)
            used += width
        return out.astype(np.uint32)

    def table_size(self, chosen: tuple[int, ...]) -> int:
        return 1 << min(sum(self.pieces[band][1] for band in chosen), self.address_bits)

    def first_intact(self, difference: UInt64, chosen: tuple[int, ...]) -> NDArray[np.bool_]:
        """True where the chosen bands are the first K without a difference."""
        first = np.ones(len(difference), bool)
        for band in range(chosen[-1] + 1):
            intact = (difference & np.uint64(self.masks[band])) == 0
            first &= intact if band in chosen else ~intact
        return first


def _radix_argsort(keys: UInt32) -> UInt32:
    """Stable order of 32-bit keys in two radix passes of 16 bits (NumPy's stable sort of uint16 is a radix sort)."""
    order = np.argsort((keys & np.uint32(0xFFFF)).astype(np.uint16), kind="stable").astype(np.uint32)
    high = (keys >> np.uint32(16)).astype(np.uint16)
    if not high.any():
        return order
    return order[np.argsort(high[order], kind="stable")]


def _join(
    left: UInt64, right: UInt64, threshold: int, bands: int | None, half: bool, rows: NDArray | None = None
) -> Iterator[Matches]:
    """``join``; with ``half`` only pairs left < right, of which row i of the left is ``left[rows[i]]``."""
    count = len(left) if rows is None else len(rows)
    if not 0 <= threshold < BITS - 5:
        raise ValueError(f"threshold {threshold} must be from 0 to {BITS - 6}")
    if not count or not len(right):
        return
    intact = bands or intact_bands(count, len(right), threshold, left.shape[1])
    cut = _Bands(threshold + intact, intact, len(right))
    for chosen in cut.sets:
        keys = cut.address(right, chosen)
        order = _radix_argsort(keys)
        bucketed = right[order]
        ends = np.cumsum(np.bincount(keys, minlength=cut.table_size(chosen)), dtype=np.int64).astype(np.uint32)
        begins = ends.copy()
        begins[1:] = ends[:-1]
        begins[0] = 0
        for low in range(0, count, BLOCK_ROWS):
            high = min(low + BLOCK_ROWS, count)
            if half:  # rows up to this block's first need no look: move the starts of their buckets past them
                np.add.at(begins, keys[max(0, low - BLOCK_ROWS) : low], np.uint32(1))
            block = np.asarray(left[low:high] if rows is None else left[rows[low:high]])
            for found in _compare(block, begins, ends, bucketed, cut, chosen, threshold):
                i, g, position, distance = found
                j = order[position].astype(np.int64)
                i = i.astype(np.int64) + low
                keep = np.flatnonzero(i < j) if half else slice(None)
                yield Matches(i[keep], j[keep], g[keep], distance[keep])


def _compare(
    block: UInt64,
    begins: UInt32,
    ends: UInt32,
    bucketed: UInt64,
    cut: _Bands,
    chosen: tuple[int, ...],
    threshold: int,
) -> Iterator[tuple[Int64, NDArray[np.uint8], Int64, NDArray[np.uint8]]]:
    """Compare every code of ``block`` (b, G) with its bucket: (row, orientation, place in bucket order, distance)."""
    codes = block.reshape(-1)
    address = cut.address(codes, chosen)
    start = begins[address]
    number = ends[address] - start
    busy = np.flatnonzero(number)
    start, number = start[busy].astype(np.int64), number[busy].astype(np.int64)
    for low, high in _portions(number):
        each = number[low:high]
        which = np.repeat(busy[low:high], each)
        place = np.arange(len(which)) + np.repeat(start[low:high] - (np.cumsum(each) - each), each)
        difference = codes[which] ^ bucketed[place]
        distance = np.bitwise_count(difference)
        near = np.flatnonzero(distance <= threshold)
        near = near[cut.first_intact(difference[near], chosen)]
        if len(near):
            orientation = (which[near] % block.shape[1]).astype(np.uint8)
            yield which[near] // block.shape[1], orientation, place[near], distance[near]
