"""Same weights and the same ids give the latent, prediction and loss of an independent implementation."""

import pytest
import torch
from safetensors import safe_open

from selectivemae.models.mae import MAE
from selectivemae.models.masked import IMAGENET_MEAN, IMAGENET_STD, MaskedConfig
from selectivemae.models.selective_mae import SelectionConfig, SelectiveMAE
from selectivemae.models.vit import Architecture


@pytest.mark.parametrize("method", ["selectivemae", "mae"])
def test_forward_equals_independent_implementation(shared_data, method):
    with safe_open(shared_data / "golden" / f"{method}_tiny.safetensors", "pt") as f:
        about = f.metadata()
        data = {k: f.get_tensor(k) for k in f.keys()}  # noqa: SIM118 (no dict)
    sizes = {k: int(v) for k, v in about.items() if k != "method"}
    arch = Architecture(
        "golden",
        sizes["patch"],
        sizes["depth"],
        sizes["width"],
        sizes["heads"],
        sizes["decoder_width"],
        sizes["decoder_heads"],
    )
    number = (sizes["img"] // sizes["patch"]) ** 2
    config = MaskedConfig(
        arch=arch,
        height=sizes["img"],
        width=sizes["img"],
        in_chans=3,
        decoder_depth=sizes["decoder_depth"],
        mask_ratio=1 - data["visible"].shape[1] / number,
        reconstruction_ratio=data["targets"].shape[1] / number,
        norm_pix=True,
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
    )
    model = MAE(config) if method == "mae" else SelectiveMAE(config, SelectionConfig())
    weights = {k.removeprefix("model."): v for k, v in data.items() if k.startswith("model.")}
    report = model.load_state_dict(weights, strict=False)
    assert report.missing_keys == []
    with torch.no_grad():
        latent = model.encode(data["images"], data["visible"])
        prediction = model.reconstruct(latent, data["targets"], data["visible"])
        loss = model.loss(data["images"], prediction, data["targets"])
    for name, got in (("latent", latent), ("prediction", prediction), ("loss", loss)):
        assert (got - data[name]).abs().max() < 1e-5, name
    # The positions stored in the file are the fixed ones that we compute.
    fresh = MAE(config)
    for name in ("pos_embed", "decoder_pos_embed"):
        assert (getattr(fresh, name) - weights[name]).abs().max() < 1e-6
