"""Where an image lies in the canvas that a detector sees: one affine map for its pixels and its boxes.

Resize keeping the ratio, flips, a turn by any angle, padding to the right and below: pure functions of the sample's
noise key and its size, so workers place the pixels and the main process the boxes without a word between them.
Coordinates are continuous: pixel (row i, column j) covers [j, j + 1] x [i, i + 1].
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from selectivemae.core.errors import ConfigError
from selectivemae.core.order import uniform
from selectivemae.ops import rotated
from selectivemae.tasks.boxes_common import Array

FLIPS = {"none": (0.0, 0.0, 0.0), "horizontal": (0.5, 0.0, 0.0), "all": (0.25, 0.25, 0.25)}
"""Probabilities of a flip left to right, top to bottom, and of both (called diagonal)."""

KEEP = 0.7  # an object of which a turn leaves less inside the image is no object any more
_FLIP, _ANGLE = 0xD100, 0xD200  # purposes of the hash
_LEAST = 1.0  # pixels: side under which an upright box is too small to be trained on
_THIN = 0.1  # pixels: side under which a rotated one is a line, to which the coders give no finite or no single code


@dataclass(frozen=True)
class Place:
    """How an image of ``source`` (height, width) lies in a canvas: ``size`` (height, width) of it from the upper left
    corner. It is resized, then flipped, then turned by ``angle`` (radians, clockwise on the screen) about its middle.
    """

    source: tuple[int, int]
    size: tuple[int, int]
    flip_x: bool = False
    flip_y: bool = False
    angle: float = 0.0

    @property
    def matrix(self) -> Array:
        """The map (2, 3) from source to canvas: x' = M[:, :2] x + M[:, 2]."""
        (height, width), (rows, columns) = self.source, self.size
        sx, sy = columns / width * (-1) ** self.flip_x, rows / height * (-1) ** self.flip_y
        flipped = np.array([[sx, 0, columns * self.flip_x], [0, sy, rows * self.flip_y]])
        cos, sin = math.cos(self.angle), math.sin(self.angle)
        turn, middle = np.array([[cos, -sin], [sin, cos]]), np.array([columns / 2, rows / 2])
        shift = turn @ (flipped[:, 2] - middle) + middle
        return np.column_stack((turn @ flipped[:, :2], shift))


@dataclass(frozen=True)
class Geometry:
    """The geometry of training (or, by default, of evaluation): a canvas of ``canvas`` px a side, flips by their names
    in ``FLIPS``, and turns of up to ``rotation`` degrees either way."""

    canvas: int
    flips: str = "none"
    rotation: float = 0.0

    def __post_init__(self) -> None:
        if self.flips not in FLIPS:
            raise ConfigError(f"flips {self.flips!r} is unknown; choose one of {', '.join(FLIPS)}")

    def place(self, key: int, source: tuple[int, int]) -> Place:
        """The place of an image of (height, width) whose sample has the noise key ``key``."""
        scale = self.canvas / max(source)
        rows, columns = (min(max(round(side * scale), 1), self.canvas) for side in source)
        lot = np.asarray(key, np.int64)
        kind = int(np.searchsorted(np.cumsum(FLIPS[self.flips]), uniform(lot, _FLIP), side="right"))
        angle = math.radians(self.rotation) * (2 * float(uniform(lot, _ANGLE)) - 1) if self.rotation else 0.0
        return Place(source, (rows, columns), kind in (0, 2), kind in (1, 2), angle)


def paste(pixels: NDArray[np.uint8], place: Place, canvas: NDArray[np.uint8], fill: tuple[int, ...]) -> None:
    """Put pixels (height, width, C) at their place in ``canvas`` (S, S, C); all else becomes the colour ``fill`` (C,).

    Resized by area-aware (antialiased) bilinear interpolation where the size changes, turned by bilinear interpolation.
    """
    rows, columns = place.size
    if pixels.shape[:2] != place.size:
        image = torch.from_numpy(np.ascontiguousarray(pixels)).permute(2, 0, 1)[None]
        resized = F.interpolate(image, place.size, mode="bilinear", antialias=True)
        pixels = resized[0].permute(1, 2, 0).numpy()
    pixels = pixels[:: -1 if place.flip_y else 1, :: -1 if place.flip_x else 1]
    if place.angle:
        pixels = _turned(pixels, place.angle, fill)
    canvas[:] = np.array(fill, np.uint8)
    canvas[:rows, :columns] = pixels


