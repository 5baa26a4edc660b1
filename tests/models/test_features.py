"""Four maps of every kind of backbone: right sizes at any image size, and the values hooks see inside."""

from typing import Any

import pytest
import torch
from torch import nn

from selectivemae.core.errors import ConfigError
from selectivemae.models._torchvision import ensure_torchvision
from selectivemae.models.features import Taps, dense_backbone
from selectivemae.models.rvsa import RVSA
from selectivemae.models.scale_mae import ScaleMAEEncoder
from selectivemae.models.vit import Architecture, architecture

ensure_torchvision()  # a torchvision that misses its operators keeps timm from being imported
import timm  # noqa: E402
from timm.models.swin_transformer import SwinTransformer  # noqa: E402
from timm.models.swin_transformer_v2 import SwinTransformerV2  # noqa: E402
from timm.models.vision_transformer import VisionTransformer  # noqa: E402

ARCH = Architecture("test", 16, 4, 32, 2, 16, 2)
SWIN: dict[str, Any] = {"embed_dim": 32, "depths": (2, 2, 2, 2), "num_heads": (1, 2, 4, 8), "num_classes": 0}


def make(name: str) -> Any:
    torch.manual_seed(0)
    if name == "vit":
        model: Any = VisionTransformer(64, 16, 3, 0, embed_dim=32, depth=4, num_heads=2, dynamic_img_size=True)
    elif name == "scalemae":
        model = ScaleMAEEncoder(ARCH, (64, 64), 3)
    elif name == "rvsa":
        model = RVSA(ARCH, (112, 112), interval=2)
    elif name == "dinov3":
        model = timm.create_model("vit_small_patch16_dinov3", num_classes=0, depth=4, embed_dim=64, num_heads=2)
    elif name == "swin":
        model = SwinTransformer(img_size=192, window_size=6, strict_img_size=False, **SWIN)
    elif name == "swinv2":
        model = SwinTransformerV2(img_size=256, window_size=8, strict_img_size=False, **SWIN)
    else:
        model = timm.create_model(name, num_classes=0)
    return model.eval()


TRANSFORMERS = ["vit", "scalemae", "rvsa", "dinov3"]
STAGES = ["resnet18", "swin", "swinv2"]


@pytest.mark.parametrize("name", TRANSFORMERS + STAGES)
@pytest.mark.parametrize("size", [(128, 192), (100, 150)])
def test_maps_have_their_strides_at_any_size(name: str, size: tuple[int, int]) -> None:
    taps = Taps(make(name))
    maps = taps(torch.randn(2, 3, *size))
    assert taps.strides == ([16] * 4 if name in TRANSFORMERS else [4, 8, 16, 32])
    step = max(taps.strides)
    padded = [-(-side // step) * step for side in size]
    for out, channels, stride in zip(maps, taps.channels, taps.strides, strict=True):
        assert tuple(out.shape) == (2, channels, padded[0] // stride, padded[1] // stride)


@pytest.mark.parametrize(
    ("name", "blocks"),
    [
        ("vit", "blocks.{}"),
        ("scalemae", "blocks.{}"),
        ("rvsa", "blocks.{}"),
        ("dinov3", "blocks.{}"),
        ("resnet18", "layer{}"),
        ("swin", "layers.{}"),
        ("swinv2", "layers.{}"),
    ],
)
def test_maps_are_what_hooks_see(name: str, blocks: str) -> None:
    model = make(name)
    seen: list[torch.Tensor] = []
    for i in range(4):
        module = model.get_submodule(blocks.format(i + 1 if name == "resnet18" else i))
        module.register_forward_hook(lambda _, __, out: seen.append(out))
    maps = Taps(model)(torch.randn(1, 3, 128, 64))
    for out, inside in zip(maps, seen, strict=True):
        if name in TRANSFORMERS:
            expected = inside[:, -8 * 4 :].transpose(1, 2).reshape(out.shape)
        else:
            expected = inside if name == "resnet18" else inside.permute(0, 3, 1, 2)
        assert torch.equal(out, expected)


@pytest.mark.parametrize("name", TRANSFORMERS + STAGES)
def test_backbones_of_dense_tasks(name: str) -> None:
    backbone: Any = dense_backbone(make(name), checkpointing=True)
    assert backbone.strides == [4, 8, 16, 32]
    images = torch.randn(1, 3, 128, 160)
    maps = backbone.train()(images)
    assert [tuple(m.shape) for m in maps] == [
        (1, channels, 128 // stride, 160 // stride)
        for channels, stride in zip(backbone.channels, backbone.strides, strict=True)
    ]
    torch.stack([m.square().mean() for m in maps]).sum().backward()
    without = [key for key, p in backbone.named_parameters() if p.grad is None]
    assert [key for key in without if not key.startswith("encoder.norm.")] == []


def test_dinov3_keeps_its_registers_in_a_pyramid() -> None:
    raw = Taps(make("dinov3"))(images := torch.randn(1, 3, 64, 96))
    backbone: Any = dense_backbone(make("dinov3"))
    assert torch.equal(backbone(images)[2], raw[2])


def test_the_published_taps() -> None:
    with torch.device("meta"):
        assert Taps(RVSA(architecture("vit_base_patch16"))).indices == [3, 5, 7, 11]
        assert Taps(RVSA(architecture("vit_large_patch16"))).indices == [7, 11, 15, 23]


@pytest.mark.parametrize("taps", [(0, 1, 2), (0, 2, 1, 3), (-1, 0, 1, 2), (0, 1, 2, 4)])
def test_taps_that_do_not_fit(taps: tuple[int, ...]) -> None:
    with pytest.raises(ConfigError, match="do not fit"):
        Taps(make("vit"), taps)


def test_a_module_without_an_inside_is_refused() -> None:
    with pytest.raises(ConfigError, match="Linear"):
        Taps(nn.Linear(2, 2))
