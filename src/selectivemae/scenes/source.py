"""A scene: a GeoTIFF (or JPEG 2000) of any size read by windows, or a PNG, JPEG ... without a place on the ground.

Pixels come as the bytes that a model expects, with a mask of no data. 8-bit samples are taken as they are; deeper ones
are stretched by one (low, high) for each band of the whole scene: ``range`` as given, or the 2nd and 98th percentile of
a lattice of its valid pixels.
"""

import contextlib
import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL.PngImagePlugin import PngImageFile
from PIL.WebPImagePlugin import WebPImageFile

from selectivemae.core.errors import DataError, DecodeError
from selectivemae.data.decode import decode, sniff
from selectivemae.data.raster import Limits, lattice_shape, open_raster, percentile_limits, to_uint8
from selectivemae.scenes.windows import Area

if TYPE_CHECKING:
    from rasterio.io import DatasetReader

_DECODED_PIXELS = 400_000_000
_SPAN = (2.0, 98.0)
Transform = tuple[float, float, float, float, float, float]
IDENTITY: Transform = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
Read = Callable[[Area, tuple[int, int] | None], tuple[NDArray[np.uint8], NDArray[np.bool_]]]


@dataclass(frozen=True)
class Scene:
    """What a scene is. ``reader`` opens it, once for each thread.

    ``transform`` maps (column, row) to coordinates: x = a col + b row + c, y = d col + e row + f. ``crs`` is WKT2, None
    where the file says nothing; ``limits`` is the stretch of deep samples.
    """

    path: Path
    width: int
    height: int
    bands: tuple[int, ...]
    crs: str | None
    transform: Transform
    limits: Limits | None
    nodata: float | None
    kind: str
    surplus: int = 0  # bands left out although neither the file nor the user says which are red, green and blue

    @property
    def placed(self) -> bool:
        """Whether its pixels have coordinates."""
        return self.transform != IDENTITY

    @property
    def whole(self) -> Area:
        """All its pixels."""
        return Area(0, 0, self.width, self.height)

    @property
    def anchor(self) -> tuple[int, int]:
        """Absolute (column, row) of the first pixel: how many pixels it lies from the origin of the coordinates."""
        if not self.placed:
            return 0, 0
        a, b, c, d, e, f = self.transform
        column, row = np.linalg.solve([[a, b], [d, e]], [c, f])
        # A little more, so that files cut from one grid round alike.
        return int(np.floor(column + 1e-3)), int(np.floor(row + 1e-3))

    @contextlib.contextmanager
    def reader(self) -> Iterator[Read]:
        """A function (area, shape or None) -> pixels (C, h, w) uint8 and mask (h, w), True = no data; a ``shape``
        (h, w) shrinks by the nearest pixel. DataError when the file breaks off."""
        with _user_errors(self.path), _open(self.path, self.kind, self.bands, self.nodata) as raw:

            def read(area: Area, shape: tuple[int, int] | None = None) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
                values, mask = raw(area, shape or (area.height, area.width))
                pixels = values if self.limits is None else to_uint8(values, mask, self.limits)
                if mask.any():
                    pixels = np.where(mask[..., None], np.uint8(0), pixels)
                return np.ascontiguousarray(np.moveaxis(pixels, -1, 0)), mask

            yield read


def open_scene(
    path: Path,
    channels: int,
    *,
    bands: Sequence[int] | None = None,
    range: tuple[float, float] | None = None,
    nodata: float | None = None,
) -> Scene:
    """Look at a file that ``channels`` bands are needed of.

    ``bands`` are numbered from 1; without them it must be clear which ones are meant. ``range`` is the (low, high) of
    the stretch, for 8-bit samples too. ``nodata`` replaces what the file says of no data. DataError says what does not
    fit: too few bands or too many, no number of samples that can be stretched, a file that cannot be read.
    """
    if not path.is_file():
        raise DataError(f"{path} is no file; name a GeoTIFF, PNG or JPEG, or a folder of them")
    with _user_errors(path):
        with path.open("rb") as f:
            head = f.read(32)
        kind = sniff(head)
        if kind == "png" and head[24:25] != b"\x10":
            kind = "decoded"
        if kind not in ("tiff", "jpeg2000", "png"):
            return _decoded(path, channels, bands, range, nodata)
        with open_raster(path, kind) as raster:
            chosen = _bands(raster, channels, bands, path)
            crs = raster.crs.to_wkt(version="WKT2_2019") if raster.crs else None
            a, b, c, d, e, f = tuple(raster.transform)[:6]
            deep = any(raster.dtypes[band - 1] != "uint8" for band in chosen)
            limits: Limits | None = ((range[0],), (range[1],)) if range else None
            if deep and limits is None:
                area = Area(0, 0, raster.width, raster.height)
                values, mask = _raw(raster, chosen, nodata)(area, lattice_shape(raster.width, raster.height))
                limits = percentile_limits(values, mask, _SPAN)
            width, height = raster.width, raster.height
            coloured = any(role.name == "red" for role in raster.colorinterp)
            surplus = 0 if bands or coloured else len(_visible(raster)) - len(chosen)
    return Scene(path, width, height, chosen, crs, (a, b, c, d, e, f), limits, nodata, kind, surplus)


