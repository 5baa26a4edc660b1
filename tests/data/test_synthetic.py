"""Synthetic scenes: the same bytes everywhere, truth that agrees with the pixels, and no shortcut by colour."""

import hashlib
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy.spatial import ConvexHull
from shapely import affinity
from shapely.geometry import MultiPoint, Point, Polygon, box

from selectivemae.core.errors import ConfigError
from selectivemae.data.synthetic import CLASSES, LAND, OBJECTS, Scene, scene
from selectivemae.data.synthetic.canvas import AEROPLANE, HULL, RECTANGLE, along, band, le90, swept

ROUND = {OBJECTS.index("storage-tank"), OBJECTS.index("roundabout")}


def digest(drawn: Scene) -> str:
    arrays = (drawn.image, drawn.boxes, drawn.oriented, drawn.box_labels, drawn.mask, drawn.instances)
    return hashlib.sha256(b"".join(np.ascontiguousarray(a).tobytes() for a in arrays)).hexdigest()


def rectangle(oriented: np.ndarray) -> Polygon:
    """The oriented box as shapely turns it; y down makes its counter-clockwise the screen's clockwise."""
    cx, cy, w, h, theta = (float(v) for v in oriented)
    upright = box(cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2)
    return affinity.rotate(upright, theta, origin="center", use_radians=True)


def filled(shape: Polygon, size: int) -> np.ndarray:
    """Pixels (size, size) whose centres a polygon holds, by the even-odd rule on half-planes of a convex shape."""
    corners = np.array(shape.exterior.coords)[:-1]
    y, x = np.mgrid[:size, :size] + 0.5
    sides = [
        (b[0] - a[0]) * (y - a[1]) - (b[1] - a[1]) * (x - a[0])
        for a, b in zip(corners, np.roll(corners, -1, 0), strict=True)
    ]
    return np.logical_or((np.stack(sides) >= 0).all(0), (np.stack(sides) <= 0).all(0))


def test_the_same_arguments_give_the_same_bytes_in_another_process():
    code = (
        "import hashlib, numpy as np\n"
        "from selectivemae.data.synthetic import CLASSES, scene\n"
        "import sys; assert 'torch' not in sys.modules\n"
        "for c in reversed(CLASSES):\n"
        "    s = scene(5, 3, c, 64)\n"
        "    a = (s.image, s.boxes, s.oriented, s.box_labels, s.mask, s.instances)\n"
        "    print(c, hashlib.sha256(b''.join(np.ascontiguousarray(x).tobytes() for x in a)).hexdigest())\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    elsewhere = dict(line.split() for line in done.stdout.splitlines())
    assert elsewhere == {c: digest(scene(5, 3, c, 64)) for c in CLASSES}


def test_seed_index_and_class_each_change_the_scene():
    base = scene(0, 0, "river", 48)
    others = [scene(1, 0, "river", 48), scene(0, 1, "river", 48), scene(0, 0, "forest", 48)]
    assert len({digest(s) for s in [base, *others]}) == 4
    assert digest(scene(0, 0, CLASSES.index("river"), 48)) == digest(base)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**40), st.integers(0, 10**9), st.sampled_from(CLASSES), st.integers(16, 150))
def test_every_scene_is_well_formed(seed, index, label, size):
    s = scene(seed, index, label, size)
    assert s.image.shape == (size, size, 3)
    assert s.image.dtype == np.uint8
    assert CLASSES[s.label] == label
    assert s.mask.shape == s.instances.shape == (size, size)
    assert s.mask.max() < len(LAND)
    n = len(s.boxes)
    assert s.oriented.shape == (n, 5)
    assert s.box_labels.shape == (n,)
    assert set(np.unique(s.instances)) <= set(range(n + 1))
    assert ((s.boxes >= 0) & (s.boxes <= size)).all()
    assert (s.boxes[:, 2:] > s.boxes[:, :2]).all()
    assert (s.oriented[:, 2] >= s.oriented[:, 3]).all()
    assert ((s.oriented[:, 4] >= -np.pi / 2) & (s.oriented[:, 4] < np.pi / 2)).all()
    assert ((s.oriented[:, :2] >= 0) & (s.oriented[:, :2] <= size)).all()
    assert s.image.std() > 3


@pytest.mark.parametrize("label", ["parking", "harbour", "airport", "storage-tanks", "sports-ground", "dense-housing"])
def test_boxes_agree_with_the_pixels_of_their_objects(label):
    """Against shapely's rectangles: an object fills its box as its shape says, and nothing of it lies outside."""
    size, seen, exact = 320, 0, 0
    for index in range(2):
        s = scene(11, index, label, size)
        for number, (oriented, upright, kind) in enumerate(zip(s.oriented, s.boxes, s.box_labels, strict=True), 1):
            shape = rectangle(oriented)
            x0, y0, x1, y1 = shape.bounds
            assert np.allclose(upright, np.clip([x0, y0, x1, y1], 0, size), atol=0.01)
            if oriented[3] < 8 or min(x0, y0) < 0 or max(x1, y1) > size:
                continue
            own = s.instances == number
            if own.sum() < 0.2 * shape.area:  # something stands over it: a bridge, a stand, another roof
                continue
            seen += 1
            assert not (own & ~filled(shape.buffer(1.25, join_style="mitre"), size)).any()
            inside = filled(shape, size)
            overlap = (own & inside).sum() / (own | inside).sum()
            if kind in ROUND:
                disc = filled(Point(*oriented[:2]).buffer(oriented[2] / 2, quad_segs=32), size)
                overlap = (own & disc).sum() / (own | disc).sum()
            exact += overlap > {OBJECTS.index("aircraft"): 0.2, OBJECTS.index("ship"): 0.75}.get(int(kind), 0.8)
    assert seen >= 1
    assert exact >= 0.9 * seen


