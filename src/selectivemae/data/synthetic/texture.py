"""Noise fields: what makes flat colours look like ground."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Field = NDArray[np.float32]  # (H, W)


def smooth_noise(rng: np.random.Generator, size: int, cells: int) -> Field:
    """Noise (size, size) with about ``cells`` bumps a side, unit variance: a random grid, bicubically enlarged."""
    cells = min(max(cells, 2), size)
    grid = Image.fromarray(rng.standard_normal((cells, cells), dtype=np.float32))
    field = np.asarray(grid.resize((size, size), Image.Resampling.BICUBIC))
    return np.asarray(field / max(float(field.std()), 1e-6), np.float32)


def cloudy_noise(rng: np.random.Generator, size: int, cells: int, octaves: int, fall: float) -> Field:
    """Sum of octaves of ``smooth_noise``, each with twice the cells and ``fall`` times the amplitude; unit variance."""
    field = smooth_noise(rng, size, cells)
    for octave in range(1, octaves):
        if cells << octave > size:
            break
        field = field + np.float32(fall**octave) * smooth_noise(rng, size, cells << octave)
    return np.asarray(field / max(float(field.std()), 1e-6), np.float32)


def crowns(rng: np.random.Generator, size: int, pixels: float, sun: float) -> Field:
    """Tree canopy from above (size, size), about zero mean: crowns of ``pixels`` across, lit from where shadows
    come, with dark gaps between them."""
    height = smooth_noise(rng, size, round(size / max(pixels, 1.5)))
    for finer, strength in ((1.9, 0.5), (4.1, 0.22)):
        height = height + np.float32(strength) * smooth_noise(rng, size, round(finer * size / max(pixels, 1.5)))
    step = max(pixels * 0.3, 1.0)
    shift = (-round(step * np.sin(sun)), -round(step * np.cos(sun)))
    slope = np.roll(height, shift, (0, 1)) - height
    return np.asarray(-0.5 * slope + 0.6 * np.minimum(height, 0) + 0.25, np.float32)


def fractal_line(rng: np.random.Generator, points: int, roughness: float) -> NDArray[np.float64]:
    """A wandering line (points,) over 0..1 with zero mean and unit variance; harmonics fall as k**-roughness."""
    t = np.linspace(0, 2 * np.pi, points)
    k = np.arange(1, 17)[:, None]
    line = (k**-roughness * np.sin(k * t * 0.5 + rng.uniform(0, 2 * np.pi, k.shape)) * rng.normal(1, 0.4, k.shape)).sum(
        0
    )
    return (line - line.mean()) / max(float(line.std()), 1e-6)
