"""What a folder or archive holds, and what is wrong with it.

Every sample, or some spread evenly, is read, decoded and judged as training would; several threads share the work, as
reading waits and the decoders release the interpreter's lock.
"""

import os
import threading
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from glob import glob
from io import BytesIO
from pathlib import Path
from typing import Any

import simplejpeg
from PIL import Image

from selectivemae.core.errors import DecodeError, StoreError
from selectivemae.data.catalogue import find, recognise
from selectivemae.data.decode import decode, header, judge_content, judge_size
from selectivemae.data.stores import Store, open_stores, remote
from selectivemae.data.stores.folder import FolderStore
from selectivemae.data.stores.remote import NotThereError
from selectivemae.data.stores.zips import archive_path

Say = Callable[[float, str], None]  # (share done, what)

_EXAMPLES = 5  # of each reason
_NAMES = 200_000  # paths that are looked at for classes and known data sets
_TASKS = 1000  # parts of the work, for progress
_ARCHIVES = (".zip", ".tar")
_NO_FAULT = "not_an_image"  # annotations, lists and notes lie beside images everywhere


@dataclass
class Tally:
    """What was found in some samples."""

    samples: int = 0
    bytes: int = 0
    kinds: Counter[str] = field(default_factory=Counter)
    sizes: Counter[tuple[int, int]] = field(default_factory=Counter)  # width, height
    bands: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[str]] = field(default_factory=dict)  # reason -> ids, with what is said of them

    def fault(self, reason: str, what: str) -> None:
        """Count a sample or member that cannot be used."""
        self.reasons[reason] += 1
        examples = self.examples.setdefault(reason, [])
        if len(examples) < _EXAMPLES:
            examples.append(what)

    def add(self, other: "Tally") -> None:
        """Take in what was found in other samples."""
        self.samples += other.samples
        self.bytes += other.bytes
        for name in ("kinds", "sizes", "bands", "reasons"):
            getattr(self, name).update(getattr(other, name))
        for reason, examples in other.examples.items():
            mine = self.examples.setdefault(reason, [])
            mine += examples[: _EXAMPLES - len(mine)]


@dataclass(frozen=True)
class Checked:
    """What ``check`` found. ``faults`` counts reasons in samples and members, ``damaged`` names archives."""

    path: str
    samples: int
    looked_at: int
    bytes: int
    kinds: dict[str, int]
    sizes: dict[str, int]  # "width x height" -> samples, the most frequent first
    least: tuple[int, int] | None  # smallest width and height
    most: tuple[int, int] | None
    bands: dict[str, int]  # "3 bands, 8 bit" -> samples
    classes: dict[str, int]  # folder that an image lies in -> samples
    looks_like: list[str]
    other_files: int
    archives_beside: int
    faults: dict[str, int]
    examples: dict[str, list[str]]
    damaged: list[str]

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return not self.faults and not self.damaged


def check(path: str, sample: int | None = None, *, threads: int = 0, say: Say | None = None) -> Checked:
    """Look at all samples at a path or URL, or at ``sample`` of them spread evenly, with ``threads`` (0: one a core).

    Raises StoreError when nothing is there; what is there and cannot be read is part of the result.
    """
    say = say or (lambda share, text: None)
    store, damaged = _open(path, say)
    tally, names, other = Tally(), [], 0
    if store is not None:
        names = [store.id(i).partition("/")[2] for i in spread(len(store), _NAMES)]
        indices = spread(len(store), sample)
        for part in _work(store, indices, threads):
            tally.add(part)
            say(tally.samples / len(indices), f"{tally.samples:,} of {len(indices):,} images")
        for member, reason in store.skipped:
            if reason == _NO_FAULT:
                other += 1
            else:
                tally.fault(reason, member)
    widths, heights = zip(*tally.sizes, strict=True) if tally.sizes else ((), ())
    return Checked(
        path=remote.without_query(path),
        samples=len(store) if store is not None else 0,
        looked_at=tally.samples,
        bytes=tally.bytes,
        kinds=dict(tally.kinds.most_common()),
        sizes={f"{w} x {h}": count for (w, h), count in tally.sizes.most_common()},
        least=(min(widths), min(heights)) if widths else None,
        most=(max(widths), max(heights)) if widths else None,
        bands=dict(tally.bands.most_common()),
        classes=class_folders(names),
        looks_like=recognise(names),
        other_files=other,
        archives_beside=_archives_beside(store),
        faults=dict(tally.reasons.most_common()),
        examples=tally.examples,
        damaged=damaged,
    )


