"""Rotated boxes: the specification's check values, shapely, symmetries and inverses."""

import math
from fractions import Fraction

import numpy as np
import pytest
import shapely
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from selectivemae.ops import boxes as upright
from selectivemae.ops import rotated

PI = math.pi


def box(*values: float) -> torch.Tensor:
    return torch.tensor([values], dtype=torch.float64)


def polygons(boxes: torch.Tensor) -> np.ndarray:
    """Shapely polygons with corners worked out here in plain numpy complex numbers."""
    cx, cy, w, h, angle = boxes.double().numpy().T
    turn = np.exp(1j * angle)
    points = [cx + 1j * cy + turn * (sx * w / 2 + 1j * sy * h / 2) for sx, sy in ((1, 1), (1, -1), (-1, -1), (-1, 1))]
    return np.asarray(shapely.polygons(np.stack([np.stack((p.real, p.imag), axis=-1) for p in points], axis=1)))


def shapely_iou(a: torch.Tensor, b: torch.Tensor) -> np.ndarray:
    first, second = polygons(a), polygons(b)
    inter = shapely.area(shapely.intersection(first, second))
    union = shapely.area(first) + shapely.area(second) - inter
    return np.where(union > 0, inter / np.where(union > 0, union, 1), 0)


def random_boxes(rng: np.random.Generator, n: int) -> torch.Tensor:
    out = np.concatenate((rng.uniform(0, 100, (n, 2)), rng.uniform(1, 60, (n, 2)), rng.uniform(-4, 4, (n, 1))), axis=1)
    return torch.from_numpy(out)


def same_rectangle(a: torch.Tensor, b: torch.Tensor, atol: float) -> bool:
    """The same set of points: every corner of one is a corner of the other."""
    gaps = torch.cdist(rotated.corners(a), rotated.corners(b))
    return bool((gaps.amin(dim=-1) < atol).all() and (gaps.amin(dim=-2) < atol).all())


def test_corners_hull_and_le90_check_values():
    b = box(50, 40, 40, 10, PI / 6)
    expected = [[64.82051, 54.33013], [69.82051, 45.66987], [35.17949, 25.66987], [30.17949, 34.33013]]
    assert torch.allclose(rotated.corners(b)[0], torch.tensor(expected, dtype=torch.float64), atol=1e-5)
    expected = [30.17949, 25.66987, 69.82051, 54.33013]
    assert torch.allclose(rotated.hull(b)[0], torch.tensor(expected, dtype=torch.float64), atol=1e-5)
    assert rotated.le90(box(50, 40, 10, 40, 0.2))[0].tolist() == pytest.approx([50, 40, 40, 10, -1.37080], abs=1e-5)
    assert rotated.le90(box(0, 0, 4, 4, 0.3))[0].tolist() == pytest.approx([0, 0, 4, 4, -1.27080], abs=1e-5)


@given(st.lists(st.floats(-1e4, 1e4, width=32), min_size=1, max_size=8), st.booleans())
@settings(max_examples=100, deadline=None)
def test_wrapped_angles_are_in_range_and_congruent(angles: list[float], single: bool):
    angle = torch.tensor(angles, dtype=torch.float32 if single else torch.float64)
    wrapped = rotated.wrap_angle(angle)
    assert ((wrapped >= -PI / 2) & (wrapped < PI / 2)).all()
    assert torch.allclose((wrapped - angle).sin(), torch.zeros_like(angle), atol=2e-3 if single else 1e-9)


def test_le90_is_the_same_rectangle():
    b = random_boxes(np.random.default_rng(0), 300)
    out = rotated.le90(b)
    assert same_rectangle(b, out, 1e-9)
    assert ((out[:, 2] >= out[:, 3]) & (out[:, 4] >= -PI / 2) & (out[:, 4] < PI / 2)).all()
    assert torch.allclose(rotated.le90(out), out)


@given(st.integers(0, 2**31), st.permutations(range(4)))
@settings(max_examples=60, deadline=None)
def test_quads_of_rectangles_give_them_back_in_any_corner_order(seed: int, order: list[int]):
    b = random_boxes(np.random.default_rng(seed), 20)
    assert same_rectangle(b, rotated.from_quads(rotated.corners(b)[:, order]), 1e-6)


def test_quads_have_the_area_of_shapelys_minimum_rectangle():
    quads = np.random.default_rng(1).uniform(0, 50, (500, 4, 2))
    truth = shapely.area(shapely.minimum_rotated_rectangle(shapely.multipoints(quads)))
    found = rotated.from_quads(torch.from_numpy(quads))
    assert np.abs(found[:, 2:4].prod(dim=1).numpy() / truth - 1).max() < 1e-9
    grown = found.clone()
    grown[:, 2:4] += 1e-7
    assert shapely.covers(polygons(grown), shapely.multipoints(quads)).all()


