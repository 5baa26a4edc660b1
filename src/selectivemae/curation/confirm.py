"""Is a pair found by its hash really one picture? A hash match is only a candidate (curation.md, section 5.4)."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from selectivemae.curation.hashes import ORIENTATIONS, UInt64, orient

Bool = NDArray[np.bool_]
Float = NDArray[np.float64]


@dataclass(frozen=True)
class Preset:
    """When two pictures count as one.

    A candidate (64-bit hashes at most ``distance64`` apart) is confirmed iff the aspects differ by no more than
    ``aspect`` and either the 256-bit hashes lie within ``distance256`` and the thumbs correlate by ``correlation``,
    or they correlate by ``sure_correlation``. Beyond ``far256`` bits of the 256 the pair is given up unseen:
    unrelated pictures lie about 128 apart, and to look at their pixels would cost more than all true pairs together.
    """

    distance64: int
    distance256: int
    correlation: float
    sure_correlation: float
    far256: int = 96
    aspect: float = 0.10


PRESETS = {
    "standard": Preset(6, 32, 0.80, 0.95),
    "strict": Preset(6, 32, 0.98, 0.98),
    "loose": Preset(10, 48, 0.80, 0.95),
}


def distance256(left: UInt64, right: UInt64) -> NDArray[np.uint16]:
    """Hamming distance of 256-bit codes (n, 4) and (n, 4) uint64 -> (n,)."""
    return np.bitwise_count(left ^ right).sum(axis=-1, dtype=np.uint16)


def same_aspect(left: NDArray, right: NDArray, orientation: NDArray[np.uint8], tolerance: float) -> Bool:
    """Whether the aspects of sizes ``left`` (n, 2) and ``right`` (n, 2) (width, height) agree within ``tolerance``,
    the left picture taken in ``orientation`` (n,)."""
    turned = (orientation & 4).astype(bool)
    width, height = (np.where(turned, left[:, 1 - axis], left[:, axis]).astype(np.float64) for axis in (0, 1))
    ratio = width * right[:, 1] / (height * right[:, 0])
    return np.maximum(ratio, 1 / ratio) <= 1 + tolerance


def correlation(left: NDArray, right: NDArray, orientation: NDArray[np.uint8]) -> Float:
    """Normalised correlation of 64x64 area means (n, 64, 64), left in ``orientation`` (n,): free of gain and offset.

    -1 to 1; 0 where one of the two is flat.
    """
    out = np.zeros(len(left))
    for g in range(ORIENTATIONS):
        rows = np.flatnonzero(orientation == g)
        if not len(rows):
            continue
        a = orient(left[rows], g).reshape(len(rows), -1).astype(np.float64)
        b = right[rows].reshape(len(rows), -1).astype(np.float64)
        a -= a.mean(axis=1, keepdims=True)
        b -= b.mean(axis=1, keepdims=True)
        power = np.einsum("ij,ij->i", a, a) * np.einsum("ij,ij->i", b, b)
        product = np.einsum("ij,ij->i", a, b)
        out[rows] = np.divide(product, np.sqrt(power), out=np.zeros(len(rows)), where=power > 0)
    return out


def confirmed(preset: Preset, aspect_agrees: Bool, bits256: NDArray[np.uint16], thumbs: Float) -> Bool:
    """The verdict on candidates, from whether their aspects agree, their 256-bit distance and their correlation."""
    close = (bits256 <= preset.distance256) & (thumbs >= preset.correlation)
    sure = (bits256 <= preset.far256) & (thumbs >= preset.sure_correlation)
    return aspect_agrees & (close | sure)


def doubt(preset: Preset, bits256: NDArray[np.uint16], thumbs: Float) -> Float:
    """How little a pair's 256-bit distance or correlation would have to change to turn the verdict: 0 on the border.

    The two are measured alike: 128 bits, which lie between unrelated pictures, count as 1.
    """
    spare = (preset.distance256 - bits256.astype(np.float64)) / 128
    above, far_above = thumbs - preset.correlation, thumbs - preset.sure_correlation
    close = spare >= 0
    leave = np.where(close, np.minimum(above, np.maximum(far_above, spare)), far_above)
    enter = np.minimum(-far_above, np.maximum(-spare, -above))
    return np.abs(np.where(confirmed(preset, np.ones(len(close), bool), bits256, thumbs), leave, enter))
