"""Where a tile lies on Earth. rasterio is only asked where a scene has coordinates."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from selectivemae.curation.slice import Window

_METRES_PER_DEGREE = 111_319.49


@dataclass(frozen=True)
class Place:
    """Where a scene lies: coordinate system (``EPSG:n`` or WKT2) and the six numbers of its affine transform."""

    crs: str
    transform: tuple[float, ...]

    def scaled(self, x: float, y: float) -> "Place":
        """The place of the scene scaled by ``x`` and ``y``: its pixels are larger by as much."""
        a, b, c, d, e, f = self.transform
        return Place(self.crs, (a / x, b / y, c, d / x, e / y, f))


class Footprint(NamedTuple):
    """A tile's own affine transform, its bounds in degrees (WGS 84), and the size of a pixel on the ground."""

    transform: tuple[float, ...]
    lon_min: float
    lat_min: float
    lon_max: float
    lat_max: float
    gsd_m: float


def footprint(place: Place, window: Window) -> Footprint | None:
    """Footprint of a window; None where the coordinates lead nowhere on Earth."""
    from rasterio.crs import CRS
    from rasterio.errors import RasterioError
    from rasterio.warp import transform_bounds

    a, b, c, d, e, f = place.transform
    x, y, w, h = window
    own = (a, b, c + a * x + b * y, d, e, f + d * x + e * y)
    corners = np.array([[own[2] + a * i + b * j, own[5] + d * i + e * j] for i in (0, w) for j in (0, h)])
    try:
        crs = CRS.from_user_input(place.crs)
        west, south, east, north = transform_bounds(crs, "EPSG:4326", *corners.min(axis=0), *corners.max(axis=0))
    except RasterioError:
        return None
    if not np.isfinite([west, south, east, north]).all():
        return None
    latitude = np.deg2rad((south + north) / 2)
    pixel = abs(a * e - b * d) ** 0.5
    if crs.is_geographic:
        metres = pixel * _METRES_PER_DEGREE * np.cos(latitude) ** 0.5
    else:
        metres = pixel * crs.linear_units_factor[1]
        if crs.to_epsg() == 3857:  # the map's metre is longer than the ground's
            metres *= np.cos(latitude)
    return Footprint(own, west, south, east, north, float(metres))
