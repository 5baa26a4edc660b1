"""Rasters that rasterio reads window by window (extra ``[geo]``): opening, and deep samples to 8 bits.

Shared by curation, which cuts scenes into tiles, and by ``scenes``, which maps them.
"""

import contextlib
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from selectivemae.core.errors import DecodeError

if TYPE_CHECKING:
    from rasterio.io import DatasetReader

GDAL_CACHE = 128 << 20  # bytes: rasterio hands the number on as it is
DRIVERS = {"tiff": "GTiff", "jpeg2000": "JP2OpenJPEG", "png": "PNG"}
_LATTICE = 1 << 20

Limits = tuple[tuple[float, ...], tuple[float, ...]]
"""(low, high) of each band, or one pair for all."""


@contextlib.contextmanager
def open_raster(data: bytes | Path, kind: str) -> "Iterator[DatasetReader]":
    """Open bytes or a file of a ``kind`` in ``DRIVERS`` with exactly that driver, quietly, as one thread's own.

    DecodeError (``needs_rasterio``, ``truncated``, ``corrupt``) for what goes wrong here or in the block.
    """
    try:
        import rasterio
        from rasterio.errors import RasterioError
        from rasterio.io import MemoryFile
    except ImportError as e:
        message = f"a {kind} of this sort needs rasterio: pip install 'selectivemae[geo]'"
        raise DecodeError("needs_rasterio", message) from e
    driver = DRIVERS[kind]
    try:
        with warnings.catch_warnings(), contextlib.ExitStack() as stack:
            warnings.simplefilter("ignore")
            stack.enter_context(rasterio.Env(GDAL_CACHEMAX=GDAL_CACHE, GDAL_NUM_THREADS=1))
            if isinstance(data, Path):
                yield stack.enter_context(rasterio.open(data, driver=driver))
            else:
                memory = stack.enter_context(MemoryFile(data))
                yield stack.enter_context(memory.open(driver=driver))
    except RasterioError as e:
        text = str(e)
        reason = "truncated" if "truncat" in text.lower() or "unexpected end" in text.lower() else "corrupt"
        raise DecodeError(reason, f"the {kind} cannot be read: {text}") from e


def lattice_shape(width: int, height: int) -> tuple[int, int]:
    """(rows, columns) of the regular lattice, of at most 2^20 pixels or so, by which a whole scene is judged."""
    step = max(1, int(np.ceil((width * height / _LATTICE) ** 0.5)))
    return max(1, height // step), max(1, width // step)


def percentile_limits(values: NDArray, mask: NDArray[np.bool_], span: tuple[float, float]) -> Limits:
    """The percentiles ``span`` of each band of (H, W, C) where the mask (H, W) is not set; (0, 1) where it all is."""
    valid = values[~mask]
    if not len(valid):
        return (0.0,), (1.0,)
    low, high = np.percentile(valid, span, axis=0)
    return tuple(float(v) for v in low), tuple(float(v) for v in high)


def to_uint8(values: NDArray, mask: NDArray[np.bool_], limits: Limits) -> NDArray[np.uint8]:
    """Samples (H, W, C) to bytes: ``low`` becomes 0, ``high`` 255, what lies beyond is clipped, masked pixels are 0."""
    floor, top = (np.asarray(v, np.float32) for v in limits)
    with np.errstate(invalid="ignore", over="ignore"):
        scaled = (values.astype(np.float32) - floor) * (255 / np.where(top > floor, top - floor, 1))
    scaled[mask] = 0
    return np.clip(np.rint(scaled), 0, 255).astype(np.uint8)
