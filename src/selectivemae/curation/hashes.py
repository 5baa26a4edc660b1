"""Perceptual hashes of images under the 8 orientations, in integers only (curation.md, section 5.1).

Every step after decoding is exact, so a hash is the same to the bit on every processor and with every linear
algebra library, and the hash of a flipped or turned image follows from the same coefficients:

    RGB -> luma -> area mean to 64x64 and 32x32 -> integer DCT -> bits above the median

``rsph64-v1``: 8x8 coefficients of the 32x32 mean; 64 bits, the first (the mean) always 0.
``rsph256-v1``: coefficients 1..16 of both axes of the 64x64 mean; 256 bits.

An orientation ``g`` is 0..7: transpose if ``g & 4``, then mirror left-right if ``g & 1``, then top-bottom if ``g & 2``.
"""

import hashlib
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

UInt8 = NDArray[np.uint8]
UInt64 = NDArray[np.uint64]
Int64 = NDArray[np.int64]

ORIENTATIONS = 8
VERSION = "rsph-v1"
_NEAR = 16  # grey levels next to black and white that tell where a picture itself goes so far
_SAME_VALUES = [0, 1, 2, 3, 0, 2, 1, 3]  # the orientation up to 3 with the same coefficients in other places
_FLOAT32_EXACT = 1 << 16  # least height whose sums of 8-bit values over a cell may reach 2**24


def fill_masked(grey: UInt8, mask: NDArray[np.bool_]) -> UInt8:
    """Give the pixels of ``mask`` (H, W; True = no data) the integer mean of the others; ``grey`` (H, W) uint8."""
    if not mask.any() or mask.all():
        return grey
    valid = int(mask.size - np.count_nonzero(mask))
    mean = int(grey[~mask].sum(dtype=np.int64)) // valid
    return np.where(mask, np.uint8(mean), grey)


def without_fill(grey: UInt8, mask: NDArray[np.bool_]) -> UInt8:
    """What is hashed of ``grey`` (H, W) uint8 with ``mask`` (H, W; True = no data): masked pixels at the others' mean.

    Pure black or white that runs off into as many pixels nearly as dark or bright is no fill but surf, roofs or shadow
    at the end of the range, and stays: a brightened copy must not get other codes for having more of it.
    """
    if not mask.any():
        return grey
    counts = np.bincount(grey[~mask], minlength=256)
    for level, near in ((0, counts[: _NEAR + 1]), (255, counts[-1 - _NEAR :])):
        pure = mask & (grey == level)
        if np.count_nonzero(pure) <= near.sum():
            mask = mask & ~pure
    return fill_masked(grey, mask)


@lru_cache(maxsize=64)
def _coverage(length: int, exact: type) -> NDArray[np.floating]:
    """Integer weights (64, length): how many of a pixel's 64 units lie in each cell of ``length`` units."""
    start = np.arange(length, dtype=np.int64)[None, :] * 64
    edge = np.arange(64, dtype=np.int64)[:, None] * length
    overlap = np.minimum(start + 64, edge + length) - np.maximum(start, edge)
    weights = np.maximum(overlap, 0).astype(exact)
    weights.flags.writeable = False
    return weights


def _covered(values: NDArray[np.floating]) -> NDArray[np.floating]:
    """Sums (64, N) of whole numbers (length, N) over 64 cells, in units of 1/64; eight cells at a time, for the others'
    weights are 0."""
    length = len(values)
    weights = _coverage(length, values.dtype.type)
    out = np.empty((64, values.shape[1]), values.dtype)
    for first in range(0, 64, 8):
        cells, begin, end = slice(first, first + 8), first * length // 64, -(-(first + 8) * length // 64)
        np.matmul(weights[cells, begin:end], values[begin:end], out=out[cells])
    return out


def _cell_sums(grey: UInt8) -> Int64:
    """Sums (64, 64) of ``grey`` (H, W) uint8 over the cells of a 64x64 grid, in units of 1/64 x 1/64 of a pixel."""
    height, width = grey.shape
    if height % 64 or width % 64:
        exact = np.float32 if height < _FLOAT32_EXACT else np.float64
        columns = np.ascontiguousarray(_covered(grey.astype(exact)).T, np.float64)
        return _covered(columns).T.astype(np.int64)
    tall, wide = height // 64, width // 64
    rows = np.add.reduce(grey.reshape(64, tall, width), axis=1, dtype=np.uint16 if tall <= 257 else np.int64)
    cells = rows.astype(np.float64).reshape(64 * 64, wide) @ np.ones(wide)
    return cells.astype(np.int64).reshape(64, 64) * (64 * 64)


