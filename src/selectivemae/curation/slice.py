"""Windows of large scenes, in pixel space (curation.md, section 4). No padding, no resampling, nothing left out."""

import hashlib
from typing import Literal, NamedTuple

import numpy as np
from pydantic import Field, field_validator, model_validator

from selectivemae.core.config import Settings
from selectivemae.core.order import mix, uniform


class Window(NamedTuple):
    """A rectangle of a scene in pixels: left, top, width, height."""

    x: int
    y: int
    w: int
    h: int


class SliceRules(Settings):
    """How scenes are cut.

    Scenes with both sides up to ``keep_whole`` stay whole. ``grid`` lays squares of ``tile`` pixels with ``overlap``;
    given several ``sizes``, one grid of each (windows are not resampled). ``random`` draws ``sizes`` by ``weights`` at
    random places, as many as cover the scene's area once.

    Before it is cut, a scene is scaled down, never up: to ``target_gsd`` metres a pixel (by areas, where its ground
    sampling distance is known), then to ``max_side`` pixels on the long side (Lanczos).
    """

    mode: Literal["grid", "random"] = "grid"
    tile: int = Field(default=512, ge=32)
    overlap: int = Field(default=0, ge=0)
    keep_whole: int = Field(default=1024, ge=0)
    sizes: tuple[int, ...] = ()
    weights: tuple[float, ...] = ()
    seed: int = 0
    max_side: int | None = Field(default=None, ge=32)
    target_gsd: float | None = Field(default=None, gt=0)

    @field_validator("sizes")
    @classmethod
    def _sizes_fit(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if any(size < 32 for size in value):
            raise ValueError("must be at least 32 pixels each")
        return value

    @model_validator(mode="after")
    def _fit_together(self) -> "SliceRules":
        if self.overlap >= min(self.sizes or (self.tile,)):
            raise ValueError("overlap must be smaller than the tile")
        if self.weights and len(self.weights) != len(self.sizes):
            raise ValueError("weights must be as many as sizes")
        if any(weight < 0 for weight in self.weights) or (self.weights and not sum(self.weights)):
            raise ValueError("weights must not be negative, and not all 0")
        return self


def whole(width: int, height: int, rules: SliceRules) -> bool:
    """Whether a scene stays in one piece."""
    return max(width, height) <= rules.keep_whole


def windows(width: int, height: int, rules: SliceRules, scene: str) -> list[Window]:
    """The windows of a scene, sorted by size, then row by row; ``scene`` names it and keys random draws."""
    if whole(width, height, rules):
        return [Window(0, 0, width, height)]
    if rules.mode == "random":
        return _random(width, height, rules, scene)
    out: list[Window] = []
    for size in sorted(set(rules.sizes or (rules.tile,))):
        rows = axis(height, size, rules.overlap)
        columns = axis(width, size, rules.overlap)
        out += [Window(x, y, min(size, width), min(size, height)) for y in rows for x in columns]
    return out


def axis(length: int, tile: int, overlap: int) -> list[int]:
    """Starts of tiles along an axis of ``length`` pixels.

    A leftover of at most a tenth of a tile is ignored; otherwise one tile more is laid and all are spread evenly, so
    that every pixel is covered and the overlap is shared.
    """
    if length <= tile:
        return [0]
    step = tile - overlap
    full, leftover = divmod(length - tile, step)
    if leftover <= tile / 10:
        return [i * step for i in range(full + 1)]
    gaps = full + 1
    return [(2 * i * (length - tile) + gaps) // (2 * gaps) for i in range(gaps + 1)]


def _random(width: int, height: int, rules: SliceRules, scene: str) -> list[Window]:
    sizes = np.array(rules.sizes or (64, 128, 256, 512, 1024))
    weights = np.array(rules.weights or (1.0,) * len(sizes))
    inside = sizes <= min(width, height)
    if not inside.any():
        side = min(width, height)
        return [Window((width - side) // 2, (height - side) // 2, side, side)]
    sizes, weights = sizes[inside], weights[inside]
    if not weights.sum():
        weights = np.ones(len(sizes))
    shares = np.cumsum(weights / weights.sum())
    count = max(1, int(width * height / ((sizes**2) @ (weights / weights.sum()))))
    seed = int.from_bytes(hashlib.blake2b(scene.encode("utf-8", "surrogateescape"), digest_size=8).digest(), "little")
    keys = mix(rules.seed, seed, np.arange(count))
    side = sizes[np.minimum(np.searchsorted(shares, uniform(keys, 0), side="right"), len(sizes) - 1)]
    x = (uniform(keys, 1) * (width - side + 1)).astype(np.int64)
    y = (uniform(keys, 2) * (height - side + 1)).astype(np.int64)
    drawn = {Window(*(int(v) for v in row)) for row in zip(x, y, side, side, strict=True)}
    return sorted(drawn, key=lambda window: (window.w, window.y, window.x))
