"""Feature pyramid network (Lin et al. 2017, arXiv 1612.03144) as the published detectors use it."""

import torch.nn.functional as F
from torch import Tensor, nn


class FPN(nn.Module):
    """Four maps to five of ``width`` channels, at the four strides and twice the last.

    1 x 1 laterals, nearest top-down addition, 3 x 3 outputs, no norm or activation; the fifth map is every second
    pixel of the fourth.
    """

    def __init__(self, channels: list[int], width: int = 256) -> None:
        super().__init__()
        self.lateral = nn.ModuleList(nn.Conv2d(c, width, kernel_size=1) for c in channels)
        self.output = nn.ModuleList(nn.Conv2d(width, width, kernel_size=3, padding=1) for _ in channels)
        for parameter in self.parameters():
            nn.init.xavier_uniform_(parameter) if parameter.ndim > 1 else nn.init.zeros_(parameter)

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        """Five maps (B, width, H_i, W_i), finest first."""
        lateral = [conv(x) for conv, x in zip(self.lateral, maps, strict=True)]
        merged = [lateral[-1]]
        for x in lateral[-2::-1]:
            merged.append(x + F.interpolate(merged[-1], size=x.shape[-2:], mode="nearest"))
        out = [conv(x) for conv, x in zip(self.output, merged[::-1], strict=True)]
        return [*out, F.max_pool2d(out[-1], kernel_size=1, stride=2)]
