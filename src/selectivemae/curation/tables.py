"""Columns of the tables of a corpus (Parquet): the manifest, what was dropped, the pairs, and how they are written."""

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from selectivemae.core.files import atomic_write

ROW_GROUP = 65536
_WORD = pa.dictionary(pa.int32(), pa.string())

PROVENANCE: list[tuple[str, pa.DataType]] = [
    ("id", pa.binary(16)),
    ("source", _WORD),
    ("container", _WORD),
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
        ("crc32", pa.uint32()),
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
        ("datetime", pa.string()),
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

MANIFEST = pa.schema(
    [
        ("key", pa.string()),
        ("shard", pa.uint32()),
        *TILES,
        ("alt_categories", pa.list_(pa.string())),
        ("dup_group", pa.uint64()),
        ("n_dropped", pa.uint32()),
        ("flags", pa.uint32()),  # 1: the same place at another date is in the corpus too
        ("generation", pa.uint16()),
    ]
)

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
