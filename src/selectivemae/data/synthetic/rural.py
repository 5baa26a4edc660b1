"""Painters of open country: fields, orchard, forest, river, dunes, quarry, solar farm."""

import numpy as np

from selectivemae.data.synthetic.canvas import DISC, RECTANGLE, Array, Canvas, along, band, placed
from selectivemae.data.synthetic.parts import corners, open_ground, patch, wander
from selectivemae.data.synthetic.tables import (
    BACKGROUND,
    BARE,
    BUILDING,
    FIELD,
    GRASS,
    HOUSE,
    PAVED,
    ROAD,
    TREES,
    WATER,
)
from selectivemae.data.synthetic.texture import fractal_line


def parcels(c: Canvas, smallest: float) -> list[Array]:
    """Rectangles (x0, y0, x1, y1) that part the sheet, split in turn until about ``smallest`` metres wide."""
    todo, done = [np.array([-c.reach, -c.reach, c.reach, c.reach])], []
    while todo:
        box = todo.pop()
        sides = box[2:] - box[:2]
        axis = int(np.argmax(sides * c.rng.uniform(0.7, 1.4, 2)))
        if sides[axis] < smallest * c.rng.uniform(1.6, 3.0):
            done.append(box)
            continue
        cut = box[axis] + sides[axis] * c.rng.uniform(0.3, 0.7)
        first, second = box.copy(), box.copy()
        first[axis + 2] = second[axis] = cut
        todo += [first, second]
    return done


def crop_fields(c: Canvas) -> None:
    """Parcels of different crops with furrows, hedges and tracks; sometimes round pivots."""
    rng, look = c.rng, c.look
    c.ground(look.grass, GRASS)
    pivots = rng.uniform() < 0.2
    margin = rng.uniform(0.5, 4)
    for x0, y0, x1, y1 in parcels(c, rng.uniform(50, 130)):
        colour = c.vary(look.crops, 1, 9)[0]
        outline = corners(x0 + margin, y0 + margin, x1 - margin, y1 - margin)
        if pivots:
            radius = min(x1 - x0, y1 - y0) / 2 - margin
            outline = placed(DISC, np.array([[(x0 + x1) / 2, (y0 + y1) / 2, 2 * radius, 2 * radius, 0]]))[0]
        else:
            outline = outline + rng.normal(0, margin, (4, 2))
        c.polygons(outline[None], colour, FIELD)
        if rng.uniform() < 0.8:
            angle = (0 if x1 - x0 < y1 - y0 else np.pi / 2) + rng.normal(0, 0.03)
            c.rows(outline, angle, rng.uniform(5, 16), rng.uniform(0.03, 0.13))
        if rng.uniform() < 0.25 and not pivots:
            n = int((x1 - x0) / 9)
            c.trees(np.stack([np.linspace(x0, x1, n), np.full(n, y0)], 1), 5, 9)
    if rng.uniform() < 0.6:
        c.strip(wander(c, 0.02 * c.extent), rng.uniform(3, 6), look.bare * 1.1, ROAD)


def orchard(c: Canvas) -> None:
    """Blocks of trees in a grid, with lanes between the blocks."""
    rng, look = c.rng, c.look
    soil = rng.uniform(0, 1)
    c.ground(look.grass * soil + look.bare * (1 - soil), FIELD)
    spacing = rng.uniform(0.036, 0.06) * c.extent
    stretch = rng.uniform(0.7, 1.0)
    grid = np.arange(-c.reach, c.reach, spacing)
    x, y = np.meshgrid(grid, np.arange(-c.reach, c.reach, spacing * stretch))
    xy = np.stack([x, y], -1).reshape(-1, 2)
    block = np.floor(xy / (spacing * rng.integers(7, 12, 2)) + rng.uniform(0, 1, 2))
    lane = np.roll(block, 1, 0) != block
    keep = ~lane.any(1) & (rng.uniform(size=len(xy)) > 0.04)
    xy = c.in_view(xy[keep], spacing)
    xy = xy + rng.normal(0, 0.05 * spacing, xy.shape)
    crown = spacing * stretch * rng.uniform(0.55, 0.85)
    c.trees(xy, 0.8 * crown, 1.1 * crown)