def test_quads_without_area_stay_finite():
    point = torch.full((1, 4, 2), 7.0)
    assert rotated.from_quads(point)[0, :4].tolist() == [7, 7, 0, 0]
    line = torch.tensor([[[0.0, 0], [1, 1], [3, 3], [2, 2]]])
    assert rotated.from_quads(line)[0].tolist() == pytest.approx([1.5, 1.5, 3 * 2**0.5, 0, PI / 4], abs=1e-6)


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        ((0, 0, 4, 2, 0), (0, 0, 4, 2, PI / 2), 1 / 3),
        ((0, 0, 2, 2, 0), (0, 0, 2, 2, PI / 4), 0.707107),
        ((50, 40, 40, 10, PI / 6), (48, 42, 36, 12, 0.4), 0.556531),
        ((0, 0, 2, 2, 0), (2, 0, 2, 2, 0), 0),  # touch along an edge
        ((0, 0, 2, 2, 0), (2, 2, 2, 2, 0), 0),  # touch in a corner
        ((0, 0, 4, 4, 0.7), (0, 0, 2, 2, 0.7), 0.25),  # nested, parallel
        ((0, 0, 5, 2, 0.3), (0, 0, 5, 2, 0.3 + PI), 1),  # identical, turned by half a circle
        ((0, 0, 5, 0, 0.3), (0, 0, 5, 0, 0.3), 0),  # no area
        ((0, 0, 5, -1, 0.3), (0, 0, 5, 1, 0.3), 0),  # inverted
        ((1e7, 1e7, 4e6, 2e6, 0), (1e7, 1e7, 4e6, 2e6, PI / 2), 1 / 3),
    ],
)
def test_iou_check_values(a: tuple[float, ...], b: tuple[float, ...], expected: float):
    for first, second in ((box(*a), box(*b)), (box(*b), box(*a))):
        assert rotated.iou(first, second).item() == pytest.approx(expected, abs=1e-6)
        assert rotated.iou_pairs(first, second).item() == pytest.approx(expected, abs=1e-6)


