"""The sheet that scenes are drawn on: shapes in metres, shadows, land cover, boxes; then light and sensor.

Three layers of Pillow images lie over each other at twice the final resolution: colour, shadow, and a tag of
32 bits (land cover in the low byte, number of the object above it). Texture is added afterwards per land cover,
so that drawing stays a matter of flat polygons, which Pillow fills quickly.

Coordinates: metres from the centre of the image in the scene's own axes, which ``angle`` turns clockwise on screen.
Letters: N shapes, K corners.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from selectivemae.data.synthetic.look import Look
from selectivemae.data.synthetic.tables import BARE, BUILDING, FIELD, GRASS, LAND, PAVED, ROAD, TREES, WATER
from selectivemae.data.synthetic.texture import cloudy_noise, crowns

Array = NDArray[np.float64]
SUPERSAMPLE = 2
_OUTLINE = 0.65  # pixels of the large sheet by which Pillow's polygons come out wider than they are, on average

# Strength of each texture per land cover: grain (pixels), clouds (patches of many sizes), crowns (canopy).
_TEXTURE: dict[int, tuple[float, float, float]] = {
    GRASS: (0.05, 0.09, 0.03),
    FIELD: (0.035, 0.05, 0.0),
    TREES: (0.05, 0.07, 0.26),
    WATER: (0.018, 0.05, 0.0),
    ROAD: (0.025, 0.035, 0.0),
    BUILDING: (0.03, 0.03, 0.0),
    BARE: (0.05, 0.1, 0.0),
    PAVED: (0.03, 0.05, 0.0),
}


class Canvas:
    """A square sheet of ``size`` pixels that shows ``extent`` metres a side."""

    def __init__(self, size: int, extent: float, look: Look, rng: np.random.Generator) -> None:
        self.size, self.extent, self.look, self.rng = size, extent, look, rng
        self.angle = float(rng.uniform(0, 2 * np.pi))
        self.reach = extent * 0.72  # half the side of a square that covers the image at any angle
        self.crown = float(rng.uniform(6, 11))  # metres across a tree
        self.texture = np.zeros((len(LAND), 3), np.float32)
        for land, strengths in _TEXTURE.items():
            self.texture[land] = strengths
        self.relief = np.zeros((size, size), np.float32)  # added to the light: rows of crops, dunes, waves
        self.boxes: list[Array] = []  # (N, 6): cx, cy, w, h (metres), theta, kind
        self._count = 0
        side = size * SUPERSAMPLE
        self._scale = side / extent
        self._colour, self._shade, self._tag = (Image.new(mode, (side, side)) for mode in ("RGB", "L", "I"))
        self._layers = tuple(ImageDraw.Draw(layer) for layer in (self._colour, self._shade, self._tag))

    # What is drawn

    def ground(self, colour: NDArray, land: int) -> None:
        """Cover everything."""
        side = self.size * SUPERSAMPLE
        self._colour.paste(_rgb(colour), (0, 0, side, side))
        self._tag.paste(land, (0, 0, side, side))

    def polygons(
        self,
        points: Array,
        colours: NDArray,
        land: int,
        height: float | NDArray = 0.0,
        tags: Sequence[int] | None = None,
    ) -> None:
        """Fill polygons (N, K, 2) with colours (3,) or (N, 3); those with a height in metres throw shadows.

        Shadows of the whole group fall before it is filled, so that it is free of its own. They are exact for
        convex outlines.
        """
        points = np.asarray(points, np.float64)
        pixels = self._pixels(points)
        fills = _rgb_list(colours, len(points))
        values = [land] * len(points) if tags is None else [tag | land for tag in tags]
        flat = pixels.reshape(len(points), -1).tolist()
        colour, shade, tag = self._layers
        if np.any(height):
            length = np.broadcast_to(height, len(points))[:, None] * self.look.shadow * self._scale
            shift = length * np.array([np.cos(self.look.sun), np.sin(self.look.sun)])
            for outline in swept(pixels, shift).reshape(len(points), -1).tolist():
                shade.polygon(outline, 255)
        for outline, fill, value in zip(flat, fills, values, strict=True):
            colour.polygon(outline, fill)
            tag.polygon(outline, value)
            shade.polygon(outline, 0)

    def shapes(
        self,
        boxes: Array,
        template: Array,
        colours: NDArray,
        land: int,
        height: float | NDArray = 0.0,
        kind: int | None = None,
        tags: Sequence[int] | None = None,
    ) -> list[int]:
        """Place a template (K, 2), which fills the square -0.5..0.5, into oriented boxes (N, 5).

        With ``kind`` each becomes an object of ``OBJECTS``, whose box is exactly the given one; the tags that come
        back let further parts be drawn as belonging to it.
        """
        boxes = np.asarray(boxes, np.float64).reshape(-1, 5)
        if kind is not None:
            self.boxes.append(np.column_stack([boxes, np.full(len(boxes), kind)]))
            tags = [(self._count + i + 1) << 8 for i in range(len(boxes))]
            self._count += len(boxes)
        if len(boxes):
            inner = boxes.copy()  # Pillow fills the outline too, which would make every shape larger
            inner[:, 2:4] = np.maximum(inner[:, 2:4] - _OUTLINE / self._scale, 0)
            self.polygons(placed(template, inner), colours, land, height, tags)
        return list(tags or [])

    def strip(self, line: Array, width: float | Array, colour: NDArray, land: int) -> None:
        """A band of ``width`` metres along a line (K, 2)."""
        self.polygons(band(line, width)[None], colour, land)

    def marks(self, line: Array, width: float, dash: float, gap: float, colour: NDArray, land: int) -> None:
        """Dashed paint along a line (K, 2), all in metres; ``gap`` 0 makes it solid."""
        if gap == 0:
            self.strip(line, width, colour, land)
            return
        poses = along(line, dash + gap)
        boxes = np.column_stack([poses[:, :2], np.full((len(poses), 2), (dash, width)), poses[:, 2]])
        self.shapes(boxes, RECTANGLE, colour, land)

    def trees(self, xy: Array, low: float, high: float) -> None:
        """Single trees (N, 2), ``low`` to ``high`` metres across: round crowns with a lit side and a shadow."""
        if not len(xy):
            return
        diameter = self.rng.uniform(low, high, len(xy))
        colours = self.vary(self.look.tree, len(xy), 9)
        boxes = np.column_stack([xy, diameter, diameter, self.rng.uniform(0, 6.3, len(xy))])
        self.shapes(boxes, CROWN, colours * 0.82, TREES, diameter * 0.5)
        lit = self.look.sun - self.angle
        boxes[:, :2] -= np.outer(diameter * 0.12, (np.cos(lit), np.sin(lit)))
        boxes[:, 2:4] *= 0.6
        self.shapes(boxes, CROWN, colours * 1.18, TREES)

    def rows(self, polygon: Array, angle: float, period: float, strength: float) -> None:
        """Parallel furrows in a polygon (K, 2): light that waves along ``angle`` with a period in metres."""
        pixels = self._pixels(polygon) / SUPERSAMPLE
        low = np.clip(np.floor(pixels.min(0)), 0, self.size).astype(int)
        high = np.clip(np.ceil(pixels.max(0)) + 1, 0, self.size).astype(int)
        period = period / self.extent * self.size
        strength *= float(np.clip((period - 1.6) / 1.4, 0, 1))  # rows too fine for the pixels fade out, no moiré
        if (high <= low).any() or strength == 0:
            return
        stencil = Image.new("L", (high[0] - low[0], high[1] - low[1]))
        ImageDraw.Draw(stencil).polygon((pixels - low).ravel().tolist(), 1)
        wave = 2 * np.pi / period * np.array([np.cos(angle + self.angle), np.sin(angle + self.angle)], np.float32)
        x = np.arange(low[0], high[0], dtype=np.float32) * wave[0]
        y = np.arange(low[1], high[1], dtype=np.float32)[:, None] * wave[1]
        field = np.sin(x + y) * np.float32(strength) * np.asarray(stencil)
        self.relief[low[1] : high[1], low[0] : high[0]] += field

    def vary(self, colour: NDArray, n: int, spread: float) -> NDArray:
        """n colours (n, 3) around one (3,), or each near one of several (K, 3)."""
        base = np.atleast_2d(colour)
        chosen = base[self.rng.integers(len(base), size=n)]
        return chosen + self.rng.normal(0, spread, (n, 1)) + self.rng.normal(0, spread / 3, (n, 3))

    def in_view(self, rows: Array, margin: float) -> Array:
        """Those rows (N, 2 or more) whose first two numbers lie in the image or within ``margin`` metres of it."""
        c, s = np.cos(self.angle), np.sin(self.angle)
        away = np.abs(rows[:, :2] @ np.array([[c, s], [-s, c]])).max(1, initial=0)
        return rows[away < self.extent / 2 + margin]

    # What comes out

    def develop(self, rng: np.random.Generator) -> NDArray[np.uint8]:
        """The image (size, size, 3): texture, shadows, haze, colour balance, blur and noise over what was drawn."""
        look, size = self.look, self.size
        land = self.tags() & 0xFF
        gain = self.texture[land]
        light = self.relief + 1
        light += gain[..., 0] * rng.standard_normal((size, size), dtype=np.float32)
        light += gain[..., 1] * cloudy_noise(rng, size, int(rng.integers(3, 7)), 6, 0.74)
        if gain[..., 2].any():
            light += gain[..., 2] * crowns(rng, size, self.crown / self.extent * size, look.sun)
        shade = np.asarray(self._shade.reduce(SUPERSAMPLE), np.float32)
        light *= 1 - shade * np.float32(look.darkness / 255)
        image = np.asarray(self._colour.reduce(SUPERSAMPLE), np.float32) * np.maximum(light, 0.08)[..., None]
        image = balanced(image, look)
        if look.blur:
            soft = Image.fromarray(np.clip(image, 0, 255).astype(np.uint8)).filter(ImageFilter.GaussianBlur(look.blur))
            image = np.asarray(soft, np.float32)
        image = image + np.float32(look.noise) * rng.standard_normal((size, size, 3), dtype=np.float32)
        return np.clip(image, 0, 255).astype(np.uint8)

    def tags(self) -> NDArray[np.int32]:
        """Tag of each pixel (size, size): ``LAND`` index in the low byte, object number (from 1) above it."""
        return np.asarray(self._tag)[SUPERSAMPLE // 2 :: SUPERSAMPLE, SUPERSAMPLE // 2 :: SUPERSAMPLE]

    def objects(self) -> tuple[Array, NDArray[np.int64]]:
        """Oriented boxes (N, 5) in pixels, in image axes and le90, and their kinds (N,), in the order drawn."""
        found = np.concatenate(self.boxes) if self.boxes else np.zeros((0, 6))
        centre = self._pixels(found[:, :2]) / SUPERSAMPLE
        sides = found[:, 2:4] * (self.size / self.extent)
        return le90(np.column_stack([centre, sides, found[:, 4] + self.angle])), found[:, 5].astype(np.int64)

    def _pixels(self, points: Array) -> Array:
        """Metres (..., 2) -> pixels of the large sheet from its corner.

        Pillow cuts corners to whole numbers and takes those for pixel centres: on average the two half pixels cancel.
        """
        c, s = np.cos(self.angle) * self._scale, np.sin(self.angle) * self._scale
        turned = points @ np.array([[c, s], [-s, c]])
        return turned + self.size * SUPERSAMPLE / 2


def placed(template: Array, boxes: Array) -> Array:
    """Corners (N, K, 2) of a unit template (K, 2) laid into oriented boxes (N, 5)."""
    c, s = np.cos(boxes[:, 4]), np.sin(boxes[:, 4])
    local = template[None] * boxes[:, None, 2:4]
    x = local[..., 0] * c[:, None] - local[..., 1] * s[:, None] + boxes[:, None, 0]
    y = local[..., 0] * s[:, None] + local[..., 1] * c[:, None] + boxes[:, None, 1]
    return np.stack([x, y], -1)


def swept(points: Array, shift: Array) -> Array:
    """Outlines (N, 2K, 2) of what convex polygons (N, K, 2) cover while they move by ``shift`` (N, 2).

    Edges that face the movement go along, the others stay; a corner between the two kinds is doubled.
    """
    edge = np.roll(points, -1, 1) - points
    turn = np.sign(
        np.sum(points[..., 0] * np.roll(points[..., 1], -1, 1) - np.roll(points[..., 0], -1, 1) * points[..., 1], 1)
    )
    outward = (edge[..., 1] * shift[:, None, 0] - edge[..., 0] * shift[:, None, 1]) * turn[:, None]
    moves = (outward > 0)[..., None] * shift[:, None]
    pair = np.stack([points + np.roll(moves, 1, 1), points + moves], 2)
    return pair.reshape(len(points), -1, 2)


def band(line: Array, width: float | Array) -> Array:
    """Outline (2K, 2) of a band along a line (K, 2), ``width`` a number or (K,)."""
    tangent = np.gradient(line, axis=0)
    normal = np.stack([-tangent[:, 1], tangent[:, 0]], 1) / np.maximum(np.linalg.norm(tangent, axis=1), 1e-9)[:, None]
    offset = normal * (np.broadcast_to(width, len(line)) / 2)[:, None]
    return np.concatenate([line + offset, (line - offset)[::-1]])


def along(line: Array, spacing: float, offset: float = 0.0, start: float = 0.0) -> Array:
    """Poses (N, 3) x, y, direction at equal spacing along a line (K, 2), ``offset`` metres to its right on screen."""
    step = np.diff(line, axis=0)
    length = np.concatenate([[0], np.cumsum(np.linalg.norm(step, axis=1))])
    at = np.arange(start, length[-1], spacing)
    x, y = np.interp(at, length, line[:, 0]), np.interp(at, length, line[:, 1])
    piece = np.clip(np.searchsorted(length, at, "right") - 1, 0, len(step) - 1)
    theta = np.arctan2(step[piece, 1], step[piece, 0])
    return np.stack([x - offset * np.sin(theta), y + offset * np.cos(theta), theta], 1)


def le90(boxes: Array) -> Array:
    """Oriented boxes (N, 5) with the long side first and the angle in [-pi/2, pi/2)."""
    swap = ~(boxes[:, 2] > boxes[:, 3])
    w, h = np.where(swap, boxes[:, 3], boxes[:, 2]), np.where(swap, boxes[:, 2], boxes[:, 3])
    theta = boxes[:, 4] + np.where(swap, np.pi / 2, 0)
    return np.column_stack([boxes[:, :2], w, h, np.mod(theta + np.pi / 2, np.pi) - np.pi / 2])


def hulls(boxes: Array) -> Array:
    """Upright boxes (N, 4) x0, y0, x1, y1 around oriented ones (N, 5)."""
    c, s = np.abs(np.cos(boxes[:, 4])), np.abs(np.sin(boxes[:, 4]))
    half = np.stack([boxes[:, 2] * c + boxes[:, 3] * s, boxes[:, 2] * s + boxes[:, 3] * c], 1) / 2
    return np.concatenate([boxes[:, :2] - half, boxes[:, :2] + half], 1)


def balanced(image: NDArray[np.float32], look: Look) -> NDArray[np.float32]:
    """Image (H, W, 3) pulled towards the look's mean colour and contrast, with haze: what archives do to a product.

    Brightness and contrast go most of the way and a cast is added; hue stays and is never made stronger. Enough that
    colour alone does not name the class.
    """
    grey = image @ np.full(3, 1 / 3, np.float32)
    level, wanted = float(grey.mean()), float(look.balance.mean())
    spread = float(grey.std())
    gain = float(np.clip((look.contrast / max(spread, 1.0)) ** 0.7, 0.55, 1.5)) * (1 - look.haze)
    target = level + 0.8 * (wanted - level) + (look.balance - wanted)
    air = (190 * look.haze + target * (1 - look.haze)).astype(np.float32)
    tone = grey * np.float32(gain - min(gain, 1)) - np.float32(gain * level)
    return np.asarray(image * np.float32(min(gain, 1)) + tone[..., None] + air, np.float32)


def _rgb(colour: NDArray) -> tuple[int, int, int]:
    r, g, b = (int(min(max(v, 0), 255)) for v in colour)
    return r, g, b


def _rgb_list(colours: NDArray, n: int) -> list[tuple[int, int, int]]:
    bytes_ = np.clip(np.broadcast_to(colours, (n, 3)), 0, 255).astype(int)
    return [(r, g, b) for r, g, b in bytes_.tolist()]


def _round(k: int, wobble: float) -> Array:
    t = np.arange(k) * 2 * np.pi / k
    points = np.stack([np.cos(t), np.sin(t)], 1) * (1 + wobble * np.cos(3 * t + 1))[:, None]
    return _unit(points)


def _unit(points: Array) -> Array:
    """Scale a template to fill the square -0.5..0.5."""
    low, high = points.min(0), points.max(0)
    return (points - (low + high) / 2) / (high - low)


def _mirrored(upper: list[tuple[float, float]]) -> Array:
    """Template symmetric about the x axis from its upper half, front to back."""
    return _unit(np.array(upper + [(x, -y) for x, y in reversed(upper)]))


RECTANGLE = np.array([(0.5, 0.5), (0.5, -0.5), (-0.5, -0.5), (-0.5, 0.5)])
DISC = _round(20, 0.0)
CROWN = _round(9, 0.12)
HULL = _mirrored([(5.0, 0.0), (3.6, 0.75), (1.8, 1.0), (-4.4, 1.0), (-5.0, 0.8)])
AEROPLANE = _mirrored(
    [
        (10, 0),
        (9, 0.7),
        (7.5, 1),
        (3.2, 1),
        (-1.8, 9),
        (-3.2, 9),
        (-1.2, 1),
        (-6, 0.9),
        (-8.4, 3.4),
        (-9.4, 3.4),
        (-8.6, 0.4),
        (-9.6, 0.2),
    ]
)
