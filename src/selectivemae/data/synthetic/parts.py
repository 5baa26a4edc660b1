"""Things that several painters use: ground, wandering lines, vehicles, houses, halls."""

import numpy as np

from selectivemae.data.synthetic.canvas import RECTANGLE, Array, Canvas
from selectivemae.data.synthetic.tables import BARE, BUILDING, CAR, GRASS, HOUSE, TREES, TRUCK
from selectivemae.data.synthetic.texture import fractal_line


def open_ground(c: Canvas) -> None:
    """Grass or bare soil with a few patches of other cover: the ground that most scenes stand on."""
    rng, look = c.rng, c.look
    grassy = rng.uniform() < 0.6
    c.ground(look.grass if grassy else look.bare, GRASS if grassy else BARE)
    for _ in range(int(rng.integers(0, 4))):
        centre, radius = rng.uniform(-c.reach, c.reach, 2), rng.uniform(0.1, 0.3) * c.extent
        if rng.uniform() < 0.4:
            patch(c, centre, radius, look.tree, TREES, 4.0)
        else:
            patch(c, centre, radius, look.bare if grassy else look.grass, BARE if grassy else GRASS)


def patch(c: Canvas, centre: Array, radius: float, colour: np.ndarray, land: int, height: float = 0.0) -> None:
    """An irregular patch of one cover around a centre, in metres."""
    t = np.linspace(0, 2 * np.pi, 48, endpoint=False)
    r = radius * np.ones_like(t)
    for k in range(2, 9):
        r += radius * c.rng.normal(0, 0.5) / k * np.cos(k * t + c.rng.uniform(0, 6.3))
    r = np.maximum(r, 0.2 * radius)
    outline = np.stack([centre[0] + r * np.cos(t), centre[1] + r * np.sin(t)], 1)
    c.polygons(outline[None], colour, land, height)


def wander(c: Canvas, bend: float, roughness: float = 1.6) -> Array:
    """A line (64, 2) across the sheet along the scene's x axis that strays by about ``bend`` metres."""
    x = np.linspace(-c.reach * 1.15, c.reach * 1.15, 64)
    return np.stack([x, bend * fractal_line(c.rng, 64, roughness) + c.rng.uniform(-0.12, 0.12) * c.extent], 1)


def corners(x0: float, y0: float, x1: float, y1: float) -> Array:
    """Corners (4, 2) of an upright rectangle."""
    return np.array([(x0, y0), (x1, y0), (x1, y1), (x0, y1)])


def vehicles(c: Canvas, poses: Array, land: int, trucks: float = 0.0) -> None:
    """Cars and lorries at poses (N, 3) x, y, direction; ``trucks`` is the lorries' share."""
    if not len(poses):
        return
    heavy = c.rng.uniform(size=len(poses)) < trucks
    for group, kind, length, width in ((poses[~heavy], CAR, 4.6, 1.95), (poses[heavy], TRUCK, 11.5, 2.7)):
        n = len(group)
        sides = np.array([length, width]) * c.rng.uniform(0.9, 1.12, (n, 2))
        boxes = np.column_stack([group[:, :2], sides, group[:, 2]])
        paint = c.vary(c.look.paint, n, 6)
        tags = c.shapes(boxes, RECTANGLE, paint, land, 1.5 if kind == CAR else 3.2, kind)
        glass = boxes.copy()
        glass[:, 2:4] *= (0.5, 0.84) if kind == CAR else (0.06, 0.9)
        glass[:, :2] += (
            np.stack([np.cos(group[:, 2]), np.sin(group[:, 2])], 1) * sides[:, :1] * (0.0 if kind == CAR else 0.3)
        )
        c.shapes(glass, RECTANGLE, paint * 0.62, land, tags=tags)
        if kind == CAR:
            glass[:, 2] *= 0.6
            c.shapes(glass, RECTANGLE, paint * 0.98, land, tags=tags)


def houses(c: Canvas, boxes: Array, height: float = 6.0) -> None:
    """Buildings (N, 5) with gable roofs, whose two sides take the sun differently, or flat ones with a parapet."""
    n = len(boxes)
    if not n:
        return
    colours = c.vary(c.look.roofs, n, 8)
    tags = c.shapes(boxes, RECTANGLE, colours, BUILDING, height * c.rng.uniform(0.8, 1.2, n), HOUSE)
    side = np.stack([-np.sin(boxes[:, 4]), np.cos(boxes[:, 4])], 1)
    lit = np.cos(boxes[:, 4] + np.pi / 2 + c.angle - c.look.sun)  # > 0: the side along +h lies away from the sun
    for sign in (-1, 1):
        half = boxes.copy()
        half[:, :2] += side * boxes[:, 3:4] * (0.25 * sign)
        half[:, 3] *= 0.5
        c.shapes(half, RECTANGLE, colours * (1 - 0.24 * sign * lit)[:, None], BUILDING, tags=tags)
    ridge = boxes.copy()
    ridge[:, 3] = np.minimum(0.5, 0.05 * boxes[:, 3])
    c.shapes(ridge, RECTANGLE, colours * 1.15, BUILDING, tags=tags)


def flat_roofs(c: Canvas, boxes: Array, height: float) -> None:
    """Large flat or corrugated roofs (N, 5) with a parapet, machines and skylights."""
    rng = c.rng
    n = len(boxes)
    colours = c.vary(c.look.metal, n, 8)
    tags = c.shapes(boxes, RECTANGLE, colours * 0.8, BUILDING, height * rng.uniform(0.7, 1.4, n), HOUSE)
    inner = boxes.copy()
    inner[:, 2:4] -= 1.6
    c.shapes(inner, RECTANGLE, colours, BUILDING, tags=tags)
    for box, colour, tag in zip(boxes, colours, tags, strict=True):
        k = int(rng.integers(2, 7))
        u = (
            rng.uniform(-0.4, 0.4, (k, 2))
            if rng.uniform() < 0.5
            else np.stack([np.linspace(-0.4, 0.4, k), np.zeros(k)], 1)
        )
        cs, sn = np.cos(box[4]), np.sin(box[4])
        local = u * box[2:4]
        xy = box[:2] + local @ np.array([[cs, sn], [-sn, cs]])
        size = np.full((k, 2), rng.uniform(0.03, 0.06) * box[2:4].min() * np.array([1.0, rng.choice([1.0, 8.0])]))
        things = np.column_stack([xy, size, np.full(k, box[4])])
        c.shapes(things, RECTANGLE, colour * rng.choice([0.6, 0.75, 1.2]), BUILDING, tags=[tag] * k)
