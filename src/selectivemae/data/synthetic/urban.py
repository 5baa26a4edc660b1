"""Painters of built-up land: housing of three densities, parking, industry, storage tanks, sports ground."""

import numpy as np

from selectivemae.data.synthetic.canvas import DISC, RECTANGLE, Array, Canvas
from selectivemae.data.synthetic.parts import corners, flat_roofs, houses, open_ground, vehicles, wander
from selectivemae.data.synthetic.tables import (
    BACKGROUND,
    BARE,
    BUILDING,
    GRASS,
    PAVED,
    PITCH,
    ROAD,
    TANK,
)


def streets(c: Canvas, block: tuple[float, float], width: float) -> tuple[Array, Array]:
    """A grid of streets with blocks of the given sides; returns the streets' y and x positions."""
    rng, look = c.rng, c.look
    ys = np.arange(-c.reach + rng.uniform(0, block[1]), c.reach, block[1] + width)
    xs = np.arange(-c.reach + rng.uniform(0, block[0]), c.reach, block[0] + width)
    for grow, colour, land in ((3.0, look.concrete, PAVED), (0.0, look.asphalt, ROAD)):
        for y in ys:
            c.strip(np.array([(-c.reach, y), (c.reach, y)]), width + grow, colour, land)
        for x in xs:
            c.strip(np.array([(x, -c.reach), (x, c.reach)]), width + grow, colour, land)
    return ys, xs


def housing(c: Canvas, lot: float, house: tuple[float, float], depth: float, trees: float, jitter: float) -> None:
    """Rows of houses on both sides of streets: ``lot`` and ``depth`` of a plot, sides of a house, in metres;
    ``trees`` per plot; ``jitter`` is how freely houses stand on their plots, in metres and tenths of radians."""
    rng, look = c.rng, c.look
    open_ground(c)
    width = rng.uniform(5.5, 9)
    block = (lot * rng.integers(6, 11), depth * 2)
    ys, xs = streets(c, block, width)
    x = np.arange(-c.reach, c.reach, lot)
    x = x[(np.abs(x[:, None] - xs) > (width + house[0]) / 2 + 1).all(1)]
    y = np.concatenate([ys + side * (width / 2 + depth * 0.42) for side in (-1, 1)])
    xy = c.in_view(np.stack(np.meshgrid(x, y), -1).reshape(-1, 2), house[0])
    n = len(xy)
    keep = rng.uniform(size=n) > 0.06
    gardens = xy + np.stack([rng.normal(0, 0.2 * lot, n), rng.normal(0, 0.1 * depth, n)], 1)
    theta = rng.normal(0, 0.03 * jitter, n) + np.where(rng.uniform(size=n) < 0.25 * min(jitter, 1), np.pi / 2, 0)
    sides = np.array(house) * rng.uniform(0.85, 1.15, (n, 2))
    boxes = np.column_stack([xy + rng.normal(0, jitter, (n, 2)), sides, theta])[keep]
    if lot > 14:
        drive = np.column_stack([xy[:, 0] + house[0] * 0.45, xy[:, 1], np.full((n, 2), (3, depth * 0.6)), 0 * theta])
        c.shapes(drive[keep], RECTANGLE, look.concrete, PAVED)
        pools = gardens[rng.uniform(size=n) < 0.08]
        tubs = np.column_stack([pools, np.full((len(pools), 2), (8, 4)), rng.uniform(0, 3, len(pools))])
        c.shapes(tubs, RECTANGLE, np.array([84, 160, 176]), BACKGROUND)
    spots = gardens[rng.uniform(size=n) < trees] + rng.normal(0, 0.3 * depth, 2)
    c.trees(spots, 3.5, 8)
    houses(c, boxes)
    for y in ys:
        x = rng.uniform(-c.reach, c.reach, int(rng.integers(0, 7)))
        side = rng.choice([-1, 1], len(x)) * width * 0.36
        vehicles(c, c.in_view(np.stack([x, y + side, 0 * x], 1), 3), ROAD)


