"""Oriented AP against a second implementation that shares no code: loops and shapely."""

import math

import numpy as np
import pytest
import shapely
import shapely.affinity

from selectivemae.tasks.boxes_common import BoxSet, Detections, Labelled, Notes
from selectivemae.tasks.oriented.metrics import oriented_figures


def polygon(box: list[float]) -> shapely.Polygon:
    cx, cy, w, h, angle = box
    turned = shapely.affinity.rotate(shapely.box(-w / 2, -h / 2, w / 2, h / 2), angle, origin=(0, 0), use_radians=True)
    return shapely.affinity.translate(turned, cx, cy)


def plain_ap(truth: BoxSet, found: dict[str, Detections], label: int, ignore: bool) -> tuple[float, float]:
    """(11-point, area) AP of a class at IoU 0.5."""
    rows, positives = [], 0
    for item in truth.items:
        objects = [
            (polygon(b), bool(d) and ignore)
            for b, c, d in zip(item.boxes.tolist(), item.labels, item.difficult, strict=True)
            if c == label
        ]
        positives += sum(not ignored for _, ignored in objects)
        answer = found.get(item.id)
        if answer is None:
            continue
        used = set()
        own = [
            (s, b) for s, b, c in zip(answer.scores, answer.boxes.tolist(), answer.labels, strict=True) if c == label
        ]
        for score, box in sorted(own, key=lambda row: -row[0]):
            shape = polygon(box)
            overlaps = [shape.intersection(o).area / shape.union(o).area for o, _ in objects]
            best = max(range(len(overlaps)), key=overlaps.__getitem__, default=None)
            if best is None or overlaps[best] < 0.5:
                rows.append((score, 0, 1))
            elif objects[best][1]:
                continue
            elif best in used:
                rows.append((score, 0, 1))
            else:
                used.add(best)
                rows.append((score, 1, 0))
    if not positives:
        return math.nan, math.nan
    rows.sort(key=lambda row: -row[0])
    points, hits, misses = [], 0, 0
    for _, hit, miss in rows:
        hits, misses = hits + hit, misses + miss
        points.append((hits / positives, hits / (hits + misses)))
    eleven = sum(max((p for r, p in points if r > t / 10 - 1e-9), default=0) for t in range(11)) / 11
    area, last = 0.0, 0.0
    for k, (recall, _) in enumerate(points):
        area += (recall - last) * max(p for _, p in points[k:])
        last = recall
    return eleven, area


@pytest.mark.parametrize("difficult", ["keep", "ignore"])
@pytest.mark.parametrize("seed", [0, 1])
def test_equals_a_plain_second_implementation(seed: int, difficult):
    rng = np.random.default_rng(seed)
    items, found = [], {}
    for i in range(8):
        n = int(rng.integers(0, 12))
        boxes = np.stack((*rng.uniform(0, 100, (2, n)), *rng.uniform(6, 40, (2, n)), rng.uniform(-2, 2, n)), axis=1)
        labels = rng.integers(0, 3, n)
        items.append(Labelled(f"i{i}", None, None, boxes, labels, rng.random(n) < 0.3))
        pick = rng.integers(0, n, 3 * n) if n else np.zeros(0, int)
        noise = rng.normal(0, 1, (len(pick), 5)) * [2, 2, 2, 2, 0.1]
        moved = boxes[pick] + noise
        moved[:, 2:4] = np.maximum(moved[:, 2:4], 1)
        guess = np.where(rng.random(len(pick)) < 0.85, labels[pick], rng.integers(0, 4, len(pick))).astype(np.int64)
        if i != 2:
            found[f"i{i}"] = Detections(moved, rng.random(len(pick)), guess)
    truth = BoxSet(("a", "b", "c", "none"), items, Notes())
    figures = oriented_figures(truth, found, difficult=difficult)
    plain = [plain_ap(truth, found, c, difficult == "ignore") for c in range(4)]
    ours = [(c.ap_11_point, c.ap_area) for c in figures.curves.values()]
    assert np.allclose(ours, plain, atol=1e-6, equal_nan=True)
    assert math.isnan(ours[3][0])
    assert figures.map_11_point == pytest.approx(np.nanmean([p[0] for p in plain]), abs=1e-6)
    assert figures.map_area == pytest.approx(np.nanmean([p[1] for p in plain]), abs=1e-6)
    assert 0.1 < figures.map_area < 0.95