def forest(c: Canvas) -> None:
    """Closed canopy with clearings, sometimes a track."""
    rng, look = c.rng, c.look
    c.ground(look.tree * rng.uniform(0.9, 1.25), TREES)
    c.texture[TREES] = (0.04, rng.uniform(0.05, 0.14), rng.uniform(0.22, 0.4))
    for _ in range(int(rng.integers(0, 4))):
        shade = look.grass if rng.uniform() < 0.7 else look.bare
        patch(c, rng.uniform(-c.reach, c.reach, 2), rng.uniform(0.03, 0.13) * c.extent, shade, GRASS)
    if rng.uniform() < 0.35:
        c.strip(wander(c, 0.06 * c.extent), rng.uniform(3, 6), look.bare, ROAD)
    n = int(rng.integers(0, 25))
    c.trees(rng.uniform(-c.reach, c.reach, (n, 2)), 0.8 * c.crown, 1.4 * c.crown)


def river(c: Canvas) -> None:
    """A winding river with banks and bars, riverside trees, sometimes a bridge."""
    rng, look = c.rng, c.look
    open_ground(c)
    for _ in range(int(rng.integers(0, 4))):
        patch(c, rng.uniform(-c.reach, c.reach, 2), rng.uniform(0.1, 0.25) * c.extent, look.tree, TREES, 5)
    line = wander(c, rng.uniform(0.06, 0.16) * c.extent)
    width = rng.uniform(0.08, 0.24) * c.extent * (1 + 0.22 * fractal_line(rng, len(line), 1.2))
    width = np.maximum(width, 0.05 * c.extent)
    if rng.uniform() < 0.6:
        c.polygons(band(line, width * rng.uniform(1.2, 1.5))[None], look.tree, TREES, 6)
    c.polygons(band(line, width * 1.12)[None], look.bare * 1.05, BARE)
    c.polygons(band(line + rng.normal(0, 0.004 * c.extent, 2), width)[None], look.water, WATER)
    if rng.uniform() < 0.35:
        for at in rng.choice(50, int(rng.integers(1, 4))) + 7:
            patch(c, line[at] + rng.normal(0, 0.02 * c.extent, 2), 0.03 * c.extent, look.bare * 1.1, BARE)
    if rng.uniform() < 0.3:
        x = rng.uniform(-0.25, 0.25) * c.extent
        road = np.stack([np.full(2, x), np.array([-c.reach, c.reach])], 1)
        c.polygons(band(road, rng.uniform(9, 16))[None], look.asphalt, ROAD, 5)


def dunes(c: Canvas) -> None:
    """Bare ground with wind-blown crests, or gullied desert."""
    rng, look = c.rng, c.look
    c.ground(look.bare, BARE)
    c.texture[BARE] = (0.03, rng.uniform(0.04, 0.1), 0)
    n = int(rng.integers(6, 16))
    spacing = 2 * c.reach / n
    t = np.linspace(-c.reach, c.reach, 40)
    phase, swing = rng.uniform(0, 6.3, 2), rng.uniform(0.1, 0.4)
    for i in range(n):
        y = -c.reach + (i + rng.uniform(-0.15, 0.15)) * spacing
        y = y + spacing * swing * (np.sin(t / spacing * 0.8 + phase[0]) + np.sin(t / spacing * 0.37 + phase[1] + i))
        crest = np.stack([t, y], 1)
        width = spacing * rng.uniform(0.25, 0.4) * (1 + 0.5 * fractal_line(rng, len(t), 1.0)).clip(0.1, 2)
        slope = np.stack([t, y + width], 1)
        c.polygons(np.concatenate([crest, slope[::-1]])[None], look.bare * rng.uniform(0.74, 0.86), BARE)
        foot = np.stack([t, y - width * 0.8], 1)
        c.polygons(np.concatenate([crest, foot[::-1]])[None], look.bare * rng.uniform(1.06, 1.16), BARE)
    square = corners(-c.reach, -c.reach, c.reach, c.reach)
    c.rows(square, rng.uniform(1.2, 1.9), spacing * rng.uniform(0.12, 0.2), 0.03)
    shrubs = int(rng.integers(0, 30))
    c.trees(rng.uniform(-c.reach, c.reach, (shrubs, 2)), 0.007 * c.extent, 0.014 * c.extent)


