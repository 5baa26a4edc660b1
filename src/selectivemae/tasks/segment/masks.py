"""From a file of labels to values of pixels: index and colour masks as images, and footprints drawn onto the raster
of their image."""

import importlib
import importlib.util
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from selectivemae.core.errors import ConfigError, DataError, DecodeError
from selectivemae.data.decode import header
from selectivemae.data.raster import DRIVERS, open_raster
from selectivemae.tasks.segment.classes import Colour

Mask = tuple[NDArray[Any], NDArray[np.bool_] | None]
"""Values (H, W) or colours (H, W, 3), and where they say something (H, W); None: everywhere."""

BUILDING = 1  # value of the inside of a footprint
_WGS84 = "EPSG:4326"


def decode_mask(data: bytes, colours: Sequence[Colour] = ()) -> Mask:
    """Values or colours of a mask's file: PNG, BMP, GIF or TIFF, of up to 16 bits.

    A palette's numbers are the values, unless all colours that occur are among ``colours``: then the colours are (an
    editor numbers a palette as it likes). Pixels of a TIFF that its no-data tag marks say nothing.
    Raises DecodeError; ``mask_lossy`` for a JPEG, whose values are not those that were saved.
    """
    _, _, kind = header(data)
    if kind in ("jpeg", "webp", "jpeg2000"):
        raise DecodeError("mask_lossy", f"a mask saved as {kind} has lost its values; save it as PNG or TIFF")
    if kind == "tiff" and importlib.util.find_spec("rasterio"):
        return _read_tiff(data)
    try:
        with Image.open(io.BytesIO(data)) as image:
            if image.mode in ("RGBA", "CMYK", "YCbCr"):
                return np.asarray(image.convert("RGB")), None
            if image.mode == "P" and colours:
                rgb = image.convert("RGB")
                if {colour for _, colour in rgb.getcolors(256) or ()} <= set(colours):
                    return np.asarray(rgb), None
            values = np.asarray(image.convert("L") if image.mode == "LA" else image)
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        raise DecodeError("corrupt", f"the {kind} mask cannot be decoded: {error}") from error
    return _whole_numbers(values), None


def _read_tiff(data: bytes) -> Mask:
    with open_raster(data, "tiff") as raster:
        bands = raster.read(list(range(1, 4)) if raster.count >= 3 else [1])
        valid = raster.dataset_mask() > 0
    values = np.moveaxis(bands, 0, -1) if len(bands) == 3 else bands[0]
    return _whole_numbers(values), None if valid.all() else valid


def _whole_numbers(values: NDArray[Any]) -> NDArray[Any]:
    if values.dtype.kind == "b":
        return values.astype(np.uint8)
    if values.dtype.kind not in "iu":
        raise DecodeError("mask_values", f"the mask holds {values.dtype} numbers; classes are whole ones")
    return values


def rasterise(footprints: Path, image: bytes) -> Mask:
    """Footprints of a GeoJSON file on the grid of a GeoTIFF: ``BUILDING`` where a pixel's centre is inside of one.

    Coordinates in another system than the image's are reprojected first (``systems`` tells both). Pixels that the
    image's no-data tag marks, or that are black in all bands and connected with the border, say nothing.
    Raises DataError for a file that is no GeoJSON of polygons, DecodeError for an image without a place on Earth.
    """
    rasterio = _rasterio()
    shapes, crs = read_footprints(footprints)
    with open_raster(image, _raster_kind(image)) as raster:
        target, transform, size = raster.crs, raster.transform, (raster.height, raster.width)
        if target is None or transform.is_identity:
            raise DecodeError(
                "no_crs", "the image has no place on Earth (CRS and transform), so footprints cannot be drawn on it"
            )
        valid = (raster.dataset_mask() > 0) & ~_border_black(raster.read())
    shapes = [shape for shape in shapes if rasterio.features.is_valid_geom(shape)]  # the others enclose nothing
    if not same_crs(crs, target):
        try:
            shapes = [rasterio.warp.transform_geom(crs, target, shape) for shape in shapes]
        except rasterio._err.CPLE_BaseError as error:
            raise DataError(f"{footprints}: cannot be reprojected from {crs} to {target} ({error})") from error
    if not shapes:
        return np.zeros(size, np.uint8), valid
    burn = [(shape, BUILDING) for shape in shapes]
    return rasterio.features.rasterize(burn, out_shape=size, transform=transform, dtype="uint8"), valid


def read_footprints(path: Path) -> tuple[list[dict[str, Any]], Any]:
    """Polygons of a GeoJSON file, and the system that their coordinates are in (WGS 84 unless the file says another).

    DataError for a file that is none.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        shapes = [f["geometry"] for f in data["features"] if f.get("geometry")]
        shapes = [s for s in shapes if s["type"] != "Point"]
        if other := {str(shape["type"]) for shape in shapes} - {"Polygon", "MultiPolygon"}:
            raise ValueError(f"it holds a {min(other)}")
        shapes = [shape for shape in shapes if shape["coordinates"]]
        return shapes, _named_crs(data.get("crs"), path)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{path}: no GeoJSON of polygons ({type(error).__name__}: {error})") from error


def systems(footprints: Path, image: bytes) -> tuple[str, str] | None:
    """Names of the coordinate systems of footprints and image where they differ, else None."""
    _, crs = read_footprints(footprints)
    with open_raster(image, _raster_kind(image)) as raster:
        target = raster.crs
    return None if target is None or same_crs(crs, target) else (str(crs), str(target))


def same_crs(one: Any, other: Any) -> bool:
    """Whether coordinates of two systems can be compared as they are."""
    return one == other or (one.to_epsg() is not None and one.to_epsg() == other.to_epsg())


def _raster_kind(image: bytes) -> str:
    _, _, kind = header(image)
    if kind not in DRIVERS:
        raise DecodeError("no_crs", f"footprints need a GeoTIFF, whose place on Earth is known, not a {kind}")
    return kind


def _named_crs(member: Any, path: Path) -> Any:
    """The system that a GeoJSON's (old) member ``crs`` names; longitude comes first in all of them."""
    name = str(member["properties"]["name"]) if member else _WGS84
    rasterio = _rasterio()
    try:
        return rasterio.crs.CRS.from_user_input(_WGS84 if name.endswith("CRS84") else name)
    except rasterio.errors.CRSError as error:
        raise DataError(f"{path}: the coordinate system {name!r} is unknown") from error


def _border_black(bands: NDArray[Any]) -> NDArray[np.bool_]:
    """Pixels (H, W) of (C, H, W) that are 0 in all bands, in patches that touch the border."""
    black = ~bands.any(axis=0)
    labels = np.empty(black.shape, np.int32)
    count = ndimage.label(black, output=labels)
    assert isinstance(count, int)
    edge = np.zeros(count + 1, bool)
    for line in (labels[0], labels[-1], labels[:, 0], labels[:, -1]):
        edge[line] = True
    edge[0] = False
    return edge[labels]


def _rasterio() -> Any:
    """rasterio with the parts used here. Loaded late: it brings GDAL."""
    try:
        for part in ("_err", "crs", "errors", "features", "warp"):
            importlib.import_module(f"rasterio.{part}")
        return importlib.import_module("rasterio")
    except ImportError as error:
        raise ConfigError("footprints need rasterio: pip install 'selectivemae[geo]'") from error
