"""Dense features: four maps of any encoder, at any image size, behind one interface for all heads.

B images, E width of a transformer.
"""

from collections.abc import Sequence
from typing import Any, cast

from torch import Tensor, nn

from selectivemae.core.errors import ConfigError
from selectivemae.models.pyramid import ViTPyramid, pad_to_multiple, usual_taps


class Taps(nn.Module):
    """Four raw maps of an encoder, finest first: blocks of a transformer (all at the stride of its patch, without
    final norm), or the last four stages of a ResNet or Swin (strides 4, 8, 16, 32).

    The encoder is one of ``load_encoder`` or any timm model with ``forward_intermediates``. ``taps`` are block
    indices, by default the published ones (3, 5, 7, 11 of 12; 7, 11, 15, 23 of 24; otherwise the ends of quarters).
    """

    channels: list[int]
    strides: list[int]

    def __init__(self, encoder: nn.Module, taps: Sequence[int] | None = None) -> None:
        super().__init__()
        if not hasattr(encoder, "forward_intermediates"):
            raise ConfigError(f"a {type(encoder).__name__} gives no maps of its inside (timm's forward_intermediates)")
        self.encoder = encoder
        model, transformer = cast(Any, encoder), is_transformer(encoder)
        count = len(model.blocks if transformer else model.feature_info)
        usual = usual_taps(count) if transformer else range(count - 4, count)
        self.indices = list(taps or usual)
        rising = sorted(set(self.indices)) == self.indices and len(self.indices) == 4
        if not rising or self.indices[0] < 0 or self.indices[-1] >= count:
            raise ConfigError(f"taps {self.indices} do not fit: give four rising numbers from 0 to {count - 1}")
        if transformer:
            self.channels, self.strides = [model.embed_dim] * 4, [patch_side(encoder)] * 4
        else:
            self.channels = [model.feature_info[i]["num_chs"] for i in self.indices]
            self.strides = [model.feature_info[i]["reduction"] for i in self.indices]

    def forward(self, images: Tensor) -> list[Tensor]:
        """Maps (B, channels[i], H / strides[i], W / strides[i]) of images (B, C, H, W).

        Sides that the largest stride does not divide are padded with zeros, right and below, first.
        """
        images = pad_to_multiple(images, max(self.strides))
        call = cast(Any, self.encoder).forward_intermediates
        return call(images, indices=self.indices, intermediates_only=True, stop_early=True)


class KeptPrefix(nn.Module):
    """A transformer whose class and register tokens take part in attention but are cut off its maps (DINOv3).

    Looks like a ``VisionTransformer`` without such tokens, so that a pyramid can be put on it and finds none to drop.
    """

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        inner = cast(Any, encoder)
        inner.norm = inner.fc_norm = inner.head = nn.Identity()
        self.inner = inner
        self.embed_dim, self.num_prefix_tokens = inner.embed_dim, 0
        self.dynamic_img_size, self.pos_embed = inner.dynamic_img_size, None

    @property
    def blocks(self) -> nn.ModuleList:
        """The blocks of the transformer."""
        return self.inner.blocks

    @property
    def patch_embed(self) -> nn.Module:
        """The patch embedding of the transformer."""
        return self.inner.patch_embed

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Save memory in training by computing every block twice."""
        self.inner.set_grad_checkpointing(enable)

    def forward_intermediates(self, images: Tensor, **options: Any) -> Any:
        """The transformer's own maps."""
        return self.inner.forward_intermediates(images, **options)


def dense_backbone(
    encoder: nn.Module, taps: Sequence[int] | None = None, *, checkpointing: bool = False
) -> ViTPyramid | Taps:
    """The ``Backbone`` of a dense task on any encoder: a pyramid on a transformer, the stages of other networks.

    A transformer is taken over: final norm, head and (but for DINOv3, whose registers matter) the tokens that are no
    patches are dropped. ``checkpointing`` saves memory by computing every block twice. Raises ``ConfigError`` when
    ``taps`` do not fit.
    """
    if not is_transformer(encoder):
        stages = Taps(encoder, taps)
        cast(Any, encoder).set_grad_checkpointing(checkpointing)
        return stages
    chosen = Taps(encoder, taps).indices
    body = encoder if _takes_positions(encoder) else KeptPrefix(encoder)
    return ViTPyramid(cast(Any, body), (chosen[0], chosen[1], chosen[2], chosen[3]), checkpointing)


def is_transformer(encoder: nn.Module) -> bool:
    """Whether an encoder keeps one resolution through a list of blocks."""
    return hasattr(encoder, "blocks") and hasattr(encoder, "embed_dim")


def patch_side(encoder: nn.Module) -> int:
    """Side of a transformer's patch in pixels."""
    return cast(Any, encoder).patch_embed.patch_size[0]


def _takes_positions(encoder: nn.Module) -> bool:
    """Whether class tokens can be dropped: not where rotary positions count on their number."""
    return getattr(encoder, "rope", None) is None
