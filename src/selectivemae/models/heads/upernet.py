"""Heads of semantic segmentation: UPerNet (Xiao et al., ECCV 2018, arXiv 1807.10221) and a plain convolutional one.

Legend: B images, W width of the head, K classes, H_i x W_i the four maps of a backbone, finest first.
"""

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from selectivemae.core.errors import TrainingError
from selectivemae.ops.noise import uniform

POOLED = (1, 2, 3, 6)  # sides of the pyramid pooling's grids
_DROP = 0xDA00  # purposes of the hash: the heads' dropout
_DROP_AUX = 0xDA01


class BatchNorm(nn.BatchNorm2d):
    """Batch norm over the whole global batch: where several processes train, mean and variance are those of all.

    Torch's own ``SyncBatchNorm`` does the same, on GPUs only. All processes give batches of the same shape.
    TrainingError when there is one value a channel alone.
    """

    def forward(self, input: Tensor) -> Tensor:
        if not (self.training and dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
            if self.training and input.numel() == input.shape[1]:
                raise TrainingError(
                    "batch norm has nothing to compare one image with: use a --micro-batch of 2 or more that leaves no "
                    "single image over, or less memory a crop (--crop, --checkpointing)"
                )
            return super().forward(input)
        wide = input.float()
        world = dist.get_world_size()
        mean = _SumOverProcesses.apply(wide.mean((0, 2, 3))) / world  # type: ignore[operator]
        centred = wide - mean[:, None, None]
        variance = _SumOverProcesses.apply(centred.square().mean((0, 2, 3))) / world  # type: ignore[operator]
        self._keep(mean.detach(), variance.detach(), world * input.numel() // input.shape[1])
        scale = self.weight * torch.rsqrt(variance + self.eps)
        return (centred * scale[:, None, None] + self.bias[:, None, None]).to(input.dtype)

    @torch.no_grad()
    def _keep(self, mean: Tensor, variance: Tensor, count: int) -> None:
        """Let the running figures, of which the variance is the unbiased one, follow."""
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        assert self.momentum is not None
        self.num_batches_tracked += 1
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.lerp_(variance * (count / (count - 1)), self.momentum)


class _SumOverProcesses(torch.autograd.Function):
    """The sum of a tensor over all processes; its gradient is the sum of theirs."""

    @staticmethod
    def forward(ctx: object, x: Tensor) -> Tensor:
        total = x.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: object, gradient: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        total = gradient.contiguous().clone()
        dist.all_reduce(total)
        return total


def conv_block(channels: int, width: int, kernel: int = 1) -> nn.Sequential:
    """Convolution without bias (Kaiming), batch norm, ReLU: (B, channels, H, W) to (B, width, H, W)."""
    conv = nn.Conv2d(channels, width, kernel, padding=kernel // 2, bias=False)
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    return nn.Sequential(conv, BatchNorm(width), nn.ReLU(inplace=True))


def classifier(width: int, classes: int) -> nn.Conv2d:
    """The last 1 x 1 convolution: Normal 0.01, bias 0."""
    conv = nn.Conv2d(width, classes, kernel_size=1)
    nn.init.normal_(conv.weight, std=0.01)
    nn.init.zeros_(conv.bias)  # type: ignore[arg-type]
    return conv


def drop_channels(x: Tensor, rate: float, key: Tensor | None, purpose: int) -> Tensor:
    """Dropout of whole channels of maps (B, W, H, W) by lot from noise keys (B,); without keys nothing is dropped.

    What is dropped is a function of the sample's key alone, so a resumed run drops the same.
    """
    if key is None or rate == 0:
        return x
    kept = uniform(key, purpose, x.shape[1]) >= rate
    return x * (kept.to(x.dtype) / (1 - rate))[:, :, None, None]


def resize(x: Tensor, like: Tensor) -> Tensor:
    """Maps (B, W, ., .) at the size of others, bilinear, corners not aligned."""
    return F.interpolate(x, size=like.shape[-2:], mode="bilinear", align_corners=False)


class UPerHead(nn.Module):
    """Pyramid pooling on the coarsest map, a feature pyramid over all four, one classifier at the finest.

    ``channels`` are those of the four maps. Dropout needs noise keys (``forward``) and happens in training only.
    """

    def __init__(self, channels: list[int], classes: int, width: int = 512, dropout: float = 0.1) -> None:
        super().__init__()
        self.dropout = dropout
        self.pools = nn.ModuleList(
            nn.Sequential(nn.AdaptiveAvgPool2d(side), conv_block(channels[-1], width)) for side in POOLED
        )
        self.bottleneck = conv_block(channels[-1] + len(POOLED) * width, width, 3)
        self.lateral = nn.ModuleList(conv_block(c, width) for c in channels[:-1])
        self.output = nn.ModuleList(conv_block(width, width, 3) for _ in channels[:-1])
        self.fusion = conv_block(len(channels) * width, width, 3)
        self.classifier = classifier(width, classes)

    def forward(self, maps: list[Tensor], key: Tensor | None = None) -> Tensor:
        """Logits (B, K, H_0, W_0) of four maps; ``key`` (B,) are the noise keys of a batch in training."""
        coarse = maps[-1]
        pooled = [coarse, *(resize(pool(coarse), coarse) for pool in self.pools)]
        merged = [self.bottleneck(torch.cat(pooled, dim=1))]
        for lateral, x in zip(list(self.lateral)[::-1], maps[-2::-1], strict=True):
            level = lateral(x)
            merged.append(level + resize(merged[-1], level))
        fine = [conv(x) for conv, x in zip(self.output, merged[:0:-1], strict=True)]
        levels = [fine[0], *(resize(x, fine[0]) for x in (*fine[1:], merged[0]))]
        fused = self.fusion(torch.cat(levels, dim=1))
        return self.classifier(drop_channels(fused, self.dropout, key if self.training else None, _DROP))


class FCNHead(nn.Module):
    """One 3 x 3 convolution and a classifier on the third map: an auxiliary loss in training (Long et al., CVPR 2015,
    in the form of Zhao et al., CVPR 2017)."""

    def __init__(self, channels: list[int], classes: int, width: int = 256, dropout: float = 0.1) -> None:
        super().__init__()
        self.dropout = dropout
        self.conv = conv_block(channels[2], width, 3)
        self.classifier = classifier(width, classes)

    def forward(self, maps: list[Tensor], key: Tensor | None = None) -> Tensor:
        """Logits (B, K, H_2, W_2) of four maps."""
        x = self.conv(maps[2])
        return self.classifier(drop_channels(x, self.dropout, key if self.training else None, _DROP_AUX))
