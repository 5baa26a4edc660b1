"""Richness: how much there is to see in a patch (method.md, section 2).

Every measure maps images (B, C, H, W) float in [0, 1] to (B, L) float32, without gradient, deterministic, and
standardised afterwards over each image's patches, so that its scale does not depend on the sensor.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

BINS = 9  # unsigned orientations, as in Dalal & Triggs (2005) and MaskFeat (arXiv 2112.09133)
GREY_LEVELS = 32


def _per_patch(x: Tensor, side: int) -> Tensor:
    """Sums (..., H, W) over squares of ``side`` pixels: (..., H/side, W/side)."""
    h, w = x.shape[-2:]
    return x.reshape(*x.shape[:-2], h // side, side, w // side, side).sum(dim=(-3, -1))


def _gradients(images: Tensor) -> tuple[Tensor, Tensor]:
    """Sobel gradients (B, H, W) along x and y of each pixel's strongest channel, reflect padding.

    Sobel is separable: a difference along one axis of a 1-2-1 sum along the other.
    """
    p = F.pad(images, (1, 1, 1, 1), mode="reflect")
    rows = p[..., :-2, :] + 2 * p[..., 1:-1, :] + p[..., 2:, :]
    columns = p[..., :-2] + 2 * p[..., 1:-1] + p[..., 2:]
    gx = rows[..., 2:] - rows[..., :-2]
    gy = columns[..., 2:, :] - columns[..., :-2, :]
    if images.shape[1] == 1:
        return gx[:, 0], gy[:, 0]
    strongest = (gx * gx + gy * gy).argmax(dim=1, keepdim=True)
    return gx.gather(1, strongest)[:, 0], gy.gather(1, strongest)[:, 0]


def hog(images: Tensor, patch: int) -> Tensor:
    """Richness (B, L) by histograms of oriented gradients: log1p of the L2 norm of a patch's magnitudes summed
    per orientation bin (9, unsigned) and cell (8 x 8 pixels, or half a patch where 8 does not divide it).

    Contrast counts: nothing is normalised per cell.
    """
    gx, gy = _gradients(images)
    magnitude = torch.sqrt(gx * gx + gy * gy)
    # The half plane of unsigned orientations in BINS sectors. arctan2 is the costly part of HOG, and only the
    # sector is wanted: with (x, y) turned into the upper half plane, the sector is the number of boundary
    # directions that (x, y) lies beyond.
    sign = torch.where((gy < 0) | ((gy == 0) & (gx < 0)), -1.0, 1.0)
    x, y = gx * sign, gy * sign
    cell = 8 if patch % 8 == 0 else patch // 2 if patch % 2 == 0 else patch
    before = torch.zeros_like(magnitude[:, ::cell, ::cell])
    energy: Tensor | None = None
    total = _per_patch(magnitude, cell)
    for k in range(1, BINS + 1):
        # Magnitude in sectors 0..k-1, less that in sectors 0..k-2, is sector k-1's share of a cell.
        if k == BINS:
            upto = total
        else:
            angle = torch.tensor(torch.pi * k / BINS, dtype=torch.float64)
            beyond = y * float(angle.cos()) >= x * float(angle.sin())
            upto = total - _per_patch(magnitude * beyond, cell)
        share = upto - before
        energy = share * share if energy is None else energy + share * share
        before = upto
    assert energy is not None
    return torch.log1p(torch.sqrt(_per_patch(energy, patch // cell))).flatten(1)


def entropy(images: Tensor, patch: int) -> Tensor:
    """Richness (B, L) in bits: Shannon entropy of the histogram of a patch's grey levels (32 bins).

    Grey is the mean over the channels.
    """
    b, _, h, w = images.shape
    grey = images.mean(dim=1)
    level = (grey * GREY_LEVELS).clamp(0, GREY_LEVELS - 1).long()
    pixels = level.reshape(b, h // patch, patch, w // patch, patch).permute(0, 1, 3, 2, 4)
    pixels = pixels.reshape(b, -1, patch * patch)
    counts = torch.zeros(*pixels.shape[:2], GREY_LEVELS, device=images.device)
    counts.scatter_add_(2, pixels, torch.ones_like(pixels, dtype=counts.dtype))
    p = counts / (patch * patch)
    return -(torch.special.xlogy(p, p)).sum(dim=2) / torch.log(torch.tensor(2.0, device=images.device))


def uniform(images: Tensor, patch: int) -> Tensor:
    """Richness (B, L) that is the same everywhere: selection becomes a uniform draw."""
    b, _, h, w = images.shape
    return torch.zeros(b, (h // patch) * (w // patch), device=images.device)


MEASURES: dict[str, Callable[[Tensor, int], Tensor]] = {"hog": hog, "entropy": entropy, "uniform": uniform}


@torch.no_grad()
def richness_logits(images: Tensor, patch: int, measure: str, temperature: float) -> Tensor:
    """Logits (B, L) float32 of a richness measure: standardised over each image's patches, over ``temperature``.

    ``images`` (B, C, H, W) are un-normalised, in [0, 1]. An image whose patches are all equally rich (deviation
    0 up to rounding) gets logits 0, a uniform draw.
    """
    with torch.autocast(images.device.type, enabled=False):
        rich = MEASURES[measure](images.float(), patch)
        centred = rich - rich.mean(dim=1, keepdim=True)
        deviation = centred.square().mean(dim=1, keepdim=True).sqrt()
        flat = deviation <= 1e-6
        return torch.where(flat, 0.0, centred / torch.where(flat, 1.0, deviation) / temperature)
