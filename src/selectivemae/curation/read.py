"""The work on one chunk of a source: decode, judge, cut, hash, and spool what is kept.

    NAME.bin             encoded images, end to end
    NAME.tiles.parquet   a row for each of them (tables.TILES; offset and size point into NAME.bin)
    NAME.dropped.parquet a row for each file or tile that was left out (tables.DROPPED)
    NAME.h64.npy         codes (n, 8) uint64      NAME.h256.npy    codes (n, 8, 4) uint64
    NAME.thumbs.npy      64x64 area means (n, 64, 64) uint8, for the confirmation of like pictures

The outcome depends on the chunk alone. An error inside a file becomes a row with a reason; nothing is passed over.
"""

import hashlib
import io
import uuid
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image

from selectivemae.core.errors import DecodeError, OutputError, StoreError
from selectivemae.core.files import atomic_write, cannot_write, file_sha256, put_in_place, writing
from selectivemae.curation import hashes, tables
from selectivemae.curation.exclude import Rules, Verdict, distinct_colours, jpeg_quality, judge, statistics
from selectivemae.curation.places import footprint
from selectivemae.curation.scene import Scene, open_scene
from selectivemae.curation.slice import SliceRules, Window, whole, windows
from selectivemae.curation.sources import FromPath, Source
from selectivemae.curation.tasks import Counts, Mark
from selectivemae.curation.tiles import tile_id
from selectivemae.data.decode import luma
from selectivemae.data.stores import Store, open_store
from selectivemae.data.stores.fields import fields
from selectivemae.data.stores.folder import FolderStore
from selectivemae.data.stores.sources import cannot_read

Encoding = Literal["jpeg", "png", "webp-lossless"]
_EXTENSION = {"jpeg": "jpg", "png": "png", "webp-lossless": "webp"}
_QUALITY = 95
_HASHED = 64  # tiles whose codes are taken at once: their coefficients stay in the cache
SECONDS = 120.0  # that one file may take, and more for large scenes
PIXELS_PER_SECOND = 1_000_000


@dataclass(frozen=True)
class Chunk:
    """Members ``start`` to ``stop`` of one container of a source, without those at ``skip`` (they killed a worker;
    the reason stands beside the number). ``denied``: nothing may be taken, by its licence. ``fingerprint`` is that of
    the container, so that one that changed is read anew."""

    name: str
    source: Source
    rules: Rules
    path: str
    container: str
    start: int
    stop: int
    encoding: Encoding = "jpeg"
    fingerprint: str = ""
    denied: bool = False
    skip: dict[int, str] = field(default_factory=dict)

    @property
    def members(self) -> range:
        """Numbers of the members in the store."""
        return range(self.start, self.stop)

    def only(self, members: Sequence[int]) -> "Chunk":
        """The same work on a run of the members."""
        return replace(self, name=f"{self.name}-{members[0]}-{members[-1]}", start=members[0], stop=members[-1] + 1)

    def without(self, member: int, reason: str) -> "Chunk":
        """The same work, with a member noted as left out."""
        return replace(self, skip=self.skip | {member: reason})


@dataclass
class _Spool:
    """What a chunk gives, while it is made. A large scene gives thousands of tiles: their bytes go to disk at once."""

    images: BinaryIO
    tiles: list[dict[str, Any]] = field(default_factory=list)
    dropped: list[dict[str, Any]] = field(default_factory=list)
    fine: list[NDArray[np.uint16]] = field(default_factory=list)
    coarse: list[NDArray[np.uint16]] = field(default_factory=list)

    def put(self, encoded: bytes) -> None:
        """Append an image. OutputError here, so that a failing disk is not taken for a picture that cannot be read."""
        try:
            self.images.write(encoded)
        except OSError as e:
            raise cannot_write(e, Path(self.images.name)) from e


