"""Columns of the tables of a corpus (Parquet): the manifest, what was dropped, the pairs, and how they are written."""

from collections.abc import Sequence
from datetime import datetime
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from selectivemae.core.files import atomic_write

ROW_GROUP = 65536
_WORD = pa.dictionary(pa.int32(), pa.string())

PROVENANCE: list[tuple[str, pa.DataType]] = [
    ("id", pa.binary(16)),
    ("source", _WORD),
    ("container", pa.string()),
    ("member", pa.string()),
    ("win_x", pa.uint32()),
    ("win_y", pa.uint32()),
    ("win_w", pa.uint32()),
    ("win_h", pa.uint32()),
    ("file_sha256", pa.binary(32)),
]

FIGURES = ("mean", "std", "entropy", "flat_share", "noise", "nodata", "saturated", "cloud", "blur", "detail", "quality")

TILES = pa.schema(  # what reading gives; ``offset`` and ``size`` are places in the chunk's spool
    [
        *PROVENANCE,
        ("offset", pa.uint64()),
        ("size", pa.uint32()),
        ("ext", _WORD),
        ("width", pa.uint32()),
        ("height", pa.uint32()),
        ("scene_w", pa.uint32()),
        ("scene_h", pa.uint32()),
        ("resize", pa.float32()),  # windows and scene count in pixels after this scaling
        ("category", _WORD),
        ("gsd_m", pa.float32()),
        ("crs", _WORD),
        ("transform", pa.list_(pa.float64(), 6)),
        ("lon_min", pa.float64()),
        ("lat_min", pa.float64()),
        ("lon_max", pa.float64()),
        ("lat_max", pa.float64()),
        ("datetime", pa.string()),  # YYYY, YYYY-MM or YYYY-MM-DD
        ("licence", _WORD),
        ("stretch_lo", pa.list_(pa.float32())),
        ("stretch_hi", pa.list_(pa.float32())),
        ("passthrough", pa.bool_()),
        ("content_id", pa.binary(32)),
        ("h64", pa.uint64()),
        ("h256", pa.binary(32)),
        *((name, pa.float32()) for name in FIGURES),
    ]
)

TEMPORAL = 1  # of ``flags``: the same place at another date is in the corpus too
_MONTH, _YEAR = 2, 4  # of ``flags``: of ``datetime`` no more than the month, the year is known
_ADDED: dict[str, pa.DataType] = {
    "key": pa.string(),
    "shard": pa.uint32(),
    "alt_categories": pa.list_(pa.string()),
    "datetime": pa.timestamp("ms"),
    "dup_group": pa.uint64(),
    "n_dropped": pa.uint16(),
    "flags": pa.uint32(),
    "crc32c": pa.uint32(),
    "generation": pa.uint16(),
}
_ORDER = f"""id key shard offset size ext width height source container member win_x win_y win_w win_h
scene_w scene_h resize category alt_categories gsd_m crs transform lon_min lat_min lon_max lat_max datetime licence
stretch_lo stretch_hi passthrough file_sha256 content_id h64 h256
{" ".join(FIGURES)} dup_group n_dropped flags crc32c generation"""
MANIFEST = pa.schema([pa.field(name, _ADDED[name]) if name in _ADDED else TILES.field(name) for name in _ORDER.split()])

RULES_VERSION = 1  # of the statistics and rules by which something was left out

DROPPED = pa.schema(
    [
        *PROVENANCE,
        ("reason", _WORD),
        ("stat", _WORD),
        ("value", pa.float64()),
        ("threshold", pa.float64()),
        ("detail", pa.string()),
        ("category", _WORD),
        ("size", pa.uint32()),
        ("kept_id", pa.binary(16)),
        ("d64", pa.uint8()),
        ("d256", pa.uint16()),
        ("ncc", pa.float32()),
        ("orient", pa.uint8()),
        ("rule_version", pa.uint16()),
        ("generation", pa.uint16()),
    ]
)

PAIRS = pa.schema(
    [
        ("left", pa.binary(16)),
        ("right", pa.binary(16)),
        ("orient", pa.uint8()),
        ("d64", pa.uint8()),
        ("d256", pa.uint16()),
        ("ncc", pa.float32()),
        ("confirmed", pa.bool_()),
        ("basis", _WORD),
        ("doubt", pa.float32()),
    ]
)

