"""Building the model that a layout's tensors belong to: sizes are read from the tensors' shapes."""

import re
from collections.abc import Callable, Mapping
from typing import NamedTuple

from torch import Tensor, nn

from selectivemae.core.errors import WeightsError
from selectivemae.models.vit import SIZES, Architecture, architecture, build_encoder, timm_name

State = Mapping[str, Tensor]
Size = tuple[int, int]


class Built(NamedTuple):
    """A model with fresh weights, its name in timm, and its grid of positions where it has one."""

    model: nn.Module
    name: str
    grid: Size | None = None


def build(family: str, state: State, image_size: Size, channels: int, where: str) -> Built:
    """A model of ``family`` whose sizes fit ``state`` (names as in the target), for ``image_size`` in pixels.

    Raises ``WeightsError`` when the sizes are of no known model.
    """
    return BUILDERS[family](state, image_size, channels, where)


def vit_architecture(state: State, where: str) -> Architecture:
    """The named size with the width and patch of the patch embedding; depth must be checked by the caller."""
    weight = state["patch_embed.proj.weight"]
    size = next((size for size, (_, width, *_) in SIZES.items() if width == weight.shape[0]), None)
    if size is None or weight.ndim != 4:
        widths = ", ".join(f"{width} ({size})" for size, (_, width, *_) in SIZES.items())
        raise WeightsError(f"{where}: no known size has width {weight.shape[0]} (known: {widths})")
    arch = architecture(f"vit_{size}", patch_size=weight.shape[-1])
    depth = count(state, r"blocks\.(\d+)\.")
    if depth != arch.depth:
        raise WeightsError(f"{where}: {depth} blocks of width {arch.width}, but {arch.name} has {arch.depth}")
    return arch


def count(state: State, pattern: str) -> int:
    """One more than the largest number that ``pattern``'s group takes at the start of a name; 0 if it never fits."""
    found = (re.match(pattern, key) for key in state)
    return max((int(match[1]) + 1 for match in found if match), default=0)


def _vit(state: State, image_size: Size, channels: int, where: str) -> Built:
    arch = vit_architecture(state, where)
    model = build_encoder(arch.name, image_size, channels, arch.patch)
    return Built(model, timm_name(arch), (image_size[0] // arch.patch, image_size[1] // arch.patch))


BUILDERS: dict[str, Callable[[State, Size, int, str], Built]] = {"vit": _vit}
