"""``load_encoder``: whatever a user names becomes the encoder it says, of the size that was asked for."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import save_file
from synthetic_weights import mae_extras, prefixed, randomise, scalemae_extras, sequential, vit

from selectivemae.core.errors import ConfigError, WeightsError
from selectivemae.models.scale_mae import gsd_positions
from selectivemae.ops.positions import sincos_positions
from selectivemae.weights.info import EncoderInfo, write_encoder
from selectivemae.weights.load import load_encoder

IMAGES = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def tiny() -> Any:
    return vit(depth=12, dynamic_img_size=True)


@pytest.fixture
def run(tmp_path: Path, tiny: Any) -> Path:
    info = EncoderInfo("vit_tiny_patch16_224", (64, 64), method="mae", mean=(0.1, 0.2, 0.3), std=(1.0, 2.0, 3.0))
    write_encoder(tmp_path / "encoder.safetensors", tiny.state_dict(), info)
    return tmp_path


def test_a_run_folder_and_its_file(run: Path, tiny: Any) -> None:
    lines: list[str] = []
    for weights in (run, run / "encoder.safetensors", str(run)):
        encoder: Any = load_encoder(weights, report=lines.append)
        assert torch.equal(encoder.forward_features(IMAGES), tiny.forward_features(IMAGES))
        assert not encoder.training
        assert encoder.pretrained_cfg["mean"] == (0.1, 0.2, 0.3)
        assert encoder.pretrained_cfg["input_size"] == (3, 64, 64)
    assert len(lines) == 3
    assert all("100.0% of the encoder: 150 tensors matched" in line for line in lines)


def test_a_separate_process_with_stock_timm_loads_it_strictly(run: Path, tiny: Any) -> None:
    code = f"""
import sys, torch
from pathlib import Path
shim = {str(Path(__file__).parents[2] / "src/selectivemae/models/_torchvision.py")!r}
exec(compile(Path(shim).read_text(), shim, "exec"))
ensure_torchvision()
import timm
from safetensors.torch import load_file
model = timm.create_model("vit_tiny_patch16_224", num_classes=0, img_size=64).eval()
model.load_state_dict(load_file({str(run / "encoder.safetensors")!r}), strict=True)
images = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
torch.save(model.forward_features(images).detach(), {str(run / "features.pt")!r})
assert not any(name.startswith("selectivemae") for name in sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=600)
    features = torch.load(run / "features.pt", weights_only=True)
    encoder: Any = load_encoder(run)
    torch.testing.assert_close(encoder.forward_features(IMAGES), features, atol=1e-5, rtol=0)


def test_another_image_size_and_channel_count_are_said(run: Path) -> None:
    lines: list[str] = []
    encoder: Any = load_encoder(run, image_size=(96, 128), in_chans=4, report=lines.append)
    assert encoder.forward_features(torch.randn(2, 4, 96, 128)).shape == (2, 1 + 6 * 8, 192)
    assert any("positions resampled from 4x4 to 6x8" in line for line in lines)
    assert any("input channels 3 -> 4" in line for line in lines)


def test_non_square_positions_of_our_own_files(tmp_path: Path, tiny: Any) -> None:
    state = tiny.state_dict() | {"pos_embed": torch.randn(1, 1 + 2 * 8, 192)}
    write_encoder(tmp_path / "encoder.safetensors", state, EncoderInfo("vit_tiny_patch16_224", (32, 128)))
    encoder: Any = load_encoder(tmp_path)
    assert torch.equal(encoder.pos_embed, state["pos_embed"])


@pytest.mark.parametrize("pool", ["token", "avg"])
def test_pool(run: Path, pool: Any) -> None:
    encoder: Any = load_encoder(run, pool=pool)
    tokens = encoder.forward_features(IMAGES)
    expected = tokens[:, 0] if pool == "token" else tokens[:, 1:].mean(1)
    torch.testing.assert_close(encoder(IMAGES), expected)


def test_a_reference_checkpoint(tmp_path: Path, tiny: Any) -> None:
    torch.save({"model": tiny.half().state_dict() | mae_extras(), "epoch": 3}, tmp_path / "checkpoint-799.pth")
    tiny.float()
    encoder: Any = load_encoder(tmp_path / "checkpoint-799.pth")
    assert encoder.pretrained_cfg["input_size"] == (3, 64, 64)
    torch.testing.assert_close(encoder.forward_features(IMAGES), tiny.forward_features(IMAGES), atol=1e-4, rtol=1e-4)


