"""The hashes against rational arithmetic, flipped pixels, scipy's DCT and two other libraries."""

import hashlib
import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy.fft import dctn

from selectivemae.curation.exclude import border_fill
from selectivemae.curation.hashes import (
    area_means,
    content_id,
    fill_masked,
    hash64,
    hash256,
    orient,
    without_fill,
)
from selectivemae.data.decode import luma


def picture(seed: int, height: int, width: int) -> np.ndarray:
    """A smooth random picture (H, W, 3) uint8: a few waves and some grain."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width]
    out = np.zeros((height, width, 3))
    for _ in range(12):
        fx, fy, phase = rng.uniform(0, 6, 3)
        wave = np.sin(2 * np.pi * (fx * x / width + fy * y / height) + phase)
        out += wave[..., None] * rng.normal(size=3)
    out = 128 + 20 * out + rng.normal(size=out.shape) * 3
    return out.clip(0, 255).astype(np.uint8)


def codes(pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    fine, coarse = area_means(luma(pixels))
    return hash64(coarse[None])[0], hash256(fine[None])[0]


@given(st.integers(1, 90), st.integers(1, 90), st.integers(0, 9))
@settings(max_examples=25, deadline=None)
def test_area_means_equal_rational_arithmetic(height: int, width: int, seed: int) -> None:
    grey = np.random.default_rng(seed).integers(0, 256, (height, width), dtype=np.uint8)
    for mean in area_means(grey):
        cells = len(mean)
        for v, u in ((0, 0), (cells // 3, cells - 1), (cells - 2, cells // 2)):
            total = Fraction(0)
            for y in range(height * v // cells, -(-height * (v + 1) // cells)):
                for x in range(width * u // cells, -(-width * (u + 1) // cells)):
                    tall = min(Fraction(y + 1), Fraction(height * (v + 1), cells)) - max(y, Fraction(height * v, cells))
                    wide = min(Fraction(x + 1), Fraction(width * (u + 1), cells)) - max(x, Fraction(width * u, cells))
                    total += tall * wide * int(grey[y, x])
            exact = 256 * total * cells * cells / (height * width)
            assert mean[v, u] == (exact + Fraction(1, 2)).__floor__()


@pytest.mark.parametrize("shape", [(600, 600), (256, 512), (640, 100), (2048, 65), (64 * 300, 64)])
def test_area_means_equal_repeated_pixels(shape: tuple[int, int]) -> None:
    """Large pictures: a pixel repeated 64 times falls into cells that can be summed by reshaping."""
    grey = np.random.default_rng(shape[1]).integers(0, 256, shape, dtype=np.uint8)
    height, width = shape
    rows = np.stack([np.repeat(column, 64).reshape(64, height).sum(axis=1) for column in grey.T.astype(np.int64)])
    cells = np.stack([np.repeat(row, 64).reshape(64, width).sum(axis=1) for row in rows.T])
    fine, coarse = area_means(grey)
    area = height * width
    assert (fine == (256 * cells + area // 2) // area).all()
    assert (coarse == (256 * cells.reshape(32, 2, 32, 2).sum(axis=(1, 3)) // 4 + area // 2) // area).all()


@given(st.integers(33, 200), st.integers(33, 200), st.integers(0, 99), st.integers(0, 7))
@settings(max_examples=40, deadline=None)
def test_codes_of_turned_pixels_are_the_turned_codes(height: int, width: int, seed: int, g: int) -> None:
    pixels = picture(seed, height, width)
    turned = np.stack([orient(pixels[..., c], g) for c in range(3)], axis=-1)
    before, after = codes(pixels), codes(turned)
    assert before[0][g] == after[0][0]
    assert (before[1][g] == after[1][0]).all()
    assert set(before[0].tolist()) == set(after[0].tolist())


def test_orientations_are_the_eight_of_numpy() -> None:
    array = np.arange(6).reshape(2, 3)
    assert (orient(array, 1) == np.fliplr(array)).all()
    assert (orient(array, 2) == np.flipud(array)).all()
    assert (orient(array, 3) == np.rot90(array, 2)).all()
    assert (orient(array, 4) == array.T).all()
    assert (orient(array, 5) == np.rot90(array, -1)).all()
    assert (orient(array, 6) == np.rot90(array, 1)).all()


def test_bits_are_those_of_a_floating_dct() -> None:
    """The integer matrix is only a rounding of scipy's DCT: nearly all bits agree."""
    differing = 0
    for seed in range(40):
        fine, coarse = area_means(luma(picture(seed, 192, 192)))
        block = dctn(coarse.astype(float))[:8, :8].ravel()
        expected = block > np.median(block[1:])
        expected[0] = False
        got = np.unpackbits(np.frombuffer(int(hash64(coarse[None])[0, 0]).to_bytes(8, "big"), np.uint8))
        differing += int((got != expected).sum())
        block = dctn(fine.astype(float))[1:17, 1:17].ravel()
        words = hash256(fine[None])[0, 0]
        got = np.unpackbits(np.frombuffer(b"".join(int(w).to_bytes(8, "big") for w in words), np.uint8))
        differing += int((got != (block > np.median(block))).sum())
    assert differing <= 40 * 320 * 0.002