def _turned(pixels: NDArray[np.uint8], angle: float, fill: tuple[int, ...]) -> NDArray[np.uint8]:
    rows, columns, _ = pixels.shape
    colour = torch.tensor(fill, dtype=torch.float32)
    image = torch.from_numpy(np.ascontiguousarray(pixels)).float() - colour  # what lies outside is 0, hence ``fill``
    cos, sin = math.cos(angle), math.sin(angle)
    # The grid goes from the turned image back to the source, in units of half its sides about the middle.
    back = torch.tensor([[cos, sin * rows / columns, 0.0], [-sin * columns / rows, cos, 0.0]])
    grid = F.affine_grid(back[None], [1, 1, rows, columns], align_corners=False)
    out = F.grid_sample(image.permute(2, 0, 1)[None], grid, mode="bilinear", align_corners=False)[0].permute(1, 2, 0)
    return (out + colour).round().clamp(0, 255).to(torch.uint8).numpy()


def move_upright(boxes: Array, matrix: Array) -> Array:
    """The upright boxes (N, 4) around upright boxes (N, 4) whose points went through a map (2, 3)."""
    points = boxes[:, [[0, 1], [2, 1], [2, 3], [0, 3]]]  # (N, 4, 2)
    moved = points @ matrix[:, :2].T + matrix[:, 2]
    return np.concatenate((moved.min(axis=1), moved.max(axis=1)), axis=1)


def move_rotated(boxes: Array, matrix: Array) -> Array:
    """Rotated boxes (N, 5), le90, whose points went through a map (2, 3).

    Sides and angle are those of the moved axes. Where the map stretches the two image axes unequally a turned box is
    truly a parallelogram; then the moved w-axis is followed exactly.
    """
    centre = boxes[:, :2] @ matrix[:, :2].T + matrix[:, 2]
    cos, sin = np.cos(boxes[:, 4]), np.sin(boxes[:, 4])
    u, v = (np.stack(axis, axis=1) @ matrix[:, :2].T for axis in ((cos, sin), (-sin, cos)))
    w, h = boxes[:, 2] * np.hypot(*u.T), boxes[:, 3] * np.hypot(*v.T)
    table = np.column_stack((centre, w, h, np.arctan2(u[:, 1], u[:, 0])))
    return rotated.le90(torch.from_numpy(table)).numpy()


def move(boxes: Array, matrix: Array) -> Array:
    """Boxes (N, 4) or (N, 5) whose points went through a map (2, 3)."""
    return (move_upright if boxes.shape[1] == 4 else move_rotated)(boxes, matrix)


def inverse(matrix: Array) -> Array:
    """The map (2, 3) that undoes a map (2, 3)."""
    back = np.linalg.inv(matrix[:, :2]).astype(np.float64)
    return np.column_stack((back, -back @ matrix[:, 2]))


def place_objects(boxes: Array, place: Place) -> tuple[Array, NDArray[np.bool_]]:
    """Boxes (K, 4) or (K, 5) in the canvas, of those (N, ·) that stay, and which (N,) do.

    Upright boxes are cut at the image's border; those under 1 px wide or high go. Rotated ones keep their shape; those
    under 0.1 px go. Where the image is turned, objects go that have less than ``KEEP`` of their area inside.
    """
    moved = move(boxes, place.matrix)
    rows, columns = place.size
    stays = np.ones(len(moved), np.bool_)
    if place.angle:
        stays = share_inside(moved, (0, 0, columns, rows)) >= KEEP
    if moved.shape[1] == 4:
        moved = np.clip(moved, 0, [columns, rows, columns, rows])
        stays &= (moved[:, 2:] - moved[:, :2] >= _LEAST).all(axis=1)
    else:
        stays &= (moved[:, 2:4] >= _THIN).all(axis=1)
    return moved[stays], stays


def as_rotated(boxes: Array) -> torch.Tensor:
    """Boxes (N, 4) or (N, 5) as rotated ones (N, 5) float64; upright ones get the angle 0."""
    table = torch.from_numpy(boxes).double()
    return rotated.from_upright(table) if boxes.shape[1] == 4 else table


def share_inside(boxes: Array, window: tuple[int, int, int, int]) -> Array:
    """Which part (N,) of the area of boxes (N, 4) or (N, 5) lies in a window (x, y, width, height)."""
    x, y, width, height = window
    rectangle = torch.tensor([[x + width / 2, y + height / 2, width, height, 0]], dtype=torch.float64)
    table = as_rotated(boxes)
    area = rotated.intersection(table, rectangle.expand(len(table), 5))
    return (area / table[:, 2:4].prod(dim=1)).numpy()
