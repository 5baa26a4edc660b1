"""Whole pre-training models: our own files and the reference's, read without running what they hold."""

import argparse
import csv
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from synthetic_weights import mae_extras, prefixed, scalemae_extras, selectivemae_extras, vit
from torch import Tensor

from selectivemae.core.errors import WeightsError
from selectivemae.models.create import create_model
from selectivemae.models.vit import SIZES
from selectivemae.weights.pretraining import begin_from, load_pretraining_model, pretraining_metadata, save_encoder

State = dict[str, Tensor]


def reference_state(spec: Path, method: str, depth: int = 2, decoder_depth: int = 1) -> State:
    """Tensors under the reference's own names and shapes, its ViT-B cut to few blocks and an eighth of its widths."""
    state: State = {}
    generator = torch.Generator().manual_seed(1)
    for row in csv.DictReader((spec / f"checkpoint_keys_{method}_vit_base.csv").read_text().splitlines()):
        block = re.match(r"(decoder_)?blocks\.(\d+)\.", row["key"])
        if block and int(block[2]) >= (decoder_depth if block[1] else depth):
            continue
        shape = [int(n) for n in row["shape"].split("x")]
        tokens = row["key"] in ("pos_embed", "decoder_pos_embed", "pos_embed_probs")
        narrow = [n // 8 if n % 512 == 0 or n % 768 == 0 else n for n in shape]
        if row["key"].startswith("decoder_pred"):
            narrow[0] = shape[0]  # pixels of a patch stay
        state[row["key"]] = torch.randn(shape[:2] + narrow[2:] if tokens else narrow, generator=generator) * 0.05
    return state


def save_pth(path: Path, state: State, **more: Any) -> Path:
    """As the reference's main program saves: weights beside optimizer, epoch and an argparse object."""
    args = argparse.Namespace(model="mae_vit_base_patch16", blr=1.5e-4, resume="")
    torch.save({"model": state, "optimizer": {"state": {}}, "epoch": 799, "args": args} | more, path)
    return path


HEADS: dict[str, Any] = {"heads": 12, "decoder_heads": 16}


@pytest.mark.parametrize("method", ["selectivemae", "mae"])
def test_a_reference_checkpoint_is_read_whole(shared_spec: Path, tmp_path: Path, method: str) -> None:
    state, said = reference_state(shared_spec, method), []
    model = load_pretraining_model(save_pth(tmp_path / "c.pth", state), report=said.append, **HEADS)
    assert model.method == method
    arch = model.config.arch
    assert (arch.width, arch.depth, arch.decoder_width, arch.patch) == (96, 2, 64, 16)
    assert (model.config.decoder_depth, model.config.height, model.number.patches) == (1, 224, 196)
    own = model.state_dict()
    assert own.keys() <= state.keys()
    assert all(torch.equal(own[k], state[k]) for k in own)
    unused = {k.split(".")[0] for k in state.keys() - own.keys()}
    if method == "selectivemae":
        assert unused == {"decoder_embed1", "get_token_probs", "get_token_probs_linear", "pos_embed_probs", "hog"}
    else:
        assert unused == set()
    assert f"{len(own)} of {len(own)} keys matched ({method}" in said[0]
    assert ("never uses were passed over" in said[0]) == (method == "selectivemae")


@pytest.mark.parametrize("wrap", [lambda s: {"module." + k: v for k, v in s.items()}, lambda s: s])
def test_prefixes_of_parallel_training(shared_spec: Path, tmp_path: Path, wrap: Callable[[State], State]) -> None:
    state = reference_state(shared_spec, "mae")
    torch.save(wrap(state), tmp_path / "c.pth")
    model = load_pretraining_model(tmp_path / "c.pth", **HEADS)
    assert torch.equal(model.state_dict()["norm.weight"], state["norm.weight"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("blocks.1.norm1.bias"), r"missing: blocks\.1\.norm1\.bias"),
        (lambda s: s.update(extra=torch.zeros(1)), "unexpected: extra"),
        (lambda s: s.update({"norm.bias": torch.zeros(5)}), r"wrong shape: norm\.bias is \(5,\), needs \(96,\)"),
        (lambda s: s.pop("mask_token"), "is no MAE or SelectiveMAE .*lacks mask_token"),
        (lambda s: s.update(pos_embed=torch.zeros(1, 195, 96)), "194 positions are no square grid"),
        (lambda s: [s.pop(k) for k in list(s) if k.startswith("blocks.1.")], "no standard size"),
    ],
)
def test_what_does_not_fit_is_named(shared_spec: Path, tmp_path: Path, change: Callable, message: str) -> None:
    state = reference_state(shared_spec, "selectivemae")
    change(state)
    heads = {} if "standard" in message else HEADS
    with pytest.raises(WeightsError, match=message) as error:
        load_pretraining_model(save_pth(tmp_path / "c.pth", state), **heads)
    assert str(tmp_path / "c.pth") in str(error.value)
    assert "\n" not in str(error.value)


