"""Fixed sine-cosine positions on a grid of patches."""

import torch
from torch import Tensor


def _sincos(width: int, at: Tensor) -> Tensor:
    """(N,) positions to (N, width) sines, then cosines, at frequencies 10000^(-2k / width)."""
    frequency = 10000.0 ** (-torch.arange(width // 2, dtype=torch.float64) / (width / 2))
    angle = at[:, None] * frequency[None]
    return torch.cat([angle.sin(), angle.cos()], dim=1)


def sincos_positions(width: int, rows: int, columns: int, class_token: bool = True) -> Tensor:
    """Positions (1, [1 +] rows*columns, width) float32 of a grid in row-major order.

    Half of the channels tell the column, half the row (MAE, arXiv 2111.06377; timm's convention); the class
    token, where there is one, comes first and has position 0. ``width`` must be a multiple of 4.
    """
    row, column = torch.meshgrid(
        torch.arange(rows, dtype=torch.float64), torch.arange(columns, dtype=torch.float64), indexing="ij"
    )
    table = torch.cat([_sincos(width // 2, column.flatten()), _sincos(width // 2, row.flatten())], dim=1)
    if class_token:
        table = torch.cat([torch.zeros(1, width, dtype=torch.float64), table])
    return table.float().unsqueeze(0)
