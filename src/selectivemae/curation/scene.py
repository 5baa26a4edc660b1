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
from PIL import Image

from selectivemae.core.errors import DecodeError
from selectivemae.curation.exclude import border_fill
from selectivemae.curation.places import Place, footprint
from selectivemae.curation.slice import Window
from selectivemae.curation.sources import Percentile, Source
from selectivemae.data.decode import decode, sniff
from selectivemae.data.raster import Limits, lattice_shape, open_raster, percentile_limits, to_uint8

if TYPE_CHECKING:
    from rasterio.io import DatasetReader
    from rasterio.windows import Window as RasterWindow

FULL_DECODE_PIXELS = 400_000_000
WINDOWED_PIXELS = 4_000_000_000
_PASSED_THROUGH = {"jpeg": "jpg", "png": "png", "webp": "webp"}

View = tuple[NDArray[np.uint8], NDArray[np.bool_]]


@dataclass(frozen=True)
class Scene:
    """An open scene. ``read(window)`` gives pixels (h, w, 3) uint8 and a mask (h, w), True = no data.

    ``extension`` is that of the original file where its bytes may stand in a corpus as they are, else empty;
    ``stretch`` the (low, high) of each channel where samples were scaled. ``resize`` is how far the scene was scaled
    down; ``width``, ``height`` and windows count in pixels after it.
    """

    width: int
    height: int
    read: Callable[[Window], View]
    extension: str = ""
    place: Place | None = None
    stretch: Limits | None = field(default=None)
    resize: float = 1.0


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
    if source.grey == "drop" and (pixels == pixels[..., :1]).all():
        raise DecodeError("wrong_bands", "all three channels are the same, and grey: drop leaves grey pictures out")
    height, width = pixels.shape[:2]
    if (factor := _factor(width, height, None, source)) < 1:
        width, height, extension = _scaled(width, factor), _scaled(height, factor), ""
        way = Image.Resampling.LANCZOS if source.slice.max_side else Image.Resampling.BOX
        pixels = np.asarray(Image.fromarray(pixels).resize((width, height), way))
    levels = {"auto": (0, 255), "none": ()}.get(source.nodata) if isinstance(source.nodata, str) else None

    def read(window: Window) -> View:
        x, y, w, h = window
        view = np.ascontiguousarray(pixels[y : y + h, x : x + w])
        mask = border_fill(view, levels) if levels is not None else _equal(view, source.nodata)
        return view, mask

    return Scene(width, height, read, extension, resize=factor)


def _factor(width: int, height: int, place: Place | None, source: Source) -> float:
    """How far a scene is scaled down by the rules of its source; 1 = not at all."""
    rules, factor = source.slice, 1.0
    if rules.target_gsd:
        gsd = source.gsd_m if isinstance(source.gsd_m, float) else None
        if gsd is None and place is not None and (found := footprint(place, Window(0, 0, width, height))):
            gsd = found.gsd_m
        factor = min(1.0, gsd / rules.target_gsd) if gsd else 1.0
    if rules.max_side:
        factor = min(factor, rules.max_side / max(width, height))
    return factor


def _scaled(length: int, factor: float) -> int:
    return max(1, round(length * factor))


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
    if len(bands) == 1 and palette is None and source.grey == "drop":
        raise DecodeError("wrong_bands", "it has a single band, and grey: drop leaves grey pictures out")
    place = _place(raster)
    factor = _factor(width, height, place, source)
    small = _scaled(width, factor), _scaled(height, factor)
    by_area = "nearest" if palette is not None else "lanczos" if source.slice.max_side else "average"

    def raw(window: Window | None, shape: tuple[int, int]) -> tuple[NDArray, NDArray[np.bool_]]:
        inside = None if window is None else _part(window, width / small[0], height / small[1])
        way = _way(by_area if factor < 1 and window is not None else "nearest")
        values = np.moveaxis(raster.read(bands, window=inside, out_shape=(len(bands), *shape), resampling=way), 0, -1)
        mask = np.zeros(shape, bool)
        if source.nodata == "auto":
            mask = raster.dataset_mask(window=inside, out_shape=shape) == 0
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

    if place is not None and factor < 1:
        place = place.scaled(small[0] / width, small[1] / height)
    return Scene(*small, read, "", place, limits, factor)


def _part(window: Window, x: float, y: float) -> "RasterWindow":
    """A window of the scaled scene in the pixels of the file."""
    from rasterio.windows import Window as RasterWindow

    return RasterWindow(window.x * x, window.y * y, window.w * x, window.h * y)  # type: ignore[call-arg]


def _way(name: str) -> Any:
    from rasterio.enums import Resampling

    return Resampling[name]


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