def test_neighbours_agree_with_imagehash() -> None:
    """imagehash (another DCT hash) sees the same pictures as near and as far."""
    imagehash = pytest.importorskip("imagehash")
    pictures = [picture(seed, 128, 128) for seed in range(20)]
    softened = [np.asarray(Image.fromarray(p).resize((96, 96)).resize((128, 128))) for p in pictures]
    for i, a in enumerate(pictures):
        for j, b in enumerate(softened):
            ours = int(np.bitwise_count(codes(a)[0][0] ^ codes(b)[0][0]))
            theirs = imagehash.phash(Image.fromarray(a)) - imagehash.phash(Image.fromarray(b))
            assert (ours <= 6) == (i == j)
            assert abs(ours - theirs) <= 14


def test_golden_codes() -> None:
    """The standard's first version, frozen: any change of these is another version of the hash."""
    y, x = np.mgrid[0:75, 0:101]
    pixels = np.stack([(x * x + 3 * y) % 256, (x * y // 7) % 256, (5 * x + y * y // 3) % 256], axis=-1).astype(np.uint8)
    h64, h256 = codes(pixels)
    digest = hashlib.sha256(h64.astype(">u8").tobytes() + h256.astype(">u8").tobytes()).hexdigest()
    assert int(h64[0]) == by_hand(pixels)
    assert f"{int(h64[0]):016x}" == "001f38676e4d5b56"
    assert digest == "0ddea478be26959e5d3e5625eeed7ab7629648060061c4aa269c234ef04e035b"


def by_hand(pixels: np.ndarray) -> int:
    """``rsph64-v1`` written out with Python's integers, straight from its definition."""
    height, width, _ = pixels.shape
    grey = [[(19595 * int(r) + 38470 * int(g) + 7471 * int(b) + 32768) >> 16 for r, g, b in row] for row in pixels]
    sums = [[0] * 32 for _ in range(32)]
    for y in range(height):
        for v in range(32 * y // height, min(32, -(-32 * (y + 1) // height))):
            tall = min(32 * (y + 1), height * (v + 1)) - max(32 * y, height * v)
            for x in range(width):
                for u in range(32 * x // width, min(32, -(-32 * (x + 1) // width))):
                    sums[v][u] += tall * (min(32 * (x + 1), width * (u + 1)) - max(32 * x, width * u)) * grey[y][x]
    area = width * height
    mean = [[(256 * value + area // 2) // area for value in row] for row in sums]
    cosine = [[round(math.cos(math.pi * (2 * i + 1) * u / 64) * 8192) for i in range(16)] for u in range(8)]
    cosine = [row + [(-1) ** u * value for value in reversed(row)] for u, row in enumerate(cosine)]
    half = [[sum(c * m for c, m in zip(row, line, strict=True)) for row in cosine] for line in mean]
    block = [sum(cosine[v][y] * half[y][u] for y in range(32)) for v in range(8) for u in range(8)]
    median = sorted(block[1:])[31]
    return int("0" + "".join(str(int(value > median)) for value in block[1:]), 2)


def test_masked_pixels_take_the_mean_and_content_is_exact() -> None:
    grey = np.full((4, 4), 10, np.uint8)
    grey[0] = 200
    mask = np.zeros((4, 4), bool)
    mask[0, :2] = True
    filled = fill_masked(grey, mask)
    assert filled[0, 0] == (2 * 200 + 12 * 10) // 14
    assert filled[1, 1] == 10
    assert (fill_masked(grey, np.ones((4, 4), bool)) == grey).all()
    a, b = np.zeros((2, 6, 3), np.uint8), np.zeros((6, 2, 3), np.uint8)
    assert content_id(a) != content_id(b)
    assert content_id(a) == hashlib.sha256(b"6x2\0" + bytes(36)).digest()


def test_what_a_scene_itself_blackens_or_whitens_is_no_fill() -> None:
    """A brightened copy keeps its codes, though much of it now is pure white that reaches the border."""
    grey = np.clip(luma(picture(2, 192, 192)) + 60.0, 0, 255).astype(np.uint8)
    brighter = np.clip(np.rint(grey * 1.12), 0, 255).astype(np.uint8)
    mask = border_fill(brighter[..., None], (0, 255))
    assert mask.mean() > 0.05
    before, after = (hash64(area_means(g)[1][None])[0] for g in (grey, without_fill(brighter, mask)))
    filled = hash64(area_means(fill_masked(brighter, mask))[1][None])[0]
    assert np.bitwise_count(before[0] ^ after[0]) <= 6 < np.bitwise_count(before[0] ^ filled[0])


def test_a_collar_is_filled() -> None:
    rng = np.random.default_rng(5)
    grey = rng.integers(90, 110, (64, 64), dtype=np.uint8)
    grey[:, :12] = 0
    mask = border_fill(grey[..., None], (0, 255))
    assert mask[:, :12].all()
    assert (without_fill(grey, mask) == fill_masked(grey, mask)).all()
    assert without_fill(grey, np.zeros_like(mask)) is grey
