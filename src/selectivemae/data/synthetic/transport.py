"""Painters of ways and shores: highway, roundabout, airport, harbour, shore."""

import numpy as np

from selectivemae.data.synthetic.canvas import AEROPLANE, DISC, HULL, RECTANGLE, Array, Canvas, along
from selectivemae.data.synthetic.parts import flat_roofs, houses, open_ground, patch, vehicles, wander
from selectivemae.data.synthetic.tables import (
    AIRCRAFT,
    BACKGROUND,
    BARE,
    GRASS,
    PAVED,
    ROAD,
    ROUNDABOUT,
    SHIP,
    TREES,
    WATER,
)
from selectivemae.data.synthetic.texture import fractal_line

WHITE = np.full(3, 214.0)


def traffic(c: Canvas, line: Array, offset: float, spacing: float, trucks: float, back: bool = False) -> None:
    """Vehicles in one lane, ``offset`` metres to the right of a line, about ``spacing`` metres apart."""
    poses = along(line, 15.0, offset, float(c.rng.uniform(0, 15)))
    poses = poses[c.rng.uniform(size=len(poses)) < 15.0 / spacing]
    poses[:, 2] += np.pi * back
    vehicles(c, c.in_view(poses, 6), ROAD, trucks)


def highway(c: Canvas) -> None:
    """A dual carriageway with lane marks and traffic, verges, sometimes a road over it."""
    rng, look = c.rng, c.look
    open_ground(c)
    line = wander(c, rng.uniform(0, 0.09) * c.extent, 2.4)
    lanes, lane, median = int(rng.integers(2, 5)), 3.7, rng.uniform(2, 9)
    side = lanes * lane + 3
    c.strip(line, 2 * side + median + 12, look.grass * 0.95, GRASS)
    spacing = rng.uniform(20, 60)
    for sign in (-1, 1):
        middle = along(line, 4.0, sign * (median + side) / 2)[:, :2]
        c.strip(middle, side, look.asphalt, ROAD)
        for k in range(lanes + 1):
            mark = along(line, 4.0, sign * (median / 2 + 1.5 + k * lane))[:, :2]
            solid = k in (0, lanes)
            c.marks(mark, 0.28, 5, 0 if solid else 9, WHITE, ROAD)
        for k in range(lanes):
            traffic(c, line, sign * (median / 2 + 1.5 + (k + 0.5) * lane), spacing, 0.25, sign < 0)
    n = int(rng.integers(0, 40))
    posts = along(line, c.extent * 1.5 / 40, rng.choice([-1, 1]) * (median / 2 + side + 12))[:n, :2]
    c.trees(posts + rng.normal(0, 2, posts.shape), 4, 8)
    if rng.uniform() < 0.35:
        x, lean = rng.uniform(-0.3, 0.3) * c.extent, rng.uniform(-0.4, 0.4) * c.reach
        over = np.stack([np.linspace(x - lean, x + lean, 20), np.linspace(-c.reach, c.reach, 20)], 1)
        c.polygons(_quad(over, 11.0)[None], look.concrete, ROAD, 6)
        c.marks(over, 0.3, 5, 0, WHITE, ROAD)
        traffic(c, over, 2.6, 30, 0.1)


