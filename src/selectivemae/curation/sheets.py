"""Small pictures of what was left out: for each reason those nearest to the threshold, so that a person sees where it
cuts. Few are read again from their sources; copies still lie in the spool.

    g0001/sheets/part-00000.parquet    tables.SHEET
"""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from PIL import Image

from selectivemae.core.errors import DecodeError, StoreError
from selectivemae.curation import tables
from selectivemae.curation.engine import run_stage
from selectivemae.curation.read import SECONDS, Chunk, content, member_id
from selectivemae.curation.scene import open_scene
from selectivemae.curation.slice import Window
from selectivemae.curation.sources import Source
from selectivemae.curation.spool import Spool, places
from selectivemae.curation.tasks import Counts, Executor, Mark
from selectivemae.data.stores import Store, open_store
from selectivemae.data.stores.fields import fields

SHOWN = 24  # of each reason
_SIDE = 128
_COPIES = ("exact_dup", "near_dup", "same_footprint", "eval_overlap")
_WHOLE = ("label_like", "too_small", "elongated")  # reasons of whole files that can be looked at
_LARGEST = 100_000_000  # pixels of a file that is read whole for its picture


@dataclass(frozen=True)
class SheetTask:
    """Pictures to read again from one container: rows of ``dropped``."""

    name: str
    path: str
    source: Source
    rows: tuple[dict[str, Any], ...]


def sheet(dropped: pa.Table, spool: Spool, chunks: Sequence[Chunk], executor: Executor, folder: Path) -> pa.Table:
    """``tables.SHEET`` for rows of ``dropped``."""
    containers = {(chunk.source.name, chunk.container): chunk for chunk in chunks}
    chosen: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in nearest(dropped):
        chosen.setdefault((row["source"], row["container"]), []).append(row)
    tasks = [
        SheetTask(f"sheet-{number:04d}", containers[place].path, containers[place].source, tuple(rows))
        for number, (place, rows) in enumerate(sorted(chosen.items()))
    ]
    run_stage(executor, read_pictures, tasks, folder)
    found = tables.read([folder / f"{task.name}.parquet" for task in tasks], tables.SHEET).to_pylist()
    found.sort(key=lambda row: (row["reason"], abs(row["value"] - row["threshold"]), row["id"]))
    return tables.table(found + _copies(dropped, spool), tables.SHEET)


def _copies(dropped: pa.Table, spool: Spool) -> list[dict[str, Any]]:
    """Of each kind of copy those of the lowest correlation, which stands as their ``value``."""
    words = np.array(dropped.column("reason").to_pylist(), object)
    likeness = dropped.column("ncc").to_numpy(zero_copy_only=False)
    chosen: list[dict[str, Any]] = []
    for reason in _COPIES:
        mine = np.flatnonzero(words == reason)
        mine = mine[np.argsort(likeness[mine], kind="stable")[:SHOWN]]
        chosen += dropped.take(pa.array(mine)).to_pylist()
    number = places(spool.rows.column("id"), (row["id"] for row in chosen))
    return [_shown(row, small(spool.picture(number[row["id"]]))) | {"value": row["ncc"]} for row in chosen]


def _shown(row: dict[str, Any], image: bytes) -> dict[str, Any]:
    """A row of ``tables.SHEET`` from one of ``dropped``."""
    return {name: row[name] for name in tables.SHEET.names if name != "image"} | {"image": image}


def nearest(dropped: pa.Table) -> list[dict[str, Any]]:
    """For each reason with a threshold, the ``SHOWN`` rows nearest to it that can be looked at."""
    out: list[dict[str, Any]] = []
    measured = dropped.filter(pc.call_function("is_valid", [dropped.column("value")]))
    words = np.array(measured.column("reason").to_pylist(), object)
    value, threshold = (measured.column(name).to_numpy() for name in ("value", "threshold"))
    far = np.abs(value - threshold)
    looked_at = (measured.column("win_w").to_numpy() > 0) | np.isin(words, _WHOLE)
    for reason in sorted(set(words)):
        mine = np.flatnonzero((words == reason) & looked_at)
        mine = mine[np.argsort(far[mine], kind="stable")[:SHOWN]]
        out += measured.take(pa.array(mine)).to_pylist()
    return out


def read_pictures(task: SheetTask, folder: Path, mark: Mark) -> Counts:
    """Job of the engine: a small picture of each of the task's rows."""
    store = open_store(task.path)
    wanted = {row["member"] for row in task.rows}
    number = {name: i for i in range(len(store)) if (name := member_id(store, task.path, i)) in wanted}
    found = []
    for row in task.rows:
        mark(number[row["member"]], SECONDS)
        picture = _picture(task.source, store, number[row["member"]], row)
        if picture is not None:
            found.append(_shown(row, picture))
    tables.write(folder / f"{task.name}.parquet", tables.table(found, tables.SHEET))
    return {"pictures": len(found)}


def _picture(source: Source, store: Store, number: int, row: dict[str, Any]) -> bytes | None:
    """The window of a row as a small JPEG; None where it is too large, or has changed on the disk since."""
    try:
        here = source.for_member(row["member"], partial(fields, store, number))
        with open_scene(content(store, number), here) as scene:
            window = Window(*(row[f"win_{side}"] for side in "xywh"))
            if not window.w:
                window = Window(0, 0, scene.width, scene.height)
            return None if window.w * window.h > _LARGEST else small(scene.read(window)[0])
    except (DecodeError, StoreError):
        return None


def small(pixels: NDArray[np.uint8]) -> bytes:
    """Pixels (H, W, 3) as a JPEG of at most 128 pixels on the long side."""
    image = Image.fromarray(np.ascontiguousarray(pixels))
    image.thumbnail((_SIDE, _SIDE))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=80)
    return buffer.getvalue()
