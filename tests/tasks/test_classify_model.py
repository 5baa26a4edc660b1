"""Layer decay that takes effect, stochastic depth by keys, the head, and the classifier's file."""

import math
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import nn

from selectivemae.core.errors import ConfigError, WeightsError
from selectivemae.core.order import sample_key
from selectivemae.engine.optim import Schedule, adamw, set_lr
from selectivemae.models._torchvision import ensure_torchvision
from selectivemae.models.vit import build_encoder
from selectivemae.tasks.classify.model import (
    add_head,
    build_classifier,
    load_classifier,
    save_classifier,
    sequence_length,
)
from selectivemae.tasks.common import KeyedDropPath, NoiseKeys, add_drop_path, decay_line, layer_decay_groups

ensure_torchvision()

import timm  # noqa: E402 (the line above must come first)

TINY = "random:vit_tiny_patch16"


def test_rates_are_the_decays_powers() -> None:
    """0.75 ^ (L + 1 - l), written out for a ViT of 12 blocks (downstream.md, E.9), at every point of the schedule."""
    model = build_classifier(TINY, ("a", "b"), image_size=32).model
    optimizer = adamw(layer_decay_groups(model, 0.05, 0.75), (0.9, 0.999))
    names = {parameter: name for name, parameter in model.named_parameters()}
    schedule = Schedule(4e-3, 1e-6, 0.05)
    for progress in (0.02, 0.5, 1.0):
        rate = set_lr(optimizer, schedule, progress)
        seen = 0
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                name, seen = names[parameter], seen + 1
                if name.startswith(("pos_embed", "cls_token", "patch_embed")):
                    layer = 0
                else:
                    layer = int(name.split(".")[1]) + 1 if name.startswith("blocks.") else 13
                assert group["lr"] == pytest.approx(rate * 0.75 ** (13 - layer), rel=1e-12), name
                undecayed = parameter.ndim == 1 or name in ("pos_embed", "cls_token")
                assert group["weight_decay"] == (0.0 if undecayed else 0.05), name
        assert seen == len(names)


def test_the_rates_are_told_from_stem_to_head() -> None:
    line = decay_line(layer_decay_groups(build_classifier(TINY, ("a", "b"), image_size=32).model, 0.05, 0.75))
    assert [float(word) for word in line.split(": ")[1].split()] == pytest.approx(
        [0.75 ** (13 - layer) for layer in range(14)], rel=5e-3
    )


def test_the_smaller_rate_moves_a_layer_less() -> None:
    """AdamW's first step is lr in every coordinate: so the parameters themselves tell their rate."""
    model = build_classifier(TINY, ("a", "b"), image_size=32).model
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    optimizer = adamw(layer_decay_groups(model, 0.0, 0.75), (0.9, 0.999))
    set_lr(optimizer, Schedule(1e-2, 0.0, 0.0), 0.0)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    moved = {name: (before[name] - parameter).mean().item() for name, parameter in model.named_parameters()}
    assert moved["head.weight"] == pytest.approx(1e-2, rel=1e-3)
    assert moved["norm.weight"] == pytest.approx(1e-2, rel=1e-3)
    assert moved["blocks.11.mlp.fc1.weight"] == pytest.approx(1e-2 * 0.75, rel=1e-3)
    assert moved["blocks.0.attn.qkv.bias"] == pytest.approx(1e-2 * 0.75**12, rel=1e-2)
    assert moved["patch_embed.proj.weight"] == pytest.approx(1e-2 * 0.75**13, rel=1e-2)


def test_published_scales_under_a_prefix() -> None:
    """downstream.md, E.9: ViT-B at 0.9 has 0.25419 at layer 0 and 0.9 at the last block."""
    model = nn.Module()
    with torch.device("meta"):
        model.backbone = build_encoder("vit_base_patch16", 32)
        model.neck = nn.Linear(2, 2)
    groups = layer_decay_groups(model, 0.05, 0.9, "backbone.")
    scale = {name: group["lr_scale"] for group in groups for name in group["names"]}
    assert scale["backbone.patch_embed.proj.weight"] == pytest.approx(0.25419, abs=5e-6)
    assert scale["backbone.blocks.11.norm1.weight"] == pytest.approx(0.9)
    assert scale["neck.weight"] == scale["backbone.norm.weight"] == 1.0


def test_layers_of_a_swin_follow_its_blocks_and_a_resnet_has_none() -> None:
    with torch.device("meta"):
        swin = timm.create_model("swin_tiny_patch4_window7_224", pretrained=False)
        resnet = timm.create_model("resnet18", pretrained=False)
    scale = {name: g["lr_scale"] for g in layer_decay_groups(swin, 0.05, 0.5) for name in g["names"]}
    assert math.log2(1 / scale["layers.0.blocks.0.norm1.weight"]) == 12
    assert scale["layers.1.downsample.norm.weight"] == scale["layers.1.blocks.0.norm1.weight"] == 0.5**10
    assert scale["layers.3.blocks.1.norm1.weight"] == 0.5
    assert scale["patch_embed.proj.weight"] == 0.5**13
    assert {g["lr_scale"] for g in layer_decay_groups(resnet, 0.05, 0.5)} == {1.0}