def look(store: Store, index: int, tally: Tally) -> None:
    """Read, decode and judge one sample into ``tally``."""
    tally.samples += 1
    name = store.id(index)
    try:
        data = store[index]
        tally.bytes += len(data)
        width, height, kind = header(data)
        tally.kinds[kind] += 1
        tally.sizes[width, height] += 1
        tally.bands[bands(data, kind)] += 1
        reason = judge_size(width, height) or judge_content(decode(data))
        if reason:
            tally.fault(reason, f"{name}: {width} x {height} pixels")
    except DecodeError as error:
        tally.fault(error.reason, f"{name}: {error}")
    except StoreError as error:
        tally.fault("unreadable", str(error))


def bands(data: bytes, kind: str) -> str:
    """Bands and depth of an image that has a valid header, in words: ``3 bands, 8 bit``."""
    if kind == "jpeg":
        colours = simplejpeg.decode_jpeg_header(data)[2]
        return _bands({"Gray": 1, "CMYK": 4, "YCCK": 4}.get(colours, 3), "8 bit")
    if kind == "tiff" and (found := _tiff_bands(data)):
        return found
    try:
        with Image.open(BytesIO(data)) as image:
            mode, count = image.mode, len(image.getbands())
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return "unknown"
    depth = {"1": 1, "I;16": 16, "I;16B": 16, "I": 32, "F": 32}.get(mode, 8)
    if kind == "png" and data[24] == 16:  # which Pillow cuts to 8 bits where there are several bands
        depth = 16
    return "palette" if mode == "P" else _bands(count, f"{depth} bit")


