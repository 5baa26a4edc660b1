"""Big scenes in tiles: where the tiles lie, which objects each keeps, and merging what was found in them."""

import re
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from selectivemae.core.errors import ConfigError, DataError
from selectivemae.ops import rotated
from selectivemae.tasks.boxes_common import Detections, Labelled

_TILE_ID = re.compile(r"(?P<scene>.+)__(?P<rate>[\d.]+)__(?P<x>-?\d+)___(?P<y>-?\d+)$")


def starts(length: int, tile: int, overlap: int) -> list[int]:
    """Where tiles begin along an axis: steps of ``tile - overlap``, the last one shifted back to end with the image."""
    if not 0 <= overlap < tile:
        raise ConfigError(f"an overlap of {overlap} px does not fit tiles of {tile} px; use 0 to {tile - 1}")
    if length <= tile:
        return [0]
    return [*range(0, length - tile, tile - overlap), length - tile]


def grid(size: tuple[int, int], tile: int = 1024, overlap: int = 200) -> list[tuple[int, int]]:
    """Left upper corners (x, y) of the tiles that cover an image of (height, width), row by row."""
    return [(x, y) for y in starts(size[0], tile, overlap) for x in starts(size[1], tile, overlap)]


def tile_id(scene: str, x: int, y: int, side: int) -> str:
    """The DOTA name of a tile: scene, side, and offsets."""
    return f"{scene}__{side}__{x}___{y}"


def parse_tile_id(id: str) -> tuple[str, int, int]:
    """(scene, x, y) of a tile's name. Raises DataError when it is none."""
    match = _TILE_ID.match(id)
    if match is None:
        raise DataError(f"{id}: not the name of a tile (scene__side__x___y)")
    return match["scene"], int(match["x"]), int(match["y"])


def cut(item: Labelled, x: int, y: int, tile: int, keep: float = 0.7) -> Labelled:
    """The objects of one tile, in its own pixels.

    An object is kept, whole, when at least ``keep`` of its area lies in the tile; the rest of the objects are left out.
    The tile is smaller than ``tile`` where the image is.
    """
    if item.size is None:
        raise DataError(f"{item.id}: its size is unknown, so it cannot be cut into tiles; give its image")
    height, width = min(tile, item.size[0] - y), min(tile, item.size[1] - x)
    inside = share_inside(item.boxes, (x, y, width, height)) >= keep
    boxes = item.boxes[inside] - np.array([x, y, 0, 0, 0])
    name = tile_id(item.id, x, y, tile)
    labels, difficult = item.labels[inside], item.difficult[inside]
    return replace(item, id=name, size=(height, width), boxes=boxes, labels=labels, difficult=difficult)


def share_inside(boxes: NDArray[np.float64], window: tuple[int, int, int, int]) -> NDArray[np.float64]:
    """Which part (N,) of the area of boxes (N, 5) lies in a window (x, y, width, height)."""
    x, y, width, height = window
    rectangle = torch.tensor([[x + width / 2, y + height / 2, width, height, 0]], dtype=torch.float64)
    table = torch.from_numpy(boxes)
    area = rotated.intersection(table, rectangle.expand(len(boxes), 5))
    return (area / table[:, 2:4].prod(dim=1)).numpy()


def merge(tiles: Mapping[str, Detections], threshold: float = 0.1, limit: int = 2000) -> dict[str, Detections]:
    """Detections by scene from detections by tile: moved to the scene, then rotated NMS within each class.

    Of every scene the ``limit`` best are kept.
    """
    parts: dict[str, list[Detections]] = {}
    for id, found in tiles.items():
        scene, x, y = parse_tile_id(id)
        parts.setdefault(scene, []).append(replace(found, boxes=found.boxes + np.array([x, y, 0, 0, 0])))
    out = {}
    for scene, of_scene in sorted(parts.items()):
        boxes = np.concatenate([p.boxes for p in of_scene])
        scores, labels = np.concatenate([p.scores for p in of_scene]), np.concatenate([p.labels for p in of_scene])
        groups = torch.from_numpy(labels)
        keep = rotated.nms(torch.from_numpy(boxes), torch.from_numpy(scores), threshold, groups)[:limit].numpy()
        out[scene] = Detections(boxes[keep], scores[keep], labels[keep])
    return out