def _decoded(
    path: Path, channels: int, bands: Sequence[int] | None, range: tuple[float, float] | None, nodata: float | None
) -> Scene:
    """A picture that is decoded whole."""
    pixels = decode(path.read_bytes(), 3, _DECODED_PIXELS)
    chosen = tuple(bands) if bands else (1, 2, 3)
    if len(chosen) != channels or max(chosen) > 3 or min(chosen) < 1:
        raise DataError(f"{path}: the model takes {channels} bands, the picture has 3 (red, green, blue); set --bands")
    limits = ((range[0],), (range[1],)) if range else None
    return Scene(path, pixels.shape[1], pixels.shape[0], chosen, None, IDENTITY, limits, nodata, "decoded")


@contextlib.contextmanager
def _user_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except DecodeError as e:
        raise DataError(f"{path}: {e}") from e
    except OSError as e:
        raise DataError(f"cannot read {path}: {e.strerror or e}") from e


def _bands(raster: "DatasetReader", channels: int, wanted: Sequence[int] | None, path: Path) -> tuple[int, ...]:
    """Which bands a model of ``channels`` gets."""
    if any(np.dtype(kind).kind == "c" for kind in raster.dtypes):
        raise DataError(f"{path}: complex samples (radar) are no picture")
    if wanted is not None:
        if len(wanted) != channels:
            raise DataError(f"{path}: the model takes {channels} bands, --bands names {len(wanted)}")
        if min(wanted) < 1 or max(wanted) > raster.count:
            raise DataError(f"{path}: --bands are from 1 to {raster.count}, got {' '.join(map(str, wanted))}")
        return tuple(wanted)
    names, visible = [role.name for role in raster.colorinterp], _visible(raster)
    if channels == 3 and {"red", "green", "blue"} <= set(names):
        return tuple(names.index(colour) + 1 for colour in ("red", "green", "blue"))
    if len(visible) == channels or (channels == 3 and len(visible) == 4):
        return tuple(visible[:channels])
    count = f"{len(visible)} band" + ("s" if len(visible) != 1 else "")
    example = " ".join(str(visible[min(i, len(visible) - 1)]) for i in range(channels))
    raise DataError(f"{path}: it has {count}, the model takes {channels}; say which: --bands {example}")


def _visible(raster: "DatasetReader") -> list[int]:
    """The bands that show something, from 1 on: all but the alpha band."""
    return [number for number, role in enumerate(raster.colorinterp, 1) if role.name != "alpha"]


def _raw(raster: "DatasetReader", bands: tuple[int, ...], nodata: float | None) -> Any:
    """A function (area, shape) -> samples (h, w, C) and the mask of no data (h, w): no band has any."""
    full = all(raster.mask_flag_enums[band - 1][0].name == "all_valid" for band in bands)

    def read(area: Area, shape: tuple[int, int]) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        place = ((area.y, area.y + area.height), (area.x, area.x + area.width))
        values = np.moveaxis(raster.read(list(bands), window=place, out_shape=(len(bands), *shape)), 0, -1)
        if nodata is not None:
            mask = (values == nodata).all(axis=2)
        elif full:
            mask = np.zeros(shape, bool)
        else:
            mask = raster.read_masks(list(bands), window=place, out_shape=(len(bands), *shape)).max(axis=0) == 0
        if values.dtype.kind == "f":
            mask |= ~np.isfinite(values).all(axis=2)
        return values, mask

    return read


@contextlib.contextmanager
def _open(path: Path, kind: str, bands: tuple[int, ...], nodata: float | None) -> Iterator[Any]:
    if kind != "decoded":
        with open_raster(path, kind) as raster:
            yield _raw(raster, bands, nodata)
        return
    data = path.read_bytes()
    pixels = decode(data, 3, _DECODED_PIXELS)[..., [band - 1 for band in bands]]
    clear = _transparent(data) if nodata is None else None

    def read(area: Area, shape: tuple[int, int]) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        rows = area.y + (np.arange(shape[0]) * 2 + 1) * area.height // (2 * shape[0])
        columns = area.x + (np.arange(shape[1]) * 2 + 1) * area.width // (2 * shape[1])
        values = pixels[rows[:, None], columns[None, :]]
        if nodata is not None:
            return values, (values == nodata).all(axis=2)
        return values, np.zeros(shape, bool) if clear is None else clear[rows[:, None], columns[None, :]]

    yield read


def _transparent(data: bytes) -> NDArray[np.bool_] | None:
    """Pixels (H, W) of a picture that are wholly transparent; None where it has no transparency."""
    plugin = {"png": PngImageFile, "webp": WebPImageFile}.get(sniff(data))  # as in ``decode``: free of Pillow's limit
    if plugin is None:
        return None
    with plugin(io.BytesIO(data)) as image:
        if not image.has_transparency_data:
            return None
        return np.asarray((image if "A" in image.getbands() else image.convert("RGBA")).getchannel("A")) == 0
