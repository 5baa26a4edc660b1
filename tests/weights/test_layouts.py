"""Every layout of published weights reaches the model it was made from: same features, nothing lost silently."""

import csv
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from synthetic_weights import (
    D,
    contrast_extras,
    dinov3,
    dinov3_meta,
    gfm,
    mae_extras,
    prefixed,
    randomise,
    resnet,
    scalemae_extras,
    selectivemae_extras,
    sequential,
    swin,
    vit,
)
from torch import Tensor, nn

from selectivemae.core.errors import WeightsError
from selectivemae.models.rvsa import RVSA
from selectivemae.models.vit import Architecture
from selectivemae.weights.convert import Relabelled, adapt_channels, find_layout, fit, relabel, resample_positions
from selectivemae.weights.layouts import LAYOUTS
from selectivemae.weights.load import load_encoder

State = dict[str, Tensor]


def head(width: int = D) -> State:
    return {"head.weight": torch.randn(51, width), "head.bias": torch.randn(51)}


def encoder_q(model: nn.Module) -> State:
    state = prefixed(dict(model.state_dict()), "module.encoder_q.") | prefixed(contrast_extras(), "module.")
    return state | prefixed(dict(model.state_dict()), "module.encoder_k.") | prefixed(head(8), "module.encoder_q.fc.")


def seco(model: nn.Module) -> State:
    state = prefixed(sequential(model), "encoder_q.") | prefixed(sequential(model), "encoder_k.") | contrast_extras()
    return state | {"heads_q.0.0.weight": torch.randn(8, 8), "heads_k.2.2.weight": torch.randn(8, 8)}


def moco_v3(model: nn.Module) -> State:
    state = dict(model.state_dict()) | {"head.0.weight": torch.randn(8, D), "head.1.running_mean": torch.randn(8)}
    noise = {key: torch.randn_like(value) for key, value in state.items()}
    state = prefixed(state, "module.base_encoder.") | prefixed(noise, "module.momentum_encoder.")
    return state | {"module.predictor.0.weight": torch.randn(8, 8)}


def dino(prefix: str, model: nn.Module) -> State:
    heads = {"head.mlp.0.weight": torch.randn(8, D), "head.last_layer.weight_g": torch.randn(8, 1)}
    return prefixed(prefixed(dict(model.state_dict()), "backbone.") | heads, prefix)


CASES: list[tuple[str, Callable[[], Any], Callable[[Any], State]]] = [
    ("vit", vit, lambda m: dict(m.state_dict())),
    ("vit", vit, lambda m: prefixed(dict(m.state_dict()), "module.") | prefixed(head(), "module.")),
    ("vit", vit, lambda m: prefixed(dict(m.state_dict()), "backbone.") | {"decode_head.x": torch.ones(1)}),
    ("vit", lambda: vit(in_chans=13), lambda m: dict(m.state_dict())),
    ("mae", vit, lambda m: m.state_dict() | mae_extras()),
    ("selectivemae", vit, lambda m: m.state_dict() | selectivemae_extras()),
    ("selectivemae", vit, lambda m: prefixed(m.state_dict() | selectivemae_extras(), "module.")),
    ("satmae", vit, lambda m: m.state_dict() | mae_extras()),
    ("ssl4eo-moco", lambda: vit(in_chans=13), moco_v3),
    ("ssl4eo-dino", lambda: vit(in_chans=13), lambda m: dino("module.", m)),
    ("ssl4eo-dino", lambda: vit(in_chans=13), lambda m: dino("", m)),
    ("seco", resnet, seco),
    ("caco", resnet, sequential),
    ("gassl", resnet, encoder_q),
    *(
        ("tov", resnet, lambda m, p=p: prefixed(dict(m.state_dict()) | {"fc.weight": torch.randn(5, 512)}, p))
        for p in (
            "module.encoder_q.",
            "encoder_q.",
            "module.encoder.",
            "encoder.",
            "module.",
            "backbone.",
            "features.",
            "",
        )
    ),
    ("resnet", resnet, lambda m: m.state_dict() | {"fc.weight": torch.randn(5, 512), "fc.bias": torch.randn(5)}),
    ("gfm", swin, gfm),
    ("dinov3", dinov3, lambda m: dict(m.state_dict())),
]


