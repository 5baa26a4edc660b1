"""Weight files in words: of ours, of others, and of what is no encoder."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from synthetic_weights import vit

from selectivemae.cli.main import main
from selectivemae.weights.describe import describe_weights
from selectivemae.weights.info import EncoderInfo, write_encoder


def test_an_encoder_of_ours(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, path = vit(depth=12), tmp_path / "encoder.safetensors"
    write_encoder(path, model.state_dict(), EncoderInfo("vit_tiny_patch16_224", (64, 64), samples_seen=5))
    rows = dict(describe_weights(path))
    assert rows["parameters"] == f"{sum(p.numel() for p in model.parameters()):,}"
    assert rows["images"] == "3 x 64 x 64"
    assert rows["samples_seen"] == "5"
    assert "100.0% of the encoder" in rows["as an encoder"]
    assert main(["inspect", str(path)]) == 0
    assert "layout vit" in capsys.readouterr().out


def test_a_strangers_file(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    save_file({"a.weight": torch.zeros(2, 3)}, path)
    rows = dict(describe_weights(path))
    assert rows["tensors"] == "1, 6 numbers"
    assert rows["as an encoder"].startswith("no: no known layout; keys like a.weight")


def test_what_is_neither_weights_nor_features(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "x.txt").write_text("x")
    assert main(["inspect", str(tmp_path / "x.txt")]) == 2
    assert "no weight file" in capsys.readouterr().err
    (tmp_path / "x.parquet").write_text("x")
    assert main(["inspect", str(tmp_path / "x.parquet")]) == 2
    assert "cannot read features" in capsys.readouterr().err