OVERLAP = pa.schema(  # images of evaluation sets and their twins among the sources
    [
        ("set", _WORD),
        ("image", pa.string()),
        ("image_id", pa.binary(16)),
        ("source", _WORD),
        ("member", pa.string()),
        ("id", pa.binary(16)),
        *(field for field in PAIRS if field.name not in ("left", "right", "confirmed")),
        ("generation", pa.uint16()),
    ]
)

SHEET = pa.schema(  # small pictures of what was left out, those nearest to the threshold of each reason
    [
        *((name, kind) for name, kind in PROVENANCE if name in ("id", "source", "member")),
        ("reason", _WORD),
        ("value", pa.float64()),
        ("threshold", pa.float64()),
        ("kept_id", pa.binary(16)),
        ("image", pa.binary()),
    ]
)

REVIEW = pa.schema(  # the most doubtful pairs, with small pictures; the left one in the orientation of the right
    [
        *PAIRS,
        ("left_key", pa.string()),
        ("right_key", pa.string()),
        ("left_name", pa.string()),
        ("right_name", pa.string()),
        ("outcome", _WORD),
        ("left_image", pa.binary()),
        ("right_image", pa.binary()),
    ]
)


def dated(content: pa.Table) -> pa.Table:
    """The same rows with ``datetime`` as a time instead of a text; ``flags`` says where it is only a month or a year.

    What is no day of the calendar becomes null.
    """
    texts = content.column("datetime").to_pylist()
    times, precision = [], np.zeros(len(texts), np.uint32)
    for row, text in enumerate(texts):
        parts = text.split("-") if text else ["none"]
        precision[row] = {1: _YEAR, 2: _MONTH}.get(len(parts), 0)
        try:
            times.append(datetime.fromisoformat("-".join([*parts, "01", "01"][: max(3, len(parts))])))
        except ValueError:
            times.append(None)
    flags = content.column("flags").to_numpy() | np.where([time is None for time in times], np.uint32(0), precision)
    out = content.set_column(
        content.schema.get_field_index("datetime"), MANIFEST.field("datetime"), pa.array(times, pa.timestamp("ms"))
    )
    return out.set_column(out.schema.get_field_index("flags"), MANIFEST.field("flags"), pa.array(flags, pa.uint32()))


def undated(content: pa.Table) -> pa.Table:
    """Rows of the manifest with ``datetime`` as the text that it was given as."""
    times, flags = content.column("datetime").to_pylist(), content.column("flags").to_pylist()
    texts = pa.array(map(date_text, times, flags), pa.string())
    return content.set_column(content.schema.get_field_index("datetime"), "datetime", texts)


def date_text(time: datetime | None, flags: int) -> str | None:
    """A ``datetime`` of the manifest as it was given: ``YYYY``, ``YYYY-MM`` or ``YYYY-MM-DD``."""
    length = 4 if flags & _YEAR else 7 if flags & _MONTH else 10
    return None if time is None else time.isoformat()[:length]


def table(rows: Sequence[dict[str, Any]], schema: pa.Schema) -> pa.Table:
    """Rows (keys = column names; missing = null) as a table."""
    return pa.Table.from_pylist(list(rows), schema=schema)


def write(path: Path, content: pa.Table) -> None:
    """Write a Parquet file as a whole: zstd, row groups of 65,536. OutputError on a full disk."""
    buffer = BytesIO()
    pq.write_table(content, buffer, row_group_size=ROW_GROUP, compression="zstd", compression_level=3)
    atomic_write(path, buffer.getvalue())


def read(paths: Sequence[Path], schema: pa.Schema, columns: list[str] | None = None) -> pa.Table:
    """The rows of several Parquet files, one after the other; an empty table of ``schema`` for none."""
    parts = [pq.read_table(path, columns=columns) for path in paths]
    if not parts:
        empty = schema.empty_table()
        return empty.select(columns) if columns else empty
    return pa.concat_tables(parts).unify_dictionaries()


def normal(content: pa.Table) -> pa.Table:
    """The same rows in one run of memory with fresh dictionaries, so that equal tables give equal files."""
    columns = []
    for field in content.schema:
        column = content.column(field.name)
        if pa.types.is_dictionary(field.type):
            column = column.cast(pa.string()).combine_chunks().cast(field.type)
        columns.append(column)
    return pa.Table.from_arrays(columns, schema=content.schema).combine_chunks()