def area_means(grey: UInt8) -> tuple[Int64, Int64]:
    """Exact area means of ``grey`` (H, W) uint8 on grids of 64x64 and 32x32 cells, times 256, rounded half up.

    A pixel counts in every cell it touches by the share that lies there; the aspect is not kept. Both results are
    int64 (0..65280), and mirroring or transposing the image does the same to them, exactly.
    """
    fine = _cell_sums(grey)
    rows = fine[::2] + fine[1::2]
    coarse = (rows[:, ::2] + rows[:, 1::2]) // 4  # a cell of 32 is four of 64 at twice the resolution
    area = grey.size
    return (256 * fine + area // 2) // area, (256 * coarse + area // 2) // area


@lru_cache(maxsize=2)
def _cosines(rows: int, cells: int, scale: int) -> NDArray[np.float64]:
    """DCT-II matrix (rows, cells) of rounded integers; the right half mirrors the left so that flips are exact."""
    half = np.arange(cells // 2)
    frequency = np.arange(rows)[:, None]
    left = np.rint(np.cos(np.pi * (2 * half + 1) * frequency / (2 * cells)) * scale)
    sign = np.where(frequency % 2 == 0, 1.0, -1.0)
    return np.concatenate([left, sign * left[:, ::-1]], axis=1)


def _orientations(spectrum: Int64, first: int) -> Int64:
    """Coefficients (N, S, S), whose first frequency is ``first``, under every orientation -> (N, 8, S, S)."""
    side = spectrum.shape[-1]
    sign = np.where((np.arange(side) + first) % 2 == 0, 1, -1).astype(np.int64)
    views = []
    for g in range(ORIENTATIONS):
        view = spectrum.transpose(0, 2, 1) if g & 4 else spectrum
        view = view * sign if g & 1 else view
        views.append(view * sign[:, None] if g & 2 else view)
    return np.stack(views, axis=1)


def hash64(means: Int64) -> UInt64:
    """``rsph64-v1`` of 32x32 area means (N, 32, 32): codes (N, 8) uint64, one per orientation of the image."""
    cosines = _cosines(8, 32, 1 << 13)
    spectrum = (cosines @ means.astype(np.float64) @ cosines.T).astype(np.int64)  # below 2**53: exact
    values = _orientations(spectrum, 0).reshape(-1, ORIENTATIONS, 64)
    median = np.partition(values[:, :4, 1:], 31, axis=-1)[:, _SAME_VALUES, 31:32]
    bits = values > median
    bits[..., 0] = False
    return np.packbits(bits, axis=-1).view(">u8")[..., 0].astype(np.uint64)


def hash256(means: Int64) -> UInt64:
    """``rsph256-v1`` of 64x64 area means (N, 64, 64): codes (N, 8, 4) uint64, most significant word first."""
    cosines = _cosines(17, 64, 1 << 12)[1:]
    spectrum = (cosines @ means.astype(np.float64) @ cosines.T).astype(np.int64)
    values = _orientations(spectrum, 1).reshape(-1, ORIENTATIONS, 256)
    middle = np.partition(values[:, :4], (127, 128), axis=-1)[..., 127:129].sum(axis=-1, keepdims=True)
    middle = middle[:, _SAME_VALUES]
    bits = 2 * values > middle
    return np.packbits(bits, axis=-1).view(">u8").astype(np.uint64)


def orient(array: NDArray, g: int) -> NDArray:
    """View of ``array`` (..., H, W) in orientation ``g`` (0..7), as defined at the head of this module."""
    view = np.swapaxes(array, -1, -2) if g & 4 else array
    view = view[..., ::-1] if g & 1 else view
    return view[..., ::-1, :] if g & 2 else view


def content_id(pixels: UInt8) -> bytes:
    """SHA-256 (32 bytes) of the size and the RGB bytes of ``pixels`` (H, W, 3): equal iff the pictures are equal."""
    height, width = pixels.shape[:2]
    digest = hashlib.sha256(f"{width}x{height}\0".encode())
    digest.update(np.ascontiguousarray(pixels).data)
    return digest.digest()