def quarry(c: Canvas) -> None:
    """A pit of nested benches, haul roads, spoil heaps and sometimes a pond."""
    rng, look = c.rng, c.look
    open_ground(c)
    c.texture[BARE] = (0.07, 0.16, 0)
    centre = rng.uniform(-0.12, 0.12, 2) * c.extent
    t = np.linspace(0, 2 * np.pi, 56, endpoint=False)
    shape = np.ones_like(t)
    for k in range(2, 9):
        shape += rng.normal(0, 0.32) / k * np.cos(k * t + rng.uniform(0, 6.3))
    shape = np.maximum(shape, 0.35)
    radius, levels = rng.uniform(0.3, 0.48) * c.extent, int(rng.integers(4, 8))
    lit = np.cos(t + c.angle - c.look.sun)  # the wall on the side that shadows point to is in the light
    for level in range(levels):
        r = radius * (1 - level / (levels + 0.7)) * (shape + 0.05 * fractal_line(rng, len(t), 0.7))
        ring = centre + np.stack([r * np.cos(t), r * np.sin(t)], 1)
        inner = centre + 0.93 * (ring - centre)
        quads = np.stack([ring, np.roll(ring, -1, 0), np.roll(inner, -1, 0), inner], 1)
        tone = look.bare * (1.12 - 0.05 * level)
        c.polygons(ring[None], tone, BARE)
        c.polygons(quads, tone * (0.78 + 0.34 * lit)[:, None], BARE)
    if rng.uniform() < 0.5:
        patch(c, centre, radius * rng.uniform(0.12, 0.25), look.water, WATER)
    way = rng.uniform(0, 2 * np.pi) + rng.normal(0, 0.15) * np.linspace(1, 0, 40) ** 2
    haul = np.linspace(2.2 * c.reach, 0.35 * radius, 40)
    road = centre + np.stack([haul * np.cos(way), haul * np.sin(way)], 1)
    c.strip(road, 0.018 * c.extent, look.bare * 1.15, ROAD)
    for _ in range(int(rng.integers(2, 9))):
        at = centre + radius * rng.uniform(0.2, 1.3) * _direction(rng.uniform(0, 6.3))
        size = rng.uniform(0.015, 0.05) * c.extent
        patch(c, at, size, look.bare * rng.uniform(0.7, 1.25), BARE, size * 0.6)


def solar_farm(c: Canvas) -> None:
    """Blocks of tilted panels in rows, tracks between, an inverter house or two."""
    rng, look = c.rng, c.look
    open_ground(c)
    pitch = rng.uniform(0.028, 0.045) * c.extent
    depth = pitch * rng.uniform(0.45, 0.7)
    tone = np.array([44, 54, 78]) + rng.normal(0, 10, 3) + rng.uniform(0, 40)
    block = pitch * rng.integers(7, 13)
    aisle = pitch * rng.uniform(0.8, 1.8)
    hole = rng.uniform(0, 0.25)
    for bx in np.arange(-c.reach, c.reach, block + aisle):
        for by in np.arange(-c.reach, c.reach, block + aisle):
            if rng.uniform() < hole:
                continue
            y = np.arange(by, by + block - depth, pitch) + depth / 2
            lengths = np.full(len(y), block)
            boxes = np.stack([np.full(len(y), bx + block / 2), y, lengths, np.full(len(y), depth), 0 * y], 1)
            c.shapes(boxes, RECTANGLE, c.vary(tone, len(y), 4), BACKGROUND, 2.0)
            boxes[:, 1] -= depth * 0.32
            boxes[:, 3] *= 0.1
            c.shapes(boxes, RECTANGLE, tone + 60, BACKGROUND)
    line = np.array([(-c.reach, -aisle / 2), (c.reach, -aisle / 2)])
    c.strip(line + np.array([0, (block + aisle) * 2 - c.reach]), aisle * 0.6, look.bare, ROAD)
    spot = along(line, c.extent / 2, start=c.extent * rng.uniform(0.3, 0.6))[:1]
    if len(spot) and rng.uniform() < 0.5:
        yard = np.column_stack([spot[:, :2], np.full((1, 2), (0.09, 0.06)) * c.extent, spot[:, 2]])
        c.shapes(yard, RECTANGLE, look.concrete, PAVED)
        hut = yard * (1, 1, 0.4, 0.4, 1)
        c.shapes(hut, RECTANGLE, c.vary(look.metal, 1, 6), BUILDING, 3.0, HOUSE)


def _direction(angle: float) -> Array:
    return np.array([np.cos(angle), np.sin(angle)])


PAINTERS = {
    "crop-fields": (crop_fields, (300.0, 900.0)),
    "orchard": (orchard, (110.0, 220.0)),
    "forest": (forest, (110.0, 350.0)),
    "river": (river, (250.0, 900.0)),
    "dunes": (dunes, (200.0, 1500.0)),
    "quarry": (quarry, (200.0, 600.0)),
    "solar-farm": (solar_farm, (90.0, 240.0)),
}
"""Name of each class: its painter and the range of metres that an image shows."""