def sparse_housing(c: Canvas) -> None:
    """Large plots, many trees."""
    housing(c, c.rng.uniform(28, 42), (c.rng.uniform(13, 19), c.rng.uniform(9, 12)), c.rng.uniform(32, 45), 0.9, 3.0)


def medium_housing(c: Canvas) -> None:
    """Suburb: detached houses in rows."""
    housing(c, c.rng.uniform(16, 21), (c.rng.uniform(11, 14), c.rng.uniform(8.5, 11)), c.rng.uniform(20, 26), 0.6, 0.8)


def dense_housing(c: Canvas) -> None:
    """Terraces wall to wall, few trees."""
    housing(c, c.rng.uniform(8, 11), (c.rng.uniform(8, 10.5), c.rng.uniform(8, 11)), c.rng.uniform(12, 16), 0.1, 0.25)


def parking(c: Canvas) -> None:
    """Rows of bays with parked cars, aisles between, perhaps a large building beside."""
    rng, look = c.rng, c.look
    c.ground(look.asphalt, PAVED)
    bay, depth, aisle = rng.uniform(2.5, 2.9), 5.2, rng.uniform(6, 8)
    full = rng.uniform(0.35, 0.95)
    x = np.arange(-c.reach, c.reach, bay)
    white = np.full(3, 200.0)
    for y in np.arange(-c.reach, c.reach, 2 * depth + aisle):
        for row in (0, 1):
            middle = y + depth * (row + 0.5)
            lines = np.column_stack([x - bay / 2, np.full((len(x), 3), (middle, 0.16, depth)), 0 * x])
            c.shapes(c.in_view(lines, 3), RECTANGLE, white, PAVED)
            taken = x[rng.uniform(size=len(x)) < full]
            heading = np.where(rng.uniform(size=len(taken)) < 0.5, 1, -1) * np.pi / 2
            jitter = rng.normal(0, 0.15, (len(taken), 2))
            poses = np.column_stack([taken + jitter[:, 0], middle + 2 * jitter[:, 1], heading])
            vehicles(c, c.in_view(poses, 2), PAVED)
        if rng.uniform() < 0.4:
            spots = np.arange(-c.reach, c.reach, rng.uniform(9, 16))
            c.strip(np.array([(-c.reach, y), (c.reach, y)]), 1.6, look.grass, GRASS)
            c.trees(c.in_view(np.stack([spots, np.full_like(spots, y)], 1), 3), 3, 5)


def industrial(c: Canvas) -> None:
    """Long halls on paved yards, lorries, some spare ground."""
    rng, look = c.rng, c.look
    open_ground(c)
    block = (rng.uniform(90, 150), rng.uniform(70, 110))
    ys, xs = streets(c, block, rng.uniform(8, 12))
    halls, lorries = [], []
    for y in ys:
        for x in np.append(xs[:1] - block[0] - 10, xs):
            if rng.uniform() < 0.1:
                continue
            cx, cy = x + block[0] / 2 + 5, y + block[1] / 2 + 5
            yard = np.array([[cx, cy, block[0] * 0.94, block[1] * 0.92, 0]])
            c.shapes(yard, RECTANGLE, look.concrete * rng.uniform(0.75, 1.05), PAVED)
            parts = int(rng.integers(1, 4))
            step = block[0] * 0.9 / parts
            for i in range(parts):
                long = block[1] * rng.uniform(0.5, 0.82)
                halls.append((cx - block[0] * 0.45 + step * (i + 0.5), cy, step * rng.uniform(0.6, 0.88), long, 0.0))
            k = int(rng.integers(2, 7))
            lorries.append(
                np.stack([cx + np.linspace(-0.4, 0.4, k) * block[0], np.full(k, cy + block[1] * 0.45), np.zeros(k)], 1)
            )
    if halls:
        flat_roofs(c, c.in_view(np.array(halls), 60), rng.uniform(8, 13))
        vehicles(c, c.in_view(np.concatenate(lorries), 6), PAVED, 0.5)


