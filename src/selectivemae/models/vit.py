"""Vision transformer sizes, and encoders as stock timm models (method.md, section 1)."""

import re
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from torch import nn

from selectivemae.core.errors import ConfigError
from selectivemae.core.suggest import did_you_mean
from selectivemae.models._torchvision import ensure_torchvision

if TYPE_CHECKING:
    from timm.models.vision_transformer import VisionTransformer

LayerNorm = partial(nn.LayerNorm, eps=1e-6)


@dataclass(frozen=True)
class Architecture:
    """Size of an encoder and of the decoder that goes with it."""

    size: str
    patch: int
    depth: int
    width: int
    heads: int
    decoder_width: int
    decoder_heads: int

    @property
    def name(self) -> str:
        """``vit_base_patch16`` and the like."""
        return f"vit_{self.size}_patch{self.patch}"


SIZES = {  # depth, width, heads | decoder width, heads
    "tiny": (12, 192, 3, 128, 4),
    "small": (12, 384, 6, 256, 8),
    "base": (12, 768, 12, 512, 16),
    "large": (24, 1024, 16, 512, 16),
    "huge": (32, 1280, 16, 512, 16),
}
DEFAULT_PATCH = {"huge": 14}


def architecture(name: str, patch_size: int | None = None) -> Architecture:
    """The sizes of ``vit_SIZE[_patchP]``; ``patch_size`` overrides the name's. ConfigError for an unknown name."""
    match = re.fullmatch(r"vit_(tiny|small|base|large|huge)(?:_patch([1-9]\d*))?(?:_224)?", name)
    if match is None:
        known = [f"vit_{size}_patch{DEFAULT_PATCH.get(size, 16)}" for size in SIZES]
        raise ConfigError(f"unknown model {name!r}{did_you_mean(name, known)} (known: {', '.join(known)})")
    if patch_size is not None and patch_size < 1:
        raise ConfigError(f"patch size {patch_size} is no number of pixels: use 1 or more")
    size = match[1]
    patch = patch_size or int(match[2] or DEFAULT_PATCH.get(size, 16))
    depth, width, heads, decoder_width, decoder_heads = SIZES[size]
    return Architecture(size, patch, depth, width, heads, decoder_width, decoder_heads)


def check_image_size(arch: Architecture, height: int, width: int) -> None:
    """ConfigError unless the patch divides both sides."""
    for side in (height, width):
        if side % arch.patch or side <= 0:
            below = max(side // arch.patch, 1) * arch.patch
            raise ConfigError(
                f"image size {side} is not a multiple of the patch size {arch.patch}: "
                f"use {below} or {below + arch.patch}, or another patch size"
            )


def build_encoder(
    name: str, image_size: int | tuple[int, int] = 224, in_chans: int = 3, patch_size: int | None = None
) -> "VisionTransformer":
    """A timm ``VisionTransformer`` of a named size (``architecture``), without head, any image size at run time.

    Its weights are timm's fresh ones; a class token, positions for ``image_size`` (side or (height, width)).
    """
    ensure_torchvision()
    from timm.models.vision_transformer import VisionTransformer

    size = (image_size, image_size) if isinstance(image_size, int) else image_size
    return VisionTransformer(**encoder_arguments(architecture(name, patch_size), size, in_chans))


def encoder_arguments(arch: Architecture, image_size: tuple[int, int], in_chans: int) -> dict[str, Any]:
    """What timm's ``VisionTransformer`` is built with: no head, images (height, width) of any size at run time.

    ConfigError when the patch does not divide the image.
    """
    check_image_size(arch, *image_size)
    return {
        "img_size": image_size,
        "patch_size": arch.patch,
        "in_chans": in_chans,
        "num_classes": 0,
        "embed_dim": arch.width,
        "depth": arch.depth,
        "num_heads": arch.heads,
        "norm_layer": LayerNorm,
        "dynamic_img_size": True,
    }


def timm_name(arch: Architecture) -> str:
    """timm's way of naming the architecture with its patch; stock timm has some of them (``stock_timm_name``)."""
    return f"{arch.name}_224"


def stock_timm_name(arch: Architecture) -> str:
    """The stock timm model of the same size; where its patch is another, ``patch_size`` must be told as well."""
    return f"vit_{arch.size}_patch{DEFAULT_PATCH.get(arch.size, 16)}_224"