@pytest.mark.parametrize(("name", "make", "rename"), CASES)
def test_a_layout_leads_back_to_its_model(name: str, make: Callable[[], Any], rename: Callable[[Any], State]) -> None:
    source: Any = make()
    target: Any = randomise(make(), seed=2)
    state = rename(source)
    layout = find_layout(state, name if next(x for x in LAYOUTS if x.name == name).by_name else None)
    assert layout.name == name
    fitted = fit(relabel(state, layout), target.state_dict())
    coverage = fitted.coverage
    assert coverage.share == 1
    assert not coverage.missing
    assert not coverage.unexpected
    accounted = len(coverage.matched) + len(coverage.dropped)
    assert accounted == len(state)
    target.load_state_dict(fitted.state)
    images = torch.randn(1, next(iter(p for p in source.parameters() if p.ndim == 4)).shape[1], 192, 192)
    if name not in ("gfm", "seco", "caco", "gassl", "tov", "resnet"):
        images = images[..., :64, :64]
    assert torch.equal(target.forward_features(images), source.forward_features(images))


def test_dinov3_under_its_first_names() -> None:
    source: Any = dinov3()
    target: Any = randomise(dinov3(qkv_bias=True), seed=2)
    state = dinov3_meta(source)
    layout = find_layout(state)
    assert layout.name == "dinov3-meta"
    fitted = fit(relabel(state, layout), target.state_dict())
    assert not fitted.coverage.missing
    assert not fitted.coverage.unexpected
    target.load_state_dict(fitted.state)
    images = torch.randn(1, 3, 96, 64)
    torch.testing.assert_close(target.forward_features(images), source.forward_features(images), atol=1e-5, rtol=0)


@pytest.mark.parametrize("prefix", ["", "backbone.backbone.", "backbone.backbone.backbone."])
def test_satlas_equals_torchvisions_own_model(prefix: str) -> None:
    from timm.models.swin_transformer_v2 import SwinTransformerV2
    from torchvision.models.swin_transformer import PatchMergingV2, SwinTransformer, SwinTransformerBlockV2

    source: Any = SwinTransformer(
        patch_size=[4, 4],
        embed_dim=32,
        depths=[2, 2, 2, 2],
        num_heads=[1, 2, 4, 8],
        window_size=[8, 8],
        block=SwinTransformerBlockV2,
        downsample_layer=PatchMergingV2,
    )
    source = randomise(source)
    target: Any = SwinTransformerV2(
        img_size=256,
        window_size=8,
        embed_dim=32,
        depths=(2, 2, 2, 2),
        num_heads=(1, 2, 4, 8),
        num_classes=0,
    ).eval()
    state = prefixed(dict(source.state_dict()), prefix) | {"intermediates.0.fpn.inner_blocks.0.weight": torch.ones(1)}
    layout = find_layout(state)
    assert layout.name == "satlas"
    fitted = fit(relabel(state, layout), target.state_dict())
    assert fitted.coverage.share == 1
    assert not fitted.coverage.unexpected
    target.load_state_dict(fitted.state)
    images = torch.randn(1, 3, 256, 256)
    expected = source.norm(source.features(images))
    torch.testing.assert_close(target.forward_features(images), expected, atol=2e-5, rtol=1e-5)


def test_scalemae_drops_its_positions() -> None:
    state = vit().state_dict() | scalemae_extras()
    layout = find_layout(state)
    assert layout.name == "scalemae"
    assert set(relabel(state, layout).state) == set(vit().state_dict()) - {"pos_embed"}


@pytest.mark.parametrize("method", ["selectivemae", "mae"])
def test_the_references_own_key_list(shared_spec: Path, method: str) -> None:
    with (shared_spec / f"checkpoint_keys_{method}_vit_base.csv").open() as file:
        rows = list(csv.DictReader(file))
    state = {row["key"]: torch.zeros(1).expand([int(n) for n in row["shape"].split("x")]) for row in rows}
    layout = find_layout(state)
    assert layout.name == method
    encoder = relabel(state, layout).state
    assert len(encoder) == 150
    with torch.device("meta"):
        import timm

        model = timm.create_model("vit_base_patch16_224", num_classes=0)
    assert {k: v.shape for k, v in encoder.items()} == {k: v.shape for k, v in model.state_dict().items()}


def test_satmaes_grouped_bands_are_refused() -> None:
    state = {f"patch_embed.{i}.proj.weight": torch.zeros(8, 4, 8, 8) for i in range(3)}
    with pytest.raises(WeightsError, match=r"w\.pth.*grouped.*fmow_pretrain"):
        find_layout(state, where="w.pth")


@pytest.mark.parametrize(("name", "message"), [("ringmo", "not published"), ("gfn", "did you mean 'gfm'")])
def test_layouts_by_name(name: str, message: str) -> None:
    with pytest.raises(WeightsError, match=message):
        find_layout({"x": torch.zeros(1)}, name)


def test_unknown_keys_are_named() -> None:
    with pytest.raises(WeightsError, match=r"w\.pth: no known layout; keys like some\.thing.*--layout"):
        find_layout({"some.thing": torch.zeros(1)}, where="w.pth")


