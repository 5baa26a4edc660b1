"""Big scenes in tiles: where the tiles lie, which objects each keeps, and merging what was found in them."""

import re
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import torch

from selectivemae.core.errors import ConfigError, DataError
from selectivemae.ops import rotated
from selectivemae.tasks.boxes_common import Array, BoxSet, Detections, Labelled
from selectivemae.tasks.boxes_geometry import KEEP, as_rotated, share_inside

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


def cut(item: Labelled, x: int, y: int, tile: int, keep: float = KEEP) -> Labelled:
    """The objects of one tile, in its own pixels, and which window of the image it is.

    An object is kept, whole, when at least ``keep`` of its area lies in the tile; the rest of the objects are left out.
    The tile is smaller than ``tile`` where the image is.
    """
    if item.size is None:
        raise DataError(f"{item.id}: its size is unknown, so it cannot be cut into tiles; give its image")
    height, width = min(tile, item.size[0] - y), min(tile, item.size[1] - x)
    inside = share_inside(item.boxes, (x, y, width, height)) >= keep
    boxes = item.boxes[inside] - _shift(x, y, item.boxes.shape[1])
    name = tile_id(item.id, x, y, tile)
    labels, difficult = item.labels[inside], item.difficult[inside]
    window = (x, y, width, height)
    return replace(item, id=name, size=(height, width), boxes=boxes, labels=labels, difficult=difficult, window=window)


def tiled(data: BoxSet, tile: int, overlap: int) -> BoxSet:
    """A data set of the tiles of all images; those without objects are kept."""
    items = [cut(item, x, y, tile) for item in data for x, y in grid(item.size or (0, 0), tile, overlap)]
    return replace(data, items=items)


def _shift(x: int, y: int, sides: int) -> Array:
    """What is added to boxes (N, sides) to move them."""
    return np.array([x, y, x, y] if sides == 4 else [x, y, 0, 0, 0], np.float64)


def merge(tiles: Mapping[str, Detections], threshold: float = 0.1, limit: int = 2000) -> dict[str, Detections]:
    """Detections by scene from detections by tile: moved to the scene, then suppressed within each class.

    Of detections that overlap by IoU > ``threshold`` the best stays, and of every scene the ``limit`` best.
    """
    parts: dict[str, list[Detections]] = {}
    for id, found in tiles.items():
        scene, x, y = parse_tile_id(id)
        moved = found.boxes + _shift(x, y, found.boxes.shape[1])
        parts.setdefault(scene, []).append(replace(found, boxes=moved))
    out = {}
    for scene, of_scene in sorted(parts.items()):
        boxes = np.concatenate([p.boxes for p in of_scene])
        scores, labels = np.concatenate([p.scores for p in of_scene]), np.concatenate([p.labels for p in of_scene])
        groups = torch.from_numpy(labels)
        keep = rotated.nms(as_rotated(boxes), torch.from_numpy(scores), threshold, groups)[:limit].numpy()
        out[scene] = Detections(boxes[keep], scores[keep], labels[keep])
    return out