def roundabout(c: Canvas) -> None:
    """A circular junction of three to five arms, in a built-up or open setting."""
    rng, look = c.rng, c.look
    open_ground(c)
    outer, width = rng.uniform(0.13, 0.24) * c.extent, rng.uniform(7, 10)
    outer = max(outer, 1.7 * width)
    centre = rng.uniform(-0.1, 0.1, 2) * c.extent
    arms = int(rng.integers(3, 6))
    angles = np.arange(arms) * 2 * np.pi / arms + rng.normal(0, 0.12, arms)
    lines = []
    for a in angles:
        r = np.linspace(0, 1.6 * c.reach, 40)
        bend = a + rng.normal(0, 0.25) * (r / c.reach) ** 2
        lines.append(centre + np.stack([r * np.cos(bend), r * np.sin(bend)], 1))
    for line in lines:
        flare = width * (1.05 + 1.1 * np.exp(-np.linspace(0, 1.6 * c.reach, 40) / outer * 1.1))
        c.strip(line, flare + 4, look.concrete, PAVED)
    disc = np.array([[*centre, 2 * outer, 2 * outer, 0]])
    c.shapes(disc + np.array([0, 0, 4, 4, 0]), DISC, look.concrete, PAVED)
    for line in lines:
        flare = width * (1 + 1.1 * np.exp(-np.linspace(0, 1.6 * c.reach, 40) / outer * 1.1))
        c.strip(line, flare, look.asphalt, ROAD)
        c.marks(line[4:], 0.3, 3, 4, WHITE, ROAD)
    tags = c.shapes(disc, DISC, look.asphalt, ROAD, kind=ROUNDABOUT)
    island = disc - (0, 0, 2 * width, 2 * width, 0)
    c.shapes(island, DISC, look.concrete * 1.15, PAVED, tags=tags)
    c.shapes(island - (0, 0, 2, 2, 0), DISC, look.grass, GRASS, tags=tags)
    for line in lines:
        traffic(c, line[np.linalg.norm(line - centre, axis=1) > outer * 1.15], 0.25 * width, 40, 0.1)
    k = int(rng.integers(8, 40))
    spots = centre + rng.uniform(-c.reach, c.reach, (k, 2))
    roads = np.concatenate(lines)
    near = np.linalg.norm(spots[:, None] - roads[None], axis=-1).min(1)
    clear = (near > width * 1.3 + 8) & (np.linalg.norm(spots - centre, axis=1) > outer + 12)
    spots = spots[clear]
    if rng.uniform() < 0.6:
        aim = np.arctan2(*(spots - centre).T[::-1])
        houses(c, np.column_stack([spots, rng.uniform(9, 18, (len(spots), 2)), aim])[::2])
        spots = spots[1::2] + rng.normal(0, 2, (len(spots[1::2]), 2))
    c.trees(spots, 4, 9)


def airport(c: Canvas) -> None:
    """A runway or two with marks, taxiways, an apron with aircraft and a terminal."""
    rng, look = c.rng, c.look
    grassy = rng.uniform() < 0.65
    c.ground(look.grass if grassy else look.bare, GRASS if grassy else BARE)
    width = rng.uniform(40, 60)
    y = rng.uniform(-0.4, -0.2) * c.extent
    runway = np.array([(-c.reach * 1.1, y), (c.reach * 1.1, y)])
    taxi = runway + np.array([0, rng.uniform(0.16, 0.24) * c.extent])
    c.strip(runway, width + 14, look.concrete, PAVED)
    c.strip(runway, width, look.asphalt, PAVED)
    c.marks(runway, 1.6, 30, 22, WHITE, PAVED)
    for sign in (-1, 1):
        c.marks(runway + np.array([0, sign * width * 0.46]), 1.2, 1, 0, WHITE, PAVED)
    end = rng.uniform(-0.35, 0.35) * c.extent
    keys = np.array([(end, y + k * width / 10, 32, 2.0, 0) for k in range(-4, 5) if k])
    c.shapes(keys, RECTANGLE, WHITE, PAVED)
    c.strip(taxi, 22, look.asphalt * 1.08, PAVED)
    c.marks(taxi, 0.8, 1, 0, np.array([206, 178, 70]), PAVED)
    for x in rng.uniform(-0.5, 0.5, int(rng.integers(1, 4))) * c.extent:
        link = np.array([(x - rng.uniform(-60, 60), y), (x, taxi[0, 1])])
        c.strip(link, 20, look.asphalt * 1.08, PAVED)
    top = taxi[0, 1] + 18
    depth = rng.uniform(80, 130)
    left, right = (rng.uniform(-0.25, 0.25) + rng.uniform(0.18, 0.4) * np.array([-1, 1])) * c.extent
    apron = np.array([[(left + right) / 2, top + depth / 2, right - left, depth, 0]])
    c.shapes(apron, RECTANGLE, look.concrete, PAVED)
    terminal = np.array([[(left + right) / 2, top + depth + 22, (right - left) * 0.8, 36, 0]])
    flat_roofs(c, terminal, 14)
    span = rng.uniform(30, 46)
    x = np.arange(left + span * 0.7, right - span * 0.6, span * 1.25)
    x = x[rng.uniform(size=len(x)) < 0.8]
    nose = np.pi / 2 + rng.normal(0, 0.04, len(x)) + rng.normal(0, 0.3)
    parked = np.column_stack([x, np.full(len(x), top + depth - span * 0.7), span * 1.05 + 0 * x, span + 0 * x, nose])
    rolling = np.array([[rng.uniform(-0.4, 0.4) * c.extent, taxi[0, 1], span * 1.05, span, rng.choice([0, np.pi])]])
    planes(c, c.in_view(np.concatenate([parked, rolling]), 40))


