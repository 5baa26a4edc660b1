"""Photometric distortion (Liu et al., SSD, ECCV 2016, with the ranges of the published configs), by the noise key."""

from dataclasses import dataclass

import numpy as np
from matplotlib.colors import hsv_to_rgb, rgb_to_hsv
from numpy.typing import NDArray

from selectivemae.core.order import mix

_PURPOSE = 0xD300


@dataclass(frozen=True)
class Photometric:
    """Brightness, contrast, saturation and hue, each changed with probability ``probability``, by a sample's key.

    ``brightness`` is added to 8-bit values within ±; ``contrast`` and ``saturation`` multiply by 1 ± up to; ``hue`` is
    turned within ± degrees. Contrast comes before or after the colours, by a coin. Images that are not RGB keep their
    colours and change in brightness and contrast.
    """

    probability: float = 0.5
    brightness: float = 32.0
    contrast: float = 0.5
    saturation: float = 0.5
    hue: float = 36.0

    def __call__(self, pixels: NDArray[np.uint8], key: int) -> NDArray[np.uint8]:
        """Pixels (H, W, C) with other light."""
        draw = np.random.Generator(np.random.PCG64(int(mix(key, _PURPOSE))))
        happens = draw.random(4) < self.probability
        late = draw.random() < 0.5
        shift, contrast, saturation, hue = draw.uniform(-1, 1, 4)
        out = pixels.astype(np.float32)
        if happens[0]:
            out = np.clip(out + self.brightness * shift, 0, 255)
        factor = 1 + self.contrast * contrast if happens[1] else 1.0
        if not late:
            out = np.clip(out * factor, 0, 255)
        if happens[2:].any() and pixels.shape[-1] == 3:
            hsv = rgb_to_hsv(out / 255)
            if happens[2]:
                hsv[..., 1] = np.clip(hsv[..., 1] * (1 + self.saturation * saturation), 0, 1)
            if happens[3]:
                hsv[..., 0] = (hsv[..., 0] + self.hue / 360 * hue) % 1.0
            out = 255 * hsv_to_rgb(hsv)
        if late:
            out = np.clip(out * factor, 0, 255)
        return np.rint(out).astype(np.uint8)
