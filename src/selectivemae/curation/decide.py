"""From a spool to the decision what goes into a corpus: evaluation overlap, copies of what a corpus already holds,
copies among the new; and the tables that say so."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from selectivemae.curation import dedup, tables
from selectivemae.curation.confirm import PRESETS, Preset
from selectivemae.curation.dedup import Losses, Pairs, Side
from selectivemae.curation.search import join
from selectivemae.curation.spool import Spool, fixed, words

Int64 = NDArray[np.int64]


@dataclass(frozen=True)
class Old:
    """What a corpus already holds: ids (n,) as binary, content ids, plain 64-bit codes (n,), and the rest as a side;
    and what was taken out of it (``removed``: rows of ``dropped``)."""

    removed: pa.Table
    ids: pa.ChunkedArray
    content: pa.ChunkedArray
    h64: NDArray[np.uint64]
    side: Side


@dataclass(frozen=True)
class Decision:
    """Kept rows of the spool with the columns that curation adds, rows of ``dropped``, and the pairs looked at."""

    rows: Int64
    extra: pa.Table
    dropped: pa.Table
    pairs: pa.Table
    overlap: pa.Table


def decide(spool: Spool, roles: dict[str, str], priority: dict[str, int], preset: Preset, old: Old | None) -> Decision:
    """Decide on every row of ``spool``; ``roles`` and ``priority`` are those of the sources by name."""
    role = np.array([roles[name] for name in spool.column("source")], object)
    guards = np.flatnonzero(role == "eval")
    rows = np.flatnonzero(role == "train")
    ids = spool.rows.column("id")
    lost: list[pa.Table] = []
    seen: list[pa.Table] = []
    overlap = tables.PAIRS.empty_table()
    if len(guards):
        pairs = dedup.overlaps(spool, rows, guards, PRESETS["loose"])
        pairs = pairs.take(np.flatnonzero(pairs.confirmed))
        overlap = _pairs(pairs, ids.take(guards), ids.take(rows))
        losses = _against(pairs, rows, "eval_overlap")
        lost.append(_losses(spool, losses, ids.take(guards)))
        rows = np.setdiff1d(rows, losses.row)
    if old is not None:
        again, losses = _removed(spool, rows, old.removed)
        lost.append(_losses(spool, losses, old.removed.column("id")))
        rows = np.setdiff1d(rows, again)
        known, losses = _known(spool, rows, old)
        lost.append(_losses(spool, losses, old.ids))
        rows = np.setdiff1d(rows, known)
        found = join(spool.gather("h64", rows), old.h64, preset.distance64)
        pairs = dedup.examine(found, dedup.side(spool, rows), old.side, preset)
        seen.append(_pairs(pairs, ids.take(rows), old.ids))
        losses = _against(_turned(pairs.take(np.flatnonzero(pairs.confirmed))), rows, "near_dup")
        lost.append(_losses(spool, losses, old.ids))
        rows = np.setdiff1d(rows, losses.row)
    rank = dedup.ranks(spool, rows, priority)
    copies = dedup.exact_copies(spool, rows, rank)
    leaders = np.setdiff1d(np.arange(len(rows)), copies[0])
    pairs = dedup.near_copies(spool, rows[leaders], preset)
    seen.append(_pairs(pairs, ids.take(rows[leaders]), ids.take(rows[leaders])))
    losses, group = dedup.settle(rows, rank, copies, _renumbered(pairs, leaders))
    lost.append(_losses(spool, losses, ids))
    keep = np.setdiff1d(np.arange(len(rows)), np.searchsorted(rows, losses.row))
    kept = rows[keep]
    dropped = pa.concat_tables(lost).unify_dictionaries()
    return Decision(kept, _extra(spool, kept, group[keep], losses), dropped, pa.concat_tables(seen), overlap)


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


def _pairs(pairs: Pairs, left: pa.ChunkedArray, right: pa.ChunkedArray) -> pa.Table:
    """Rows of the table ``pairs``."""
    m = pairs.matches
    columns = {
        "left": left.take(pa.array(m.left)),
        "right": right.take(pa.array(m.right)),
        "orient": pa.array(m.orientation),
        "d64": pa.array(m.distance),
        "d256": pa.array(pairs.distance256),
        "ncc": pa.array(pairs.correlation.astype(np.float32)),
        "confirmed": pa.array(pairs.confirmed),
    }
    return pa.table(columns, schema=tables.PAIRS)


def _extra(spool: Spool, kept: Int64, group: Int64, losses: Losses) -> pa.Table:
    """The columns that curation adds to kept rows: other categories of dropped twins, group, twins dropped."""
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
            "n_dropped": pa.array(counts.astype(np.uint32)),
        }
    )
