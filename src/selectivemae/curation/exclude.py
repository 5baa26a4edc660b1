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
_LEVELS = np.arange(256)
_LEVELS_SQUARED = _LEVELS**2
_ONES = np.ones(_BLOCK, np.float32)
_FLAT_STD = 2.0
_CLOUD_VALUE, _CLOUD_SATURATION, _CLOUD_STD = 0.80, 0.12, 6.0
_CLOUD_LUMA = 181  # no pixel as bright and colourless as cloud is darker: above 0.88 of 0.80
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
    out = np.zeros(values.shape[:2], bool)
    edge = _edge(values)
    extremes = edge.min(), edge.max()
    present = [level for level in levels if extremes[0] <= level <= extremes[1] and _pure(edge, level).any()]
    if not present:
        return out
    from scipy import ndimage  # slow to load, and few pictures have a collar

    for level in present:
        pure = _pure(values, level)
        labels = np.empty(pure.shape, np.int32)
        ndimage.label(pure, output=labels)
        touching = np.zeros(1 + int(labels.max()), bool)
        touching[_edge(labels)] = True
        touching[0] = False
        out |= touching[labels]
    return out


def _edge(values: NDArray) -> NDArray:
    """The first and last row and column of (H, W, ...), end to end."""
    return np.concatenate([values[0], values[-1], values[:, 0], values[:, -1]])


def _pure(values: NDArray, level: float) -> Bool:
    """Where every channel of (..., C) is ``level``; channel by channel, for an .all over them takes several times as
    long, and no more of them than are needed."""
    out = values[..., 0] == level
    for channel in range(1, values.shape[-1]):
        if not out.any():
            break
        out &= values[..., channel] == level
    return out


