"""Crops and turns: torchvision's distribution, Pillow's pixels, and independence of the company a sample is in."""

import io

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from scipy.stats import ks_2samp

from selectivemae.core.errors import ConfigError
from selectivemae.data.augment import (
    CentreCrop,
    RandomCrop,
    centre_box,
    crop_box,
    resample,
    shrink_factor,
    turn,
)
from selectivemae.data.decode import decode

KEYS = np.random.default_rng(0).integers(-(2**63), 2**63 - 1, 4000)


@pytest.fixture(scope="module")
def random_resized_crop():
    """torchvision's transform, where it can be imported."""
    torchvision = pytest.importorskip("selectivemae.models._torchvision")
    torchvision.ensure_torchvision()
    from torchvision.transforms import RandomResizedCrop

    return RandomResizedCrop


@pytest.mark.parametrize(("width", "height"), [(256, 256), (600, 400), (90, 250), (1000, 120)])
def test_distribution_is_torchvisions(random_resized_crop, width: int, height: int) -> None:
    torch.manual_seed(0)
    image = torch.zeros(3, height, width)
    theirs = np.array([random_resized_crop.get_params(image, (0.2, 1.0), (3 / 4, 4 / 3)) for _ in range(4000)])
    ours = crop_box(KEYS, width, height)
    x, y, w, h = ours.T
    assert (x >= 0).all()
    assert (y >= 0).all()
    assert (w > 0).all()
    assert (h > 0).all()
    assert (x + w <= width).all()
    assert (y + h <= height).all()
    top, left, their_h, their_w = theirs.T
    for a, b in (
        (x, left),
        (y, top),
        (w, their_w),
        (h, their_h),
        (w / h, their_w / their_h),
        (w * h, their_w * their_h),
    ):
        assert ks_2samp(a, b).pvalue > 1e-4


@pytest.mark.parametrize(("width", "height"), [(1000, 40), (40, 1001), (333, 101)])
def test_fallback_is_torchvisions(random_resized_crop, width: int, height: int) -> None:
    """With the whole area asked for, no draw fits and the fallback is all there is."""
    top, left, h, w = random_resized_crop.get_params(torch.zeros(3, height, width), (1.0, 1.0), (3 / 4, 4 / 3))
    assert (crop_box(KEYS[:5], width, height, (1.0, 1.0)) == [left, top, w, h]).all()


@given(st.lists(st.tuples(st.integers(-(2**63), 2**63 - 1), st.integers(1, 3000), st.integers(1, 3000)), min_size=1))
def test_a_sample_is_judged_alone(samples: list[tuple[int, int, int]]) -> None:
    keys, widths, heights = (np.array(column, dtype=np.int64) for column in zip(*samples, strict=True))
    augment = RandomCrop(turns="all")
    boxes, turns = augment(keys, widths, heights)
    for place in range(len(samples)):
        alone = augment(keys[place : place + 1], widths[place : place + 1], heights[place : place + 1])
        assert (alone[0] == boxes[place]).all()
        assert alone[1] == turns[place]


def test_turns_are_equally_likely() -> None:
    for name, codes in (("none", 1), ("horizontal", 2), ("all", 8)):
        counts = np.bincount(turn(KEYS, name), minlength=8)
        assert (counts[:codes] > 0.85 * len(KEYS) / codes).all()
        assert not counts[codes:].any()


@pytest.mark.parametrize("code", range(8))
def test_turns_are_the_symmetries_of_the_square(code: int) -> None:
    """A turn of the result is the turn of the picture: compared with numpy's on pixels kept as they are."""
    pixels = np.arange(32 * 32 * 3, dtype=np.uint32).astype(np.uint8).reshape(32, 32, 3)
    expected = pixels.transpose(1, 0, 2) if code & 4 else pixels
    expected = expected[::-1] if code & 2 else expected
    expected = expected[:, ::-1] if code & 1 else expected
    whole = np.array([0, 0, 32, 32])
    assert (resample(pixels, whole, 32, code).permute(1, 2, 0).numpy() == expected).all()


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    return float(10 * np.log10(255**2 / max(np.mean((a.astype(float) - b.astype(float)) ** 2), 1e-9)))


@pytest.mark.parametrize("name", ["harbour_city_2560.jpg", "coast_2560x1700.jpg", "snow_industry_1500.jpg"])
def test_pixels_are_pillows(shared_data, name: str) -> None:
    with Image.open(shared_data / "big_scenes" / name) as image:
        scene = image.convert("RGB").crop((100, 100, 1124, 1124))
    for side in (256, 512, 1024):
        picture = scene.crop((0, 0, side, side))
        pixels = np.array(picture)
        for box in crop_box(KEYS[:6], side, side):
            x, y, w, h = box.tolist()
            theirs = picture.crop((x, y, x + w, y + h)).resize((224, 224), Image.Resampling.BICUBIC)
            ours = resample(pixels, box, 224).permute(1, 2, 0).numpy()
            assert psnr(ours, np.asarray(theirs)) >= 50


def test_decoding_at_part_of_the_size_stays_close(shared_data) -> None:
    """The figure stated for ``dct_scaling``: the same crop from a JPEG decoded at half or a quarter of its size."""
    figures = []
    for name in ("harbour_city_2560.jpg", "coast_2560x1700.jpg", "tundra_coast_1800x2560.jpg"):
        file = io.BytesIO()
        with Image.open(shared_data / "big_scenes" / name) as image:
            image.convert("RGB").crop((100, 100, 1124, 1124)).save(file, "JPEG", quality=90)
        whole = decode(file.getvalue())
        for box in crop_box(KEYS[:6], 1024, 1024):
            shrink = shrink_factor(box, 224)
            part = box // shrink
            small = resample(decode(file.getvalue(), shrink=shrink), part, 224)
            figures.append(psnr(small.numpy(), resample(whole, part * shrink, 224).numpy()))
    assert min(figures) > 30
    assert np.median(figures) > 40


def test_shrinking_never_goes_below_the_size() -> None:
    boxes = [[0, 0, 447, 900], [0, 0, 448, 900], [5, 5, 896, 896], [0, 0, 4000, 4000], [0, 0, 10, 10]]
    assert [shrink_factor(np.array(box), 224) for box in boxes] == [1, 2, 4, 8, 1]


def test_centre_box() -> None:
    assert centre_box(np.array([10, 7, 5]), np.array([4, 12, 5])).tolist() == [[3, 0, 4, 4], [0, 2, 7, 7], [0, 0, 5, 5]]
    boxes, turns = CentreCrop()(KEYS[:2], np.array([10, 7]), np.array([4, 12]))
    assert boxes.tolist() == [[3, 0, 4, 4], [0, 2, 7, 7]]
    assert not turns.any()


def test_an_unknown_set_of_turns() -> None:
    with pytest.raises(ConfigError, match="'vertical'"):
        RandomCrop(turns="vertical")
