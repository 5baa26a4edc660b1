"""One picture or scene of a source, opened once and read by windows as RGB with a mask of no data.

JPEG, 8-bit PNG, BMP, WebP and GIF are decoded whole. TIFF, JPEG 2000 and 16-bit PNG go through rasterio (extra
``[geo]``) window by window, so that a scene of 30,000 x 30,000 pixels needs little memory. Deep samples are stretched
by one range per scene, never per tile: equal ground stays equal.
"""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from selectivemae.core.errors import DecodeError
from selectivemae.curation.exclude import border_fill
from selectivemae.curation.slice import Window
from selectivemae.curation.sources import Percentile, Source
from selectivemae.data.decode import decode, sniff
from selectivemae.data.raster import Limits, lattice_shape, open_raster, percentile_limits, to_uint8

if TYPE_CHECKING:
    from rasterio.io import DatasetReader

FULL_DECODE_PIXELS = 400_000_000
WINDOWED_PIXELS = 4_000_000_000
_PASSED_THROUGH = {"jpeg": "jpg", "png": "png", "webp": "webp"}

View = tuple[NDArray[np.uint8], NDArray[np.bool_]]


@dataclass(frozen=True)
class Place:
    """Where a scene lies: coordinate system (``EPSG:n`` or WKT2) and the six numbers of its affine transform."""

    crs: str
    transform: tuple[float, ...]


@dataclass(frozen=True)
class Scene:
    """An open scene. ``read(window)`` gives pixels (h, w, 3) uint8 and a mask (h, w), True = no data.

    ``extension`` is that of the original file where its bytes may stand in a corpus as they are, else empty;
    ``stretch`` the (low, high) of each channel where samples were scaled.
    """

    width: int
    height: int
    read: Callable[[Window], View]
    extension: str = ""
    place: Place | None = None
    stretch: Limits | None = field(default=None)


@contextlib.contextmanager
def open_scene(data: bytes | Path, source: Source) -> Iterator[Scene]:
    """Open the bytes of a file, or a file on disk, by the settings of its source.

    DecodeError with reason ``wrong_bands``, ``bomb``, ``truncated`` … (data.decode) for what cannot be used.
    """
    head = data[:32] if isinstance(data, bytes) else _head(data)
    kind = sniff(head)
    if kind in ("tiff", "jpeg2000") or (kind == "png" and head[24:25] == b"\x10"):
        with open_raster(data, kind) as raster:
            yield _raster_scene(raster, source)
        return
    yield _decoded_scene(data if isinstance(data, bytes) else data.read_bytes(), kind, source)


def _head(path: Path) -> bytes:
    with path.open("rb") as f:
        return f.read(32)


def _decoded_scene(data: bytes, kind: str, source: Source) -> Scene:
    pixels = decode(data, 3, FULL_DECODE_PIXELS)
    extension = _PASSED_THROUGH.get(kind, "")
    grey = source.bands == "grey"
    if source.bands not in ("auto", "rgb", (1, 2, 3)):
        order = (1, 1, 1) if grey else source.bands
        assert not isinstance(order, str)
        if max(order) > 3:
            raise DecodeError("wrong_bands", f"band {max(order)} is asked for, the {kind} has 3")
        pixels, extension = np.ascontiguousarray(pixels[..., [band - 1 for band in order]]), ""
    height, width = pixels.shape[:2]
    levels = {"auto": (0, 255), "none": ()}.get(source.nodata) if isinstance(source.nodata, str) else None

    def read(window: Window) -> View:
        x, y, w, h = window
        view = np.ascontiguousarray(pixels[y : y + h, x : x + w])
        mask = border_fill(view, levels) if levels is not None else _equal(view, source.nodata)
        return view, mask

    return Scene(width, height, read, extension)


def _equal(values: NDArray, nodata: Any) -> NDArray[np.bool_]:
    """Where (H, W, C) equals a no-data value, or one per channel."""
    return (values == np.asarray(nodata)).all(axis=2)