def test_a_forced_layout_brings_its_normalisation(tmp_path: Path, tiny: Any) -> None:
    torch.save({"model": tiny.state_dict() | mae_extras()}, tmp_path / "fmow_pretrain.pth")
    assert load_encoder(tmp_path / "fmow_pretrain.pth").pretrained_cfg["mean"][0] == 0.485  # pyright: ignore
    encoder: Any = load_encoder(tmp_path / "fmow_pretrain.pth", layout="satmae")
    assert encoder.pretrained_cfg["mean"] == (0.4182, 0.4215, 0.3991)


def every_second_place() -> torch.Tensor:
    """Positions (1, 17, 192) of a 4 x 4 grid whose step is 2: every second place of an 8 x 8 one."""
    fine = sincos_positions(192, 8, 8)
    coarse = fine[:, 1:].reshape(8, 8, 192)[::2, ::2].reshape(1, 16, 192)
    return torch.cat([fine[:, :1], coarse], 1)


def test_scalemae_computes_positions_for_each_size(tmp_path: Path, tiny: Any) -> None:
    torch.save({"model": tiny.state_dict() | scalemae_extras()}, tmp_path / "scalemae.pth")
    lines: list[str] = []
    encoder: Any = load_encoder(tmp_path / "scalemae.pth", report=lines.append)
    assert len(lines) == 1
    oracle = vit(depth=12)
    oracle.load_state_dict(tiny.state_dict() | {"pos_embed": sincos_positions(192, 4, 4)})
    torch.testing.assert_close(encoder.forward_features(IMAGES), oracle.forward_features(IMAGES), atol=2e-5, rtol=1e-5)
    doubled: Any = load_encoder(tmp_path / "scalemae.pth", gsd_ratio=2.0)
    oracle.load_state_dict(tiny.state_dict() | {"pos_embed": every_second_place()})
    torch.testing.assert_close(doubled.forward_features(IMAGES), oracle.forward_features(IMAGES), atol=2e-5, rtol=1e-5)
    wide = vit(depth=12, dynamic_img_size=True)
    wide.set_input_size((32, 96))
    wide.load_state_dict(tiny.state_dict() | {"pos_embed": sincos_positions(192, 2, 6)})
    images = torch.randn(1, 3, 32, 96)
    torch.testing.assert_close(encoder.forward_features(images), wide.forward_features(images), atol=2e-5, rtol=1e-5)


@given(rows=st.integers(1, 6), columns=st.integers(1, 6), ratio=st.integers(1, 4))
@settings(deadline=None, max_examples=25)
def test_ground_positions_at_a_ratio_are_those_of_a_finer_grid(rows: int, columns: int, ratio: int) -> None:
    """A step of ``ratio`` visits every ``ratio``-th place of a grid of step 1."""
    fine = sincos_positions(16, rows * ratio, columns * ratio, class_token=False)
    expected = fine.reshape(rows * ratio, columns * ratio, 16)[::ratio, ::ratio].reshape(-1, 16)
    torch.testing.assert_close(gsd_positions(16, rows, columns, float(ratio)), expected)


def test_a_resnet_checkpoint_in_sequential_names(tmp_path: Path) -> None:
    import timm

    source: Any = randomise(timm.create_model("resnet18", num_classes=0))
    torch.save({"state_dict": prefixed(sequential(source), "encoder_q.")}, tmp_path / "seco_resnet18_100k.ckpt")
    encoder: Any = load_encoder(tmp_path / "seco_resnet18_100k.ckpt")
    assert torch.equal(encoder(IMAGES), source(IMAGES))
    six: Any = load_encoder(tmp_path / "seco_resnet18_100k.ckpt", in_chans=6)
    torch.testing.assert_close(six(IMAGES.repeat(1, 2, 1, 1)), source(IMAGES), atol=1e-4, rtol=1e-4)


def test_fresh_weights_depend_on_the_seed_alone() -> None:
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    first = load_encoder("random:vit_tiny_patch8", image_size=32).state_dict()
    assert torch.equal(torch.random.get_rng_state(), before)
    second = load_encoder("random:vit_tiny_patch8", image_size=32).state_dict()
    other = load_encoder("random:vit_tiny_patch8", image_size=32, seed=1).state_dict()
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert not torch.equal(first["patch_embed.proj.weight"], other["patch_embed.proj.weight"])


def test_any_timm_model_with_fresh_weights() -> None:
    encoder: Any = load_encoder("random:resnet18", in_chans=2)
    assert encoder(torch.randn(1, 2, 64, 64)).shape == (1, 512)


