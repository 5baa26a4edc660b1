"""Polygons of class maps and of boxes, in the scene's coordinates, as GeoPackage or GeoJSON."""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from selectivemae.core.errors import ConfigError, OutputError
from selectivemae.core.files import put_in_place
from selectivemae.scenes.canvas import opened
from selectivemae.scenes.source import Transform

DRIVERS = {".gpkg": "GPKG", ".geojson": "GeoJSON"}
_VALUES = 256  # of a class map


@dataclass(frozen=True)
class Features:
    """Polygons (N,) of shapely with columns of N values each."""

    polygons: NDArray[Any]
    columns: Mapping[str, NDArray[Any]]


def class_polygons(
    raster: Path, classes: Sequence[str], wanted: Sequence[int], *, simplify: float = 0.0, least: float = 0.0
) -> Features:
    """The connected regions (by sides) of the ``wanted`` classes in a class map on disk, with holes.

    The whole map is traced at once, row by row: no region is cut at a border of work. Corners may move by ``simplify``
    pixels (Douglas-Peucker, each polygon by itself); regions of less than ``least`` pixels are left out. The columns
    are ``class`` and ``pixels``.
    """
    import rasterio
    import shapely
    from rasterio.features import shapes

    chosen = raster.with_name(raster.stem + "-chosen.vrt")
    with opened(raster) as values:
        transform = values.transform
        pixel = abs(transform.determinant)
        chosen.write_text(_chosen_vrt(raster.name, values.width, values.height, wanted))
        polygons, labels, areas = [], [], []
        with opened(chosen) as mask:
            for shape, value in shapes(rasterio.band(values, 1), rasterio.band(mask, 1), 4, transform):
                polygon = shapely.geometry.shape(shape)
                pixels = polygon.area / pixel
                if pixels < least:
                    continue
                polygons.append(polygon.simplify(simplify * pixel**0.5) if simplify else polygon)
                labels.append(int(value))
                areas.append(pixels)
    names = np.array([*classes], dtype=object)
    columns = {"class": names[np.array(labels, np.int64)], "pixels": np.rint(np.array(areas)).astype(np.int64)}
    return Features(np.array(polygons, dtype=object), columns)


def _chosen_vrt(raster: str, width: int, height: int, wanted: Sequence[int]) -> str:
    """A mask for GDAL: 1 where a class map has one of the wanted values."""
    table = ",".join(f"{value}:{int(value in wanted)}" for value in range(_VALUES))
    return (
        f'<VRTDataset rasterXSize="{width}" rasterYSize="{height}"><VRTRasterBand dataType="Byte" band="1">'
        f'<ComplexSource><SourceFilename relativeToVRT="1">{raster}</SourceFilename><SourceBand>1</SourceBand>'
        f"<LUT>{table}</LUT></ComplexSource></VRTRasterBand></VRTDataset>"
    )


def corner_polygons(corners: NDArray[np.floating], transform: Transform) -> NDArray[Any]:
    """Polygons of boxes whose corners (N, 4, 2) are x, y in pixels."""
    import shapely

    a, b, c, d, e, f = transform
    x, y = corners[..., 0], corners[..., 1]
    return np.asarray(shapely.polygons(np.stack([a * x + b * y + c, d * x + e * y + f], axis=-1)), dtype=object)


def write_features(out: Path, parts: Path, layer: str, features: Features, crs: str | None) -> None:
    """Write polygons to ``out``, whole or not at all; its ending says in which format.

    GeoJSON comes in longitude and latitude (WGS 84), as its standard (RFC 7946) wants, where the coordinate system is
    known; else in the coordinates given. ConfigError for another ending, OutputError when it cannot be written.
    """
    import pyogrio.raw
    import shapely
    from pyogrio import errors

    driver = DRIVERS.get(out.suffix.lower())
    if driver is None:
        raise ConfigError(f"{out}: polygons are written as {' or '.join(DRIVERS)}")
    temporary = parts / out.name
    temporary.unlink(missing_ok=True)
    options: dict[str, Any] = {"RFC7946": "YES", "COORDINATE_PRECISION": "9"} if driver == "GeoJSON" and crs else {}
    geometry: Any = shapely.to_wkb(features.polygons)
    values: Any = list(features.columns.values())
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "'crs' was not provided")  # told beforehand, in our words
            pyogrio.raw.write(
                str(temporary),
                geometry,
                values,
                [*features.columns],
                layer=layer if driver == "GPKG" else None,
                driver=driver,
                geometry_type="Polygon",
                crs=crs,
                **options,
            )
    except (errors.DataSourceError, errors.GeometryError, errors.FeatureError, OSError) as e:
        raise OutputError(f"cannot write {out}: {' '.join(str(e).split())}") from e
    put_in_place(temporary, out)
