"""Exports: what stock timm, onnxruntime and the reference's layout read back gives the same outputs."""

from pathlib import Path
from typing import Any

import pytest
import torch
from synthetic_weights import resnet, vit
from torch.nn.functional import interpolate

from selectivemae.core.errors import ConfigError, WeightsError
from selectivemae.models.create import create_model
from selectivemae.weights.export import export
from selectivemae.weights.info import EncoderInfo, write_encoder
from selectivemae.weights.load import load_encoder
from selectivemae.weights.onnx import resampling_matrix, run_onnx
from selectivemae.weights.pretraining import load_pretraining_model, pretraining_metadata, save_encoder

INFO = EncoderInfo("vit_tiny_patch16_224", (64, 64), method="mae", mean=(0.1, 0.2, 0.3), samples_seen=1234567)


@pytest.fixture(scope="module")
def encoder_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("run") / "encoder.safetensors"
    write_encoder(path, vit(depth=12).state_dict(), INFO)
    return path


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with a whole SelectiveMAE, as the pre-training command leaves it."""
    from safetensors.torch import save_file

    out = tmp_path_factory.mktemp("run")
    create = {"name": "vit_tiny_patch16", "method": "selectivemae", "image_size": 64, "decoder_depth": 2}
    model: Any = create_model(**create)  # pyright: ignore[reportArgumentType]
    step = out / "checkpoints" / "step-00000001"
    step.mkdir(parents=True)
    state = {key: value.contiguous() for key, value in model.state_dict().items()}
    save_file(state, step / "model.safetensors", pretraining_metadata(create))
    (out / "checkpoints" / "latest").write_text(step.name)
    save_encoder(out / "encoder.safetensors", model, 10)
    return out


def test_to_timm_keeps_what_the_file_says(encoder_file: Path, tmp_path: Path) -> None:
    done = export(encoder_file, "timm", tmp_path / "out")
    assert done.max_error <= 1e-5
    again: Any = load_encoder(done.path)
    assert again.pretrained_cfg["mean"] == INFO.mean
    assert _metadata(done.path) == INFO.to_metadata()


def _metadata(path: Path) -> dict[str, str]:
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        return dict(file.metadata())


@pytest.mark.parametrize("name", ["vit_tiny_patch16", "vit_tiny_patch8"])
def test_to_hf_is_a_folder_that_timm_loads(tmp_path: Path, name: str) -> None:
    """Also for sizes that timm does not know by name."""
    import timm

    done = export(f"random:{name}", "hf", tmp_path / "model", image_size=32)
    assert done.max_error <= 1e-5
    assert set(done.files) == {path.name for path in done.path.iterdir()}
    assert "library_name: timm" in (done.path / "README.md").read_text()
    stock: Any = timm.create_model(f"local-dir:{done.path}", pretrained=True).eval()
    ours: Any = load_encoder(done.path)
    images = torch.randn(1, 3, 32, 32)
    expected: Any = load_encoder(f"random:{name}", image_size=32)
    torch.testing.assert_close(stock.forward_features(images), expected.forward_features(images))
    torch.testing.assert_close(ours.forward_features(images), expected.forward_features(images))


def test_a_run_exports_its_decoder_too(run_folder: Path, tmp_path: Path) -> None:
    done = export(run_folder, "hf", tmp_path / "hf")
    assert "pretraining.safetensors" in done.files
    reference = export(run_folder, "reference", tmp_path / "reference")
    assert reference.max_error == 0
    raw = torch.load(reference.path, weights_only=True)
    assert "decoder_blocks.0.cross_attn.kv.weight" in raw["model"]
    model = load_pretraining_model(run_folder)
    for path in (reference.path, done.path / "pretraining.safetensors"):
        back = load_pretraining_model(path).state_dict()
        assert all(torch.equal(back[key], value) for key, value in model.state_dict().items())
    encoder: Any = load_encoder(reference.path)
    ours: Any = load_encoder(run_folder)
    images = torch.randn(1, 3, 64, 64)
    assert torch.equal(encoder.forward_features(images), ours.forward_features(images))


def test_the_reference_layout_needs_a_decoder(encoder_file: Path, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="decoder"):
        export(encoder_file, "reference", tmp_path)


def test_other_architectures_are_refused_by_name(tmp_path: Path) -> None:
    torch.save(resnet().state_dict(), tmp_path / "resnet.pth")
    with pytest.raises(ConfigError, match="ResNet"):
        export(tmp_path / "resnet.pth", "onnx", tmp_path / "out")


@pytest.mark.parametrize("old", [4, 14])
@pytest.mark.parametrize("new", [1, 3, 4, 5, 14, 33])
def test_resampling_matrix_is_torchs_antialiased_bicubic(old: int, new: int) -> None:
    columns = torch.randn(1, 2, old, 3)
    expected = interpolate(columns, size=(new, 3), mode="bicubic", antialias=True, align_corners=False)
    ours = torch.einsum("ij,bcjk->bcik", resampling_matrix(old, new, columns), columns)
    torch.testing.assert_close(ours, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.slow
def test_to_onnx_with_any_batch_and_image_size(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    done = export("random:vit_tiny_patch16", "onnx", tmp_path, image_size=64)
    assert done.max_error <= 1e-4
    encoder: Any = load_encoder("random:vit_tiny_patch16", image_size=64)
    for shape in [(1, 3, 64, 64), (2, 3, 48, 96), (3, 3, 160, 16)]:
        images = torch.randn(shape)
        tokens, embedding = run_onnx(done.path, images)
        torch.testing.assert_close(tokens, encoder.forward_features(images).detach(), atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(embedding, encoder(images).detach(), atol=1e-4, rtol=1e-4)