def test_timm_weights_from_a_local_folder(tmp_path: Path, tiny: Any) -> None:
    import json

    save_file(tiny.state_dict(), tmp_path / "model.safetensors")
    config = {"architecture": "vit_tiny_patch16_224", "num_classes": 0, "model_args": {"img_size": 64}}
    (tmp_path / "config.json").write_text(json.dumps(config | {"pretrained_cfg": {"input_size": [3, 64, 64]}}))
    encoder: Any = load_encoder(f"timm:local-dir:{tmp_path}")
    torch.testing.assert_close(encoder.forward_features(IMAGES), tiny.forward_features(IMAGES))
    plain: Any = load_encoder(tmp_path)
    torch.testing.assert_close(plain.forward_features(IMAGES), tiny.forward_features(IMAGES))


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ("absent.pth", "no such weight file"),
        ("random:vit_tny_patch16", "vit_tny_patch16"),
        ("timm:no_such_model", "no_such_model"),
    ],
)
def test_bad_names(weights: str, message: str) -> None:
    with pytest.raises(WeightsError, match=message):
        load_encoder(weights)


def test_bad_files(tmp_path: Path, tiny: Any, run: Path) -> None:
    short = {key: value for key, value in tiny.state_dict().items() if not key.startswith("blocks.11")}
    torch.save(short, tmp_path / "short.pth")
    with pytest.raises(WeightsError, match=r"short\.pth: 11 blocks of width 192, but vit_tiny_patch16 has 12"):
        load_encoder(tmp_path / "short.pth")
    holes = {key: value for key, value in tiny.state_dict().items() if not key.startswith("blocks.5")}
    torch.save(holes, tmp_path / "holes.pth")
    with pytest.raises(WeightsError, match=r"holes\.pth.*blocks\.5"):
        load_encoder(tmp_path / "holes.pth")
    short["patch_embed.proj.weight"] = torch.zeros(100, 3, 16, 16)
    torch.save(short, tmp_path / "odd.pth")
    with pytest.raises(WeightsError, match="no known size has width 100"):
        load_encoder(tmp_path / "odd.pth")
    with pytest.raises(ConfigError, match="Scale-MAE only"):
        load_encoder(run, gsd_ratio=2.0)
    with pytest.raises(ConfigError, match="weight file only"):
        load_encoder("random:vit_tiny_patch16", layout="mae")
    with pytest.raises(ConfigError, match="cannot pool"):
        load_encoder("random:resnet18", pool="token")
    with pytest.raises(ConfigError, match="multiple of the patch size"):
        load_encoder(run, image_size=100)
    save_file(tiny.state_dict(), tmp_path / "bad.safetensors", {"architecture": "vit_tiny_patch16_224", "mean": "x"})
    with pytest.raises(WeightsError, match=r"bad\.safetensors.*mean.*'x'"):
        load_encoder(tmp_path / "bad.safetensors")


def test_rvsa_starts_from_a_plain_encoder(tmp_path: Path, tiny: Any) -> None:
    torch.save({"model": tiny.state_dict() | mae_extras()}, tmp_path / "vit.pth")
    lines: list[str] = []
    model: Any = load_encoder(tmp_path / "vit.pth", backbone="rvsa", image_size=112, report=lines.append)
    assert any("start fresh" in line for line in lines)
    assert torch.equal(model.blocks[3].mlp.fc1.weight, tiny.blocks[3].mlp.fc1.weight)
    assert torch.equal(model.blocks[0].attn.qkv.bias, tiny.blocks[0].attn.qkv.bias)
    torch.save(model.state_dict(), tmp_path / "rvsa.pth")
    again: Any = load_encoder(tmp_path / "rvsa.pth")
    images = torch.randn(1, 3, 112, 112)
    assert torch.equal(again(images), model(images))


def test_equal_encoders_are_equal_files(tmp_path: Path) -> None:
    """The library shuffles metadata at every writing; its own reader finds the same in the sorted file."""
    state = {"b": torch.arange(5.0), "a": torch.ones(2, 3, dtype=torch.bfloat16)}
    notes = {f"note {i}": 'é "quoted" \\ \n' for i in range(7)}
    files = [tmp_path / f"{i}.safetensors" for i in range(3)]
    for file in files:
        write_encoder(file, state, EncoderInfo("vit_tiny_patch16_224", (32, 32)), notes)
    assert len({file.read_bytes() for file in files}) == 1
    with safe_open(files[0], "pt") as opened:
        assert opened.metadata()["note 6"] == notes["note 6"]
        assert all(torch.equal(opened.get_tensor(name), value) for name, value in state.items())