def test_a_forced_layout_that_does_not_fit_is_named() -> None:
    state = dict(vit().state_dict())
    layout = find_layout(state, "gfm")
    with pytest.raises(WeightsError, match=r"not of layout gfm.*relative_position_bias_table"):
        relabel(state, layout)


def test_a_total_mismatch_is_an_error_with_keys() -> None:
    state = {"patch_embed.proj.weight": torch.zeros(D, 3, 16, 16), "blocks.0.attn.qkv.weight": torch.zeros(3 * D, D)}
    with pytest.raises(WeightsError, match=r"w\.pth.*covers only.*cls_token"):
        fit(relabel(state, find_layout(state)), vit().state_dict(), where="w.pth")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda s: s | {"patch_embed.proj.weight": torch.zeros(D, 3, 8, 8)}, "192x3x8x8, the model's 192x3x16x16"),
        (lambda s: {k: v for k, v in s.items() if not k.startswith("blocks.1")}, r"missing: blocks\.1\.norm1\.weight"),
    ],
)
def test_a_wrong_patch_or_depth_is_said(change: Callable[[State], State], said: str) -> None:
    state = change(dict(vit().state_dict()))
    with pytest.raises(WeightsError, match=re.compile(said)):
        fit(relabel(state, find_layout(state)), vit().state_dict(), minimum=1.0)


def test_few_missing_tensors_are_noted_not_silent() -> None:
    state = dict(vit().state_dict())
    del state["norm.bias"]
    fitted = fit(relabel(state, find_layout(state)), vit().state_dict())
    assert any("norm.bias" in note for note in fitted.notes)
    assert fitted.coverage.missing == ("norm.bias",)
    assert "norm.bias" in str(fitted.coverage)


@pytest.mark.parametrize(
    "change",
    [lambda s: s.pop("blocks.7.mlp.fc2.weight"), lambda s: s.update({"blocks.7.norm1.bias": torch.zeros(3)})],
)
def test_a_hole_in_a_block_is_an_error_whatever_the_coverage(change: Callable[[State], Any], tmp_path: Path) -> None:
    state = dict(vit(depth=12).state_dict())
    change(state)
    torch.save(state, tmp_path / "w.pth")
    with pytest.raises(WeightsError, match=r"w\.pth: layout vit leaves holes in the blocks: blocks\.7\."):
        load_encoder(tmp_path / "w.pth")
    lines: list[str] = []
    load_encoder(tmp_path / "w.pth", partial=True, report=lines.append)
    assert "1 tensors keep their fresh values: blocks.7." in lines[1]


def test_names_that_collide_are_an_error() -> None:
    state = dict(vit().state_dict())
    state |= {"fc_norm.weight": state["norm.weight"]}
    with pytest.raises(WeightsError, match=r"collide: norm\.weight and fc_norm\.weight"):
        relabel(state, find_layout(state))


def test_the_longest_prefix_wins() -> None:
    state = prefixed(dict(vit().state_dict()), "module.encoder.") | prefixed(dict(vit().state_dict()), "module.")
    relabelled = relabel(state, find_layout(state))
    assert set(relabelled.state) == set(vit().state_dict())
    assert set(relabelled.unexpected) == set(prefixed(dict(vit().state_dict()), "module."))


def cubic_weights(size: int, new: int) -> np.ndarray:
    """(new, size) matrix of cubic convolution (Keys 1981, a = -0.75), pixel centres at (i + 0.5) * size / new - 0.5."""
    matrix = np.zeros((new, size))
    for i in range(new):
        at = (i + 0.5) * size / new - 0.5
        for tap in range(int(np.floor(at)) - 1, int(np.floor(at)) + 3):
            x = abs(at - tap)
            near = 1.25 * x**3 - 2.25 * x**2 + 1
            far = -0.75 * (x**3 - 5 * x**2 + 8 * x - 4)
            matrix[i, min(max(tap, 0), size - 1)] += near if x <= 1 else far
    return matrix


@pytest.mark.parametrize("new", [(16, 16), (5, 11), (3, 4)])
def test_resampling_is_cubic_convolution(new: tuple[int, int]) -> None:
    positions = torch.randn(1, 57, 3)
    out = resample_positions(positions, (7, 8), new, 1)
    body = positions[0, 1:].reshape(7, 8, 3).double().numpy()
    expected = np.einsum("ih,jw,hwc->ijc", cubic_weights(7, new[0]), cubic_weights(8, new[1]), body)
    assert torch.equal(out[:, 0], positions[:, 0])
    np.testing.assert_allclose(out[0, 1:].reshape(*new, 3).numpy(), expected, atol=1e-5)


