"""RoIAlign against its definition written as loops, and its symmetries."""

import math

import numpy as np
import pytest
import torch

from selectivemae.ops import rotated
from selectivemae.ops.roi_align import roi_align, roi_align_rotated


def bilinear(plane: np.ndarray, y: float, x: float) -> float:
    H, W = plane.shape
    if y < -1 or y > H or x < -1 or x > W:
        return 0.0
    y, x = min(max(y, 0), H - 1), min(max(x, 0), W - 1)
    top, left = int(y), int(x)
    down, right = min(top + 1, H - 1), min(left + 1, W - 1)
    a, b = y - top, x - left
    upper = plane[top, left] * (1 - b) + plane[top, right] * b
    return float(upper * (1 - a) + (plane[down, left] * (1 - b) + plane[down, right] * b) * a)


def by_loops(features: np.ndarray, roi: tuple[float, ...], stride: float, P: int, sampling: int) -> np.ndarray:
    """One region (cx, cy, w, h, θ) of one image (C, H, W), sample by sample."""
    cx, cy, w, h, angle = roi
    cx, cy, w, h = cx / stride - 0.5, cy / stride - 0.5, w / stride, h / stride
    rows, columns = sampling or math.ceil(h / P), sampling or math.ceil(w / P)
    out = np.zeros((len(features), P, P))
    for c, plane in enumerate(features):
        for i in range(P):
            for j in range(P):
                values = []
                for a in range(rows):
                    for b in range(columns):
                        yy = -h / 2 + (i + (a + 0.5) / rows) * h / P
                        xx = -w / 2 + (j + (b + 0.5) / columns) * w / P
                        x = xx * math.cos(angle) - yy * math.sin(angle) + cx
                        y = xx * math.sin(angle) + yy * math.cos(angle) + cy
                        values.append(bilinear(plane, y, x))
                out[c, i, j] = np.mean(values) if values else 0.0
    return out


def some_rois(rng: np.random.Generator, n: int) -> torch.Tensor:
    """Regions of an image of 80 x 64 pixels, many crossing its border, one without area, one outside."""
    rois = np.concatenate(
        (rng.uniform(-10, 90, (n, 2)), rng.uniform(1, 90, (n, 2)), rng.uniform(-3, 3, (n, 1))), axis=1
    )
    rois[0, 3] = 0
    rois[1, :2] = 500
    return torch.from_numpy(rois)


@pytest.mark.parametrize("sampling", [0, 2])
def test_rotated_equals_the_definition(sampling: int):
    rng = np.random.default_rng(0)
    features, rois = torch.from_numpy(rng.normal(size=(2, 2, 20, 16))), some_rois(rng, 12)
    image = torch.from_numpy(rng.integers(0, 2, 12))
    found = roi_align_rotated(features, rois, image, 4.0, 5, sampling)
    for k in range(12):
        truth = by_loops(features[image[k]].numpy(), tuple(rois[k].tolist()), 4.0, 5, sampling)
        assert np.abs(found[k].numpy() - truth).max() < 1e-12


@pytest.mark.parametrize("sampling", [0, 1, 3])
def test_upright_equals_the_definition_and_angle_zero(sampling: int):
    rng = np.random.default_rng(1)
    features, rois = torch.from_numpy(rng.normal(size=(1, 3, 20, 16))), some_rois(rng, 10)
    rois[:, 4] = 0
    image = torch.zeros(10, dtype=torch.int64)
    boxes = torch.cat((rois[:, :2] - rois[:, 2:4] / 2, rois[:, :2] + rois[:, 2:4] / 2), dim=1)
    found = roi_align(features, boxes, image, 4.0, 7, sampling)
    for k in range(10):
        truth = by_loops(features[0].numpy(), tuple(rois[k].tolist()), 4.0, 7, sampling)
        assert np.abs(found[k].numpy() - truth).max() < 1e-12
    turned = roi_align_rotated(features.float(), rois.float(), image, 4.0, 7, sampling)
    assert (turned - found).abs().max() < 1e-5


def test_commutes_with_turning_the_image_by_a_right_angle():
    rng = np.random.default_rng(2)
    size = 24
    features, rois = torch.from_numpy(rng.normal(size=(1, 3, size, size))), some_rois(rng, 16)
    image = torch.zeros(16, dtype=torch.int64)
    # Clockwise on the screen: pixel (x, y) goes to (H - y, x), and every angle grows by a right angle.
    turned = torch.stack((size * 4 - rois[:, 1], rois[:, 0], rois[:, 2], rois[:, 3], rois[:, 4] + math.pi / 2), dim=1)
    before = roi_align_rotated(features, rois, image, 4.0)
    after = roi_align_rotated(features.rot90(-1, (2, 3)), turned, image, 4.0)
    assert (before - after).abs().max() < 1e-9


def test_a_box_turned_by_a_right_angle_is_the_turned_box_itself():
    features = torch.randn(1, 2, 30, 30, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    roi = torch.tensor([[60.0, 62, 40, 20, 0.3]], dtype=torch.float64)
    swapped = torch.tensor([[60.0, 62, 20, 40, 0.3 + math.pi / 2]], dtype=torch.float64)
    zero = torch.zeros(1, dtype=torch.int64)
    assert rotated.iou(roi, swapped).item() == pytest.approx(1)
    first, second = roi_align_rotated(features, roi, zero, 4.0), roi_align_rotated(features, swapped, zero, 4.0)
    assert (first.rot90(1, (2, 3)) - second).abs().max() < 1e-12


def test_a_linear_map_is_read_exactly():
    y, x = torch.meshgrid(torch.arange(40.0), torch.arange(40.0), indexing="ij")
    roi = torch.tensor([[80.0, 70, 40, 24, 0.5]])
    out = roi_align_rotated((2 * x + y)[None, None], roi, torch.zeros(1, dtype=torch.int64), 4.0, 1)
    assert out.item() == pytest.approx(2 * (80 / 4 - 0.5) + 70 / 4 - 0.5, abs=1e-4)


@pytest.mark.parametrize("angle", [0.0, 0.7])
def test_gradient(angle: float):
    rng = np.random.default_rng(3)
    features = torch.from_numpy(rng.normal(size=(2, 2, 6, 5))).requires_grad_()
    rois = some_rois(rng, 5) / torch.tensor([4.0, 4, 4, 4, 1])
    rois[:, 4] = angle
    image = torch.tensor([0, 1, 1, 0, 1])
    assert torch.autograd.gradcheck(lambda f: roi_align_rotated(f, rois, image, 4.0, 3), (features,))
    assert torch.autograd.gradcheck(lambda f: roi_align(f, rotated.hull(rois), image, 4.0, 3), (features,))


def test_low_precision_is_pooled_in_float32_and_empty_lists_work():
    features = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0)).bfloat16().requires_grad_()
    roi, zero = torch.tensor([[3.0, 3, 25, 20]]), torch.zeros(1, dtype=torch.int64)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = roi_align(features, roi, zero, 4.0)
    assert out.dtype == torch.float32
    assert torch.equal(out, roi_align(features.float(), roi, zero, 4.0))
    out.sum().backward()
    assert features.grad is not None
    assert roi_align(features, roi[:0], zero[:0], 4.0).shape == (0, 4, 7, 7)