def statistics(pixels: UInt8, grey: UInt8, mask: Bool) -> Statistics:
    """Figures of a tile: ``pixels`` (H, W, 3), their luma ``grey`` (H, W), and ``mask`` (H, W), True = no data.

    Sums are taken of whole numbers, so that the figures are the same on every machine.
    """
    factor = -(-max(grey.shape) // SIDE)
    filled = fill_masked(grey, mask)
    image = Image.fromarray(filled)
    if factor > 1:
        image = image.reduce(factor)
    small = np.asarray(image) if factor > 1 else filled
    counts = np.array(image.histogram())
    total = small.size
    mean = float(counts @ _LEVELS) / total
    variance = max(float(counts @ _LEVELS_SQUARED) / total - mean * mean, 0.0)
    share = counts[counts > 0] / total
    bend, down = _laplacian(small)
    inner = max((small.shape[0] - 2) * (small.shape[1] - 2), 1)
    power, slope = _power(bend) / inner, _slope(small) / inner
    noise = _grain(down, small.shape[1]) / inner * (np.pi / 2) ** 0.5 / 6  # Immerkær 1996
    block_mean, block_variance = _blocks(small)
    smooth = block_variance < _CLOUD_STD**2
    smooth &= block_mean > _CLOUD_LEAST
    if small is grey and smooth.any():  # every pixel's luma is at hand: most smooth blocks hold nothing so bright
        smooth &= _bright_blocks(small)
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
        red, green, blue = (pixels[::step, ::step, channel].astype(np.uint32) for channel in range(3))
        lattice = (red << np.uint32(16) | green << np.uint32(8) | blue).ravel()
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
            wide = 1 + (data[place + 4] >> 4)
            raw = data[place + 5 : place + 5 + 64 * wide]
            values = raw if wide == 1 else [high << 8 | low for high, low in zip(raw[::2], raw[1::2], strict=False)]
            scale = 100.0 * (sum(values) / len(values)) / 57.625 if values else 100.0
            return min(max((200 - scale) / 2 if scale <= 100 else 5000 / scale, 1.0), 100.0)
        place += 2 + size
    return 100.0


def _laplacian(grey: UInt8 | Int16) -> tuple[Int16, Int16]:
    """Laplacian of the inner pixels of ``grey`` (H, W), flat with some zeros between, and the second difference along
    columns that it holds (:func:`_grain` makes more of it). Both are empty where there are no inner pixels.

    Rows are strung together, so that every step runs through memory once; what is no neighbour is made 0.
    """
    height, width = grey.shape
    if min(height, width) < 3:
        return np.empty(0, np.int16), np.empty(0, np.int16)
    flat = grey.astype(np.int16).ravel()
    down = _differences(_differences(flat, width), width)
    laplacian = _differences(_differences(flat, 1), 1)[width:-width]
    laplacian += down[1:-1]
    _void(laplacian, width)
    return laplacian, down


def _differences(values: Int16, step: int) -> Int16:
    return values[step:] - values[:-step]


def _void(values: Int16, width: int) -> None:
    """Make 0 what stands beside the rows of the inner pixels."""
    values[width - 2 :: width] = values[width - 1 :: width] = 0


def _slope(grey: UInt8) -> int:
    """Sum of the Laplacian over the inner pixels: only the two outermost rows and columns are left of it."""
    if min(grey.shape) < 3:
        return 0
    outer, signs = [0, 1, -2, -1], np.array([1, -1, -1, 1])
    rows, columns = grey[outer, 1:-1].sum(axis=1, dtype=np.int64), grey[1:-1, outer].sum(axis=0, dtype=np.int64)
    return int((rows + columns) @ signs)


def _grain(down: Int16, width: int) -> int:
    """Sum of the absolute second differences along both axes, from those along columns; at most 2040 each, of which
    32 fit in 16 bits."""
    if not len(down):
        return 0
    both = _differences(_differences(down, 1), 1)
    _void(both, width)
    absolute = np.abs(both, out=both).view(np.uint16)
    whole = len(absolute) // 32 * 32
    sums = np.add.reduce(absolute[:whole].reshape(32, -1), axis=0, dtype=np.uint16)
    return int(sums.sum(dtype=np.int64)) + int(absolute[whole:].sum(dtype=np.int64))


def _power(values: Int16) -> float:
    """Sum of the squares."""
    exact = values.astype(np.float64)
    return float(exact @ exact)


def _blocks(grey: UInt8) -> tuple[Float32, Float32]:
    """Mean and variance of each whole block of 8x8 pixels."""
    whole = _whole_blocks(grey)
    rows, columns = whole.shape[0] // _BLOCK, whole.shape[1] // _BLOCK
    values = whole.astype(np.float32).reshape(rows, _BLOCK, columns * _BLOCK)
    sums = np.empty((2, rows, 1, columns * _BLOCK), np.float32)
    np.matmul(_ONES[None], values, out=sums[0])
    values *= values
    np.matmul(_ONES[None], values, out=sums[1])
    mean, squares = ((sums.reshape(-1, _BLOCK) @ _ONES) * np.float32(1 / _BLOCK**2)).reshape(2, rows, columns)
    return mean, squares - mean * mean


def _whole_blocks(grey: UInt8) -> UInt8:
    height, width = (side // _BLOCK * _BLOCK for side in grey.shape)
    return grey[:height, :width]


def _bright_blocks(grey: UInt8) -> Bool:
    """Which whole blocks hold a pixel that may be cloud."""
    values = _whole_blocks(grey)
    rows = np.maximum.reduce(values.reshape(-1, _BLOCK, values.shape[1]), axis=1)
    return (rows >= _CLOUD_LUMA).view(np.uint64) != 0  # eight neighbours at a time


def _cloud(pixels: UInt8, smooth: Bool) -> float:
    """Share of bright, colourless pixels of (H, W, 3) in ``smooth`` blocks. Snow, salt and roofs look alike: a hint, no
    more."""
    if not smooth.any():
        return 0.0
    rows, columns = smooth.shape
    blocks = pixels[: rows * _BLOCK, : columns * _BLOCK].reshape(rows, _BLOCK, columns, _BLOCK * 3)
    planes = blocks.swapaxes(1, 2)[smooth].reshape(-1, 3).T.copy()
    high, low = planes.max(axis=0), planes.min(axis=0)
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
    full = np.ascontiguousarray(grey[top : top + height, left : left + width])
    if fine is None:
        fine = _bend_power(full)
    both = full.view(np.uint16)  # two neighbours at a time
    pairs = (both & np.uint16(0xFF)) + (both >> np.uint16(8))
    coarse = _bend_power((pairs[::2] + pairs[1::2]).view(np.int16)) / 16  # sums of four in place of means
    return min(1.0, 2 * fine / coarse) if coarse > 0 else 1.0


def _bend_power(grey: UInt8 | Int16) -> float:
    """Mean of the squares of the Laplacian over the inner pixels of (H, W)."""
    inner = (grey.shape[0] - 2) * (grey.shape[1] - 2)
    return _power(_laplacian(grey)[0]) / inner
