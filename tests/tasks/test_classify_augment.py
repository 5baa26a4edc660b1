"""Augmentation as pure functions of keys; mixing against timm's."""

import random

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from selectivemae.core.order import sample_key
from selectivemae.data.batch import Batch
from selectivemae.engine.loop import split
from selectivemae.models._torchvision import ensure_torchvision
from selectivemae.tasks.classify.augment import Finishing, erase
from selectivemae.tasks.classify.mixing import Blend, Mixing, Targets, cut_out, partnered, smooth

ensure_torchvision()

from timm.data.mixup import Mixup, cutmix_bbox_and_lam  # noqa: E402 (the line above must come first)

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def picture(side: int = 48, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)


def test_the_key_decides_and_no_generator_is_touched() -> None:
    finish = Finishing("rand-m9-mstd0.5-inc1", 0.5, MEAN, STD)
    keys = [int(key) for key in sample_key(0, 0, np.arange(8))]
    first = [finish(picture(), key) for key in keys]
    random.seed(5)
    np.random.seed(5)
    python, numpy = random.getstate(), np.random.get_state()[1]
    again = [finish(picture(), key) for key in reversed(keys)]
    assert random.getstate() == python
    assert np.array_equal(np.random.get_state()[1], numpy)
    assert all(np.array_equal(a, b) for a, b in zip(first, reversed(again), strict=True))
    assert len({image.tobytes() for image in first}) > 4
    assert all(image.dtype == np.uint8 and image.shape == (48, 48, 3) for image in first)


def test_every_operation_works_at_every_level() -> None:
    """At the highest level timm's posterize keeps no bit: the image is black, and nothing fails."""
    pixels = np.random.default_rng(0).integers(1, 256, (16, 16, 3), dtype=np.uint8)
    black = 0
    for spec in ("rand-m9-mstd0.5-inc1", "rand-m10-inc1", "rand-m0-inc1", "rand-m10"):
        finishing = Finishing(spec, 0.0, (0.5,) * 3, (0.25,) * 3)
        changed = [finishing(pixels, int(key)) for key in sample_key(0, 0, np.arange(150))]
        assert all(image.shape == pixels.shape for image in changed)
        black += sum(not image.any() for image in changed)
    assert black > 0


def test_erased_rectangles() -> None:
    plain = np.full((60, 60, 3), 7, np.uint8)
    keys = [int(key) for key in sample_key(1, 0, np.arange(300))]
    changed = [erase(plain, key, 0.25, MEAN, STD) != plain for key in keys]
    erased = [image.any(axis=2) for image in changed if image.any()]
    assert len(erased) / 300 == pytest.approx(0.25, abs=0.08)
    for mask in erased:
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        area = (rows[-1] - rows[0] + 1) * (columns[-1] - columns[0] + 1)
        assert 0.015 < area / 3600 < 0.36
        assert mask.sum() > 0.95 * area  # one full rectangle
    whole = [erase(plain, key, 1.0, (0.5,) * 3, (0.1,) * 3) for key in keys[:40]]
    noise = np.concatenate([image[image != 7] for image in whole]) / 255
    assert noise.mean() == pytest.approx(0.5, abs=0.005)
    assert noise.std() == pytest.approx(0.1, abs=0.005)
    assert np.array_equal(erase(plain, keys[0], 0.0, MEAN, STD), plain)


@given(st.floats(0.0, 1.0), st.integers(0, 29), st.integers(0, 39))
def test_boxes_are_timms(share: float, row: int, column: int) -> None:
    side = np.sqrt(1 - share)
    assume(int(30 * side) % 2 == int(40 * side) % 2 == 0)  # older timm makes odd boxes a pixel smaller
    draws = iter([row, column])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(np.random, "randint", lambda *_, **__: next(draws))
        box, remains = cutmix_bbox_and_lam((3, 30, 40), share)
    assert cut_out(share, row, column, 30, 40) == Blend(float(remains), tuple(int(edge) for edge in box))


@pytest.mark.parametrize("cut", [False, True])
def test_mixed_batches_are_timms(monkeypatch: pytest.MonkeyPatch, cut: bool) -> None:
    images = torch.randint(0, 256, (6, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    label = torch.tensor([0, 1, 2, 3, 0, 1])
    blend = cut_out(0.4, 5, 7, 16, 16) if cut else Blend(0.4)
    mixup = Mixup(0.8, 1.0, label_smoothing=0.1, num_classes=4)
    monkeypatch.setattr(mixup, "_params_per_batch", lambda: (0.4, cut))
    places = iter([5, 7])
    monkeypatch.setattr(np.random, "randint", lambda *_, **__: next(places))
    wanted, soft = mixup(images.float(), label)
    targets = partnered(images, label, torch.ones(6, dtype=torch.bool), blend)
    assert targets.partner is not None
    torch.testing.assert_close(blend.images(images.float(), targets.partner.float()), wanted)
    torch.testing.assert_close(targets.soft(4, 0.1), soft)


def test_micro_batches_keep_their_partners() -> None:
    images = torch.arange(5, dtype=torch.uint8).reshape(5, 1, 1, 1).expand(5, 3, 4, 4)
    targets = partnered(images, torch.arange(5), torch.tensor([True, True, True, True, False]), Blend(0.5))
    index = torch.arange(5)
    batch = Batch(images, index, index, torch.ones(5), targets)
    parts = [part.targets for part in split(batch, 2)]
    assert [len(part.label) for part in parts] == [2, 2, 1]
    partners = torch.cat([part.partner[:, 0, 0, 0] for part in parts])
    # The last one could not be read: the first keeps to itself.
    assert partners.tolist() == [0, 3, 2, 1, 0]
    assert torch.cat([part.soft(5, 0.1) for part in parts]).equal(targets.soft(5, 0.1))


def test_shares_follow_the_beta_distributions() -> None:
    keys = [int(key) & 0x7FFFFFFFFFFFFFFF for key in sample_key(0, 0, np.arange(4000))]
    mixed = [Mixing(0.8, 0.0, 1.0).draw(key, 32, 32) for key in keys]
    shares = np.array([blend.share for blend in mixed])
    assert shares.mean() == pytest.approx(0.5, abs=0.02)
    assert shares.var() == pytest.approx(1 / (4 * (2 * 0.8 + 1)), abs=0.01)  # of Beta(a, a)
    both = [Mixing(0.8, 1.0, 0.5).draw(key, 32, 32) for key in keys]
    cut = np.mean([blend.box is not None for blend in both])
    none = np.mean([blend == Blend() for blend in both])
    assert cut == pytest.approx(0.25, abs=0.03)
    assert none == pytest.approx(0.5, abs=0.03)
    assert Mixing(0.0, 0.0, 1.0).draw(keys[0], 32, 32) == Blend()


def test_smoothed_targets() -> None:
    rows = smooth(torch.tensor([1]), 4, 0.1)
    torch.testing.assert_close(rows, torch.tensor([[0.025, 0.925, 0.025, 0.025]]))
    assert Targets(torch.tensor([1])).soft(4, 0.0).tolist() == [[0, 1, 0, 0]]
