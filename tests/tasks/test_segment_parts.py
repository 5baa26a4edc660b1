"""The pieces of segmentation, each against an independent truth: geometry, windows, figures and boundaries."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from selectivemae.core.errors import DataError
from selectivemae.tasks.photometric import Photometric
from selectivemae.tasks.segment import metrics
from selectivemae.tasks.segment.augment import PairAugment, crop_place, nearest, turned
from selectivemae.tasks.segment.classes import IGNORED, PADDED
from selectivemae.tasks.segment.metrics import Tally, boundary_counts, figures, majority_miou
from selectivemae.tasks.segment.windows import slide, starts


def coordinates(height: int, width: int) -> np.ndarray:
    """Pixels (H, W, 3) that say where they are: row, column, and their class."""
    y, x = np.mgrid[:height, :width]
    return np.stack([y, x, (y // 7 + x // 5) % 5], axis=-1).astype(np.uint8)


@pytest.mark.parametrize("turns", ["none", "horizontal", "all"])
def test_image_and_mask_stay_together(turns: str) -> None:
    """Without resizing every pixel keeps the class that it was born with, wherever it is cut and however turned."""
    pixels = coordinates(60, 90)
    augment = PairAugment(48, (1.0, 1.0), "image", turns=turns)
    codes = set()
    for key in range(24):
        out = augment(pixels, pixels[..., 2], key)
        assert np.array_equal(out, augment(pixels, pixels[..., 2], key))
        assert (out[..., 3] == out[..., 2]).all()
        rows, columns = out[..., 0].astype(int), out[..., 1].astype(int)
        codes.add((rows[1, 0] - rows[0, 0], columns[1, 0] - columns[0, 0], columns[0, 1] - columns[0, 0]))
    assert len(codes) == {"none": 1, "horizontal": 2, "all": 6}[turns]  # of 8 symmetries two pairs look alike here


def test_the_longer_side_fits_the_crop() -> None:
    """1024 px at crop 512: 256 to 1024 px, the published way, which is not the scale of testing."""
    augment = PairAugment(512)
    sizes = [augment.size(1024, 512, key) for key in range(400)]
    longer = np.array([rows for rows, _ in sizes])
    assert longer.min() == pytest.approx(256, abs=8)
    assert longer.max() == pytest.approx(1024, abs=8)
    assert longer.mean() == pytest.approx(640, abs=30)
    assert all(abs(rows - 2 * columns) <= 1 for rows, columns in sizes)
    assert {PairAugment(512, (1.0, 1.0), "image").size(70, 50, key) for key in range(3)} == {(70, 50)}


def test_what_is_outside_the_image_is_padding() -> None:
    pixels = np.full((20, 40, 3), 200, np.uint8)
    out = PairAugment(64, (1.0, 1.0), "image", light=Photometric())(pixels, np.zeros((20, 40), np.uint8), 5)
    assert (out[:20, :40, 3] == 0).all()
    assert not out[20:, :, :3].any()
    assert not out[:, 40:, :3].any()
    assert (out[20:, :, 3] == PADDED).all()
    assert (out[:, 40:, 3] == PADDED).all()


@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 60), st.integers(1, 60))
@settings(max_examples=30)
def test_nearest_is_pillows(height: int, width: int, rows: int, columns: int) -> None:
    mask = np.random.default_rng(height * 41 + width).integers(0, 9, (height, width)).astype(np.uint8)
    wanted = np.asarray(Image.fromarray(mask).resize((columns, rows), Image.Resampling.NEAREST))
    # Where a centre falls on the edge of two old pixels either is right.
    clear_y, clear_x = ((2 * np.arange(n) + 1) * old % (2 * n) > 0 for n, old in ((rows, height), (columns, width)))
    assert np.array_equal(nearest(mask, rows, columns)[clear_y][:, clear_x], wanted[clear_y][:, clear_x])


def test_no_class_has_too_much_of_a_crop() -> None:
    """A small field in a large forest: uniform crops hold 75 % or more of one class far more often."""
    labels = np.zeros((200, 200), np.uint8)
    labels[80:120, 80:120] = 1
    labels[:30] = IGNORED

    def share(key: int, most: float) -> float:
        top, left = crop_place(labels, 50, key, most)
        assert 0 <= top <= 150
        assert 0 <= left <= 150
        counts = np.bincount(labels[top : top + 50, left : left + 50].ravel(), minlength=256)[:2]
        return counts.max() / max(counts.sum(), 1)

    chosen = np.array([share(key, 0.75) < 0.75 for key in range(300)])
    free = np.array([share(key, 1.0) < 0.75 for key in range(300)])
    assert chosen.mean() == pytest.approx(1 - (1 - free.mean()) ** 11, abs=0.12)
    assert free.mean() < 0.3 < 0.5 < chosen.mean()


def test_a_turn_and_its_inverse() -> None:
    pixels = coordinates(6, 9)
    for code, inverse in ((0, 0), (1, 1), (2, 2), (3, 3), (4, 4), (5, 6), (6, 5), (7, 7)):
        assert np.array_equal(turned(turned(pixels, code), inverse), pixels)


@given(st.integers(1, 300), st.integers(8, 64), st.data())
@settings(max_examples=60)
def test_windows_cover_a_side(length: int, crop: int, data: st.DataObject) -> None:
    """By the definition of the reference: n = max(ceil((H - c) / s), 0) + 1, the last one moved back."""
    stride = data.draw(st.integers(1, crop))
    begins = starts(length, crop, stride)
    assert len(begins) == max(int(np.ceil((length - crop) / stride)), 0) + 1
    covered = {p for b in begins for p in range(b, min(b + crop, length))}
    assert covered == set(range(length))
    assert all(b + crop <= length or b == 0 for b in begins)


@pytest.mark.parametrize(("height", "width"), [(16, 16), (9, 13), (40, 16), (37, 51)])
def test_sliding_is_the_mean_of_the_windows(height: int, width: int) -> None:
    """Against loops over pixels; a function of each pixel alone is what it is in one shot, and so is any function
    where the window covers the image."""
    image = torch.from_numpy(np.random.default_rng(0).integers(0, 255, (3, height, width), dtype=np.uint8))

    def local(windows: torch.Tensor) -> torch.Tensor:
        return torch.stack([windows[:, 0].float(), windows.float().sum(1)], dim=1)

    def of_the_window(windows: torch.Tensor) -> torch.Tensor:
        return local(windows) + windows.float().mean((1, 2, 3))[:, None, None, None]

    assert torch.equal(slide(local, image, 16, 7, 3), local(image[None])[0])
    found = slide(of_the_window, image, 16, 7, 3)
    if max(height, width) <= 16:
        assert torch.equal(found, of_the_window(image[None])[0])
    total, count = np.zeros((2, height, width)), np.zeros((height, width))
    for y in starts(height, 16, 7):
        for x in starts(width, 16, 7):
            window = image[None, :, y : y + 16, x : x + 16]
            total[:, y : y + 16, x : x + 16] += of_the_window(window)[0].numpy()
            count[y : y + 16, x : x + 16] += 1
    assert np.allclose(found.numpy(), total / count, atol=1e-3)


def test_figures_of_a_whole_set() -> None:
    """Against loops over sets of pixels (E.10), and not the mean of images."""
    draw, tally = np.random.default_rng(2), Tally(4)
    images = [(draw.integers(0, 3, (h, 9)), draw.integers(0, 3, (h, 9))) for h in (5, 30)]
    for predicted, label in images:
        label[0] = IGNORED
        tally.add(torch.from_numpy(predicted).to(torch.uint8), torch.from_numpy(label.astype(np.uint8)))
    found = figures(tally, ["a", "b", "c", "nowhere"], 2)
    p, t = (np.concatenate([pair[i].ravel() for pair in images]) for i in (0, 1))
    p, t = p[t != IGNORED], t[t != IGNORED]
    for c in range(3):
        both, said, true = ((p == c) & (t == c)).sum(), (p == c).sum(), (t == c).sum()
        precision, recall = both / said, both / true
        assert found.iou[c] == pytest.approx(100 * both / ((p == c) | (t == c)).sum())
        assert found.f1[c] == pytest.approx(200 * precision * recall / (precision + recall))
        iou = (found.iou[c] or 0) / 100
        assert found.f1[c] == pytest.approx(200 * iou / (1 + iou))
        assert found.pixels[c] == true
    assert found.iou[3] is None
    assert found.miou == pytest.approx(np.mean([v for v in found.iou if v is not None]))
    assert found.aacc == pytest.approx(100 * (p == t).mean())
    assert found.macc == pytest.approx(100 * np.mean([(p[t == c] == c).mean() for c in range(3)]))
    assert (found.images, found.unreadable) == (2, 2)
    assert "nowhere" not in found.as_text()
    largest = np.bincount(t).argmax()
    assert majority_miou(tally.confusion) == pytest.approx(100 * (t == largest).mean() / 3)
    with pytest.raises(DataError, match="no labelled pixel"):
        figures(Tally(2), ["a", "b"])


@pytest.mark.parametrize("lines", [64, 20, 7, 1])
def test_boundaries_against_loops(monkeypatch: pytest.MonkeyPatch, lines: int) -> None:
    """Boundary pixels and their nearest partner by brute force, with ignored pixels about; in strips and at once."""
    draw = np.random.default_rng(4)
    label, predicted = (np.kron(draw.integers(0, 3, (5, 6)), np.ones((4, 4))).astype(np.uint8) for _ in range(2))
    label[8:11, 3:9] = IGNORED

    def edges(values: np.ndarray, c: int) -> set[tuple[int, int]]:
        found = set()
        for y, x in np.ndindex(*values.shape):
            for ny, nx in ((y + 1, x), (y, x + 1)):
                inside = ny < 20 and nx < 24 and label[y, x] != IGNORED and label[ny, nx] != IGNORED
                if inside and (values[y, x] == c) != (values[ny, nx] == c):
                    found.add((y, x))
        return found

    monkeypatch.setattr(metrics, "_lines", lambda width, planes: lines)
    counts = boundary_counts(torch.from_numpy(predicted), torch.from_numpy(label), 3, 2).tolist()
    for c in range(3):
        mine, true = edges(predicted, c), edges(label, c)
        near = [
            sum(any(max(abs(y - v), abs(x - u)) <= 2 for v, u in b) for y, x in a)
            for a, b in ((mine, true), (true, mine))
        ]
        assert counts[c] == [len(mine), near[0], len(true), near[1]]


def test_boundary_f1_knows_thin_shifts() -> None:
    label = torch.zeros(40, 40, dtype=torch.uint8)
    label[10:30, 10:30] = 1

    def boundary(shift: int) -> float | None:
        tally = Tally(2)
        tally.add(label.roll(shift, 0), label)
        return figures(tally, ["a", "b"]).boundary_f1

    assert boundary(0) == boundary(2) == 100
    far, none = boundary(8), Tally(2)
    assert far is not None
    assert far < 75
    none.add(torch.zeros_like(label), label)
    assert figures(none, ["a", "b"]).boundary == (0, 0)
