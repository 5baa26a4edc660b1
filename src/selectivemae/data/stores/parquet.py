"""Images in a Parquet file: a column ``image`` of bytes, or of ``{bytes, path}`` as Hugging Face's ``datasets`` writes.

A row is a sample under its path, or ``row-000000017`` where there is none. Row groups are read whole and the last one
is kept, so reading in the order of the rows costs each group once. Needs pyarrow.
"""

from threading import Lock
from typing import TYPE_CHECKING, Any

from selectivemae.core.errors import StoreError
from selectivemae.data.stores.base import Progress
from selectivemae.data.stores.index import IndexBuilder
from selectivemae.data.stores.indexed import ArchiveStore
from selectivemae.data.stores.sources import Files, LocalFile

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

MAGIC = b"PAR1"
IMAGE = "image"


class ParquetStore(ArchiveStore):
    """The images of a Parquet file. ``fields`` gives the other columns of a row."""

    def __init__(self, source: LocalFile, name: str, files: Files, progress: Progress | None = None) -> None:
        self._lock = Lock()
        self._file: pq.ParquetFile | None = None
        self._group: tuple[int, list[str], pa.Table] | None = None
        super().__init__(source, name, files, progress)

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in self.__dict__.items() if k not in ("_lock", "_file", "_group")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__ |= state | {"_lock": Lock(), "_file": None, "_group": None}

    def __getitem__(self, index: int) -> bytes:
        row = self.index.record(index).offset
        value = self._cell(row, [IMAGE])[IMAGE]
        data = value.get("bytes") if isinstance(value, dict) else value
        if not data:
            raise StoreError(f"{self.source.name}: row {row} holds no image bytes (a path alone is not followed)")
        return data

    def fields(self, index: int) -> dict[str, Any]:
        """The other columns of the row at ``index``."""
        return self._cell(self.index.record(index).offset, [name for name in self.columns if name != IMAGE])

    @property
    def columns(self) -> list[str]:
        """Names of the columns."""
        with self._lock:
            return self._opened().schema_arrow.names

    def _scan(self, builder: IndexBuilder) -> None:
        import pyarrow as pa

        with self._lock:
            file = self._opened()
            if IMAGE not in file.schema_arrow.names:
                known = ", ".join(file.schema_arrow.names)
                raise StoreError(f"{self.source.name}: has no column {IMAGE!r} of images (columns: {known})")
            kind = file.schema_arrow.field(IMAGE).type
            named = pa.types.is_struct(kind) and kind.get_field_index("path") >= 0
            place = 0
            for group in range(file.num_row_groups):
                about = file.metadata.row_group(group)
                size = about.total_byte_size // max(about.num_rows, 1)
                paths: list[str | None] = [None] * about.num_rows
                if named:
                    column = self._read(group, [f"{IMAGE}.path"]).column(IMAGE).to_pylist()
                    paths = [entry and entry["path"] for entry in column]
                for path in paths:
                    builder.add((path or f"row-{place:09d}").encode("utf-8", "surrogateescape"), place, size, size)
                    place += 1

    def _cell(self, row: int, columns: list[str]) -> dict[str, Any]:
        with self._lock:
            about = self._opened().metadata
            group = first = 0
            while row >= first + about.row_group(group).num_rows:
                first += about.row_group(group).num_rows
                group += 1
            if self._group is None or self._group[:2] != (group, columns):
                self._group = (group, columns, self._read(group, columns))
            return self._group[2].slice(row - first, 1).to_pylist()[0]

    def _read(self, group: int, columns: list[str]) -> "pa.Table":
        import pyarrow as pa

        try:
            return self._opened().read_row_group(group, columns=columns)
        except (OSError, pa.ArrowException) as e:
            raise StoreError(f"{self.source.name}: row group {group} cannot be read ({e}); fetch it again") from e

    def _opened(self) -> "pq.ParquetFile":
        import pyarrow as pa
        import pyarrow.parquet as pq

        if self._file is None:
            try:
                self._file = pq.ParquetFile(self.source.name)
            except (OSError, pa.ArrowException) as e:
                raise StoreError(f"{self.source.name}: is no whole Parquet file ({e}); fetch it again") from e
        return self._file
