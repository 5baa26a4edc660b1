"""From a spool to the decision what goes into a corpus: evaluation overlap, copies of what a corpus already holds,
copies among the new; and the tables that say so."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from selectivemae.curation import dedup, tables
from selectivemae.curation.confirm import PRESETS, Preset, doubt
from selectivemae.curation.decisions import NONE, Decisions
from selectivemae.curation.dedup import Losses, Pairs
from selectivemae.curation.ground import covered
from selectivemae.curation.linking import Linked, Party, decided, figures, link, merged, party
from selectivemae.curation.search import join
from selectivemae.curation.spool import Spool, fixed, words

Int64 = NDArray[np.int64]


@dataclass(frozen=True)
class Old:
    """What a corpus already holds: its images as a party, keys, content ids, pictures by row; and what was taken out of
    it (``removed``: rows of ``dropped``)."""

    party: Party
    keys: pa.ChunkedArray
    content: pa.ChunkedArray
    picture: Callable[[int], NDArray[np.uint8]]
    removed: pa.Table

    @property
    def ids(self) -> pa.ChunkedArray:
        """Ids of the images."""
        return self.party.ids


@dataclass(frozen=True)
class Decision:
    """Kept rows of the spool with the columns that curation adds, rows of ``dropped``, the pairs looked at, and those
    with evaluation images."""

    rows: Int64
    extra: pa.Table
    dropped: pa.Table
    pairs: pa.Table
    overlap: pa.Table


@dataclass(frozen=True)
class Judging:
    """By what is judged: roles and priorities of the sources by name, the preset, people's decisions, and whether
    images of one place at different dates stay."""

    roles: dict[str, str]
    priority: dict[str, int]
    preset: Preset
    decisions: Decisions = NONE
    keep_dates: bool = True


def decide(spool: Spool, by: Judging, old: Old | None = None) -> Decision:
    """Decide on every row of ``spool``, in the light of what a corpus already holds."""
    role = np.array([by.roles[name] for name in spool.column("source")], object)
    guards = np.flatnonzero(role == "eval")
    rows = np.flatnonzero(role == "train")
    lost: list[pa.Table] = []
    seen: list[pa.Table] = []
    overlap = tables.PAIRS.empty_table()
    if len(guards):
        rows, overlap = _without_evaluation(spool, rows, guards, by, lost)
    if old is not None:
        rows = _without_old(spool, rows, old, by, lost, seen)
    rank = dedup.ranks(spool, rows, by.priority)
    copies = dedup.exact_copies(spool, rows, rank)
    leaders = np.setdiff1d(np.arange(len(rows)), copies[0])
    mine = party(spool, rows[leaders])
    linked = link(mine, mine, dedup.near_copies(spool, rows[leaders], by.preset), by.decisions, by.keep_dates)
    seen.append(_pairs(linked, mine.ids, mine.ids, by.preset))
    losses, group = dedup.settle(rows, rank, copies, _renumbered(linked.pairs, leaders))
    losses = _by_place(losses, {frozenset(rows[leaders[list(pair)]].tolist()) for pair in _placed(linked)})
    lost.append(_losses(spool, losses, spool.rows.column("id")))
    keep = np.setdiff1d(np.arange(len(rows)), np.searchsorted(rows, losses.row))
    kept = rows[keep]
    flagged = {int(rows[leaders[i]]) for pair in linked.elsewhen for i in pair}
    dropped = pa.concat_tables(lost).unify_dictionaries()
    pairs = pa.concat_tables(seen).unify_dictionaries()
    return Decision(kept, _extra(spool, kept, group[keep], losses, flagged), dropped, pairs, overlap)


def _without_evaluation(
    spool: Spool, rows: Int64, guards: Int64, by: Judging, lost: list[pa.Table]
) -> tuple[Int64, pa.Table]:
    """The rows that are no twin of an evaluation image and lie on no ground of one; the pairs of the others."""
    left, right = party(spool, guards), party(spool, rows)
    pairs = dedup.overlaps(spool, rows, guards, PRESETS["loose"])
    a, b = covered(left.ground, right.ground)
    b, first = np.unique(b, return_index=True)
    place = figures(left, right, a[first], b)
    hashed = set(
        zip(*(column[pairs.confirmed].tolist() for column in (pairs.matches.left, pairs.matches.right)), strict=True)
    )
    pairs = merged(pairs, replace(place, confirmed=np.ones(len(b), bool)))
    pairs, spoken = decided(left, right, pairs, by.decisions)
    m = pairs.matches
    words = ["figures" if pair in hashed else "place" for pair in zip(m.left.tolist(), m.right.tolist(), strict=True)]
    linked = Linked(pairs, np.where(spoken, "decision", np.array(words, object)), set())
    chosen = Linked(pairs.take(linked.confirmed), linked.basis[linked.confirmed], set())
    losses = _against(chosen.pairs, rows, "eval_overlap")
    lost.append(_losses(spool, losses, left.ids))
    return np.setdiff1d(rows, losses.row), _pairs(chosen, left.ids, right.ids, PRESETS["loose"])


def _without_old(spool: Spool, rows: Int64, old: Old, by: Judging, lost: list[pa.Table], seen: list[pa.Table]) -> Int64:
    """The rows that a corpus does not hold yet, and that were not taken out of it."""
    again, losses = _removed(spool, rows, old.removed)
    lost.append(_losses(spool, losses, old.removed.column("id")))
    rows = np.setdiff1d(rows, again)
    known, losses = _known(spool, rows, old)
    lost.append(_losses(spool, losses, old.ids))
    rows = np.setdiff1d(rows, known)
    mine = party(spool, rows)
    found = join(spool.gather("h64", rows), old.party.h64(np.arange(len(old.ids))), by.preset.distance64)
    pairs = dedup.examine(found, mine.side, old.party.side, by.preset)
    linked = link(mine, old.party, pairs, by.decisions, by.keep_dates)
    seen.append(_pairs(linked, mine.ids, old.ids, by.preset))
    losses = _against(_turned(linked.pairs.take(linked.confirmed)), rows, "near_dup")
    placed = {(int(rows[a]), b) for a, b in _placed(linked)}
    reasons = [
        "same_footprint" if pair in placed else "near_dup" for pair in zip(losses.row, losses.keeper, strict=True)
    ]
    lost.append(_losses(spool, replace(losses, reason=reasons), old.ids))
    return np.setdiff1d(rows, losses.row)


def _placed(linked: Linked) -> list[tuple[int, int]]:
    """Row numbers of the pairs that rest on their place alone."""
    m = linked.pairs.matches.take(np.flatnonzero(linked.basis == "place"))
    return list(zip(m.left.tolist(), m.right.tolist(), strict=True))


def _by_place(losses: Losses, placed: set[frozenset[int]]) -> Losses:
    """Losses with the reason ``same_footprint`` where the pair rests on its place."""
    reasons = [
        "same_footprint" if reason == "near_dup" and frozenset((row, keeper)) in placed else reason
        for reason, row, keeper in zip(losses.reason, losses.row.tolist(), losses.keeper.tolist(), strict=True)
    ]
    return replace(losses, reason=reasons)


def _against(pairs: Pairs, rows: Int64, reason: str) -> Losses:
    """Confirmed pairs (other side left, ``rows`` right) as losses: the nearest other of each row."""
    m = pairs.matches
    order = np.lexsort((m.left, m.distance, pairs.distance256, m.right))
    first = order[np.append(True, np.diff(m.right[order]) != 0)] if len(order) else order
    return Losses(
        row=rows[m.right[first]],
        reason=[reason] * len(first),
        keeper=m.left[first],
        distance64=m.distance[first].astype(np.int64),
        distance256=pairs.distance256[first].astype(np.int64),
        correlation=pairs.correlation[first],
        orientation=m.orientation[first].astype(np.int64),
    )


def _turned(pairs: Pairs) -> Pairs:
    """The same pairs with the sides exchanged (the orientation stays that of the new image)."""
    m = pairs.matches
    matches = type(m)(m.right, m.left, m.orientation, m.distance)
    return Pairs(matches, pairs.distance256, pairs.correlation, pairs.confirmed)


def _renumbered(pairs: Pairs, places: Int64) -> Pairs:
    m = pairs.matches
    matches = type(m)(places[m.left], places[m.right], m.orientation, m.distance)
    return Pairs(matches, pairs.distance256, pairs.correlation, pairs.confirmed)


def _known(spool: Spool, rows: Int64, old: Old) -> tuple[Int64, Losses]:
    """Rows whose pixels, or whose very id, a corpus already holds."""
    again = _index_in(spool.rows.column("id").take(pa.array(rows)), old.ids)
    place = np.where(again >= 0, again, _index_in(spool.rows.column("content_id").take(pa.array(rows)), old.content))
    return _outright(rows, place, "exact_dup")


def _removed(spool: Spool, rows: Int64, removed: pa.Table) -> tuple[Int64, Losses]:
    """Rows that were once taken out on purpose: the same id, or the same window of the same file's bytes."""
    by_id = _index_in(spool.rows.column("id").take(pa.array(rows)), removed.column("id"))
    by_file = _index_in(_origins(spool.rows.take(pa.array(rows))), _origins(removed))
    return _outright(rows, np.where(by_id >= 0, by_id, by_file), "removed")


