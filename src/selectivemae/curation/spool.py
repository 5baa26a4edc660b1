"""The spooled chunks of a run, seen as one table in the order of tile ids.

Nothing depends on how members were cut into chunks: rows are sorted by id before anything is decided.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from selectivemae.curation import tables
from selectivemae.data.decode import decode


@dataclass(frozen=True)
class Spool:
    """``rows`` (sorted by id), and for each the chunk (place in ``names``) and the row inside that holds its codes."""

    folder: Path
    names: list[str]
    rows: pa.Table
    chunk: NDArray[np.int64]
    place: NDArray[np.int64]

    def __len__(self) -> int:
        return self.rows.num_rows

    def gather(self, suffix: str, which: NDArray[np.int64]) -> NDArray:
        """Rows ``which`` (n,) of the chunks' arrays ``h64``, ``h256`` or ``thumbs`` -> (n, ...)."""
        out: NDArray | None = None
        chunk = self.chunk[which]
        order = np.argsort(chunk, kind="stable")
        bounds = np.flatnonzero(np.append(True, np.diff(chunk[order]) != 0)) if len(order) else []
        for begin, end in zip(bounds, [*bounds[1:], *([len(order)] if len(order) else [])], strict=True):
            mine = order[begin:end]
            array = np.load(self.folder / f"{self.names[chunk[mine[0]]]}.{suffix}.npy", mmap_mode="r")
            if out is None:
                out = np.empty((len(which), *array.shape[1:]), array.dtype)
            out[mine] = array[self.place[which[mine]]]
        return out if out is not None else np.empty((0, *_SHAPES[suffix]), np.uint64)

    def picture(self, row: int) -> NDArray[np.uint8]:
        """A row's pixels (H, W, 3); of an evaluation image, which is never stored, its grey thumb."""
        stored = self.rows.slice(row, 1).select(["offset", "size"]).to_pylist()[0]
        if not stored["size"]:
            return np.repeat(self.gather("thumbs", np.array([row]))[0][..., None], 3, 2)
        with (self.folder / f"{self.names[self.chunk[row]]}.bin").open("rb") as file:
            file.seek(stored["offset"])
            return decode(file.read(stored["size"]))

    def column(self, name: str) -> NDArray:
        """A column as a NumPy array; words as objects, missing figures as NaN."""
        array = self.rows.column(name)
        if pa.types.is_dictionary(array.type):
            array = pc.cast(array, pa.string())
        return array.to_numpy(zero_copy_only=False)


_SHAPES = {"h64": (8,), "h256": (8, 4), "thumbs": (64, 64)}


def places(ids: pa.ChunkedArray, wanted: Iterable[bytes]) -> dict[bytes, int]:
    """The rows of a column of ids in which those ``wanted`` stand that are there at all."""
    asked = pa.array(sorted(set(wanted)), pa.binary(16))
    found = pc.call_function("index_in", [asked], pc.SetLookupOptions(value_set=ids.combine_chunks()))
    pairs = zip(asked.to_pylist(), found.to_pylist(), strict=True)
    return {identity: row for identity, row in pairs if row is not None}


def open_spool(folder: Path, names: list[str]) -> Spool:
    """All chunks of ``folder`` by their names."""
    paths = [folder / f"{name}.tiles.parquet" for name in names]
    counts = [pq.read_metadata(path).num_rows for path in paths]
    rows = tables.read(paths, tables.TILES)
    order = np.lexsort(words(fixed(rows.column("id"), 16))[:, ::-1].T)
    chunk = np.repeat(np.arange(len(names)), counts)[order]
    place = np.concatenate([np.arange(count) for count in counts] or [np.empty(0, int)])[order]
    return Spool(folder, names, rows.take(pa.array(order)), chunk, place.astype(np.int64))


def fixed(column: pa.ChunkedArray, width: int) -> NDArray[np.uint8]:
    """A column of fixed-size binary without nulls as bytes (n, width)."""
    parts = []
    for part in column.chunks:
        data = part.buffers()[1]
        view = np.frombuffer(data, np.uint8) if data else np.empty(0, np.uint8)
        parts.append(view[part.offset * width : (part.offset + len(part)) * width].reshape(-1, width))
    return np.concatenate(parts) if parts else np.empty((0, width), np.uint8)


def words(data: NDArray[np.uint8]) -> NDArray[np.uint64]:
    """Bytes (n, 8 k) as big-endian words (n, k), which sort as the bytes do."""
    return np.ascontiguousarray(data).view(">u8").astype(np.uint64)