def spread(count: int, wanted: int | None) -> range | list[int]:
    """All of 0..count-1, or ``wanted`` of them at even distances, from the middle of each stretch."""
    if wanted is None or wanted >= count:
        return range(count)
    return [(2 * i + 1) * count // (2 * wanted) for i in range(wanted)]


def class_folders(paths: list[str]) -> dict[str, int]:
    """Images by the folder they lie in, where every image lies in one and there are several; else nothing."""
    found = Counter(path.rsplit("/", 2)[-2] if "/" in path else "" for path in paths)
    return dict(sorted(found.items())) if len(found) > 1 and "" not in found else {}


def as_text(found: Checked) -> str:
    """The findings for people."""
    lines = [f"{found.path}: {found.samples:,} images"]
    if found.looked_at < found.samples:
        lines[0] += f", of which {found.looked_at:,} spread evenly were looked at"
    if found.looked_at:
        mean = found.bytes / found.looked_at
        lines.append(f"  bytes     {mean / 1e3:,.1f} kB an image, {mean * found.samples / 1e9:,.2f} GB in all")
        lines.append(f"  kinds     {_counts(found.kinds)}")
        lines.append(f"  bands     {_counts(found.bands)}")
    if found.least and found.most:
        lines.append(f"  sizes     {_counts(found.sizes, 3)}")
        lines[-1] += f"; width {found.least[0]} to {found.most[0]}, height {found.least[1]} to {found.most[1]} px"
    if found.classes:
        lines.append(f"  folders   {len(found.classes)} (as classes): {_counts(found.classes, 4)}")
    if found.looks_like:
        known = [find(name) for name in found.looks_like]
        lines.append("  is like   " + " or ".join(f"{k.title} ({k.images:,} images when whole)" for k in known))
    if found.other_files:
        lines.append(f"  besides   {found.other_files:,} files that are no images")
    if found.archives_beside:
        lines.append(f"  besides   {found.archives_beside} archives, not read as images lie beside them: name them")
    for place in found.damaged:
        lines.append(f"  unusable  {place}")
    for reason, count in found.faults.items():
        lines.append(f"  {count:,} {reason}:")
        lines += [f"      {example}" for example in found.examples[reason]]
        if count > len(found.examples[reason]):
            lines.append(f"      and {count - len(found.examples[reason]):,} more")
    wrong = [f"{sum(found.faults.values()):,} images or members cannot be used"] if found.faults else []
    wrong += [f"{len(found.damaged)} containers cannot be opened"] if found.damaged else []
    lines.append(", ".join(wrong) or "nothing is wrong")
    return "\n".join(lines)


def as_dict(found: Checked) -> dict[str, Any]:
    """The findings as plain data."""
    return {"ok": found.ok, **vars(found)}


def _open(path: str, say: Say) -> tuple[Store | None, list[str]]:
    """The store at a path, without its archives that cannot be opened, and what is said of these."""

    def progress(name: str, entries: int) -> None:
        say(0.0, f"indexing {name}: {entries:,} entries")

    try:
        return open_stores([path], progress), []
    except StoreError as error:
        if isinstance(error, NotThereError) or not (remote.is_url(path) or _is_there(path)):
            raise
        archives = _archives_in(path)
        if not archives:
            return None, [str(error)]
    good, damaged = [], []
    for archive in archives:
        try:
            open_stores([archive], progress)
            good.append(archive)
        except StoreError as error:
            damaged.append(str(error))
    return (open_stores(good, progress) if good else None), damaged


def _is_there(path: str) -> bool:
    archive = archive_path(path)
    return any(os.path.lexists(place) for place in (path, archive, archive + ".001")) or bool(glob(path))


def _archives_in(path: str) -> list[str]:
    """The archives in a folder, each once; none for anything else."""
    if not os.path.isdir(path):
        return []
    found = {archive_path(str(file)) for file in Path(path).rglob("*") if file.is_file()}
    return sorted(file for file in found if file.lower().endswith(_ARCHIVES))


def _archives_beside(store: Store | None) -> int:
    """How many archives a folder of images holds, which are not read."""
    if not isinstance(store, FolderStore):
        return 0
    return sum(archive_path(member).lower().endswith(_ARCHIVES) for member, _ in store.skipped)


def _work(store: Store, indices: range | list[int], threads: int) -> Iterator[Tally]:
    """Tallies of parts of the samples, as they come."""
    size = max(1, -(-len(indices) // _TASKS))
    stop = threading.Event()

    def part(start: int) -> Tally:
        tally = Tally()
        for index in indices[start : start + size]:
            if stop.is_set():
                break
            look(store, index, tally)
        return tally

    pool = ThreadPoolExecutor(threads or os.cpu_count() or 1, thread_name_prefix="check")
    with _quiet():
        try:
            yield from pool.map(part, range(0, len(indices), size))
        finally:
            stop.set()
            pool.shutdown(cancel_futures=True)


@contextmanager
def _quiet() -> Iterator[None]:
    """No warnings of the decoders: about large images (those over the limit are refused) or lacking geography."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _tiff_bands(data: bytes) -> str:
    """Bands and depth of a TIFF by rasterio; empty where that is not installed or cannot read it."""
    try:
        import rasterio
        from rasterio.errors import RasterioError
    except ImportError:
        return ""
    try:
        with rasterio.MemoryFile(data) as file, file.open() as raster:
            kind = raster.dtypes[0]
            depth = "".join(c for c in kind if c.isdigit())
            number = f"{depth} bit" + (" float" if kind.startswith("float") else "")
            return _bands(raster.count, number)
    except RasterioError:
        return ""


def _bands(count: int, depth: str) -> str:
    return f"{count} band{'s' * (count > 1)}, {depth}"


def _counts(counts: dict[str, int], limit: int = 8) -> str:
    shown = ", ".join(f"{name} ({count:,})" for name, count in list(counts.items())[:limit])
    return shown + (f" and {len(counts) - limit:,} more" if len(counts) > limit else "")