def _origins(rows: pa.Table) -> pa.ChunkedArray:
    """File and window of each row as binary; distinct for rows without a file's digest."""
    window = np.stack([rows.column(f"win_{side}").to_numpy().astype("<u4") for side in "xywh"], axis=1)
    files = rows.column("file_sha256").to_pylist()
    ids = rows.column("id").to_pylist()
    keys = [(file or identity) + place.tobytes() for file, identity, place in zip(files, ids, window, strict=True)]
    return pa.chunked_array([pa.array(keys, pa.binary())])


def _outright(rows: Int64, place: Int64, reason: str) -> tuple[Int64, Losses]:
    """Rows with a ``place`` (n,) among others (-1: none), and their losses."""
    known = np.flatnonzero(place >= 0)
    none = np.full(len(known), -1, np.int64)
    losses = Losses(rows[known], [reason] * len(known), place[known], none, none, np.full(len(known), np.nan), none)
    return rows[known], losses


def _index_in(values: pa.ChunkedArray, known: pa.ChunkedArray) -> Int64:
    """Place of each value among the known ones, -1 where it is new."""
    found = pc.call_function("index_in", [values], pc.SetLookupOptions(value_set=known.combine_chunks()))
    return found.fill_null(-1).to_numpy().astype(np.int64)


