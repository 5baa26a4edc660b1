"""A raster while it is made: raw samples on disk beside a VRT that tells GDAL what they are, then a cloud-optimised
GeoTIFF.

OUT.parts/
  NAME.raw     samples, band after band, row after row; its whole size is reserved at the beginning
  NAME.vrt     the same as a raster, for GDAL
"""

import contextlib
import errno
import os
import shutil
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.sax.saxutils import escape

import numpy as np
from numpy.typing import NDArray

from selectivemae.core.errors import OutputError
from selectivemae.core.files import atomic_write, cannot_write, put_in_place
from selectivemae.data.raster import GDAL_CACHE
from selectivemae.scenes.source import Transform

if TYPE_CHECKING:
    from rasterio.io import DatasetReader

BLOCK = 512  # side of the tiles of a GeoTIFF
_TYPES = {"uint8": "Byte", "float32": "Float32"}
Colour = tuple[int, int, int]


@dataclass(frozen=True)
class Layer:
    """What a raster's samples are.

    ``bands`` are the bands' names, ``palette`` the colour of each value of a class map, ``scale`` what a sample times
    it means. ``shrink`` is GDAL's way to make overviews.
    """

    name: str
    dtype: str
    bands: tuple[str, ...]
    nodata: float
    shrink: str
    palette: Sequence[Colour] = ()
    scale: float | None = None
    tags: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Grid:
    """Where a raster's samples lie: columns, rows, coordinate system (WKT2) and affine transform."""

    width: int
    height: int
    crs: str | None
    transform: Transform


@contextlib.contextmanager
def opened(path: Path) -> "Iterator[DatasetReader]":
    """A raster that we made; that it may lie nowhere on the ground is no news."""
    import rasterio

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with rasterio.open(path) as raster:
            yield raster


class Canvas:
    """A raster on disk that is filled piece by piece."""

    def __init__(self, folder: Path, layer: Layer, grid: Grid) -> None:
        """Reserve the space of the samples, unless they are there from before. OutputError when there is none."""
        self.layer, self.grid = layer, grid
        self.raw, self.vrt = folder / f"{layer.name}.raw", folder / f"{layer.name}.vrt"
        self._sample = np.dtype(layer.dtype).itemsize
        size = grid.width * grid.height * len(layer.bands) * self._sample
        try:
            if not self.raw.exists() or self.raw.stat().st_size != size:
                with self.raw.open("wb") as f:
                    os.posix_fallocate(f.fileno(), 0, size)
        except OSError as e:
            self.raw.unlink(missing_ok=True)
            if e.errno == errno.ENOSPC:
                need = f"{size / 1e9:.3g} GB" if size >= 1e8 else f"{size / 1e6:.3g} MB"
                raise OutputError(f"no space left on the disk of {folder}: the work needs {need} there") from e
            raise cannot_write(e, self.raw) from e
        atomic_write(self.vrt, _vrt(layer, grid, self.raw.name))

    def write(self, row: int, column: int, values: NDArray[Any]) -> None:
        """Put samples (bands, h, w) at a place, and on the disk. OutputError when the disk does not take them."""
        values = np.ascontiguousarray(values, np.dtype(self.layer.dtype).newbyteorder("<"))
        _, height, width = values.shape
        step = self.grid.width * self._sample
        try:
            with self.raw.open("r+b", buffering=0) as f:
                for number, band in enumerate(values):
                    start = (number * self.grid.height + row) * step + column * self._sample
                    if width == self.grid.width:
                        _write_all(f.fileno(), band, start)
                        continue
                    for line in range(height):
                        _write_all(f.fileno(), band[line], start + line * step)
                os.fdatasync(f.fileno())
        except OSError as e:
            raise cannot_write(e, self.raw) from e

    def finish(self, out: Path, threads: int = 1) -> None:
        """Write the samples as a cloud-optimised GeoTIFF to ``out``. OutputError when the disk does not take it."""
        import rasterio
        import rasterio.shutil
        from rasterio.errors import RasterioError

        temporary = self.raw.with_suffix(".tif")
        options: dict[str, Any] = {
            "driver": "COG",
            "COMPRESS": "DEFLATE",
            "PREDICTOR": "YES" if self.layer.dtype == "float32" else "NO",
            "BLOCKSIZE": BLOCK,
            "OVERVIEW_RESAMPLING": self.layer.shrink,
            "BIGTIFF": "IF_SAFER",
            "NUM_THREADS": threads,
        }
        try:
            with rasterio.Env(GDAL_CACHEMAX=GDAL_CACHE):
                rasterio.shutil.copy(str(self.vrt), str(temporary), **options)
        except RasterioError as e:
            temporary.unlink(missing_ok=True)
            if shutil.disk_usage(out.parent).free < self.raw.stat().st_size:
                raise cannot_write(OSError(errno.ENOSPC, ""), out) from e
            raise OutputError(f"cannot write {out}: {' '.join(str(e).split())}") from e
        put_in_place(temporary, out)


def _write_all(handle: int, values: NDArray[Any], start: int) -> None:
    """All bytes of an array at a place of a file; a disk that is filled takes some of them first."""
    data = values.tobytes()
    while data:
        done = os.pwrite(handle, data, start)
        data, start = data[done:], start + done


def _vrt(layer: Layer, grid: Grid, raw: str) -> str:
    """GDAL's description of raw samples."""
    a, b, c, d, e, f = grid.transform
    sample = np.dtype(layer.dtype).itemsize
    lines = [f'<VRTDataset rasterXSize="{grid.width}" rasterYSize="{grid.height}">']
    if grid.crs:
        lines.append(f"<SRS>{escape(grid.crs)}</SRS>")
    if grid.transform != (1, 0, 0, 0, 1, 0):
        lines.append(f"<GeoTransform>{', '.join(repr(float(v)) for v in (c, a, b, f, d, e))}</GeoTransform>")
    tags = [f'<MDI key="{escape(key)}">{escape(value)}</MDI>' for key, value in layer.tags.items()]
    lines += ["<Metadata>", *tags, "</Metadata>"]
    for number, name in enumerate(layer.bands):
        lines += [
            f'<VRTRasterBand dataType="{_TYPES[layer.dtype]}" band="{number + 1}" subClass="VRTRawRasterBand">',
            f"<Description>{escape(name)}</Description>",
            f"<NoDataValue>{layer.nodata}</NoDataValue>",
            *([f"<Scale>{layer.scale!r}</Scale>"] if layer.scale is not None else []),
            *_palette(layer.palette),
            f'<SourceFilename relativeToVRT="1">{escape(raw)}</SourceFilename>',
            f"<ImageOffset>{number * grid.width * grid.height * sample}</ImageOffset>",
            f"<PixelOffset>{sample}</PixelOffset>",
            f"<LineOffset>{grid.width * sample}</LineOffset>",
            "<ByteOrder>LSB</ByteOrder>",
            "</VRTRasterBand>",
        ]
    return "\n".join([*lines, "</VRTDataset>"])


def _palette(colours: Sequence[Colour]) -> list[str]:
    if not colours:
        return []
    entries = [f'<Entry c1="{r}" c2="{g}" c3="{b}" c4="255"/>' for r, g, b in colours]
    return ["<ColorInterp>Palette</ColorInterp>", "<ColorTable>", *entries, "</ColorTable>"]
