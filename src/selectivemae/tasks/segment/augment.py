"""How an image and its mask are resized, cut and turned for training, as pure functions of the sample's noise key.

The published transforms in their order (downstream.md, D): random resize, random crop in which no class has too large
a share, mirror, photometric distortion, padding right and below. Shapes: H x W image, S side of the crop, C channels.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from selectivemae.core.order import mix, uniform
from selectivemae.data.augment import turn
from selectivemae.tasks.photometric import Photometric
from selectivemae.tasks.segment.classes import IGNORED, PADDED

UInt8 = NDArray[np.uint8]

_SCALE, _PLACE = 0xDB00, 0xDB10  # purposes of the hash
_REDRAWS = 10


@dataclass(frozen=True)
class PairAugment:
    """Random resize, crop, turn and light of image and mask together.

    The longer side becomes ``crop`` times a factor from ``scale`` (``base`` "crop", the published way), or the image is
    resized by the factor itself ("image"). A crop in which one class alone occurs, or one has ``most`` of the pixels
    that say something, is drawn again, up to ten times. ``turns`` as in ``data.augment``.
    """

    crop: int
    scale: tuple[float, float] = (0.5, 2.0)
    base: Literal["crop", "image"] = "crop"
    most: float = 0.75
    turns: str = "horizontal"
    light: Photometric | None = None

    def __call__(self, pixels: UInt8, mask: UInt8, key: int) -> UInt8:
        """Pixels (H, W, C) and class numbers (H, W) to (S, S, C + 1), the mask last; what is outside the image is 0,
        and ``PADDED`` in the mask."""
        height, width = mask.shape
        rows, columns = self.size(height, width, key)
        labels = nearest(mask, rows, columns)
        top, left = crop_place(labels, self.crop, key, self.most)
        window = (slice(top, top + self.crop), slice(left, left + self.crop))
        image = resize(pixels, rows, columns)[window]
        code = int(turn(np.array([key]), self.turns)[0])
        image, labels = turned(image, code), turned(labels[window], code)
        if self.light is not None:
            image = self.light(image, key)
        out = np.zeros((self.crop, self.crop, pixels.shape[2] + 1), np.uint8)
        out[..., -1] = PADDED
        out[: image.shape[0], : image.shape[1], :-1] = image
        out[: image.shape[0], : image.shape[1], -1] = labels
        return out

    def size(self, height: int, width: int, key: int) -> tuple[int, int]:
        """Rows and columns that an image is resized to."""
        low, high = self.scale
        factor = low + (high - low) * float(uniform(np.array([key]), _SCALE)[0])
        if self.base == "crop":
            factor *= self.crop / max(height, width)
        return max(1, int(height * factor + 0.5)), max(1, int(width * factor + 0.5))


def resize(pixels: UInt8, rows: int, columns: int) -> UInt8:
    """Pixels (H, W, C) resized, bilinear with antialiasing, in 8 bits."""
    if pixels.shape[:2] == (rows, columns):
        return pixels
    tensor = torch.from_numpy(np.ascontiguousarray(pixels)).permute(2, 0, 1)[None]
    out: Tensor = F.interpolate(tensor, (rows, columns), mode="bilinear", antialias=True)
    return out[0].permute(1, 2, 0).numpy()


def nearest(mask: UInt8, rows: int, columns: int) -> UInt8:
    """A mask (H, W) resized: each new pixel has the class of the old one in which its centre lies."""
    (y, x) = ((2 * np.arange(new) + 1) * old // (2 * new) for old, new in zip(mask.shape, (rows, columns), strict=True))
    return mask[y[:, None], x[None]]


def crop_place(labels: UInt8, crop: int, key: int, most: float) -> tuple[int, int]:
    """Row and column where a crop of class numbers (H, W) begins (see :class:`PairAugment`)."""
    height, width = labels.shape
    attempts = mix(np.array([key]), _PLACE + np.arange(1 + _REDRAWS))
    tops = (uniform(attempts, 0) * (max(height - crop, 0) + 1)).astype(np.int64)
    lefts = (uniform(attempts, 1) * (max(width - crop, 0) + 1)).astype(np.int64)
    top = left = 0
    for top, left in zip(tops.tolist(), lefts.tolist(), strict=True):
        counts = np.bincount(labels[top : top + crop, left : left + crop].ravel(), minlength=256)[:IGNORED]
        if most >= 1 or ((counts > 0).sum() > 1 and counts.max() < most * counts.sum()):
            break
    return top, left


def turned(array: UInt8, code: int) -> UInt8:
    """An array (H, W, ...) turned: bits 4 transpose, 2 flip top to bottom, 1 flip left to right, in this order."""
    if code & 4:
        array = array.swapaxes(0, 1)
    return array[:: -1 if code & 2 else 1, :: -1 if code & 1 else 1]
