"""Fixed sine-cosine positions on a grid of patches."""

import torch
from torch import Tensor


def _sincos(width: int, at: Tensor) -> Tensor:
    """(N,) positions to (N, width) sines, then cosines, at frequencies 10000^(-2k / width)."""
    frequency = 10000.0 ** (-torch.arange(width // 2, dtype=torch.float64) / (width / 2))
    angle = at[:, None] * frequency[None]
    return torch.cat([angle.sin(), angle.cos()], dim=1)


def _centres(n: int, extent: int) -> Tensor:
    """(n,) centres of n cells that divide ``extent`` ones, in units of those; 0, 1, 2 ... where they are the same."""
    return (torch.arange(n, dtype=torch.float64) + 0.5) * (extent / n) - 0.5


def sincos_positions(
    width: int, rows: int, columns: int, class_token: bool = True, extent: tuple[int, int] | None = None
) -> Tensor:
    """Positions (1, [1 +] rows*columns, width) float32 of a grid in row-major order.

    Half of the channels tell the column, half the row (MAE, arXiv 2111.06377; timm's convention); the class
    token, where there is one, comes first and has position 0. ``width`` must be a multiple of 4. ``extent`` (rows,
    columns) is the grid over whose area this one lies: the centre of a patch has the position that it has there.
    """
    high, wide = extent or (rows, columns)
    row, column = torch.meshgrid(_centres(rows, high), _centres(columns, wide), indexing="ij")
    table = torch.cat([_sincos(width // 2, column.flatten()), _sincos(width // 2, row.flatten())], dim=1)
    if class_token:
        table = torch.cat([torch.zeros(1, width, dtype=torch.float64), table])
    return table.float().unsqueeze(0)
