"""The pyramid of maps on vision transformers and stage networks."""

import pytest
import torch

from selectivemae.core.errors import ConfigError
from selectivemae.models import pyramid
from selectivemae.models._torchvision import ensure_torchvision
from selectivemae.models.vit import build_encoder


def tiny(**options):
    ensure_torchvision()
    from timm.models.vision_transformer import VisionTransformer

    settings = {"img_size": 64, "patch_size": 16, "embed_dim": 24, "depth": 4, "num_heads": 2, "num_classes": 7}
    torch.manual_seed(0)
    return VisionTransformer(**settings, dynamic_img_size=True, **options)


@pytest.mark.parametrize(("height", "width"), [(64, 64), (96, 160)])
def test_four_maps_of_any_size_and_no_idle_parameter(height: int, width: int):
    backbone = pyramid.ViTPyramid(tiny())
    maps = backbone(torch.randn(2, 3, height, width))
    assert backbone.strides == [4, 8, 16, 32]
    assert [tuple(m.shape) for m in maps] == [(2, 24, height // s, width // s) for s in backbone.strides]
    torch.stack([m.square().mean() for m in maps]).sum().backward()
    assert [n for n, p in backbone.named_parameters() if p.grad is None] == []


def test_taps_are_the_published_blocks_without_final_norm():
    backbone = pyramid.ViTPyramid(build_encoder("vit_tiny_patch16", 64))
    assert backbone.taps == [3, 5, 7, 11]
    seen = {}
    for i, block in enumerate(backbone.encoder.blocks):
        block.register_forward_hook(lambda _m, _i, out, i=i: seen.__setitem__(i, out))
    with torch.no_grad():
        maps = backbone(torch.randn(1, 3, 64, 64))
    assert torch.equal(maps[2], seen[7].transpose(1, 2).reshape(1, 192, 4, 4))
    coarse = torch.nn.functional.max_pool2d(seen[11].transpose(1, 2).reshape(1, 192, 4, 4), 2)
    assert torch.equal(maps[3], coarse)


def test_class_token_and_its_position_are_dropped_and_patch_positions_kept():
    encoder = tiny(reg_tokens=2)
    positions = encoder.pos_embed.detach().clone()
    plain = pyramid.without_prefix(encoder)
    assert torch.equal(plain.pos_embed, positions[:, 3:])
    tokens = plain._pos_embed(torch.zeros(1, 4, 4, 24))
    assert torch.equal(tokens, positions[:, 3:])
    assert not any(n.startswith(("norm.", "head", "cls_token", "reg_token")) for n, _ in plain.named_parameters())


def test_checkpointing_changes_nothing_but_memory():
    images = torch.randn(1, 3, 64, 64)
    grads = []
    for on in (False, True):
        backbone = pyramid.ViTPyramid(tiny(), checkpointing=on)
        torch.manual_seed(1)
        for p in backbone.scale.parameters():
            torch.nn.init.normal_(p, std=0.1)
        sum(m.sum() for m in backbone(images)).backward()
        grads.append(backbone.encoder.patch_embed.proj.weight.grad)
    assert torch.allclose(grads[0], grads[1], rtol=1e-5)


def test_wrong_taps_or_a_fixed_image_size_are_refused():
    with pytest.raises(ConfigError, match="taps"):
        pyramid.ViTPyramid(tiny(), taps=(1, 2, 3, 4))
    encoder = tiny()
    encoder.dynamic_img_size = False
    with pytest.raises(ConfigError, match="dynamic_img_size"):
        pyramid.ViTPyramid(encoder)