class Bomb:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return Path.touch, (self.path,)


def test_code_in_a_checkpoint_is_refused_and_not_run(shared_spec: Path, tmp_path: Path) -> None:
    file = save_pth(tmp_path / "c.pth", reference_state(shared_spec, "mae"), bomb=Bomb(tmp_path / "harm"))
    with pytest.raises(WeightsError, match="refused, it holds code or objects"):
        load_pretraining_model(file, **HEADS)
    with pytest.raises(WeightsError, match="refused"):
        begin_from(create_model("vit_tiny_patch16", image_size=96, decoder_depth=1), str(file), print)
    assert not (tmp_path / "harm").exists()


@pytest.fixture
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SIZES, "tiny", (2, 64, 2, 32, 2))


@pytest.mark.usefixtures("narrow")
@pytest.mark.parametrize("method", ["selectivemae", "mae"])
def test_our_own_files_make_the_same_model_again(tmp_path: Path, method: str) -> None:
    arguments: dict[str, Any] = {"name": "vit_tiny_patch8", "method": method, "image_size": [32, 48], "in_chans": 4}
    arguments |= {"decoder_depth": 1, "mask_ratio": 0.6, "norm_pix": False, "seed": 5}
    if method == "selectivemae":
        arguments |= {"richness": "hog", "order": "far-near-random", "self_attention": True}
    model = create_model(**arguments)
    run = tmp_path / "run" / "checkpoints" / "step-00000007"
    run.mkdir(parents=True)
    save_file(model.state_dict(), run / "model.safetensors", pretraining_metadata(arguments))
    (run.parent / "latest").write_text("step-00000007\n")
    for path in (tmp_path / "run", run, run / "model.safetensors"):
        again = load_pretraining_model(path)
        assert again.config == model.config
        assert getattr(again, "selection", None) == getattr(model, "selection", None)
        assert all(torch.equal(v, model.state_dict()[k]) for k, v in again.state_dict().items())


@pytest.mark.usefixtures("narrow")
def test_beginning_from_other_weights(tmp_path: Path) -> None:
    old = create_model("vit_tiny_patch8", image_size=32, decoder_depth=1, mask_ratio=0.5, seed=1)
    save_file(old.state_dict(), tmp_path / "old.safetensors")
    new = create_model("vit_tiny_patch8", image_size=48, decoder_depth=2, mask_ratio=0.5, seed=2)
    fresh = {k: v.clone() for k, v in new.state_dict().items()}
    said: list[str] = []
    begin_from(new, str(tmp_path / "old.safetensors"), said.append)
    for key, value in new.state_dict().items():
        taken = key in old.state_dict() and "pos_embed" not in key
        assert torch.equal(value, (old.state_dict() if taken else fresh)[key]), key
    assert "weights taken" in said[0]
    mae = create_model("vit_tiny_patch8", "mae", 48, decoder_depth=1, seed=3)
    begin_from(mae, str(tmp_path / "old.safetensors"), said.append)  # another method: the encoder is the same
    assert torch.equal(mae.state_dict()["blocks.1.mlp.fc2.weight"], old.state_dict()["blocks.1.mlp.fc2.weight"])
    other = create_model("vit_tiny_patch16", image_size=48, decoder_depth=1, mask_ratio=0.5)
    with pytest.raises(
        WeightsError, match=r"does not fit the encoder vit_tiny_patch16: wrong shape: patch_embed\.proj"
    ):
        begin_from(other, str(tmp_path / "old.safetensors"), said.append)


