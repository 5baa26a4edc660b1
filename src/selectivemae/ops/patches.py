"""Images to patches and back.

Shapes: B batch, C channels, H and W image sides, p patch side, L = (H/p)(W/p) patches in row-major order.
"""

import torch
from torch import Tensor


def patchify(images: Tensor, patch: int) -> Tensor:
    """Cut images (B, C, H, W) into patches (B, L, p*p*C), pixels in (row, column, channel) order (method.md, 1).

    H and W must be multiples of ``patch``.
    """
    b, c, h, w = images.shape
    grid = images.reshape(b, c, h // patch, patch, w // patch, patch)
    return grid.permute(0, 2, 4, 3, 5, 1).reshape(b, (h // patch) * (w // patch), patch * patch * c)


def unpatchify(patches: Tensor, patch: int, height: int, width: int) -> Tensor:
    """Inverse of ``patchify``: patches (B, L, p*p*C) to images (B, C, H, W)."""
    b, _, size = patches.shape
    c = size // (patch * patch)
    grid = patches.reshape(b, height // patch, width // patch, patch, patch, c)
    return grid.permute(0, 5, 1, 3, 2, 4).reshape(b, c, height, width)


def take(tokens: Tensor, ids: Tensor) -> Tensor:
    """Rows of tokens (B, L, E) at ids (B, N) int64: (B, N, E)."""
    return tokens.gather(1, ids.unsqueeze(-1).expand(-1, -1, tokens.shape[-1]))


def normalise_patches(patches: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Each patch less its mean, over its deviation: (patches, mean, deviation), the last two (..., 1).

    The variance is the unbiased one with 1e-6 added, as the reference trains on (method.md, 1).
    """
    mean = patches.mean(dim=-1, keepdim=True)
    deviation = torch.sqrt(patches.var(dim=-1, keepdim=True) + 1e-6)
    return (patches - mean) / deviation, mean, deviation
