"""The probe of ``pretrain --probe-data``: the figure of the saved encoder, and training untouched."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from selectivemae.cli.pretrain import knn_probe
from selectivemae.core.errors import DataError
from selectivemae.models.create import create_model
from selectivemae.pretrain.config import PretrainConfig
from selectivemae.probing.run import ProbeConfig, knn_accuracy
from selectivemae.weights.load import load_encoder
from selectivemae.weights.pretraining import save_encoder


def write_classes(root: Path) -> Path:
    """Two parts of three classes of noise around a grey level; neighbours overlap."""
    noise = np.random.default_rng(0)
    for part in ("train", "test"):
        for level, name in enumerate(("dark", "middle", "light")):
            (root / part / name).mkdir(parents=True)
            for i in range(8):
                grey = noise.normal(90 + 25 * level, 20) + noise.normal(0, 40, (32, 32, 3))
                Image.fromarray(grey.clip(0, 255).astype(np.uint8)).save(root / part / name / f"{i}.png")
    return root


def test_it_tells_what_the_saved_encoder_tells_and_leaves_no_trace(tmp_path: Path):
    data = str(write_classes(tmp_path / "classes"))
    model = create_model("vit_tiny_patch8", image_size=32, decoder_depth=1, mask_ratio=0.7).train()
    probe = knn_probe(PretrainConfig(probe_data=data, workers=0, device="cpu"))
    assert probe is not None
    before, state = {k: v.clone() for k, v in model.state_dict().items()}, torch.get_rng_state()
    got = probe(model)
    assert torch.equal(torch.get_rng_state(), state)
    assert model.training
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    save_encoder(tmp_path / "encoder.safetensors", model, 0)
    saved = load_encoder(str(tmp_path / "encoder.safetensors"))
    assert got == {"knn": round(knn_accuracy(saved, ProbeConfig(data=data), torch.device("cpu")), 2)}


def test_none_asked_none_made_and_wrong_data_are_named_before_training(tmp_path: Path):
    assert knn_probe(PretrainConfig()) is None
    with pytest.raises(DataError, match="nowhere"):
        knn_probe(PretrainConfig(probe_data=str(tmp_path / "nowhere"), workers=0, device="cpu"))
