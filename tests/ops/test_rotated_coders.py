"""The two coders of oriented detection: check values and inverses."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from selectivemae.ops import rotated

PI = math.pi


def box(*values: float) -> torch.Tensor:
    return torch.tensor([values], dtype=torch.float64)


def same_rectangle(a: torch.Tensor, b: torch.Tensor, atol: float) -> bool:
    gaps = torch.cdist(rotated.corners(a), rotated.corners(b))
    return bool((gaps.amin(dim=-1) < atol).all() and (gaps.amin(dim=-2) < atol).all())


@pytest.mark.parametrize(
    ("angle", "expected"),
    [
        (PI / 6, (0.125, 0.125, 0.21413, -0.11022, -0.74774, 0.39566)),
        (0.0, (0.125, 0.125, 0.22314, -1.16315, 1.0, 1.0)),
    ],
)
def test_midpoint_check_values(angle: float, expected: tuple[float, ...]):
    anchor, target = box(30, 20, 62, 52), box(50, 40, 40, 10, angle)
    deltas = rotated.encode_midpoint(anchor, target)
    assert deltas[0].tolist() == pytest.approx(expected, abs=1e-5)
    assert torch.allclose(rotated.decode_midpoint(anchor, deltas), target, atol=1e-9)


@pytest.mark.parametrize(
    ("roi", "expected"),
    [
        ((48, 42, 36, 12, 0.4), (0.29536, -2.18413, 0.52680, -0.91161, 1.23599)),
        ((48, 42, 36, 12, -1.2), (0.71911, 0.94947, -6.40467, 6.01986, 1.52802)),
    ],
)
def test_rotated_check_values(roi: tuple[float, ...], expected: tuple[float, ...]):
    target = box(50, 40, 40, 10, PI / 6)
    deltas = rotated.encode_rotated(box(*roi), target)
    assert deltas[0].tolist() == pytest.approx(expected, abs=1e-5)
    assert torch.allclose(rotated.decode_rotated(box(*roi), deltas), target, atol=1e-9)


# Slivers under half a pixel stay out: within the tie tolerance of 0.1 px their two ends are one corner.
rectangles = st.tuples(
    st.floats(0, 300), st.floats(0, 300), st.floats(4, 200), st.floats(4, 200), st.floats(-4, 4)
).filter(lambda r: abs(math.sin(2 * r[4])) > 0.1 or r[4] == 0)


@given(rectangles, st.tuples(st.floats(0, 300), st.floats(0, 300), st.floats(8, 100), st.floats(8, 100)))
@settings(max_examples=300, deadline=None)
def test_midpoint_coder_inverts(target: tuple[float, ...], anchor: tuple[float, ...]):
    x, y, w, h = anchor
    anchors, targets = box(x, y, x + w, y + h), box(*target)
    found = rotated.decode_midpoint(anchors, rotated.encode_midpoint(anchors, targets))
    assert same_rectangle(found, targets, 1e-6)


@given(rectangles, rectangles)
@settings(max_examples=300, deadline=None)
def test_rotated_coder_inverts(target: tuple[float, ...], roi: tuple[float, ...]):
    rois, targets = box(*roi), box(*target)
    deltas = rotated.encode_rotated(rois, targets)
    assert abs(deltas[0, 4].item()) <= PI / 4 / 0.1 + 1e-9  # the way that turns less
    assert same_rectangle(rotated.decode_rotated(rois, deltas), targets, 1e-6)


def test_decoded_centres_stay_in_the_image_and_boxes_are_le90():
    rois = box(5, 5, 10, 30, 0.1).repeat(2, 1)
    far = torch.tensor([[900.0, 900, 0, 0, 0], [-900.0, -900, 0, 0, 0]], dtype=torch.float64)
    found = rotated.decode_rotated(rois, far, image_size=(40, 60))
    assert ((found[:, 0] >= 0) & (found[:, 0] <= 59) & (found[:, 1] >= 0) & (found[:, 1] <= 39)).all()
    assert (found[:, 2] > found[:, 3]).all()


def test_midpoint_decoding_of_wild_deltas_is_finite_and_differentiable():
    anchors = box(0, 0, 32, 32).repeat(64, 1).float()
    deltas = (torch.randn(64, 6, generator=torch.Generator().manual_seed(0)) * 20).requires_grad_()
    found = rotated.decode_midpoint(anchors, deltas)
    assert torch.isfinite(found).all()
    assert torch.isfinite(torch.autograd.grad(found.sum(), deltas)[0]).all()