STYLES: dict[str, Callable[[Any], State]] = {
    "mae": lambda m: m.state_dict() | mae_extras(),
    "selectivemae": lambda m: prefixed(m.state_dict() | selectivemae_extras(), "module."),
    "scalemae": lambda m: m.state_dict() | scalemae_extras(),
    "vit": lambda m: prefixed(dict(m.state_dict()), "encoder."),
    "ssl4eo-moco": lambda m: (
        prefixed(dict(m.state_dict()), "module.base_encoder.") | {"module.predictor.0.weight": ONE}
    ),
    "ssl4eo-dino": lambda m: prefixed(dict(m.state_dict()), "module.backbone.") | {"module.head.mlp.0.weight": ONE},
}
ONE = torch.ones(1, 1)


@pytest.mark.parametrize("layout", STYLES)
def test_beginning_from_every_layout_of_a_vision_transformer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, layout: str
) -> None:
    monkeypatch.setitem(SIZES, "tiny", (2, 192, 3, 64, 2))
    channels = 13 if layout.startswith("ssl4eo") else 3
    source = vit(in_chans=channels)
    torch.save({"model": STYLES[layout](source)}, tmp_path / "w.pth")
    new = create_model("vit_tiny_patch16", "mae", 96, decoder_depth=1)
    positions, said = new.state_dict()["pos_embed"].clone(), []
    begin_from(new, str(tmp_path / "w.pth"), said.append)
    encoder = {k: v for k, v in source.state_dict().items() if k != "pos_embed"}
    if channels == 13:
        encoder["patch_embed.proj.weight"] = encoder["patch_embed.proj.weight"][:, [3, 2, 1]]
        assert "input channels 13 -> 3: bands (3, 2, 1)" in said[0]
    for key, value in encoder.items():
        assert torch.equal(new.state_dict()[key], value), key
    assert torch.equal(new.state_dict()["pos_embed"], positions)
    assert f"layout {layout}, " in said[-1]


def test_beginning_from_another_kind_of_network_is_refused(tmp_path: Path) -> None:
    import timm

    torch.save(timm.create_model("resnet18", num_classes=0).state_dict(), tmp_path / "w.pth")
    with pytest.raises(WeightsError, match="resnet is no plain vision transformer"):
        begin_from(create_model("vit_tiny_patch16", image_size=96, decoder_depth=1), str(tmp_path / "w.pth"), print)


@pytest.mark.usefixtures("narrow")
def test_the_encoders_file_says_what_its_user_must_know(tmp_path: Path) -> None:
    from safetensors import safe_open

    model = create_model("vit_tiny_patch8", image_size=(32, 48), decoder_depth=1, mask_ratio=0.5)
    save_encoder(tmp_path / "encoder.safetensors", model, 1234)
    with safe_open(tmp_path / "encoder.safetensors", "pt") as file:
        about = file.metadata()
    assert (about["architecture"], about["patch_size"]) == ("vit_tiny_patch16_224", "8")
    assert (about["image_size"], about["channels"]) == ("32x48", "3")
    assert (about["method"], about["samples_seen"]) == ("selectivemae", "1234")
    assert json.loads(about["mean"]) == [0.485, 0.456, 0.406]
    saved = load_file(tmp_path / "encoder.safetensors")
    assert [k for k in saved if "decoder" in k or "mask" in k] == []
    assert all(torch.equal(v, model.state_dict()[k]) for k, v in saved.items())