def hard_pairs(rng: np.random.Generator, n: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Random pairs, a tenth each of: shared edge, touching edge, nested, identical, nearly identical, flat, far, huge,
    tiny, right-angled."""
    a, b = random_boxes(rng, n), random_boxes(rng, n)
    b[:, :2] = a[:, :2] + torch.from_numpy(rng.normal(0, 15, (n, 2)))
    kind = torch.arange(n) % 11
    direction = torch.stack((a[:, 4].cos(), a[:, 4].sin()), dim=1)
    beside = a.clone()
    beside[:, :2] += direction * a[:, 2:3]
    within, near, flat = a.clone(), a.clone(), b.clone()
    within[:, 2:4] *= torch.from_numpy(rng.uniform(0.1, 1, (n, 2)))
    near += torch.from_numpy(rng.normal(0, 1e-9, (n, 5)))
    flat[:, 3] = 0
    half = a.clone()
    half[:, :2] += direction * a[:, 2:3] / 4
    half[:, 2] /= 2
    right = b.clone()
    right[:, 4] = a[:, 4] + PI / 2 * torch.from_numpy(rng.integers(0, 4, n))
    for i, variant in enumerate((beside, within, a, near, flat, half, right)):
        b[kind == i] = variant[kind == i]
    for i, scale in ((7, 1e5), (8, 1e-4)):
        for boxes in (a, b):
            boxes[kind == i, :4] *= scale
    return a, b


def rational_iou(a: torch.Tensor, b: torch.Tensor) -> float:
    """IoU of two boxes (5,) by clipping polygons in exact rational arithmetic (Sutherland & Hodgman 1974)."""

    def area(polygon: list[tuple[Fraction, Fraction]]) -> Fraction:
        pairs = zip(polygon, polygon[1:] + polygon[:1], strict=True)
        return abs(sum((p[0] * q[1] - q[0] * p[1] for p, q in pairs), Fraction(0))) / 2

    first, clip = ([(Fraction(x), Fraction(y)) for x, y in c.tolist()] for c in rotated.corners(torch.stack((a, b))))
    polygon = first
    for (x0, y0), (x1, y1) in zip(clip, clip[1:] + clip[:1], strict=True):
        inside = [(y1 - y0) * (x - x0) - (x1 - x0) * (y - y0) for x, y in polygon]
        out = []
        for k, (x, y) in enumerate(polygon):
            d, e, (u, v) = inside[k], inside[(k + 1) % len(polygon)], polygon[(k + 1) % len(polygon)]
            if d >= 0:
                out.append((x, y))
            if d * e < 0:
                out.append((x + (u - x) * d / (d - e), y + (v - y) * d / (d - e)))
        polygon = out
    inter = area(polygon)
    return float(inter / (area(first) + area(clip) - inter))


def test_iou_equals_shapely_on_ten_thousand_pairs():
    """Edges that coincide up to rounding are where shapely itself errs (by up to 1): there exact arithmetic decides."""
    a, b = hard_pairs(np.random.default_rng(7), 10_000)
    truth, found = shapely_iou(a, b), rotated.iou_pairs(a, b).numpy()
    disputed = np.flatnonzero(np.abs(found - truth) > 1e-9)
    assert len(disputed) < 100
    for k in disputed:
        assert found[k] == pytest.approx(rational_iou(a[k], b[k]), abs=1e-9)
    assert np.abs(rotated.iou_pairs(b, a).numpy() - found).max() < 1e-9
    single = rotated.iou_pairs(a.float(), b.float())
    assert torch.equal(single, rotated.iou_pairs(a.float().double(), b.float().double()).float())


def test_iou_equals_exact_arithmetic():
    a, b = hard_pairs(np.random.default_rng(8), 330)
    some = (a[:, 2:4].prod(dim=1) > 0) & (b[:, 2:4].prod(dim=1) > 0)
    truth = [rational_iou(p, q) for p, q in zip(a[some], b[some], strict=True)]
    assert np.abs(rotated.iou_pairs(a, b)[some].numpy() - truth).max() < 1e-9


def test_iou_matrix_equals_pairs_and_upright_iou():
    rng = np.random.default_rng(3)
    a, b = random_boxes(rng, 60), random_boxes(rng, 70)
    i, j = torch.meshgrid(torch.arange(60), torch.arange(70), indexing="ij")
    pairs = rotated.iou_pairs(a[i.flatten()], b[j.flatten()])
    assert torch.allclose(rotated.iou(a, b).flatten(), pairs, rtol=0, atol=1e-15)
    a[:, 4] = b[:, 4] = 0
    assert torch.allclose(rotated.iou(a, b), upright.iou(rotated.hull(a), rotated.hull(b)), atol=1e-12)
    assert rotated.iou(a[:0], b).shape == (0, 70)


@given(st.integers(0, 2**31), st.floats(-7, 7), st.floats(-1e4, 1e4), st.floats(0.01, 100))
@settings(max_examples=60, deadline=None)
def test_iou_does_not_change_under_motion_and_scale(seed: int, turn: float, shift: float, scale: float):
    rng = np.random.default_rng(seed)
    a, b = random_boxes(rng, 20), random_boxes(rng, 20)

    def moved(boxes: torch.Tensor) -> torch.Tensor:
        c, s = math.cos(turn), math.sin(turn)
        x, y = boxes[:, 0] * c - boxes[:, 1] * s + shift, boxes[:, 0] * s + boxes[:, 1] * c - shift
        return torch.stack((x * scale, y * scale, boxes[:, 2] * scale, boxes[:, 3] * scale, boxes[:, 4] + turn), dim=1)

    assert torch.allclose(rotated.iou_pairs(moved(a), moved(b)), rotated.iou_pairs(a, b), atol=1e-8)


@pytest.mark.parametrize("threshold", [0.1, 0.5])
def test_nms_equals_brute_force(threshold: float):
    rng = np.random.default_rng(5)
    boxes, groups = random_boxes(rng, 150), torch.from_numpy(rng.integers(0, 3, 150))
    scores = torch.from_numpy(rng.permutation(150) / 150)
    shapes = polygons(boxes)
    inter = shapely.area(shapely.intersection(shapes[:, None], shapes[None]))
    area = shapely.area(shapes)
    overlap = inter / (area[:, None] + area[None] - inter) * (groups[:, None] == groups[None]).numpy()
    left, kept = np.argsort(-scores.numpy()).tolist(), []
    while left:
        best, *left = left
        kept.append(best)
        left = [i for i in left if overlap[best, i] <= threshold]
    assert rotated.nms(boxes, scores, threshold, groups).tolist() == kept


def test_resize_keeps_the_long_axis():
    b = box(10, 20, 30, 6, 0.5)
    out = rotated.resize(b, 2.0, 0.5)
    first, second = rotated.corners(b)[0, 0], rotated.corners(b)[0, 3]  # the edge along w
    stretched = (first - second) * torch.tensor([2.0, 0.5])
    assert out[0].tolist()[:2] == [20, 10]
    assert out[0, 2].item() == pytest.approx(stretched.norm().item())
    assert out[0, 4].item() == pytest.approx(math.atan2(stretched[1].item(), stretched[0].item()))