def test_stochastic_depth_depends_on_the_sample_alone() -> None:
    keys = NoiseKeys()
    drop = KeyedDropPath(0.3, 4, keys).train()
    key = torch.from_numpy(sample_key(0, 0, np.arange(5000)))
    keys.current = key
    out = drop(torch.ones(5000, 2, 3))
    assert set(out.unique().tolist()) == {0.0, float(torch.tensor(1.0) / (1 - 0.3))}
    assert (out == 0).float().mean().item() == pytest.approx(0.3, abs=0.03)
    assert out.mean().item() == pytest.approx(1.0, abs=0.05)
    keys.current = key[100:200]
    assert torch.equal(drop(torch.ones(100, 2, 3)), out[100:200])
    assert torch.equal(drop.eval()(torch.ones(100, 2, 3)), torch.ones(100, 2, 3))


def test_its_rates_rise_by_depth() -> None:
    encoder = cast(Any, build_encoder("vit_tiny_patch16", 32))
    add_drop_path(encoder, 0.1)
    assert isinstance(encoder.blocks[0].drop_path1, nn.Identity)
    rates = [block.drop_path1.rate for block in encoder.blocks[1:]]
    assert rates == pytest.approx([0.1 * i / 11 for i in range(1, 12)], rel=1e-5)
    layers = [m.layer for m in encoder.modules() if isinstance(m, KeyedDropPath)]
    assert len(set(layers)) == len(layers) == 22


@pytest.mark.parametrize("pool", ["cls", "mean"])
def test_pooling_is_what_its_formula_says(pool: Any) -> None:
    classifier = build_classifier(TINY, ("a", "b", "c"), image_size=32, pool=pool)
    model = cast(Any, classifier.model).eval()
    assert torch.all(model.head.bias == 0)
    assert model.head.weight.std().item() == pytest.approx(2e-5, rel=0.2)
    nn.init.normal_(model.head.weight)
    images = torch.rand(2, 3, 32, 32)
    with torch.inference_mode():
        tokens = model.forward_features(images)
        if pool == "cls":
            vector = tokens[:, 0]  # the final norm is in forward_features
            assert isinstance(model.norm, nn.LayerNorm)
        else:
            vector = nn.functional.layer_norm(tokens[:, 1:].mean(1), [192], eps=1e-6)
        torch.testing.assert_close(model(images), vector @ model.head.weight.T)


@pytest.mark.parametrize("pool", ["cls", "mean"])
def test_the_file_gives_the_same_classifier(tmp_path: Path, pool: Any) -> None:
    classifier = build_classifier(TINY, ("Bäche", "see, groß"), image_size=32, pool=pool, crop_share=0.875, seed=3)
    nn.init.normal_(cast(Any, classifier.model).head.weight)
    classifier.model.eval()
    save_classifier(tmp_path / "model.safetensors", classifier)
    again = load_classifier(tmp_path)
    assert again.classes == classifier.classes
    assert (again.pool, again.crop_share, again.info) == (pool, 0.875, classifier.info)
    images = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    with torch.inference_mode():
        assert torch.equal(again.logits(images), classifier.logits(images))


def test_stock_timm_loads_the_file(tmp_path: Path) -> None:
    classifier = build_classifier(TINY, ("a", "b"), image_size=32)
    classifier.model.eval()
    save_classifier(tmp_path / "model.safetensors", classifier)
    stock = timm.create_model("vit_tiny_patch16_224", num_classes=2, img_size=32, pretrained=False)
    timm.models.load_checkpoint(stock, str(tmp_path / "model.safetensors"))
    images = torch.rand(2, 3, 32, 32)
    with torch.inference_mode():
        torch.testing.assert_close(stock.eval()(images), classifier.model(images))


def test_other_encoders_take_a_head_too() -> None:
    resnet = build_classifier("random:resnet18", ("a", "b", "c"), image_size=64)
    assert resnet.model(torch.rand(1, 3, 64, 64)).shape == (1, 3)
    assert sequence_length(resnet.model) > 64
    assert sequence_length(build_encoder("vit_tiny_patch16", 32)) == 5


def test_what_is_no_classifier_is_refused(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"has no model.safetensors"):
        load_classifier(tmp_path)
    (tmp_path / "seed-0").mkdir()
    with pytest.raises(WeightsError, match="seed-0"):
        load_classifier(tmp_path)
    with pytest.raises(ConfigError, match="takes no classification head"):
        add_head(nn.Linear(2, 2), 3, "cls", "here")
