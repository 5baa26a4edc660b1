"""Richness: how much there is to see in a patch (method.md, section 2).

Every measure maps images (B, C, H, W) float in [0, 1] to (B, L) float32, without gradient, deterministic, and
standardised afterwards over each image's patches, so that its scale does not depend on the sensor.
"""

import math
from collections.abc import Callable
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

BINS = 9  # unsigned orientations, as in Dalal & Triggs (2005) and MaskFeat (arXiv 2112.09133)
GREY_LEVELS = 32
UNIT = 65280.0  # 255 * 256


def _cell_sums(x: Tensor, side: int) -> Tensor:
    """Sums (..., H, W) over squares of ``side`` pixels: (..., H/side, W/side)."""
    h, w = x.shape[-2:]
    return (
        x.reshape(*x.shape[:-2], h // side, side, w).sum(-2).reshape(*x.shape[:-2], h // side, w // side, side).sum(-1)
    )


def _gradients(images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Sobel gradients along x and y, and magnitude, (B, H, W) each, of every pixel's strongest channel.

    Reflect padding. Sobel is separable: a difference along one axis of a 1-2-1 sum along the other. Pixels are
    whole multiples of 1/65280 here (8-bit values are whole multiples of 256 of them), so that these sums are exact
    and which channel is the strongest does not hang on the last bit of a device's arithmetic. All three are in that
    unit.
    """
    p = F.pad((images * UNIT).round_(), (1, 1, 1, 1), mode="reflect")
    rows = (p[..., :-2, :] + p[..., 2:, :]).add_(p[..., 1:-1, :], alpha=2)
    columns = (p[..., :-2] + p[..., 2:]).add_(p[..., 1:-1], alpha=2)
    gx = rows[..., 2:] - rows[..., :-2]
    gy = columns[..., 2:, :] - columns[..., :-2, :]
    energy = torch.addcmul(gx * gx, gy, gy)
    x, y, strongest = gx[:, 0], gy[:, 0], energy[:, 0]
    for channel in range(1, images.shape[1]):
        # A blend by 0 or 1 is exact on whole numbers, and half the time of torch.where on a CPU.
        better = (energy[:, channel] > strongest).float()
        x = torch.lerp(x, gx[:, channel], better)
        y = torch.lerp(y, gy[:, channel], better)
        strongest = torch.maximum(strongest, energy[:, channel])
    return x, y, strongest.sqrt_()


def _fuses(images: Tensor) -> bool:
    """Whether whole batches are the fast way: on a GPU, and where torch.compile makes one loop of everything."""
    return images.device.type != "cpu" or torch.compiler.is_compiling()


@lru_cache(maxsize=8)
def _cell_of_pixels(height: int, width: int, cell: int) -> Tensor:
    """(height, width) int32 on the CPU: the number of each pixel's cell, in row-major order."""
    row = torch.arange(height, dtype=torch.int32)[:, None] // cell
    return row * (width // cell) + torch.arange(width, dtype=torch.int32) // cell


def _votes(magnitude: Tensor, sector: Tensor, cell: int) -> Tensor:
    """Sums (B, H/cell, W/cell, BINS) of magnitudes (B, H, W) per cell and unsigned orientation.

    ``sector`` (B, H, W) int32 numbers the signed orientation from -BINS to BINS; those that differ by BINS are
    opposite, and so one unsigned orientation.
    """
    b, h, w = magnitude.shape
    if _fuses(magnitude):
        # index_add_ adds in no fixed order on a GPU: a sum per bin is deterministic, and torch.compile fuses it.
        bins = sector.remainder(BINS)
        return torch.stack([_cell_sums(magnitude * (bins == k), cell) for k in range(BINS)], dim=-1)
    slots = 2 * BINS + 1
    place = _cell_of_pixels(b * h, w, cell).reshape(b, h, w) * slots + (sector + BINS)
    sums = magnitude.new_zeros(b * (h // cell) * (w // cell) * slots)
    sums.index_add_(0, place.flatten(), magnitude.flatten())
    sums = sums.reshape(b, h // cell, w // cell, slots)
    votes = sums[..., :BINS] + sums[..., BINS : 2 * BINS]
    votes[..., 0] += sums[..., 2 * BINS]
    return votes


def _hog(images: Tensor, patch: int) -> Tensor:
    x, y, magnitude = _gradients(images)
    sector = torch.atan2(y, x).mul_(BINS / math.pi).floor_().int()
    cell = 8 if patch % 8 == 0 else patch // 2 if patch % 2 == 0 else patch
    energy = _votes(magnitude, sector, cell).square().sum(dim=-1)
    return torch.log1p(_cell_sums(energy, patch // cell).sqrt() / UNIT).flatten(1)


def hog(images: Tensor, patch: int) -> Tensor:
    """Richness (B, L) by histograms of oriented gradients: log1p of the L2 norm of a patch's magnitudes summed
    per orientation bin (9, unsigned, hard votes) and cell (8 x 8 pixels, or half a patch where 8 does not divide it).

    Contrast counts: nothing is normalised per cell.
    """
    if _fuses(images):
        return _hog(images, patch)
    # One image's planes stay in a core's cache; a whole batch's would be read from memory at every operation.
    return torch.cat([_hog(image, patch) for image in images.split(1)])


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
    two = torch.full((), 2.0, device=images.device)  # filled there: a tensor made of a number is copied and waited for
    return -(torch.special.xlogy(p, p)).sum(dim=2) / torch.log(two)


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