def _raster_scene(raster: "DatasetReader", source: Source) -> Scene:
    width, height = raster.width, raster.height
    if width * height > WINDOWED_PIXELS:
        raise DecodeError("bomb", f"the header claims {width} x {height} pixels, over {WINDOWED_PIXELS} in all")
    rows, columns = raster.block_shapes[0]
    sample = np.dtype(raster.dtypes[0]).itemsize
    if rows * columns * sample * raster.count > (256 << 20) and width * height > FULL_DECODE_PIXELS:
        raise DecodeError("bomb", f"blocks of {columns} x {rows} pixels do not fit in memory; rewrite it in tiles")
    bands = _bands(raster, source)
    palette = _palette(raster) if len(bands) == 1 else None

    def raw(window: Window | None, shape: tuple[int, int]) -> tuple[NDArray, NDArray[np.bool_]]:
        place = None if window is None else ((window.y, window.y + window.h), (window.x, window.x + window.w))
        values = np.moveaxis(raster.read(bands, window=place, out_shape=(len(bands), *shape)), 0, -1)
        mask = np.zeros(shape, bool)
        if source.nodata == "auto":
            mask = raster.dataset_mask(window=place, out_shape=shape) == 0
            mask |= border_fill(values, (0, 255) if values.dtype == np.uint8 else (0,)) if palette is None else False
        elif source.nodata != "none":
            mask = _equal(values, source.nodata)
        if values.dtype.kind == "f":
            mask |= ~np.isfinite(values).all(axis=2)
        return values, mask

    limits = None
    if palette is None and not (raster.dtypes[bands[0] - 1] == "uint8" and source.range == "auto"):
        limits = _limits(raw, width, height, source)

    def read(window: Window) -> View:
        values, mask = raw(window, (window.h, window.w))
        if palette is not None:
            return palette[values[..., 0]], mask
        pixels = values if limits is None else to_uint8(values, mask, limits)
        if pixels.shape[2] == 1:
            pixels = np.repeat(pixels, 3, axis=2)
        return np.ascontiguousarray(pixels), mask

    return Scene(width, height, read, "", _place(raster), limits)


def _bands(raster: "DatasetReader", source: Source) -> list[int]:
    """Which bands make red, green and blue; one band is shown as grey. DecodeError ``wrong_bands`` otherwise."""
    count, wanted = raster.count, source.bands
    if np.dtype(raster.dtypes[0]).kind == "c":
        raise DecodeError("wrong_bands", "complex samples (radar) are no picture")
    if isinstance(wanted, tuple):
        if max(wanted) > count:
            raise DecodeError("wrong_bands", f"band {max(wanted)} is asked for, the file has {count}")
        return list(wanted)
    names = [role.name for role in raster.colorinterp]
    if wanted != "grey" and {"red", "green", "blue"} <= set(names):
        return [names.index(colour) + 1 for colour in ("red", "green", "blue")]
    visible = count - names.count("alpha")
    if visible in (3, 4) and wanted != "grey":
        return [1, 2, 3]
    if visible == 1 and wanted != "rgb":
        return [1]
    raise DecodeError("wrong_bands", f"which of {count} bands ({', '.join(names)}) are red, green and blue? Set bands")


def _palette(raster: "DatasetReader") -> NDArray[np.uint8] | None:
    if raster.colorinterp[0].name != "palette":
        return None
    table = np.zeros((1 << 16, 3), np.uint8)
    for index, colour in raster.colormap(1).items():
        table[index] = colour[:3]
    return table


def _limits(
    raw: Callable[[Window | None, tuple[int, int]], tuple[NDArray, NDArray[np.bool_]]],
    width: int,
    height: int,
    source: Source,
) -> Limits:
    """(low, high) per band, from a fixed lattice of at most 2^20 pixels of the whole scene."""
    if source.range == "uint8":
        return (0.0,), (255.0,)
    if isinstance(source.range, tuple):
        return (source.range[0],), (source.range[1],)
    values, mask = raw(None, lattice_shape(width, height))
    span = source.range.percentile if isinstance(source.range, Percentile) else Percentile().percentile
    return percentile_limits(values, mask, span)


def _place(raster: "DatasetReader") -> Place | None:
    if raster.crs is None or raster.transform.is_identity:
        return None
    code = raster.crs.to_epsg()
    return Place(f"EPSG:{code}" if code else raster.crs.to_wkt(), tuple(raster.transform)[:6])
