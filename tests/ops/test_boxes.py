"""Upright boxes against shapely, brute force and their own inverse."""

import numpy as np
import pytest
import shapely
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from selectivemae.ops import boxes


def random_boxes(rng: np.random.Generator, n: int, side: float = 100.0) -> torch.Tensor:
    low = rng.uniform(0, side, (n, 2))
    return torch.from_numpy(np.concatenate((low, low + rng.uniform(0.5, side / 2, (n, 2))), axis=1))


def greedy(overlap: np.ndarray, scores: np.ndarray, threshold: float) -> list[int]:
    """Suppression as the textbook has it: take the best left, strike out what overlaps it."""
    left = sorted(range(len(scores)), key=lambda i: (-scores[i], i))
    kept = []
    while left:
        best, *left = left
        kept.append(best)
        left = [i for i in left if not overlap[best, i] > threshold]
    return kept


def test_iou_equals_shapely():
    rng = np.random.default_rng(0)
    a, b = random_boxes(rng, 40), random_boxes(rng, 50)
    first, second = shapely.box(*a.numpy().T)[:, None], shapely.box(*b.numpy().T)[None]
    truth = shapely.area(shapely.intersection(first, second)) / shapely.area(shapely.union(first, second))
    assert np.abs(boxes.iou(a, b).numpy() - truth).max() < 1e-12


def test_iou_of_boxes_without_area_is_zero():
    flat = torch.tensor([[0.0, 0, 0, 5], [3.0, 3, 1, 1]])
    assert torch.equal(boxes.iou(flat, flat), torch.zeros(2, 2))
    assert torch.equal(boxes.area(flat), torch.zeros(2))


@pytest.mark.parametrize("n", [0, 1, 60, 2500])
@pytest.mark.parametrize("threshold", [0.1, 0.5])
def test_nms_equals_brute_force(n: int, threshold: float):
    rng = np.random.default_rng(n)
    points = random_boxes(rng, n, side=400.0)
    scores = torch.from_numpy(rng.integers(0, 200, n) / 200)  # many equal scores
    truth = greedy(boxes.iou(points, points).numpy(), scores.numpy(), threshold)
    assert boxes.nms(points, scores, threshold).tolist() == truth


def test_nms_of_groups_equals_brute_force():
    rng = np.random.default_rng(1)
    points, groups = random_boxes(rng, 200), torch.from_numpy(rng.integers(0, 4, 200))
    scores = torch.from_numpy(rng.integers(0, 50, 200) / 50)
    overlap = (boxes.iou(points, points) * (groups[:, None] == groups[None])).numpy()
    assert boxes.nms(points, scores, 0.3, groups).tolist() == greedy(overlap, scores.numpy(), 0.3)
    assert boxes.nms(points[:0], scores[:0], 0.3, groups[:0]).tolist() == []


def test_nms_settles_a_long_chain():
    x = torch.arange(1500.0)
    chain = torch.stack((x, torch.zeros(1500), x + 1.6, torch.ones(1500)), dim=1)  # each overlaps its neighbours only
    assert boxes.nms(chain, -x, 0.2).tolist() == list(range(0, 1500, 2))


coordinate = st.floats(-500, 500, width=32)
side = st.floats(0.5, 400, width=32)


@given(st.tuples(coordinate, coordinate, side, side), st.tuples(coordinate, coordinate, side, side))
@settings(max_examples=200, deadline=None)
def test_coder_inverts(anchor: tuple[float, ...], box: tuple[float, ...]):
    both = torch.tensor([anchor, box], dtype=torch.float64)
    both[:, 2:] += both[:, :2]
    both[1, 2:] = torch.minimum(both[1, 2:], both[1, :2] + (both[0, 2:] - both[0, :2]) * 60)  # within the clamp
    sides = (both[1, 2:] - both[1, :2]) / (both[0, 2:] - both[0, :2])
    if (sides < 1 / 60).any():
        return
    stds = (0.1, 0.1, 0.2, 0.2)
    deltas = boxes.encode(both[:1], both[1:], stds)
    assert torch.allclose(boxes.decode(both[:1], deltas, stds), both[1:], atol=1e-9)


def test_decode_clamps_both_ways_and_clip_cuts():
    anchor = torch.tensor([[0.0, 0, 16, 16]])
    wide = boxes.decode(anchor, torch.tensor([[0.0, 0, 9, -9]]))
    assert wide[0].tolist() == pytest.approx([8 - 500, 8 - 0.128, 8 + 500, 8 + 0.128], rel=1e-5)
    assert boxes.clip(wide, height=12, width=100)[0].tolist() == pytest.approx([0, 7.872, 100, 8.128], rel=1e-5)
