"""Backbones of dense tasks: four feature maps of any image from a vision transformer.

Legend: B images, E width of the transformer, H x W image.
"""

from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor, nn

from selectivemae.core.errors import ConfigError

if TYPE_CHECKING:
    from timm.models.vision_transformer import VisionTransformer


_PUBLISHED = {12: (3, 5, 7, 11), 24: (7, 11, 15, 23)}  # depth -> blocks whose outputs are taken


class Backbone(Protocol):
    """What every head takes: four maps (B, channels[i], H / strides[i], W / strides[i]), finest first."""

    channels: list[int]
    strides: list[int]

    def __call__(self, images: Tensor) -> list[Tensor]:
        """Maps of images (B, C, H, W), normalised as the encoder wants them."""
        ...


class ChannelNorm(nn.LayerNorm):
    """Layer norm over the channels of maps (B, E, H, W)."""

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class ViTPyramid(nn.Module):
    """Four blocks of a timm ``VisionTransformer`` as maps at a quarter, half, one and two patches (B, E, ·, ·).

    For patch 16 the strides are 4, 8, 16, 32. The encoder is taken over and changed: its class and register tokens,
    final norm and head, which no dense task uses, are dropped, so every parameter gets a gradient. Attention stays
    global in every block. ``taps`` are block indices, by default the published ones (3, 5, 7, 11 of 12; 7, 11, 15, 23
    of 24; otherwise the ends of quarters). Positions are resized to each image; its sides should be multiples of two
    patches (what is over is not seen). ``checkpointing`` saves memory by computing every block twice.
    """

    def __init__(
        self, encoder: "VisionTransformer", taps: tuple[int, int, int, int] | None = None, checkpointing: bool = False
    ) -> None:
        super().__init__()
        depth, width = len(list(encoder.blocks.children())), encoder.embed_dim
        self.taps = list(taps or usual_taps(depth))
        if sorted(set(self.taps)) != self.taps or not 0 <= self.taps[0] <= self.taps[-1] < depth:
            raise ConfigError(f"taps {self.taps} do not fit a model of {depth} blocks; give four rising block indices")
        if not encoder.dynamic_img_size:
            raise ConfigError("the encoder takes one image size only; build it with dynamic_img_size=True")
        self.encoder = without_prefix(encoder)
        self.encoder.set_grad_checkpointing(checkpointing)
        patch = encoder.patch_embed.patch_size[0]
        self.channels = [width] * 4
        self.strides = [patch // 4, patch // 2, patch, patch * 2]

        def double() -> nn.Module:
            return nn.ConvTranspose2d(width, width, kernel_size=2, stride=2)

        quarter = nn.Sequential(double(), ChannelNorm(width, eps=1e-6), nn.GELU(), double())
        self.scale = nn.ModuleList([quarter, double(), nn.Identity(), nn.MaxPool2d(kernel_size=2, stride=2)])

    def forward(self, images: Tensor) -> list[Tensor]:
        """Four maps of images (B, C, H, W)."""
        maps = self.encoder.forward_intermediates(images, indices=self.taps, intermediates_only=True, stop_early=True)
        return [scale(x) for scale, x in zip(self.scale, maps, strict=True)]


def without_prefix(encoder: "VisionTransformer") -> "VisionTransformer":
    """The encoder without class and register tokens, their rows of the position embedding, final norm and head.

    Changed in place and returned.
    """
    if encoder.num_prefix_tokens and encoder.pos_embed is not None and not encoder.no_embed_class:
        rows = encoder.pos_embed.detach()[:, encoder.num_prefix_tokens :]
        encoder.pos_embed = nn.Parameter(rows.clone())
    encoder.cls_token = encoder.reg_token = None
    encoder.num_prefix_tokens = encoder.num_reg_tokens = 0
    encoder.has_class_token = False
    encoder.norm = encoder.fc_norm = encoder.head = nn.Identity()
    encoder.attn_pool = None
    return encoder


def usual_taps(depth: int) -> list[int]:
    """The published blocks of a transformer of 12 or 24 (3, 5, 7, 11; 7, 11, 15, 23), else the ends of its quarters."""
    return list(_PUBLISHED.get(depth, [depth * i // 4 - 1 for i in range(1, 5)]))


def pad_to_multiple(images: Tensor, multiple: int) -> Tensor:
    """Images (B, C, H, W) with zeros added right and below until both sides are multiples."""
    height, width = images.shape[-2:]
    return torch.nn.functional.pad(images, (0, -width % multiple, 0, -height % multiple))
