"""Mixup (Zhang et al., ICLR 2018) and CutMix (Yun et al., ICCV 2019) of whole batches, as timm does it: one share for
a batch, whose first image is mixed with the last, the second with the last but one, and so on.

Shapes: B images, C channels, H and W sides, K classes.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

Box = tuple[int, int, int, int]
"""Rows from, rows to, columns from, columns to."""


@dataclass(frozen=True)
class Blend:
    """How two batches are mixed: ``share`` of the first, and the box that CutMix takes from the second (None: mixup
    of all pixels)."""

    share: float = 1.0
    box: Box | None = None

    def images(self, own: Tensor, other: Tensor) -> Tensor:
        """Images (B, C, H, W) float mixed with others of the same shape; ``own`` is not changed."""
        if self.box is None:
            return own * self.share + other * (1.0 - self.share)
        top, bottom, left, right = self.box
        mixed = own.clone()
        mixed[:, :, top:bottom, left:right] = other[:, :, top:bottom, left:right]
        return mixed


@dataclass(frozen=True)
class Mixing:
    """How often and how much is mixed: parameters ``mixup`` and ``cutmix`` of the Beta distributions (0: not used), and
    the share ``probability`` of the batches. Where both are used either is as likely."""

    mixup: float
    cutmix: float
    probability: float

    def draw(self, key: int, height: int, width: int) -> Blend:
        """The mixture of a batch of images (height, width), by the lot of a key."""
        draw = np.random.Generator(np.random.PCG64(key))
        if draw.random() >= self.probability or not (self.mixup or self.cutmix):
            return Blend()
        cut = draw.random() < 0.5 if self.mixup and self.cutmix else bool(self.cutmix)
        alpha = self.cutmix if cut else self.mixup
        share = float(draw.beta(alpha, alpha))
        if not cut:
            return Blend(share)
        return cut_out(share, int(draw.integers(height)), int(draw.integers(width)), height, width)


def cut_out(share: float, row: int, column: int, height: int, width: int) -> Blend:
    """CutMix's box of area 1 - ``share`` around a place, cut off at the border, and the share that really remains."""
    side = math.sqrt(1.0 - share)
    tall, wide = int(height * side), int(width * side)
    top, bottom = max(row - tall // 2, 0), min(row + (tall + 1) // 2, height)
    left, right = max(column - wide // 2, 0), min(column + (wide + 1) // 2, width)
    return Blend(1.0 - (bottom - top) * (right - left) / (height * width), (top, bottom, left, right))


@dataclass(frozen=True)
class Targets:
    """Labels (B,) int64 of a batch and, where it is mixed, the partners' images (B, C, H, W) uint8 and labels (B,)."""

    label: Tensor
    partner: Tensor | None = None
    partner_label: Tensor | None = None
    blend: Blend = Blend()

    def split(self, size: int) -> list["Targets"]:
        """In parts of at most ``size`` samples; each keeps its partners, so micro-batches change nothing."""
        labels = self.label.split(size)
        if self.partner is None or self.partner_label is None:
            return [Targets(label) for label in labels]
        parts = zip(labels, self.partner.split(size), self.partner_label.split(size), strict=True)
        return [Targets(*part, self.blend) for part in parts]

    def soft(self, classes: int, smoothing: float) -> Tensor:
        """Soft targets (B, K) float32: 1 - smoothing on the label, the rest on all classes alike, mixed as images."""
        own = smooth(self.label, classes, smoothing)
        if self.partner_label is None:
            return own
        return own * self.blend.share + smooth(self.partner_label, classes, smoothing) * (1.0 - self.blend.share)


def partnered(images: Tensor, label: Tensor, usable: Tensor, blend: Blend) -> Targets:
    """Targets of a batch of images (B, C, H, W) with labels (B,), mixed back to front.

    A partner that is not ``usable`` (B,) bool, being black, is replaced by the image itself.
    """
    if blend == Blend():
        return Targets(label)
    own = torch.arange(len(label), device=label.device)
    other = torch.where(usable.flip(0), own.flip(0), own)
    return Targets(label, images[other], label[other], blend)


def smooth(label: Tensor, classes: int, smoothing: float) -> Tensor:
    """Labels (B,) as smoothed one-hot rows (B, K) float32."""
    rows = torch.full((len(label), classes), smoothing / classes, device=label.device)
    return rows.scatter_(1, label[:, None], 1.0 - smoothing + smoothing / classes)
