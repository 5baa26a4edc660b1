"""A decoded-once copy of a data source, for those who have the disk: pixels instead of JPEGs, in plain tars.

OUT/
  pack.json            what is packed, and how; in the end how many images and bytes: then the pack is whole
  part-00000.tar       ID.ppm (.pgm for one channel): binary portable pixmaps, which any tool reads
  part-00000.json      images of the part, and those left out with their reasons; there once the part is whole
  dropped.csv          id, reason of all that cannot be decoded

Training reads it like any folder of tars. An image takes 3 bytes a pixel, some ten times its JPEG.
"""

import io
import json
import multiprocessing
import os
import tarfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from selectivemae.core.errors import ConfigError, DecodeError, OutputError, StoreError
from selectivemae.core.files import atomic_write, cannot_write, locked, prepare_output, remove_temporaries
from selectivemae.core.records import csv_text
from selectivemae.data.catalogue import resolve_all
from selectivemae.data.decode import decode
from selectivemae.data.loader import auto_workers
from selectivemae.data.pack_config import PackConfig
from selectivemae.data.stores import Store, open_stores

PACK = "pack.json"
_PART_BYTES = 1 << 30
Say = Callable[[float, str], None]


@dataclass(frozen=True)
class Packed:
    """What a pack holds."""

    out: Path
    images: int
    dropped: int
    bytes: int


@dataclass(frozen=True)
class _Part:
    """What a worker packs: samples ``first`` to ``last`` of a store, into ``tar``."""

    store: Store
    first: int
    last: int
    size: int
    channels: int
    tar: Path

    @property
    def note(self) -> Path:
        """The file that says that the part is whole."""
        return self.tar.with_suffix(".json")


def pack(
    data: list[str],
    out: Path,
    config: PackConfig,
    *,
    data_root: Path | None = None,
    resume: bool = False,
    overwrite: bool = False,
    say: Say = lambda share, text: None,
) -> Packed:
    """Decode every image of ``data`` once, shrink it to ``config.size`` and write it into ``out``.

    ``resume`` keeps the parts that are whole. The same data give the same bytes, whatever the number of workers.
    Raises ConfigError, StoreError, or OutputError (a full disk leaves whole parts only).
    """
    if not data:
        raise ConfigError("no data given: name a folder, an archive or a corpus")
    if config.channels not in (1, 3):
        raise ConfigError(f"--channels must be 1 or 3 (got {config.channels})")
    store = open_stores(resolve_all(data, data_root))
    prepare_output(out, resume=resume, overwrite=overwrite, marker=PACK)
    with locked(out):
        remove_temporaries(out)
        plan = {"fingerprint": store.fingerprint, "size": config.size, "channels": config.channels}
        _check_plan(out, plan)
        parts = _parts(store, config, out)
        for done, part in enumerate(_packed(parts, config.workers)):
            say((done + 1) / len(parts), f"{part.last:,} of {len(store):,} images")
        return _finish(out, parts, plan)


def _check_plan(out: Path, plan: dict[str, Any]) -> None:
    """Note what is packed and how, or see that it is the same as before."""
    if (out / PACK).exists() and not plan.items() <= json.loads((out / PACK).read_text()).items():
        raise OutputError(f"{out} holds a pack of other data or settings: name another --out, or --overwrite")
    atomic_write(out / PACK, json.dumps(plan, indent=1))


def _parts(store: Store, config: PackConfig, out: Path) -> list[_Part]:
    each = max(1, _PART_BYTES // (config.channels * config.size**2))
    return [
        _Part(store, first, min(first + each, len(store)), config.size, config.channels, out / f"part-{n:05}.tar")
        for n, first in enumerate(range(0, len(store), each))
    ]


def _packed(parts: list[_Part], workers: int | None) -> Iterator[_Part]:
    """Each part once it is whole, in order."""
    missing = [part for part in parts if not part.note.exists()]
    workers = min(auto_workers(1) + 1 if workers is None else workers, len(missing))
    if workers <= 1:
        for part in parts:
            if not part.note.exists():
                _write(part)
            yield part
        return
    with multiprocessing.get_context("spawn").Pool(workers, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        results = {part.tar: pool.apply_async(_write, (part,)) for part in missing}
        for part in parts:
            if part.tar in results:
                results[part.tar].get()
            yield part


def _write(part: _Part) -> None:
    dropped: list[tuple[str, str]] = []
    images = 0
    with _replacing(part.tar) as file, tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for index in range(part.first, part.last):
            name = part.store.id(index)
            try:
                pixels = shrink(decode(part.store[index], part.channels), part.size)
            except (DecodeError, StoreError) as error:
                dropped.append((name, getattr(error, "reason", "unreadable")))
                continue
            data = pixmap(pixels)
            member = tarfile.TarInfo(f"{name}.{'pgm' if part.channels == 1 else 'ppm'}")
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
            images += 1
    atomic_write(part.note, json.dumps({"images": images, "dropped": dropped}))


@contextmanager
def _replacing(path: Path) -> Iterator[Any]:
    """A binary file that appears as a whole; OutputError on a full disk."""
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with open(temporary, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise cannot_write(error, path) from error


def _finish(out: Path, parts: list[_Part], plan: dict[str, Any]) -> Packed:
    notes = [json.loads(part.note.read_text()) for part in parts]
    dropped = [row for note in notes for row in note["dropped"]]
    atomic_write(out / "dropped.csv", csv_text(("id", "reason"), dropped))
    size = sum(part.tar.stat().st_size for part in parts)
    packed = Packed(out, sum(note["images"] for note in notes), len(dropped), size)
    totals = {"images": packed.images, "dropped": packed.dropped, "bytes": packed.bytes}
    atomic_write(out / PACK, json.dumps(plan | totals, indent=1))
    return packed


def shrink(pixels: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """An image (H, W, C) whose shorter side is at most ``size`` px: antialiased bicubic, proportions kept."""
    height, width, _ = pixels.shape
    factor = size / min(height, width)
    if factor >= 1:
        return pixels
    wanted = (max(size, round(height * factor)), max(size, round(width * factor)))
    planes = torch.from_numpy(np.ascontiguousarray(pixels)).permute(2, 0, 1)[None]
    small = F.interpolate(planes, wanted, mode="bicubic", antialias=True)[0]
    return small.permute(1, 2, 0).contiguous().numpy()


def pixmap(pixels: NDArray[np.uint8]) -> bytes:
    """A binary PPM (P6) or PGM (P5) file of pixels (H, W, 3 or 1)."""
    height, width, channels = pixels.shape
    return b"P%d\n%d %d\n255\n" % (5 if channels == 1 else 6, width, height) + pixels.tobytes()
