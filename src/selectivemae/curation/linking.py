"""Pairs beside those that the hash finds: told by their place on Earth, kept for their dates, decided by people."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from selectivemae.curation.confirm import correlation
from selectivemae.curation.decisions import Decisions
from selectivemae.curation.dedup import Pairs, Side, side
from selectivemae.curation.ground import COLUMNS, Ground, ground, other_date, same_ground
from selectivemae.curation.search import Matches
from selectivemae.curation.spool import Spool

Int64 = NDArray[np.int64]
NEEDED = ["id", "source", "container", "member", *COLUMNS]
UNDATED_CORRELATION = 0.5  # that two undated images of one place must have to count as one


@dataclass(frozen=True)
class Party:
    """One side of a comparison with all that is known of it: ids, sides of ``dedup``, 64-bit codes by row ((n, 8) of a
    spool, (n,) of a corpus), ground, and the scene (source, container, member) of each tile."""

    ids: pa.ChunkedArray
    side: Side
    h64: Callable[[Int64], NDArray[np.uint64]]
    ground: Ground
    scene: Callable[[Int64], list[tuple[str, str, str]]]


def party(spool: Spool, rows: Int64) -> Party:
    """The given rows of a spool."""
    taken = spool.rows.select(NEEDED).take(pa.array(rows))
    h64 = partial(_codes, spool, rows)
    return Party(taken.column("id"), side(spool, rows), h64, ground(taken), partial(scenes, taken))


def _codes(spool: Spool, rows: Int64, which: Int64) -> NDArray[np.uint64]:
    return spool.gather("h64", rows[which])


def scenes(table: pa.Table, rows: Int64) -> list[tuple[str, str, str]]:
    """Source, container and member of some rows of a table."""
    taken = table.select(["source", "container", "member"]).take(pa.array(rows))
    return list(zip(*(column.to_pylist() for column in taken.columns), strict=True))


def by_place(left: Party, right: Party) -> tuple[Pairs, set[tuple[int, int]]]:
    """Pairs of one footprint: as confirmed pairs those of one date (or both undated and alike enough), and as row
    numbers those of different dates. Each pair comes once where the two parties are one."""
    a, b = same_ground(left.ground, right.ground)
    keep = np.array([one != other for one, other in zip(left.scene(a), right.scene(b), strict=True)], bool)
    keep &= (a < b) | (left is not right)
    a, b = a[keep], b[keep]
    dates = list(zip(left.ground.date.take(a).to_pylist(), right.ground.date.take(b).to_pylist(), strict=True))
    other = [other_date(*pair) for pair in dates]
    elsewhen = {(int(i), int(j)) for i, j, word in zip(a, b, other, strict=True) if word}
    candidate = np.array([word is False or pair == (None, None) for word, pair in zip(other, dates, strict=True)], bool)
    dated = np.array([word is False for word in other], bool)[candidate]
    pairs = figures(left, right, a[candidate], b[candidate])
    pairs = pairs.take(np.flatnonzero(dated | (pairs.correlation >= UNDATED_CORRELATION)))
    return replace(pairs, confirmed=np.ones(len(pairs.matches), bool)), elsewhen


def decided(left: Party, right: Party, pairs: Pairs, decisions: Decisions) -> tuple[Pairs, NDArray[np.bool_]]:
    """Pairs with people's word instead of the figures' where there is one, and which those are (n,)."""
    if not decisions:
        return pairs, np.zeros(len(pairs.matches), bool)
    words = [(a, b, word) for (a, b), word in decisions.words.items()]
    words += [(b, a, word) for a, b, word in words]
    here = _places([a for a, _, _ in words], left.ids)
    there = _places([b for _, b, _ in words], right.ids)
    known = (here >= 0) & (there >= 0) & ((here < there) | (left is not right))
    told = {
        (int(a), int(b)): words[n][2] == "same" for n, (a, b) in enumerate(zip(here, there, strict=True)) if known[n]
    }
    found = set(_listed(pairs))
    missing = sorted(pair for pair, same in told.items() if same and pair not in found)
    new = np.array(missing, np.int64).reshape(-1, 2)
    pairs = merged(pairs, figures(left, right, new[:, 0], new[:, 1]))
    word = [told.get(pair) for pair in _listed(pairs)]
    spoken = np.array([w is not None for w in word], bool)
    verdict = np.where(spoken, np.array([w is True for w in word], bool), pairs.confirmed)
    return replace(pairs, confirmed=verdict), spoken


@dataclass(frozen=True)
class Linked:
    """Pairs with their verdicts, on what each rests (``figures``, ``place``, ``date`` or ``decision``), and the row
    numbers of pairs of one place at different dates."""

    pairs: Pairs
    basis: NDArray
    elsewhen: set[tuple[int, int]]

    @property
    def confirmed(self) -> Int64:
        """Numbers of the confirmed pairs."""
        return np.flatnonzero(self.pairs.confirmed)


def link(left: Party, right: Party, pairs: Pairs, decisions: Decisions, keep_dates: bool) -> Linked:
    """What the hash found (``pairs``), what the places say, and above both what people decided.

    ``keep_dates``: pairs of one place at different dates both stay, however alike.
    """
    pairs = _ordered(pairs) if left is right else pairs
    place, elsewhen = by_place(left, right)
    if not (len(place.matches) or elsewhen or decisions):
        return Linked(pairs, np.full(len(pairs.matches), "figures", object), elsewhen)
    hashed = _listed(pairs.take(np.flatnonzero(pairs.confirmed)))
    dated = np.array([pair in elsewhen for pair in _listed(pairs)], bool) & pairs.confirmed & keep_dates
    pairs = merged(replace(pairs, confirmed=pairs.confirmed & ~dated), place)
    placed, dropped = set(_listed(place)) - set(hashed), set(hashed) & elsewhen if keep_dates else set()
    pairs, spoken = decided(left, right, pairs, decisions)
    words = ["place" if pair in placed else "date" if pair in dropped else "figures" for pair in _listed(pairs)]
    return Linked(pairs, np.where(spoken, "decision", np.array(words, object)), elsewhen)


def _ordered(pairs: Pairs) -> Pairs:
    """Pairs within one party with the smaller row number left. Who is turned changes, and so the turn: only the quarter
    turns (5 and 6) are not their own inverse."""
    m = pairs.matches
    turned = m.left > m.right
    inverse = np.array([0, 1, 2, 3, 4, 6, 5, 7], np.uint8)[m.orientation]
    left, right = np.minimum(m.left, m.right), np.maximum(m.left, m.right)
    return replace(pairs, matches=Matches(left, right, np.where(turned, inverse, m.orientation), m.distance))


def _listed(pairs: Pairs) -> list[tuple[int, int]]:
    return list(zip(pairs.matches.left.tolist(), pairs.matches.right.tolist(), strict=True))


def figures(left: Party, right: Party, a: Int64, b: Int64) -> Pairs:
    """Chosen pairs with all figures, in the orientation in which their 256-bit codes lie nearest; none confirmed."""
    if not len(a):
        none = np.empty(0, np.uint8)
        return Pairs(Matches(a, b, none, none), none.astype(np.uint16), np.empty(0), np.empty(0, bool))
    plain = right.side.h256(b)
    plain = plain[:, 0] if plain.ndim == 3 else plain
    bits = np.bitwise_count(left.side.h256(a) ^ plain[:, None]).sum(axis=-1, dtype=np.uint16)
    best = bits.argmin(axis=1)
    row = np.arange(len(a))
    code = right.h64(b)
    code = code[:, 0] if code.ndim == 2 else code
    short = np.bitwise_count(left.h64(a)[row, best] ^ code).astype(np.uint8)
    likeness = correlation(left.side.thumbs(a), right.side.thumbs(b), best.astype(np.uint8))
    return Pairs(Matches(a, b, best.astype(np.uint8), short), bits[row, best], likeness, np.zeros(len(a), bool))


def merged(pairs: Pairs, others: Pairs) -> Pairs:
    """Both lists as one, sorted, each pair once: that of ``pairs`` stays, confirmed where either is."""
    if not len(others.matches):
        return pairs
    m, o = pairs.matches, others.matches
    both = Pairs(
        Matches(
            *(np.concatenate([getattr(m, n), getattr(o, n)]) for n in ("left", "right", "orientation", "distance"))
        ),
        np.concatenate([pairs.distance256, others.distance256]),
        np.concatenate([pairs.correlation, others.correlation]),
        np.concatenate([pairs.confirmed, others.confirmed]),
    )
    second = np.repeat([False, True], [len(m), len(o)])
    order = np.lexsort((second, both.matches.right, both.matches.left))
    both = both.take(order)
    n = both.matches
    first = np.append(True, (n.left[1:] != n.left[:-1]) | (n.right[1:] != n.right[:-1]))
    either = np.logical_or.reduceat(both.confirmed, np.flatnonzero(first))
    return replace(both.take(np.flatnonzero(first)), confirmed=either)


def _places(ids: list[bytes], known: pa.ChunkedArray) -> Int64:
    """Place of each id among the known ones, -1 where it is not."""
    values = pa.array(ids, pa.binary(16))
    found = pc.call_function("index_in", [values], pc.SetLookupOptions(value_set=known.combine_chunks()))
    return found.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64)
