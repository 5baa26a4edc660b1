"""Richness against slow, plain implementations in numpy."""

import numpy as np
import pytest
import torch

from selectivemae.ops.richness import BINS, GREY_LEVELS, _cell_sums, _votes, entropy, hog, richness_logits


def slow_hog(image: np.ndarray, patch: int) -> np.ndarray:
    """(C, H, W) whole numbers of 1/255 to (L,): loops over pixels, arctan2 for the orientation."""
    _, h, w = image.shape
    p = np.pad(image, ((0, 0), (1, 1), (1, 1)), mode="reflect")
    sx = np.array([[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]])
    cell = 8 if patch % 8 == 0 else patch // 2
    hist = np.zeros((h // cell, w // cell, BINS))
    for i in range(h):
        for j in range(w):
            window = p[:, i : i + 3, j : j + 3]
            gx, gy = (window * sx).sum((1, 2)), (window * sx.T).sum((1, 2))
            best = np.argmax(gx**2 + gy**2)
            angle = np.arctan2(gy[best], gx[best]) % np.pi
            bin_ = min(int(angle / np.pi * BINS), BINS - 1)
            hist[i // cell, j // cell, bin_] += np.hypot(gx[best], gy[best]) / 255
    k = patch // cell
    squares = (hist**2).sum(-1).reshape(h // patch, k, w // patch, k).sum((1, 3))
    return np.log1p(np.sqrt(squares)).reshape(-1)


@pytest.mark.parametrize(("channels", "patch"), [(3, 16), (1, 8), (5, 12)])
def test_hog_equals_slow_loop(channels, patch):
    images = np.random.default_rng(0).integers(0, 256, (2, channels, 2 * patch, 3 * patch))
    got = hog(torch.tensor(images, dtype=torch.float32) / 255, patch)
    for row, image in zip(got, images, strict=True):
        np.testing.assert_allclose(row, slow_hog(image, patch), rtol=0, atol=1e-5)


def test_votes_sum_opposite_orientations_per_cell():
    generator = torch.Generator().manual_seed(0)
    magnitude = torch.rand(2, 16, 24, generator=generator)
    sector = torch.randint(-BINS, BINS + 1, (2, 16, 24), generator=generator, dtype=torch.int32)
    slow = torch.zeros(2, 2, 3, BINS)
    for b, i, j in np.ndindex(2, 16, 24):
        slow[b, i // 8, j // 8, int(sector[b, i, j]) % BINS] += magnitude[b, i, j]
    torch.testing.assert_close(_votes(magnitude, sector, 8), slow)
    # The form of other devices: one sum per bin.
    bins = sector.remainder(BINS)
    torch.testing.assert_close(torch.stack([_cell_sums(magnitude * (bins == k), 8) for k in range(BINS)], -1), slow)


def test_hog_counts_contrast_and_ignores_sign():
    image = torch.rand(1, 1, 32, 32, generator=torch.Generator().manual_seed(1)) * 0.5
    assert (hog(image, 16) > hog(image * 0.5, 16)).all()
    torch.testing.assert_close(hog(image, 16), hog(1 - image, 16), rtol=0, atol=1e-4)  # gradients only change sign


def test_entropy_equals_numpy_histogram():
    images = np.random.default_rng(0).random((2, 3, 32, 32)).astype(np.float32)
    got = entropy(torch.from_numpy(images), 16)
    for b in range(2):
        grey = images[b].mean(0)
        for n, (i, j) in enumerate((i, j) for i in (0, 16) for j in (0, 16)):
            p = np.histogram(grey[i : i + 16, j : j + 16], GREY_LEVELS, (0, 1))[0] / 256
            assert abs(float(got[b, n]) - float(-(p[p > 0] * np.log2(p[p > 0])).sum())) < 1e-5


@pytest.mark.parametrize("measure", ["hog", "entropy", "uniform"])
def test_logits_of_a_flat_image_are_zero_and_do_not_depend_on_scale(measure):
    flat = torch.full((1, 3, 32, 32), 0.3)
    assert richness_logits(flat, 8, measure, 0.5).abs().max() == 0
    noisy = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    logits = richness_logits(noisy, 8, measure, 0.25)
    if measure != "uniform":
        torch.testing.assert_close(logits.mean(1), torch.zeros(2), atol=1e-4, rtol=0)
        torch.testing.assert_close(logits.square().mean(1).sqrt(), torch.full((2,), 4.0), atol=1e-3, rtol=0)
