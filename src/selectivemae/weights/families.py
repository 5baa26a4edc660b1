"""Building the model that a layout's tensors belong to: sizes are read from the tensors' shapes."""

import re
from collections.abc import Callable, Mapping
from math import isqrt
from typing import Any, NamedTuple

from torch import Tensor, nn

from selectivemae.core.errors import WeightsError
from selectivemae.models._torchvision import ensure_torchvision
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


def native_size(state: State, default: Size) -> Size:
    """The image size in pixels that the stored positions of a vision transformer were made for, if square."""
    positions, patch = state.get("pos_embed"), state.get("patch_embed.proj.weight")
    if positions is None or patch is None or positions.ndim != 3:
        return default
    side = isqrt(positions.shape[1])
    return (side * patch.shape[-2], side * patch.shape[-1]) if positions.shape[1] - side * side in (0, 1) else default


def _vit(state: State, image_size: Size, channels: int, where: str) -> Built:
    arch = vit_architecture(state, where)
    model = build_encoder(arch.name, image_size, channels, arch.patch)
    return Built(model, timm_name(arch), (image_size[0] // arch.patch, image_size[1] // arch.patch))


def _scalemae(state: State, image_size: Size, channels: int, where: str) -> Built:
    from selectivemae.models.scale_mae import ScaleMAEEncoder

    arch = vit_architecture(state, where)
    return Built(ScaleMAEEncoder(arch, image_size, channels), timm_name(arch))


def _rvsa(state: State, image_size: Size, channels: int, where: str) -> Built:
    """RVSA as stored, or with the published settings when ``state`` is a plain vision transformer's."""
    from selectivemae.models.rvsa import RVSA

    arch = vit_architecture(state, where)
    sampled = {int(match[1]) for key in state if (match := re.match(r"blocks\.(\d+)\.attn\.sampling_", key))}
    full = [i for i in range(arch.depth) if sampled and i not in sampled]
    model = RVSA(
        arch,
        image_size,
        channels,
        interval=full[0] + 1 if full else None,
        qkv_bias="blocks.0.attn.qkv.bias" in state,
        separate=any(".sampling_offsets_k." in key for key in state),
    )
    return Built(model, f"{arch.name}_rvsa", model.grid)


def _dinov3(state: State, image_size: Size, channels: int, where: str) -> Built:
    width, depth = state["reg_token"].shape[-1], count(state, r"blocks\.(\d+)\.")
    sizes = {(384, 12): "small", (768, 12): "base", (1024, 24): "large"}
    size = _known(sizes, (width, depth), "DINOv3 of (width, depth)", where)
    bias = "_qkvb" if "blocks.0.attn.q_bias" in state else ""
    name = f"vit_{size}_patch16_dinov3{bias}"
    return Built(_create(name, img_size=image_size, in_chans=channels), name)


def _resnet(state: State, image_size: Size, channels: int, where: str) -> Built:
    bottleneck = "layer1.0.conv3.weight" in state
    depths = tuple(count(state, rf"layer{i}\.(\d+)\.") for i in range(1, 5))
    names = {
        (False, (2, 2, 2, 2)): "resnet18",
        (False, (3, 4, 6, 3)): "resnet34",
        (True, (3, 4, 6, 3)): "resnet50",
        (True, (3, 4, 23, 3)): "resnet101",
    }
    name = _known(names, (bottleneck, depths), "ResNet of (bottleneck, depths)", where)
    return Built(_create(name, in_chans=channels), name)


def _swin(state: State, image_size: Size, channels: int, where: str) -> Built:
    table = state["layers.0.blocks.0.attn.relative_position_bias_table"]
    window = (isqrt(table.shape[0]) + 1) // 2
    name = f"swin_{_swin_size(state, where)}_patch4_window7_224"
    options = {"img_size": _at_least(image_size, 32 * window), "window_size": window, "strict_img_size": False}
    return Built(_create(name, in_chans=channels, **options), name)


def _swinv2(state: State, image_size: Size, channels: int, where: str) -> Built:
    name = f"swinv2_{_swin_size(state, where)}_window8_256"
    return Built(_create(name, img_size=_at_least(image_size, 256), in_chans=channels, strict_img_size=False), name)


def _swin_size(state: State, where: str) -> str:
    depths = tuple(count(state, rf"layers\.{i}\.blocks\.(\d+)\.") for i in range(4))
    sizes = {
        (96, (2, 2, 6, 2)): "tiny",
        (96, (2, 2, 18, 2)): "small",
        (128, (2, 2, 18, 2)): "base",
        (192, (2, 2, 18, 2)): "large",
    }
    return _known(sizes, (state["patch_embed.proj.weight"].shape[0], depths), "Swin of (width, depths)", where)


def _at_least(size: Size, side: int) -> Size:
    """``size``, no side below ``side``, which would shrink the windows; smaller images are padded at run time."""
    return max(size[0], side), max(size[1], side)


def _known(names: Mapping[Any, str], found: object, what: str, where: str) -> str:
    if found not in names:
        known = ", ".join(f"{name} {sizes}" for sizes, name in names.items())
        raise WeightsError(f"{where}: no known {what} {found} (known: {known})")
    return names[found]


def _create(name: str, **options: Any) -> nn.Module:
    """A stock timm model without head, with fresh weights."""
    ensure_torchvision()
    import timm

    return timm.create_model(name, pretrained=False, num_classes=0, **options)


BUILDERS: dict[str, Callable[[State, Size, int, str], Built]] = {
    "vit": _vit,
    "scalemae": _scalemae,
    "rvsa": _rvsa,
    "dinov3": _dinov3,
    "resnet": _resnet,
    "swin": _swin,
    "swinv2": _swinv2,
}