def _losses(spool: Spool, losses: Losses, keepers: pa.ChunkedArray) -> pa.Table:
    """Rows of the table ``dropped``."""
    names = [name for name, _ in tables.PROVENANCE] + ["category"]
    taken = spool.rows.select(names).take(pa.array(losses.row))
    columns: dict[str, Any] = {name: taken.column(name) for name in names}
    missing = losses.distance64 < 0
    columns |= {
        "reason": losses.reason,
        "kept_id": keepers.take(pa.array(losses.keeper)),
        "d64": pa.array(losses.distance64, mask=missing),
        "d256": pa.array(losses.distance256, mask=missing),
        "ncc": pa.array(losses.correlation, mask=missing),
        "orient": pa.array(losses.orientation, mask=missing),
    }
    count = len(losses.row)
    arrays = []
    for field in tables.DROPPED:
        values = columns.get(field.name, pa.nulls(count))
        array = values if isinstance(values, pa.ChunkedArray | pa.Array) else pa.array(values, pa.string())
        arrays.append(array.cast(field.type) if array.type != field.type else array)
    return pa.Table.from_arrays(arrays, schema=tables.DROPPED)


def _pairs(linked: Linked, left: pa.ChunkedArray, right: pa.ChunkedArray, preset: Preset) -> pa.Table:
    """Rows of the table ``pairs``."""
    pairs = linked.pairs
    m = pairs.matches
    columns = {
        "left": left.take(pa.array(m.left)),
        "right": right.take(pa.array(m.right)),
        "orient": pa.array(m.orientation),
        "d64": pa.array(m.distance),
        "d256": pa.array(pairs.distance256),
        "ncc": pa.array(pairs.correlation.astype(np.float32)),
        "confirmed": pa.array(pairs.confirmed),
        "basis": pa.array(linked.basis.tolist(), pa.string()).cast(tables.PAIRS.field("basis").type),
        "doubt": pa.array(doubt(preset, pairs.distance256, pairs.correlation).astype(np.float32)),
    }
    return pa.table(columns, schema=tables.PAIRS)


def _extra(spool: Spool, kept: Int64, group: Int64, losses: Losses, flagged: set[int]) -> pa.Table:
    """The columns that curation adds to kept rows: other categories of dropped twins, group, twins dropped, flags."""
    counts = np.bincount(losses.keeper, minlength=len(spool))[kept]
    heads = words(fixed(spool.rows.column("id"), 16)[:, :8])[:, 0]
    leaders, size = np.unique(group, return_counts=True)
    several = np.isin(group, leaders[size > 1]) | (counts > 0)
    category = spool.column("category").tolist()
    others: dict[int, set[str]] = {}
    for row, keeper in zip(losses.row.tolist(), losses.keeper.tolist(), strict=True):
        if category[row] is not None and category[row] != category[keeper]:
            others.setdefault(keeper, set()).add(category[row])
    return pa.table(
        {
            "alt_categories": pa.array(
                [sorted(others.get(row, ())) or None for row in kept.tolist()], pa.list_(pa.string())
            ),
            "dup_group": pa.array(heads[group], mask=~several),
            "n_dropped": pa.array(counts.clip(max=65535).astype(np.uint16)),
            "flags": pa.array([int(row in flagged) * tables.TEMPORAL for row in kept.tolist()], pa.uint32()),
        }
    )