def storage_tanks(c: Canvas) -> None:
    """Round tanks in rows inside bunds, pipes between."""
    rng, look = c.rng, c.look
    open_ground(c)
    diameter = rng.uniform(0.07, 0.19) * c.extent
    pitch = diameter * rng.uniform(1.35, 1.9)
    xs, ys = (np.arange(-c.reach + rng.uniform(0, pitch), c.reach, pitch) for _ in range(2))
    x, y = (g.ravel() for g in np.meshgrid(xs, ys))
    low = rng.uniform(-0.5, -0.1, 2) * c.extent
    high = rng.uniform(0.15, 0.5, 2) * c.extent
    inside = (x > low[0]) & (x < high[0]) & (y > low[1]) & (y < high[1]) & (rng.uniform(size=len(x)) > 0.12)
    x, y = x[inside], y[inside]
    pad = corners(low[0] - pitch / 2, low[1] - pitch / 2, high[0] + pitch / 2, high[1] + pitch / 2)
    c.polygons(pad[None], look.concrete, PAVED)
    n = len(x)
    bund = np.stack([x, y, np.full(n, pitch * 0.96), np.full(n, pitch * 0.96), 0 * x], 1)
    c.shapes(bund, RECTANGLE, look.bare * 1.08, BARE)
    c.shapes(bund * (1, 1, 0.93, 0.93, 1), RECTANGLE, look.bare * 0.88, BARE)
    for row in ys[(ys > low[1]) & (ys < high[1])]:
        c.strip(np.array([(low[0], row), (high[0], row)]), pitch * 0.03, look.metal[0], PAVED)
    d = diameter * (rng.choice([1.0, 0.55], n, p=[0.75, 0.25]) if rng.uniform() < 0.5 else rng.uniform(0.9, 1, n))
    boxes = np.stack([x, y, d, d, 0 * x], 1)
    tone = c.vary(look.metal[:3], n, 7)
    tags = c.shapes(boxes, DISC, tone * 0.8, BUILDING, d * rng.uniform(0.25, 0.5), TANK)
    c.shapes(boxes * (1, 1, 0.93, 0.93, 1), DISC, tone, BUILDING, tags=tags)
    if rng.uniform() < 0.5:  # floating roof: its inside lies in the shade of the wall
        inner = boxes * (1, 1, 0.86, 0.86, 1)
        c.shapes(inner, DISC, tone * 0.62, BUILDING, tags=tags)
        inner[:, :2] += np.outer(d * 0.05, (np.cos(look.sun - c.angle), np.sin(look.sun - c.angle)))
        c.shapes(inner * (1, 1, 0.92, 0.92, 1), DISC, tone * 0.92, BUILDING, tags=tags)