def planes(c: Canvas, boxes: Array) -> None:
    """Aircraft in oriented boxes (N, 5), nose along +w."""
    tone = c.vary(np.array([224.0, 226.0, 226.0]), len(boxes), 9)
    tags = c.shapes(boxes, AEROPLANE, tone * 0.92, PAVED, 4.0, AIRCRAFT)
    body = boxes * (1, 1, 0.94, 0.085, 1)
    c.shapes(body, HULL, tone * 1.1, PAVED, tags=tags)


def ships(c: Canvas, boxes: Array) -> None:
    """Ships in oriented boxes (N, 5), bow along +w: hull, deck, and a bridge or a cabin."""
    n = len(boxes)
    if not n:
        return
    paint = c.vary(np.concatenate([c.look.paint[:2], c.look.paint[:2], c.look.roofs]), n, 9)
    tags = c.shapes(boxes, HULL, paint * 0.8, BACKGROUND, boxes[:, 3] * 0.35, SHIP)
    c.shapes(boxes * (1, 1, 0.9, 0.76, 1), HULL, paint, BACKGROUND, tags=tags)
    along_ = np.stack([np.cos(boxes[:, 4]), np.sin(boxes[:, 4])], 1) * boxes[:, 2:3]
    for at, length, width, tone in ((-0.28, 0.16, 0.7, 225.0), (0.1, 0.3, 0.5, 120.0)):
        part = boxes * (1, 1, length, width, 1)
        part[:, :2] += along_ * at
        c.shapes(part, RECTANGLE, (paint + tone) / 2, BACKGROUND, tags=tags)


def shore(c: Canvas) -> None:
    """A lake or sea shore with beach, surf or reeds, and ships that leave wakes."""
    rng, look = c.rng, c.look
    open_ground(c)
    n = 90
    x = np.linspace(-c.reach * 1.2, c.reach * 1.2, n)
    coast = rng.uniform(-0.22, 0.16) * c.extent + rng.uniform(0.015, 0.07) * c.extent * fractal_line(rng, n, 1.3)
    for _ in range(int(rng.integers(0, 4))):
        at = np.array([rng.uniform(-0.6, 0.6), rng.uniform(-0.6, -0.2)]) * c.extent
        patch(c, at, rng.uniform(0.06, 0.18) * c.extent, look.tree, TREES, 5)
    if rng.uniform() < 0.5:
        k = int(rng.integers(4, 12))
        spots = np.stack([rng.uniform(-0.6, 0.6, k) * c.extent, rng.uniform(-0.6, -0.3, k) * c.extent], 1)
        size = 0.035 * c.extent * rng.uniform(0.7, 1.2, (k, 2))
        houses(c, np.column_stack([spots, size, rng.uniform(0, 0.2, k)]))
    beach = rng.uniform(0.005, 0.06) * c.extent
    depth = 3 * c.reach
    bands = ((-beach, look.bare * 1.18, BARE), (0.0, look.water * 1.25, WATER), (beach * 0.5, look.water * 1.08, WATER))
    for push, tone, land in (*bands, (beach * 1.4, look.water, WATER)):
        edge = np.stack([x, coast + push + 0.15 * beach * fractal_line(rng, n, 0.9)], 1)
        c.polygons(np.concatenate([edge, [(x[-1], depth), (x[0], depth)]])[None], tone, land)
    for k in range(int(rng.integers(0, 4))):
        surf = np.stack([x, coast + beach * (0.2 + 0.7 * k) + 0.1 * beach * fractal_line(rng, n, 0.8)], 1)
        c.strip(surf, 0.006 * c.extent, look.water * 0.5 + 115, WATER)
    square = np.array([(-c.reach, -c.reach), (c.reach, -c.reach), (c.reach, c.reach), (-c.reach, c.reach)])
    sea = square * (1, 0.5) + (0, c.reach * 0.62)
    c.rows(sea, rng.uniform(0, 3), rng.uniform(0.02, 0.05) * c.extent, rng.uniform(0, 0.025))
    low = float(coast.max()) + beach * 1.5
    k = int(rng.integers(0, 6))
    ys = rng.uniform(low, max(low + 1, 0.6 * c.extent), k)
    length = rng.uniform(0.04, 0.13, k) * c.extent
    xs = (rng.permutation(8)[:k] / 8 - 0.44) * 1.2 * c.extent
    boxes = np.stack([xs, ys + length * 0.5, length, length * rng.uniform(0.2, 0.3, k), rng.uniform(0, 6.3, k)], 1)
    for box in boxes[rng.uniform(size=k) < 0.5]:
        back = np.array([np.cos(box[4]), np.sin(box[4])])
        wake = box[:2] - np.linspace(0.3, 2.2, 12)[:, None] * back * box[2]
        c.strip(wake, np.linspace(0.2, 1.3, 12) * box[3], look.water * 0.75 + 45, WATER)
    ships(c, boxes)


