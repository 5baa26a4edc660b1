"""One affine for pixels and boxes: inverse, IoU, corners as the oracle, and blobs that must lie under their boxes."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from selectivemae.core.errors import ConfigError
from selectivemae.ops import boxes as upright
from selectivemae.ops import rotated
from selectivemae.tasks import boxes_geometry as geometry
from selectivemae.tasks.boxes_geometry import Geometry, Place

sides = st.integers(40, 900)
keys = st.integers(-(2**63), 2**63 - 1)


def random_boxes(seed: int, size: tuple[int, int], count: int = 12) -> np.ndarray:
    """Rotated boxes somewhere in an image."""
    rng = np.random.default_rng(seed)
    centre = rng.uniform(0, 1, (count, 2)) * size[::-1]
    boxes = np.column_stack((centre, rng.uniform(2, 60, (count, 2)), rng.uniform(-1.57, 1.57, count)))
    return rotated.le90(torch.from_numpy(boxes)).numpy()


def corners(boxes: np.ndarray) -> np.ndarray:
    return rotated.corners(torch.from_numpy(boxes)).numpy()


@settings(max_examples=30)
@given(keys, sides, sides, st.sampled_from(["none", "horizontal", "all"]), st.sampled_from([0.0, 30.0, 180.0]))
def test_a_place_is_undone_by_its_inverse_and_fits_the_canvas(key, height, width, flips, rotation):
    place = Geometry(512, flips, rotation).place(key, (height, width))
    assert max(place.size) == 512
    assert min(place.size) >= 1
    there, back = place.matrix, geometry.inverse(place.matrix)
    points = np.array([[0.0, 0.0], [width, height], [17.5, 3.25]])
    moved = points @ there[:, :2].T + there[:, 2]
    assert np.allclose(moved @ back[:, :2].T + back[:, 2], points, atol=1e-8)
    middle = there[:, :2] @ [width / 2, height / 2] + there[:, 2]
    assert np.allclose(middle, [place.size[1] / 2, place.size[0] / 2])
    if not rotation:  # the image's corners are the corners of its part of the canvas
        box = geometry.move_upright(np.array([[0.0, 0.0, width, height]]), there)
        assert np.allclose(box, [[0, 0, place.size[1], place.size[0]]])


@settings(max_examples=30)
@given(keys, st.integers(0, 10**6), st.sampled_from(["none", "horizontal", "all"]))
def test_rotated_boxes_go_with_their_corners_and_keep_their_iou(key, seed, flips):
    """Of a square, where both scales are one, every place is a similarity: corners go to corners."""
    place = Geometry(600, flips, 180.0).place(key, (300, 300))
    boxes = random_boxes(seed, (300, 300))
    moved = geometry.move_rotated(boxes, place.matrix)
    expected = corners(boxes) @ place.matrix[:, :2].T + place.matrix[:, 2]
    gaps = np.linalg.norm(corners(moved)[:, :, None] - expected[:, None], axis=-1).min(axis=2)
    assert gaps.max() < 1e-8
    before, after = (rotated.iou(b, b) for b in (torch.from_numpy(boxes), torch.from_numpy(moved)))
    assert torch.allclose(before, after, atol=1e-9)
    assert np.allclose(corners(geometry.move_rotated(moved, geometry.inverse(place.matrix))), corners(boxes), atol=1e-7)


@settings(max_examples=30)
@given(keys, st.integers(0, 10**6), sides, sides)
def test_upright_boxes_keep_their_iou_under_flips_and_resizing(key, seed, height, width):
    place = Geometry(512, "all").place(key, (height, width))
    boxes = rotated.hull(torch.from_numpy(random_boxes(seed, (height, width)))).numpy()
    moved = geometry.move_upright(boxes, place.matrix)
    before, after = (upright.iou(b, b) for b in (torch.from_numpy(boxes), torch.from_numpy(moved)))
    assert torch.allclose(before, after, atol=1e-9)
    assert np.allclose(geometry.move_upright(moved, geometry.inverse(place.matrix)), boxes, atol=1e-8)


@settings(max_examples=30)
@given(st.integers(0, 10**6), st.floats(0.3, 3), st.floats(0.3, 3))
def test_an_unequal_stretch_follows_the_formulas_of_resizing(seed, sx, sy):
    boxes = random_boxes(seed, (300, 300))
    moved = geometry.move_rotated(boxes, np.array([[sx, 0, 0], [0, sy, 0]]))
    expected = rotated.le90(rotated.resize(torch.from_numpy(boxes), sx, sy)).numpy()
    assert np.allclose(moved[:, :4], expected[:, :4])
    turn = (moved[:, 4] - expected[:, 4] + math.pi / 2) % math.pi - math.pi / 2
    assert np.abs(turn).max() < 1e-9


def test_flips_are_those_of_the_published_recipe():
    """h: cx -> W - cx, angle -> -angle; v likewise; diagonal: both centres, the angle kept (le90 of a wide box)."""
    box = np.array([[30.0, 40.0, 50.0, 10.0, 0.4]])
    for flip_x, flip_y, expected in (
        (True, False, [170, 40, 50, 10, -0.4]),
        (False, True, [30, 60, 50, 10, -0.4]),
        (True, True, [170, 60, 50, 10, 0.4]),
    ):
        place = Place((100, 200), (100, 200), flip_x, flip_y)
        assert np.allclose(geometry.move_rotated(box, place.matrix), [expected])


@pytest.mark.parametrize(("flips", "shares"), [("horizontal", (0.5, 0.5, 0, 0)), ("all", (0.25,) * 4)])
def test_flips_come_as_often_as_they_should(flips: str, shares: tuple[float, ...]):
    places = [Geometry(64, flips).place(key, (64, 64)) for key in range(4000)]
    counts = [sum((p.flip_x, p.flip_y) == pair for p in places) / 4000 for pair in
              ((False, False), (True, False), (False, True), (True, True))]  # fmt: skip
    assert np.allclose(counts, shares, atol=0.03)
    with pytest.raises(ConfigError, match="flips"):
        Geometry(64, "sideways")


@settings(max_examples=30)
@given(keys, st.integers(0, 10**6), st.integers(120, 300), st.integers(120, 300), st.sampled_from([0.0, 180.0]))
def test_pixels_and_boxes_go_the_same_way(key, seed, height, width, rotation):
    """A white disc on black: after pasting its centre of mass lies in the middle of its box."""
    rng = np.random.default_rng(seed)
    x, y, radius = rng.uniform(45, width - 45), rng.uniform(45, height - 45), 12.0
    rows, columns = np.mgrid[:height, :width] + 0.5
    disc = np.hypot(columns - x, rows - y) <= radius
    pixels = np.repeat((disc * 255).astype(np.uint8)[..., None], 3, axis=2)
    place = Geometry(256, "all", rotation).place(key, (height, width))
    canvas = np.full((256, 256, 3), 99, np.uint8)
    geometry.paste(pixels, place, canvas, (0, 0, 0))
    assert (canvas[place.size[0] :] == 0).all()
    assert (canvas[:, place.size[1] :] == 0).all()
    box = np.array([[x - radius, y - radius, x + radius, y + radius]])
    moved, stays = geometry.place_objects(box, place)
    if len(moved) and np.allclose(moved, geometry.move_upright(box, place.matrix)):  # wholly inside
        weight = canvas[..., 0].astype(float)
        mass = weight.sum()
        found = (weight.sum(0) @ (np.arange(256) + 0.5) / mass, weight.sum(1) @ (np.arange(256) + 0.5) / mass)
        assert np.allclose(found, [(moved[0, 0] + moved[0, 2]) / 2, (moved[0, 1] + moved[0, 3]) / 2], atol=0.35)
    if not rotation:
        assert stays.all()


def test_pixels_that_only_flip_are_not_resampled():
    pixels = np.random.default_rng(0).integers(0, 256, (64, 48, 3), np.uint8)
    canvas = np.zeros((64, 64, 3), np.uint8)
    geometry.paste(pixels, Place((64, 48), (64, 48), flip_x=True, flip_y=True), canvas, (7, 8, 9))
    assert np.array_equal(canvas[:, :48], pixels[::-1, ::-1])
    assert (canvas[:, 48:] == [7, 8, 9]).all()


def test_objects_that_a_turn_or_the_border_takes_away():
    place = Place((100, 100), (100, 100), angle=math.pi / 4)
    boxes = np.array([[50.0, 50.0, 20.0, 10.0, 0.0], [4.0, 4.0, 8.0, 4.0, 0.0]])  # the corner leaves the image
    moved, stays = geometry.place_objects(boxes, place)
    assert stays.tolist() == [True, False]
    assert np.allclose(moved, [[50, 50, 20, 10, math.pi / 4]])
    crossing = np.array([[-10.0, 10.0, 5.0, 20.0], [99.5, 10.0, 140.0, 20.0]])
    moved, stays = geometry.place_objects(crossing, Place((100, 100), (100, 100)))
    assert stays.tolist() == [True, False]  # half a pixel of the second is in the image
    assert np.allclose(moved, [[0, 10, 5, 20]])