@pytest.mark.parametrize("label", ["parking", "shore", "airport", "crop-fields"])
def test_size_changes_the_resolution_only(label):
    small, large = scene(2, 4, label, 128), scene(2, 4, label, 256)
    assert large.gsd == pytest.approx(small.gsd / 2)
    big = large.oriented[large.oriented[:, 3] >= 6]
    for row in big:
        scaled = row * np.array([0.5, 0.5, 0.5, 0.5, 1])
        assert np.abs(small.oriented - scaled).max(1).min() < 1e-3
    shrunk = np.asarray(Image.fromarray(large.image).resize((128, 128), Image.Resampling.BOX), float)
    assert np.corrcoef(shrunk.ravel(), small.image.ravel().astype(float))[0, 1] > 0.5
    assert (large.mask[::2, ::2] == small.mask).mean() > 0.9


def test_land_cover_matches_the_class():
    share = {
        c: np.mean([np.bincount(scene(1, i, c, 64).mask.ravel(), minlength=len(LAND)) for i in range(6)], 0)
        for c in CLASSES
    }
    most = {c: LAND[int(np.argmax(v))] for c, v in share.items()}
    assert most["forest"] == "trees"
    assert most["crop-fields"] == "field"
    assert most["dunes"] == "bare"
    assert most["parking"] == "paved"
    assert share["shore"][LAND.index("water")] > 0.2 * 64 * 64
    assert share["dense-housing"][LAND.index("building")] > share["sparse-housing"][LAND.index("building")]


def test_houses_stand_denser_from_sparse_to_dense():
    def per_hectare(name):
        drawn = [scene(1, i, f"{name}-housing", 128) for i in range(6)]
        return sum(len(s.boxes) for s in drawn) / sum((s.gsd * 128 / 100) ** 2 for s in drawn)

    assert 2 < per_hectare("sparse") < 0.7 * per_hectare("medium") < 0.5 * per_hectare("dense")


def features(seed: int, indices: range) -> tuple[list[np.ndarray], np.ndarray]:
    """Raw 24 x 24 pixels and six colour numbers (mean and deviation of each channel) of scenes of all classes."""
    raw, six, labels = [], [], []
    for label in range(len(CLASSES)):
        for index in indices:
            image = scene(seed, index, label, 48).image
            raw.append(np.asarray(Image.fromarray(image).resize((24, 24), Image.Resampling.BOX), float).ravel() / 255)
            six.append(np.concatenate([image.mean((0, 1)), image.std((0, 1))]))
            labels.append(label)
    colours = np.array(six)
    return [np.array(raw), (colours - colours.mean(0)) / colours.std(0)], np.array(labels)


def test_neither_raw_pixels_nor_colours_give_the_class_away():
    (train, known), (test, truth) = features(0, range(14)), features(0, range(14, 20))
    for a, b in zip(train, test, strict=True):
        distance = ((b**2).sum(1)[:, None] - 2 * b @ a.T) + (a**2).sum(1)
        nearest = known[np.argsort(distance, 1)[:, :5]]
        vote = [np.bincount(row, minlength=len(CLASSES)).argmax() for row in nearest]
        assert (np.array(vote) == truth).mean() <= 0.35


def test_unknown_classes_and_sizes_are_refused():
    with pytest.raises(ConfigError, match="did you mean 'harbour'"):
        scene(0, 0, "harbor")
    with pytest.raises(ConfigError, match="from 0"):
        scene(0, 0, len(CLASSES))
    with pytest.raises(ConfigError, match="size 8"):
        scene(0, 0, 0, 8)


@given(st.integers(0, 10**6))
def test_swept_outline_is_the_hull_of_both_ends(seed):
    rng = np.random.default_rng(seed)
    cloud = rng.normal(size=(6, 2))
    points = cloud[ConvexHull(cloud).vertices][:: rng.choice([-1, 1])]
    shift = rng.normal(size=2) * 2
    outline = Polygon(swept(points[None], shift[None])[0])
    truth = MultiPoint(np.concatenate([points, points + shift])).convex_hull
    assert outline.area == pytest.approx(truth.area, rel=1e-6)
    assert truth.buffer(1e-6).covers(outline)


def test_le90_meets_the_published_examples():
    found = le90(np.array([[50, 40, 10, 40, 0.2], [0, 0, 4, 4, 0.3], [50, 40, 40, 10, np.pi / 6]]))
    wanted = [[50, 40, 40, 10, -1.37080], [0, 0, 4, 4, -1.27080], [50, 40, 40, 10, np.pi / 6]]
    assert np.allclose(found, wanted, atol=1e-5)


def test_templates_fill_the_unit_square():
    for template in (RECTANGLE, HULL, AEROPLANE):
        assert np.allclose(template.min(0), -0.5)
        assert np.allclose(template.max(0), 0.5)


def test_bands_and_poses_follow_a_line():
    line = np.stack([np.linspace(0, 30, 31), np.zeros(31)], 1)
    assert Polygon(band(line, 4.0)).area == pytest.approx(120)
    poses = along(line, 10.0, offset=2.0)
    assert np.allclose(poses, [[0, 2, 0], [10, 2, 0], [20, 2, 0]])