def harbour(c: Canvas) -> None:
    """A quay with sheds and containers, piers into the water, ships moored on both sides."""
    rng, look = c.rng, c.look
    c.ground(look.water, WATER)
    quay = rng.uniform(-0.3, 0.0) * c.extent
    land = np.array([(-1, -1), (1, -1), (1, 0), (-1, 0)]) * (2 * c.reach) + (0, quay)
    c.polygons(land[None], look.concrete, PAVED, 2.0)
    c.strip(np.array([(-c.reach, quay - 2), (c.reach, quay - 2)]), 2, look.concrete * 1.15, PAVED)
    k = int(rng.integers(2, 6))
    step = 2 * c.reach / k
    sheds = [(-c.reach + (i + 0.5) * step, quay - 0.17 * c.extent, step * 0.6, 0.11 * c.extent, 0.0) for i in range(k)]
    flat_roofs(c, c.in_view(np.array(sheds), 40), 9)
    if rng.uniform() < 0.6:
        n = int(rng.integers(15, 60))
        stack = np.stack([rng.integers(0, 24, n) * 0.05 - 0.6, rng.integers(0, 5, n) * 0.016 - 0.09], 1)
        stack = stack * np.float64(c.extent)
        boxes = np.column_stack([stack + np.array([0, quay]), np.full((n, 2), (0.042, 0.012)) * c.extent, np.zeros(n)])
        c.shapes(boxes, RECTANGLE, c.vary(look.paint[2:], n, 18), PAVED, 3.0)
    length = rng.uniform(0.07, 0.2) * c.extent
    beam = length * rng.uniform(0.22, 0.3)
    pier = rng.uniform(0.02, 0.04) * c.extent
    reach = rng.uniform(0.4, 0.8) * c.extent
    gap = pier + 2 * length + beam * 1.4
    moored = []
    for x in np.arange(-c.reach + rng.uniform(0, gap), c.reach, gap):
        c.polygons(
            np.array(
                [
                    [
                        (x - pier / 2, quay - 2),
                        (x + pier / 2, quay - 2),
                        (x + pier / 2, quay + reach),
                        (x - pier / 2, quay + reach),
                    ]
                ]
            ),
            look.concrete,
            PAVED,
            1.5,
        )
        ys = np.arange(quay + beam, quay + reach, beam * rng.uniform(1.25, 1.7))
        for side in (-1, 1):
            there = ys[rng.uniform(size=len(ys)) < 0.8]
            size = length * rng.uniform(0.75, 1.0, len(there))
            middle = x + side * (pier / 2 + size / 2 + 0.5)
            heading = np.full(len(there), 0.0 if side > 0 else np.pi)
            moored.append(np.stack([middle, there, size, beam * size / length, heading], 1))
    n = int(rng.integers(0, 3))
    far = min(quay + reach + length, 0.55 * c.extent)
    size = length * 1.3
    free = np.stack([(np.arange(n) - 0.5) * 2.2 * size, np.full(n, far), np.full(n, size), np.full(n, size * 0.25)], 1)
    ships(c, c.in_view(np.concatenate([*moored, np.column_stack([free, rng.uniform(-0.3, 0.3, n)])]), 40))


def _quad(line: Array, width: float) -> Array:
    """The four corners of a straight band."""
    way = (line[-1] - line[0]) / np.linalg.norm(line[-1] - line[0])
    side = np.array([-way[1], way[0]]) * width / 2
    return np.array([line[0] + side, line[-1] + side, line[-1] - side, line[0] - side])


PAINTERS = {
    "highway": (highway, (90.0, 220.0)),
    "roundabout": (roundabout, (90.0, 200.0)),
    "airport": (airport, (380.0, 750.0)),
    "shore": (shore, (150.0, 500.0)),
    "harbour": (harbour, (150.0, 380.0)),
}
"""Name of each class: its painter and the range of metres that an image shows."""
