"""Scale-MAE's encoder: a vision transformer whose positions are measured on the ground (Reed et al., ICCV 2023).

B batch, H and W patches along the image, E width.
"""

import torch
from torch import Tensor

from selectivemae.models._torchvision import ensure_torchvision
from selectivemae.models.vit import Architecture, encoder_arguments

ensure_torchvision()

from timm.models.vision_transformer import VisionTransformer  # noqa: E402


class ScaleMAEEncoder(VisionTransformer):
    """timm's ``VisionTransformer`` with positions computed for each image instead of learnt or interpolated.

    ``gsd_ratio`` is the ground sampling distance of the images over the one of reference, both in metres per pixel;
    a patch at grid place i lies at i * ``gsd_ratio``.
    """

    def __init__(self, arch: Architecture, image_size: tuple[int, int], in_chans: int, gsd_ratio: float = 1.0) -> None:
        super().__init__(**encoder_arguments(arch, image_size, in_chans), pos_embed="none")
        self.gsd_ratio = gsd_ratio

    def _pos_embed(self, x: Tensor) -> Tensor:
        """Patches (B, H, W, E) to tokens (B, [1 +] H*W, E), class token first, at position 0."""
        B, H, W, E = x.shape
        tokens = x.flatten(1, 2) + gsd_positions(E, H, W, self.gsd_ratio).to(x)
        if self.cls_token is None:  # taken off for dense tasks
            return tokens
        return torch.cat([self.cls_token.expand(B, -1, -1), tokens], dim=1)


def gsd_positions(width: int, rows: int, columns: int, ratio: float) -> Tensor:
    """Sine-cosine positions (rows*columns, width) float32 of a grid whose step is ``ratio``.

    The first half of the channels tells the column, the second the row; in each sines come before cosines, at
    frequencies 10000^(-4k / width) (Scale-MAE, section 3). ``width`` must be a multiple of 4.
    """
    frequency = 10000.0 ** (-torch.arange(width // 4, dtype=torch.float64) / (width // 4))
    row, column = (torch.outer(torch.arange(n, dtype=torch.float64) * ratio, frequency) for n in (rows, columns))
    row, column = torch.cat([row.sin(), row.cos()], 1), torch.cat([column.sin(), column.cos()], 1)
    table = torch.cat([column.expand(rows, -1, -1), row[:, None].expand(-1, columns, -1)], dim=2)
    return table.flatten(0, 1).float()
