"""Augmentation of single images by the published recipe, after crop and turn: RandAugment, then random erasing.

Both are pure functions of an image and its noise key, so a resumed run sees the same images. timm's RandAugment draws
from the generators of ``random`` and NumPy; they are put at a place given by the key for each image, and back again.
"""

import math
import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from selectivemae.core.order import mix
from selectivemae.models._torchvision import ensure_torchvision

UInt8 = NDArray[np.uint8]

_RAND, _ERASE = 0xC100, 0xC200  # purposes of the hash
_ATTEMPTS = 10
_AREA, _ASPECT = (0.02, 1 / 3), (0.3, 1 / 0.3)  # of the erased rectangle: timm's, after Zhong et al., AAAI 2020


@dataclass(frozen=True)
class Finishing:
    """RandAugment (timm's configuration string, or ``none``), then random erasing with probability ``erasing``.

    ``mean`` and ``std`` are those that the model normalises with, for pixels in [0, 1].
    """

    rand_augment: str
    erasing: float
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __call__(self, pixels: UInt8, key: int) -> UInt8:
        """An image (S, S, C) changed by the lot of its noise key."""
        if self.rand_augment != "none":
            augment = _rand_augment(self.rand_augment, pixels.shape[0], self.mean)
            with generators_at(int(mix(key, _RAND))):
                pixels = np.asarray(augment(Image.fromarray(pixels)))
        return erase(pixels, key, self.erasing, self.mean, self.std)


@lru_cache(maxsize=8)
def _rand_augment(spec: str, size: int, mean: tuple[float, ...]) -> Any:
    """timm's transform with what its ``create_transform`` gives it: bicubic, gaps filled with the mean colour."""
    ensure_torchvision()
    from timm.data.auto_augment import posterize, rand_augment_transform

    fill = tuple(min(255, round(255 * value)) for value in mean)
    settings = {"translate_const": int(size * 0.45), "img_mean": fill, "interpolation": Image.Resampling.BICUBIC}
    transform = rand_augment_transform(spec, settings)
    for op in transform.ops:
        if op.aug_fn is posterize:
            op.aug_fn = _posterize
    return transform


def _posterize(image: Image.Image, bits: int, **_: Any) -> Image.Image:
    """The highest ``bits`` of every pixel. At its highest level timm keeps none, which newer versions of Pillow refuse;
    as with the older ones, under which the recipe was published, the image is then black."""
    from timm.data.auto_augment import posterize

    return posterize(image, bits) if bits > 0 else image.point(lambda _: 0)


@contextmanager
def generators_at(key: int) -> Iterator[None]:
    """The generators of ``random`` and NumPy at a place given by ``key`` inside, and as they were outside."""
    python, numpy = random.getstate(), np.random.get_state()
    random.seed(key)
    np.random.seed(key & 0xFFFFFFFF)
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)


def erase(pixels: UInt8, key: int, probability: float, mean: tuple[float, ...], std: tuple[float, ...]) -> UInt8:
    """Random erasing (Zhong et al., AAAI 2020) of an image (H, W, C), by the lot of its noise key.

    A rectangle of 2 to 33 % of the area becomes noise that is standard normal once normalised with ``mean`` and
    ``std``, as far as 8 bits hold it (timm, which erases after normalising, does not clip).
    """
    draw = np.random.Generator(np.random.PCG64(int(mix(key, _ERASE))))
    if draw.random() >= probability:
        return pixels
    height, width, channels = pixels.shape
    for _ in range(_ATTEMPTS):
        area = draw.uniform(*_AREA) * height * width
        aspect = math.exp(draw.uniform(math.log(_ASPECT[0]), math.log(_ASPECT[1])))
        h, w = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < h < height and 0 < w < width:
            top, left = draw.integers(0, height - h + 1), draw.integers(0, width - w + 1)
            noise = 255 * (np.asarray(mean) + np.asarray(std) * draw.standard_normal((h, w, channels)))
            pixels = pixels.copy()
            pixels[top : top + h, left : left + w] = np.clip(np.rint(noise), 0, 255).astype(np.uint8)
            break
    return pixels