@pytest.mark.parametrize("grid", [(4, 4), (7, 7), (2, 9)])
@pytest.mark.parametrize("class_row", [True, False])
def test_positions_are_resampled_and_said(grid: tuple[int, int], class_row: bool) -> None:
    state = dict(vit().state_dict())
    state["pos_embed"] = torch.randn(1, 16 + class_row, D)
    target = vit(dynamic_img_size=True).state_dict() | {"pos_embed": torch.zeros(1, 1 + grid[0] * grid[1], D)}
    fitted = fit(relabel(state, find_layout(state)), target, grid=grid)
    assert fitted.state["pos_embed"].shape == target["pos_embed"].shape
    assert any("resampled from 4x4" in note for note in fitted.notes) == (grid != (4, 4))
    expected = state["pos_embed"][0, 0] if class_row else torch.zeros(D)
    assert torch.equal(fitted.state["pos_embed"][0, 0], expected)


@pytest.mark.parametrize("channels", [1, 4, 5, 9])
def test_channels_as_timm_adapts_them(channels: int) -> None:
    from timm.models._manipulate import adapt_input_conv

    weight = torch.randn(8, 3, 4, 4)
    ours, note = adapt_channels(weight, channels)
    torch.testing.assert_close(ours, adapt_input_conv(channels, weight))
    assert f"3 -> {channels}" in note


def test_sentinel_channels_to_rgb() -> None:
    weight = torch.randn(8, 13, 4, 4)
    assert torch.equal(adapt_channels(weight, 3)[0], torch.stack([weight[:, 3], weight[:, 2], weight[:, 1]], 1))
    with pytest.raises(WeightsError, match=r"13 input channels.*in_chans=13"):
        adapt_channels(weight, 4)


def test_layout_names_are_unique_and_data_is_well_formed() -> None:
    names = [layout.name for layout in LAYOUTS]
    assert len(set(names)) == len(names)
    for layout in LAYOUTS:
        for pattern in (*layout.marks, *layout.drop, *(rule for rule, _ in (*layout.rename, *layout.split))):
            re.compile(pattern)


def test_relabelled_keeps_what_it_was_given() -> None:
    """Relabelling is pure: the input is left as it was, tensors are the same objects."""
    state = vit().state_dict() | mae_extras()
    before = dict(state)
    result = relabel(state, find_layout(state))
    assert isinstance(result, Relabelled)
    assert state.keys() == before.keys()
    assert all(result.state[key] is before[key] for key in result.state)


def rvsa(separate: bool = False, qkv_bias: bool = True, size: tuple[int, int] = (64, 64)) -> Any:
    """RVSA of depth 2: a block of sampled windows and one of full attention."""
    arch = Architecture("tiny", 16, 2, D, 3, 64, 2)
    return randomise(RVSA(arch, size, interval=2, separate=separate, qkv_bias=qkv_bias))


@pytest.mark.parametrize("separate", [False, True])
@pytest.mark.parametrize("qkv_bias", [False, True])
@pytest.mark.parametrize("project", ["rvsa", "mtp"])
def test_rvsa_of_both_projects(separate: bool, qkv_bias: bool, project: str) -> None:
    source, target = rvsa(separate, qkv_bias), rvsa(separate, qkv_bias)
    state = dict(source.state_dict())
    state["blocks.0.attn.relative_position_index"] = torch.zeros(49, 49, dtype=torch.long)
    if project == "mtp":
        state = {re.sub(r"blocks\.1\.attn\.rel_pos", "blocks.1.attn.full_attn_rel_pos", k): v for k, v in state.items()}
        state = prefixed(state, "backbone.") | {"decode_head.conv_seg.weight": torch.ones(1)}
    else:  # the classification variant: positions with a row for the class token, and a head
        state["pos_embed"] = torch.cat([torch.randn(1, 1, D), state["pos_embed"]], 1)
        state |= {"cls_token": torch.randn(1, 1, D)} | head()
    layout = find_layout(state)
    assert layout.name == "rvsa"
    fitted = fit(relabel(state, layout), randomise(target, 2).state_dict())
    assert fitted.coverage.share == 1
    assert not fitted.coverage.unexpected
    target.load_state_dict(fitted.state)
    images = torch.randn(1, 3, 64, 64)
    assert torch.equal(target(images), source(images))


def test_rvsa_tables_are_resized_with_the_image() -> None:
    source, target = rvsa(), rvsa(size=(96, 64))
    fitted = fit(relabel(source.state_dict(), find_layout(source.state_dict())), target.state_dict(), grid=(6, 4))
    assert fitted.coverage.share == 1
    assert any("blocks.1.attn.rel_pos_h resized from 7x64 to 11x64" in note for note in fitted.notes)
    assert not any("rel_pos_w" in note for note in fitted.notes)


def test_vitae_is_refused() -> None:
    state = rvsa().state_dict() | {"blocks.0.PCM.0.weight": torch.zeros(8, 2, 3, 3)}
    with pytest.raises(WeightsError, match="PCM"):
        find_layout(state)