def read_chunk(chunk: Chunk, folder: Path, mark: Mark) -> Counts:
    """Do the work of ``chunk`` into ``folder``; ``mark`` is told each member before it is touched, and the seconds it
    may take.

    Returns counts: files, tiles, dropped, bytes. StoreError only when the container itself cannot be read, or holds
    other members than when it was cut into chunks.
    """
    store = open_store(chunk.path)
    if chunk.fingerprint not in ("", store.fingerprint):
        raise StoreError(f"{chunk.path}: changed since the run began; continue, and it is read anew")
    images = folder / f"{chunk.name}.bin"
    temporary = images.with_name(f".{images.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        with writing(images), temporary.open("w+b") as file:
            spool = _Spool(file)
            _read_members(spool, chunk, store, mark)
            size = file.tell()
        put_in_place(temporary, images)
    finally:
        temporary.unlink(missing_ok=True)
    _write(spool, folder, chunk.name)
    return {
        "files": len(chunk.members),
        "tiles": len(spool.tiles),
        "dropped": len(spool.dropped),
        "bytes": size,
    }


def _read_members(spool: _Spool, chunk: Chunk, store: Store, mark: Mark) -> None:
    for number in chunk.members:
        member = member_id(store, chunk.path, number)
        if number in chunk.skip:
            _drop_file(spool, chunk, member, Verdict(chunk.skip[number]), "its worker died twice")
            continue
        if chunk.denied:
            _drop_file(spool, chunk, member, Verdict("licence_denied"))
            continue
        if not chunk.source.wants(member):
            _drop_file(spool, chunk, member, Verdict("excluded_glob"))
            continue
        mark(number, SECONDS)
        _read_member(spool, chunk, store, number, member, mark)


def _read_member(spool: _Spool, chunk: Chunk, store: Store, number: int, member: str, mark: Mark) -> None:
    tiles, dropped, end = len(spool.tiles), len(spool.dropped), spool.images.tell()
    digest = None
    try:
        data = content(store, number)
        digest = bytes.fromhex(file_sha256(data)) if isinstance(data, Path) else hashlib.sha256(data).digest()
        source = chunk.source.for_member(member, partial(fields, store, number))
        chunk = replace(chunk, source=source)
        with open_scene(data, source) as scene:
            mark(number, SECONDS + scene.width * scene.height / PIXELS_PER_SECOND)
            _read_scene(spool, chunk, member, scene, data, digest)
    except OutputError:
        raise
    except Exception as e:  # whatever a decoder raises: one member must not end a run of millions
        reason, detail = _why(e)
        for rows, size in ((spool.tiles, tiles), (spool.fine, tiles), (spool.coarse, tiles), (spool.dropped, dropped)):
            del rows[size:]
        spool.images.seek(end)
        spool.images.truncate()
        _drop_file(spool, chunk, member, Verdict(reason), detail, digest)


def _why(error: Exception) -> tuple[str, str]:
    """Reason code and words for what went wrong in a member."""
    if isinstance(error, DecodeError):
        return error.reason, str(error)
    if isinstance(error, StoreError | OSError):
        return "unreadable", str(error)
    words = " ".join(str(error).split())
    return "oom" if isinstance(error, MemoryError) else "undecodable", f"{type(error).__name__}: {words}"


def member_id(store: Store, path: str, number: int) -> str:
    """A member's name inside its container, which lies at ``path``."""
    return store.id(number).removeprefix(f"{Path(path).name}/")


def content(store: Store, number: int) -> bytes | Path:
    """A member's bytes; for a raster in a folder its path, so that a large one is not read at once."""
    if isinstance(store, FolderStore):
        path = store.path(number)
        try:
            with path.open("rb") as f:
                head = f.read(4)
        except OSError as e:
            raise cannot_read(str(path), e) from e
        if head in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+", b"\0\0\0\x0c"):
            return path
    return store[number]


def _read_scene(spool: _Spool, chunk: Chunk, member: str, scene: Scene, data: bytes | Path, digest: bytes) -> None:
    source, rules = chunk.source, source_rules(chunk.source)
    short, long = sorted((scene.width, scene.height))
    if (whole(scene.width, scene.height, rules[0]) or short < source.min_side) and long > chunk.rules.elongated * short:
        return _drop_file(
            spool, chunk, member, Verdict("elongated", "elongation", long / short, chunk.rules.elongated), "", digest
        )
    if short < source.min_side:
        verdict = Verdict("too_small", "side", short, source.min_side)
        return _drop_file(spool, chunk, member, verdict, "", digest)
    scene_id = f"{source.name}\0{chunk.container}\0{member}"
    places = sorted({w for r in rules for w in windows(scene.width, scene.height, r, scene_id)}, key=_reading_order)
    single = len(places) == 1 and places[0] == (0, 0, scene.width, scene.height)
    quality = jpeg_quality(data) if isinstance(data, bytes) else 100.0
    for window in places:
        pixels, mask = scene.read(window)
        if single or window == places[len(places) // 2]:
            colours = distinct_colours(pixels)
            if single and colours <= chunk.rules.label_colours and not pixels.std() < 2:
                verdict = Verdict("label_like", "colours", colours, chunk.rules.label_colours)
                return _drop_file(spool, chunk, member, verdict, "", digest)
        _keep_tile(spool, chunk, member, scene, window, pixels, mask, data if single else None, digest, quality)
    return None


def source_rules(source: Source) -> list[SliceRules]:
    """How a source is cut. An evaluation source is never written, so it is cut at half steps and three sizes, to meet
    whatever window of the same ground a corpus may hold."""
    if source.split_role == "train":
        return [source.slice]
    tile, keep = source.slice.tile, source.slice.keep_whole
    sizes = (max(tile // 2, 32), tile, 2 * tile)
    return [SliceRules(tile=size, overlap=size // 2, keep_whole=keep) for size in sizes]


def _reading_order(window: Window) -> tuple[int, int, int]:
    return window.w, window.y, window.x


def _keep_tile(
    spool: _Spool,
    chunk: Chunk,
    member: str,
    scene: Scene,
    window: Window,
    pixels: NDArray[np.uint8],
    mask: NDArray[np.bool_],
    original: bytes | Path | None,
    digest: bytes,
    quality: float,
) -> None:
    identity = tile_id(chunk.source.name, chunk.container, member, window, scene.resize)
    row = _provenance(chunk, member, window, identity, digest)
    grey = luma(pixels)
    figures = statistics(pixels, grey, mask)
    evaluation = chunk.source.split_role == "eval"
    if not evaluation and (verdict := judge(figures, chunk.rules, identity)):
        spool.dropped.append(row | _verdict(verdict) | {"category": category(chunk.source, member)})
        return
    passed = bool(scene.extension) and isinstance(original, bytes)
    extension = scene.extension if passed else _EXTENSION[chunk.encoding]
    encoded = (
        b"" if evaluation else original if passed and isinstance(original, bytes) else encode(pixels, chunk.encoding)
    )
    fine, coarse = hashes.area_means(hashes.without_fill(grey, mask))
    spool.fine.append(fine.astype(np.uint16))
    spool.coarse.append(coarse.astype(np.uint16))
    low, high = scene.stretch or (None, None)
    spool.tiles.append(
        row
        | _located(scene, window, chunk.source)
        | asdict(figures)
        | {
            "offset": spool.images.tell(),
            "size": len(encoded),
            "ext": extension,
            "width": window.w,
            "height": window.h,
            "scene_w": scene.width,
            "scene_h": scene.height,
            "resize": scene.resize,
            "category": category(chunk.source, member),
            "datetime": date(chunk.source, member),
            "licence": chunk.source.licence.id,
            "stretch_lo": low,
            "stretch_hi": high,
            "passthrough": passed,
            "content_id": hashes.content_id(pixels),
            "quality": quality,
        }
    )
    spool.put(encoded)


def encode(pixels: NDArray[np.uint8], encoding: Encoding) -> bytes:
    """Bytes of an image (H, W, 3): JPEG of quality 95 without chroma sub-sampling, or lossless."""
    if encoding == "jpeg":
        return simplejpeg.encode_jpeg(np.ascontiguousarray(pixels), _QUALITY, colorspace="RGB", colorsubsampling="444")
    buffer = io.BytesIO()
    if encoding == "png":
        Image.fromarray(pixels).save(buffer, "PNG", compress_level=6)
    else:
        Image.fromarray(pixels).save(buffer, "WEBP", lossless=True, quality=50, method=4)
    return buffer.getvalue()


def category(source: Source, member: str) -> str | None:
    """The category that a source's rule reads from a member's path."""
    if isinstance(source.category, FromPath):
        return next(iter(source.category.find(member).values()), None)
    return source.category if isinstance(source.category, str) and source.category else None


def date(source: Source, member: str) -> str | None:
    """The date in a member's path as ``YYYY``, ``YYYY-MM`` or ``YYYY-MM-DD`` (groups y, m, d)."""
    if isinstance(source.date, str):
        return source.date
    found = source.date.find(member) if isinstance(source.date, FromPath) else {}
    parts = [found[group].zfill(width) for group, width in (("y", 4), ("m", 2), ("d", 2)) if group in found]
    return "-".join(parts) or None


def _located(scene: Scene, window: Window, source: Source) -> dict[str, Any]:
    out: dict[str, Any] = {}
    if isinstance(source.gsd_m, float):
        out["gsd_m"] = source.gsd_m / scene.resize
    if scene.place is None or not (place := footprint(scene.place, window)):
        return out
    return {"crs": scene.place.crs} | place._asdict() | out


def _provenance(chunk: Chunk, member: str, window: Window, identity: bytes, digest: bytes | None) -> dict[str, Any]:
    return {
        "id": identity,
        "source": chunk.source.name,
        "container": chunk.container,
        "member": member,
        "win_x": window.x,
        "win_y": window.y,
        "win_w": window.w,
        "win_h": window.h,
        "file_sha256": digest,
    }


def _verdict(verdict: Verdict) -> dict[str, Any]:
    return {
        "reason": verdict.reason,
        "stat": verdict.statistic or None,
        "value": verdict.value if verdict.statistic else None,
        "threshold": verdict.threshold if verdict.statistic else None,
    }


def _drop_file(
    spool: _Spool, chunk: Chunk, member: str, verdict: Verdict, detail: str = "", digest: bytes | None = None
) -> None:
    """Note a whole file as dropped; its window is empty."""
    window = Window(0, 0, 0, 0)
    identity = tile_id(chunk.source.name, chunk.container, member, window)
    row = _provenance(chunk, member, window, identity, digest) | _verdict(verdict)
    spool.dropped.append(row | {"detail": detail or None})


def _write(spool: _Spool, folder: Path, name: str) -> None:
    h64, h256 = np.empty((len(spool.tiles), 8), np.uint64), np.empty((len(spool.tiles), 8, 4), np.uint64)
    thumbs = np.empty((len(spool.tiles), 64, 64), np.uint8)
    for low in range(0, len(spool.tiles), _HASHED):
        batch = slice(low, low + _HASHED)
        fine = np.stack(spool.fine[batch]).astype(np.int64)
        h64[batch] = hashes.hash64(np.stack(spool.coarse[batch]).astype(np.int64))
        h256[batch] = hashes.hash256(fine)
        thumbs[batch] = (fine + 128) >> 8
    for row, code, long in zip(spool.tiles, h64[:, 0].tolist(), h256[:, 0].astype(">u8"), strict=True):
        row["h64"], row["h256"] = code, long.tobytes()
    for suffix, array in (("h64", h64), ("h256", h256), ("thumbs", thumbs)):
        buffer = io.BytesIO()
        np.save(buffer, array)
        atomic_write(folder / f"{name}.{suffix}.npy", buffer.getvalue())
    tables.write(folder / f"{name}.tiles.parquet", tables.table(spool.tiles, tables.TILES))
    tables.write(folder / f"{name}.dropped.parquet", tables.table(spool.dropped, tables.DROPPED))