def sports_ground(c: Canvas) -> None:
    """A pitch with a running track or stands, courts beside it."""
    rng, look = c.rng, c.look
    open_ground(c)
    centre = rng.uniform(-0.1, 0.1, 2) * c.extent
    length, width = rng.uniform(88, 108), rng.uniform(54, 70)
    scale = min(1.0, 0.75 * c.extent / length)
    length, width = length * scale, width * scale
    track = rng.uniform() < 0.65
    if track:
        red = np.array([152, 84, 66]) if rng.uniform() < 0.6 else look.asphalt
        for grow, tone, land in ((14 * scale, red, PAVED), (0, look.grass, GRASS)):
            oval = _oval(length * 0.82, width + 8 * scale, grow)
            c.polygons((centre + oval)[None], tone, land)
        for lane in range(1, 5):
            ring = _oval(length * 0.82, width + 8 * scale, lane * 2.8 * scale)
            c.strip(centre + np.concatenate([ring, ring[:1]]), 0.35, red * 1.3, PAVED)
    pitch = np.array([[*centre, length, width, 0.0]])
    tags = c.shapes(pitch, RECTANGLE, look.grass * 0.92, GRASS, kind=PITCH)
    bands = int(rng.integers(8, 15))
    for i in range(0, bands, 2):
        x = centre[0] + length * ((i + 0.5) / bands - 0.5)
        c.shapes(np.array([[x, centre[1], length / bands, width, 0]]), RECTANGLE, look.grass * 1.08, GRASS, tags=tags)
    _pitch_lines(c, centre, length, width, tags)
    if rng.uniform() < (0.4 if track else 0.8):
        for sign in (-1, 1)[: int(rng.integers(1, 3))]:
            away = width / 2 + (30 if track else 14) * scale
            stand = np.array([[centre[0], centre[1] + sign * away, length * 0.8, 14 * scale, 0]])
            flat_roofs(c, stand, 14)
    courts = int(rng.integers(0, 5))
    x = centre[0] + (np.arange(courts) - courts / 2) * 21
    y = centre[1] + width / 2 + 62 * scale
    boxes = np.stack([x, np.full(courts, y), np.full(courts, 16.0), np.full(courts, 32.0), 0 * x], 1)
    tone = np.array([(64, 104, 118), (130, 78, 62), (70, 108, 76)])[rng.integers(3)]
    c.shapes(boxes, RECTANGLE, tone, PAVED)
    c.shapes(boxes * (1, 1, 0.6, 0.72, 1), RECTANGLE, tone * 1.35, PAVED)
    c.shapes(boxes * (1, 1, 0.54, 0.68, 1), RECTANGLE, tone * 1.1, PAVED)
    if rng.uniform() < 0.6:
        c.strip(wander(c, 0.01 * c.extent) - np.array([0, width + 20]), rng.uniform(6, 9), look.asphalt, ROAD)
    n = int(rng.integers(5, 25))
    rim = rng.uniform(-c.reach, c.reach, (n, 2))
    c.trees(rim[np.abs(rim - centre).max(1) > 0.62 * length], 4, 9)


def _pitch_lines(c: Canvas, centre: Array, length: float, width: float, tags: list[int]) -> None:
    """Outline, half-way line, circle and penalty areas, in white."""
    white, thick = np.full(3, 225.0), 0.55
    half = np.array([length / 2, width / 2])
    frames = [(-half[0], -half[1], half[0], half[1])]
    frames += [(s * half[0], -0.3 * width, s * (half[0] - 0.16 * length), 0.3 * width) for s in (-1, 1)]
    for x0, y0, x1, y1 in frames:
        bars = [(x0, (y0 + y1) / 2, thick, abs(y1 - y0)), (x1, (y0 + y1) / 2, thick, abs(y1 - y0))]
        bars += [((x0 + x1) / 2, y0, abs(x1 - x0), thick), ((x0 + x1) / 2, y1, abs(x1 - x0), thick)]
        boxes = np.array([(centre[0] + x, centre[1] + y, w, h, 0.0) for x, y, w, h in bars])
        c.shapes(boxes, RECTANGLE, white, GRASS, tags=tags * 4)
    c.shapes(np.array([[*centre, thick, width, 0.0]]), RECTANGLE, white, GRASS, tags=tags)
    for d, tone in ((18.8, white), (17.8, c.look.grass)):
        c.shapes(np.array([[*centre, d / 68 * width, d / 68 * width, 0.0]]), DISC, tone, GRASS, tags=tags)


def _oval(length: float, width: float, grow: float) -> Array:
    """Outline (40, 2) of a stadium shape: a rectangle with half-discs at both ends, ``grow`` metres larger."""
    t = np.linspace(-np.pi / 2, np.pi / 2, 20)
    r = width / 2 + grow
    cap = np.stack([r * np.cos(t) + length / 2, r * np.sin(t)], 1)
    return np.concatenate([cap, -cap])


PAINTERS = {
    "sparse-housing": (sparse_housing, (130.0, 240.0)),
    "medium-housing": (medium_housing, (100.0, 190.0)),
    "dense-housing": (dense_housing, (75.0, 130.0)),
    "parking": (parking, (45.0, 90.0)),
    "industrial": (industrial, (180.0, 400.0)),
    "storage-tanks": (storage_tanks, (120.0, 400.0)),
    "sports-ground": (sports_ground, (130.0, 280.0)),
}
"""Name of each class: its painter and the range of metres that an image shows."""
