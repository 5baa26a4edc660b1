"""Scenes and predictors that tests of ``scenes`` are made of: pixels whose right answer is known."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import rasterio
import torch
from affine import Affine
from rasterio.crs import CRS
from torch import Tensor

UTM = CRS.from_epsg(32631)
PLACE = Affine(0.5, 0, 500_000.3, 0, -0.5, 5_000_000.7)


def write_scene(path: Path, pixels: np.ndarray, *, crs=UTM, transform: Affine = PLACE, **more) -> Path:
    """A tiled GeoTIFF of pixels (C, H, W)."""
    count, height, width = pixels.shape
    profile = {"width": width, "height": height, "count": count, "dtype": pixels.dtype, "crs": crs}
    tiles = {"tiled": True, "blockxsize": 64, "blockysize": 64}
    photometric = {"photometric": "rgb"} if count == 3 else {}
    with rasterio.open(
        path, "w", driver="GTiff", transform=transform, **profile, **tiles, **photometric, **more
    ) as out:
        out.write(pixels)
    return path


def noise(height: int, width: int, channels: int = 3, seed: int = 0) -> np.ndarray:
    """Random pixels (C, H, W)."""
    return np.random.default_rng(seed).integers(0, 256, (channels, height, width), dtype=np.uint8)


@dataclass
class PixelPredictor:
    """Each pixel's logits are its bands: the class is the brightest band."""

    size: int = 64
    task: str = "segment"
    classes: tuple[str, ...] = ("background", "road", "water")
    channels: int = 3

    def scores(self, images: Tensor) -> Tensor:
        return images.float() / 50


@dataclass
class PlacePredictor(PixelPredictor):
    """Logits that also depend on the place in the window and on its other pixels, as a network's do."""

    def scores(self, images: Tensor) -> Tensor:
        x = images.float() / 50
        ramp = torch.linspace(-1, 1, self.size)
        mean = torch.nn.functional.avg_pool2d(x, 9, 1, 4)
        return mean + ramp[None, None, :, None] * x[:, :, :1, :1] + ramp[None, None, None, :]
