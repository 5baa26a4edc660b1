"""Which pictures are not worth keeping: statistics of a tile, and rules on them (curation.md, section 3).

Statistics are taken from luma reduced by whole factors to at most 256 pixels on the long side, so that cost and result
do not depend on the size. All of them go to the manifest; thresholds can be changed later without reading pixels.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import Field

from selectivemae.core.config import Settings
from selectivemae.core.order import uniform
from selectivemae.curation.hashes import UInt8, fill_masked

Bool = NDArray[np.bool_]
Float32 = NDArray[np.floating]
Int16 = NDArray[np.int16]
SIDE = 256
_BLOCK = 8
_PACK = np.array([1 << 16, 1 << 8, 1], np.uint32)  # red, green, blue in one number
_FLAT_STD = 2.0
_CLOUD_VALUE, _CLOUD_SATURATION, _CLOUD_STD = 0.80, 0.12, 6.0
_CLOUD_LEAST = 128  # mean of a block: one with a deviation of 6 and a pixel as bright as cloud lies above


class Rule(Settings):
    """A threshold: drop above (``uniform``: below) ``drop``; between ``thin`` and ``drop`` keep only a share."""

    drop: float | None = None
    thin: float | None = None


class Rules(Settings):
    """Thresholds of the exclusion. A rule without ``drop`` only records its figure."""

    uniform: Rule = Rule(drop=2.0)
    nodata: Rule = Rule(drop=0.25)
    saturated: Rule = Rule(drop=0.6)
    noise: Rule = Rule(drop=0.9)
    low_info: Rule = Rule(drop=0.98, thin=0.90)
    cloud: Rule = Rule()
    blur: Rule = Rule()
    keep_rate: float = Field(default=0.1, ge=0, le=1)
    label_colours: int = Field(default=24, ge=0)
    elongated: float = Field(default=4.0, ge=1)


@dataclass(frozen=True)
class Statistics:
    """Figures of one tile; shares are 0 to 1, ``mean`` and ``std`` in grey levels, ``entropy`` in bits.

    ``noise`` is the estimated standard deviation of the noise (Immerkær 1996) over ``std``; ``blur`` the variance of
    the Laplacian over that of luma (small = soft); ``detail`` how much of the finest octave is there (1 = all, near 0
    for a picture that was scaled up).
    """

    mean: float
    std: float
    entropy: float
    flat_share: float
    noise: float
    nodata: float
    saturated: float
    cloud: float
    blur: float
    detail: float


@dataclass(frozen=True)
class Verdict:
    """Why something was dropped: code, the statistic, its value and the threshold that it crossed."""

    reason: str
    statistic: str = ""
    value: float = 0.0
    threshold: float = 0.0


def border_fill(values: NDArray, levels: tuple[float, ...]) -> Bool:
    """Mask (H, W) of pixels of ``values`` (H, W, C) that are one of ``levels`` in every channel and hang together with
    the border: collars and fill of scenes."""
    height, width = values.shape[:2]
    out = np.zeros((height, width), bool)
    edge = np.concatenate([values[0], values[-1], values[:, 0], values[:, -1]])
    channels = range(values.shape[2])  # an .all(axis=2) would take several times as long
    present = [lv for lv in levels if np.logical_and.reduce([edge[:, c] == lv for c in channels]).any()]
    if not present:
        return out
    from scipy import ndimage  # slow to load, and few pictures have a collar

    for level in present:
        pure = (values == level).all(axis=2)
        labels = np.empty(pure.shape, np.int32)
        ndimage.label(pure, output=labels)
        touching = np.unique(np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]]))
        out |= np.isin(labels, touching[touching > 0])
    return out


def statistics(pixels: UInt8, grey: UInt8, mask: Bool) -> Statistics:
    """Figures of a tile: ``pixels`` (H, W, 3), their luma ``grey`` (H, W), and ``mask`` (H, W), True = no data.

    Sums are taken of whole numbers, so that the figures are the same on every machine.
    """
    height, width = grey.shape
    factor = -(-max(height, width) // SIDE)
    filled = fill_masked(grey, mask)
    image = Image.fromarray(filled)
    if factor > 1:
        image = image.reduce(factor)
    small = np.asarray(image)
    counts, levels = np.array(image.histogram()), np.arange(256)
    total = small.size
    mean = float(counts @ levels) / total
    variance = max(float(counts @ (levels * levels)) / total - mean * mean, 0.0)
    share = counts[counts > 0] / total
    bend, grain = _second_differences(small)
    inner = max((small.shape[0] - 2) * (small.shape[1] - 2), 1)
    power, slope = _power(bend) / inner, int(bend.sum(dtype=np.int64)) / inner
    noise = int(np.abs(grain, out=grain).sum(dtype=np.int64)) / inner * (np.pi / 2) ** 0.5 / 6  # Immerkær 1996
    block_mean, block_variance = _blocks(small)
    smooth = block_variance < _CLOUD_STD**2
    smooth &= block_mean > _CLOUD_LEAST
    return Statistics(
        mean=mean,
        std=variance**0.5,
        entropy=float(-(share * np.log2(share)).sum()),
        flat_share=float(np.count_nonzero(block_variance < _FLAT_STD**2)) / max(block_variance.size, 1),
        noise=noise / variance**0.5 if variance > 0 else 0.0,
        nodata=float(np.count_nonzero(mask)) / mask.size,
        saturated=float(counts[:3].sum() + counts[253:].sum()) / total,
        cloud=_cloud(pixels[::factor, ::factor], smooth),
        blur=(power - slope * slope) / variance if variance > 0 else 0.0,
        detail=_detail(filled, power if factor == 1 else None),
    )


def judge(figures: Statistics, rules: Rules, identity: bytes) -> Verdict | None:
    """Why a tile with these figures goes, or None. ``identity`` (the tile's id) decides in the thinned range."""
    if rules.uniform.drop is not None and figures.std < rules.uniform.drop:
        return Verdict("uniform", "std", figures.std, rules.uniform.drop)
    for name, value in (
        ("nodata", figures.nodata),
        ("saturated", figures.saturated),
        ("noise", figures.noise if figures.std > 8 else 0.0),
        ("low_info", figures.flat_share),
        ("cloud", figures.cloud),
        ("blur", -figures.blur),
    ):
        rule: Rule = getattr(rules, name)
        sign = -1 if name == "blur" else 1  # soft pictures have small values
        statistic = {"low_info": "flat_share"}.get(name, name)
        if rule.drop is not None and value > sign * rule.drop:
            return Verdict(name, statistic, sign * value, rule.drop)
        if rule.thin is not None and value > sign * rule.thin:
            draw = uniform(np.frombuffer(identity[:8], np.uint64), 0)
            if float(draw[0]) >= rules.keep_rate:
                return Verdict(name, statistic, sign * value, rule.thin)
    return None


def distinct_colours(pixels: UInt8) -> int:
    """How many colours a lattice of at most 65,536 pixels of (H, W, 3) holds: few mean a label map.

    Beyond 64 it is only told that they are many.
    """
    area = pixels.shape[0] * pixels.shape[1]
    for samples in (1024, 65536):  # a picture shows its many colours at once
        step = max(1, int(np.ceil((area / samples) ** 0.5)))
        lattice = pixels[::step, ::step].reshape(-1, 3).astype(np.uint32) @ _PACK
        lattice.sort()
        count = 1 + int(np.count_nonzero(lattice[1:] != lattice[:-1]))
        if count > 64:
            break
    return count


def jpeg_quality(data: bytes) -> float:
    """Quality 1..100 that a JPEG was saved with, by its luminance table; 100 for other kinds of file.

    The table's mean is compared with that of the standard's example table scaled as the IJG library does.
    """
    if data[:2] != b"\xff\xd8":
        return 100.0
    place = 2
    while place + 4 <= len(data) and data[place] == 0xFF and data[place + 1] != 0xDA:
        size = int.from_bytes(data[place + 2 : place + 4], "big")
        if data[place + 1] == 0xDB and data[place + 4] & 0x0F == 0:
            wide = data[place + 4] >> 4
            raw = data[place + 5 : place + 5 + 64 * (1 + wide)]
            table = np.frombuffer(raw, ">u2" if wide else np.uint8)
            scale = 100.0 * float(table.mean()) / 57.625 if len(table) else 100.0
            return float(np.clip((200 - scale) / 2 if scale <= 100 else 5000 / scale, 1, 100))
        place += 2 + size
    return 100.0


def _second_differences(grey: UInt8) -> tuple[Int16, Int16]:
    """Laplacian, and second difference along both axes, of the inner pixels of ``grey`` (H, W): both flat, (H - 2) * W
    long, with 0 in the first and last column.

    Rows are strung together, so that every step runs through memory once; the two columns hold what is no neighbour.
    """
    width = grey.shape[1]
    flat = grey.astype(np.int16).ravel()
    middle = flat[width:-width]
    twice = middle + middle
    down = flat[2 * width :] + flat[: -2 * width]
    down -= twice
    laplacian, both = down.copy(), np.zeros_like(down)
    for out, of, double in ((laplacian[1:-1], middle, twice[1:-1]), (both[1:-1], down, down[1:-1] + down[1:-1])):
        out += of[2:]
        out += of[:-2]
        out -= double
    for out in (laplacian, both):
        out.reshape(-1, width)[:, :: max(width - 1, 1)] = 0
    return laplacian, both


def _power(values: Int16) -> float:
    """Sum of the squares."""
    flat = values.astype(np.float64).ravel()
    return float(flat @ flat)


def _blocks(grey: UInt8) -> tuple[Float32, Float32]:
    """Mean and variance of each whole block of 8x8 pixels."""
    height, width = (side // _BLOCK * _BLOCK for side in grey.shape)
    values = grey[:height, :width].astype(np.float32)
    count = np.float32(_BLOCK * _BLOCK)
    mean = _block_sums(values) / count
    return mean, _block_sums(values * values) / count - mean * mean


def _block_sums(values: Float32) -> Float32:
    rows = np.add.reduce(values.reshape(-1, _BLOCK, values.shape[1]), axis=1)
    out = rows[:, ::_BLOCK].copy()
    for column in range(1, _BLOCK):
        out += rows[:, column::_BLOCK]
    return out


def _cloud(pixels: UInt8, smooth: Bool) -> float:
    """Share of bright, colourless pixels of (H, W, 3) in ``smooth`` blocks. Snow, salt and roofs look alike: a hint, no
    more."""
    if not smooth.any():
        return 0.0
    rows, columns = smooth.shape
    blocks = pixels[: rows * _BLOCK, : columns * _BLOCK].reshape(rows, _BLOCK, columns, _BLOCK, 3)
    red, green, blue = np.moveaxis(blocks.swapaxes(1, 2)[smooth], -1, 0)
    high = np.maximum(np.maximum(red, green), blue)
    low = np.minimum(np.minimum(red, green), blue)
    bright = (high > _CLOUD_VALUE * 255) & (high - low < (_CLOUD_SATURATION * high.astype(np.float32)))
    return float(np.count_nonzero(bright)) / (smooth.size * _BLOCK**2)


def _detail(grey: UInt8, fine: float | None) -> float:
    """Twice the power of second differences against that at half the resolution, at most 1, from the middle 512 pixels.

    The two are about equal for pictures with the usual spectrum (power falling with the square of the frequency) and
    16 times apart for smooth ones, so that a picture scaled up stays well below 1. ``fine`` is the power of ``grey``
    where it is known.
    """
    height, width = (min(side // 2 * 2, 512) for side in grey.shape[:2])
    if min(height, width) < 8:
        return 1.0
    top, left = (grey.shape[0] - height) // 2, (grey.shape[1] - width) // 2
    full = grey[top : top + height, left : left + width].astype(np.int16)
    rows = full[::2] + full[1::2]
    if fine is None:
        fine = _bend_power(full)
    coarse = _bend_power(rows[:, ::2] + rows[:, 1::2]) / 16  # sums of four in place of means
    return min(1.0, 2 * fine / coarse) if coarse > 0 else 1.0


def _bend_power(grey: Int16) -> float:
    """Mean of the squares of the Laplacian."""
    value = grey[:-2, 1:-1] + grey[2:, 1:-1] + grey[1:-1, :-2] + grey[1:-1, 2:] - 4 * grey[1:-1, 1:-1]
    return _power(value) / value.size
