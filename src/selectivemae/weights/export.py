"""Weights elsewhere: timm, a Hugging Face folder, ONNX, the reference's own layout; each read back and compared.

OUT/                      --to hf
  model.safetensors       the encoder, timm's key names
  config.json             what timm needs to build it: ``timm.create_model("local-dir:OUT", pretrained=True)``
  pretraining.safetensors the whole pre-training model, decoder included, when there is one
  README.md               the model card
OUT/encoder.safetensors   --to timm
OUT/encoder.onnx          --to onnx
OUT/checkpoint.pth        --to reference: {"model": tensors} under the reference's key names
"""

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from selectivemae.core.errors import ConfigError, WeightsError
from selectivemae.core.files import atomic_write
from selectivemae.core.version import __version__
from selectivemae.models.masked import MaskedAutoencoder
from selectivemae.weights.files import find_file, read_metadata, read_state_dict
from selectivemae.weights.info import EncoderInfo, write_encoder
from selectivemae.weights.load import load_encoder
from selectivemae.weights.onnx import export_onnx, run_onnx
from selectivemae.weights.pretraining import find_pretraining_file, load_pretraining_model

Format = Literal["timm", "hf", "onnx", "reference"]

TOLERANCE = {"timm": 1e-5, "hf": 1e-5, "onnx": 1e-4, "reference": 1e-5}


@dataclass(frozen=True)
class Exported:
    """What an export wrote, and the largest difference of outputs between the source and what was read back."""

    format: Format
    path: Path
    files: tuple[str, ...]
    max_error: float


def export(weights: str | Path, to: Format, out: Path, *, image_size: int | None = None) -> Exported:
    """Write ``weights`` (anything ``load_encoder`` takes) in another form under the folder ``out``.

    ``reference`` needs a whole pre-training model: a run's folder or checkpoint. What was written is loaded again and
    must give the same outputs on random images; ``WeightsError`` when it does not (``TOLERANCE``), or when the
    weights cannot be expressed in that form.
    """
    out.mkdir(parents=True, exist_ok=True)
    if to == "reference":
        done = _to_reference(weights, out)
    else:
        encoder = load_encoder(weights, image_size=image_size)
        info = info_of(encoder, weights)
        done = {"timm": _to_timm, "hf": _to_hf, "onnx": _to_onnx}[to](encoder, info, out)
        if to == "hf" and (whole := _pretraining_model(weights)) is not None:
            done = _add_pretraining(done, whole)
    if not done.max_error <= TOLERANCE[to]:
        raise WeightsError(f"{done.path}: read back, outputs differ by {done.max_error:.2e} (allowed {TOLERANCE[to]})")
    return done


def info_of(encoder: nn.Module, weights: str | Path) -> EncoderInfo:
    """What an encoder of ``load_encoder`` says about itself, with method and history where the file tells them."""
    metadata = read_metadata(find_file(weights)) if Path(weights).exists() else {}
    return replace(
        EncoderInfo.of(encoder),
        method=metadata.get("method", ""),
        samples_seen=int(metadata.get("samples_seen", 0)),
    )


def model_arguments(encoder: nn.Module, info: EncoderInfo) -> dict[str, Any]:
    """Arguments with which ``timm.create_model`` builds a vision transformer of these very sizes, whatever its name."""
    model = cast(Any, _vision_transformer(encoder, "this form"))
    return {
        "img_size": list(info.image_size),
        "patch_size": model.patch_embed.patch_size[0],
        "in_chans": info.channels,
        "embed_dim": model.embed_dim,
        "depth": len(model.blocks),
        "num_heads": model.blocks[0].attn.num_heads,
        "dynamic_img_size": True,
    }


def largest_difference(
    left: Callable[[Tensor], Tensor], right: Callable[[Tensor], Tensor], shapes: list[tuple[int, ...]]
) -> float:
    """Largest absolute difference of two functions of images, over one random batch per shape."""
    generator = torch.Generator().manual_seed(0)
    worst = 0.0
    with torch.no_grad():
        for shape in shapes:
            images = torch.randn(shape, generator=generator)
            a, b = left(images), right(images)
            worst = max(worst, float((a - b).abs().max()) if a.shape == b.shape else float("inf"))
    return worst


def _to_timm(encoder: nn.Module, info: EncoderInfo, out: Path) -> Exported:
    path = out / "encoder.safetensors"
    write_encoder(path, encoder.state_dict(), info)
    back = _timm_model(encoder, info)
    from safetensors.torch import load_file

    back.load_state_dict(load_file(path), strict=True)
    return Exported("timm", path, (path.name,), _features_error(encoder, back, info))


def _to_hf(encoder: nn.Module, info: EncoderInfo, out: Path) -> Exported:
    write_encoder(out / "model.safetensors", encoder.state_dict(), info)
    config = {
        "architecture": _registered(info.architecture),
        "num_classes": 0,
        "num_features": cast(Any, encoder).num_features,
        "model_args": model_arguments(encoder, info),
        "pretrained_cfg": {
            "input_size": [info.channels, *info.image_size],
            "fixed_input_size": False,
            "interpolation": "bicubic",
            "crop_pct": 1.0,
            "mean": list(info.mean),
            "std": list(info.std),
            "num_classes": 0,
            "pool_size": None,
            "first_conv": "patch_embed.proj",
            "classifier": "head",
        },
    }
    atomic_write(out / "config.json", json.dumps(config, indent=2) + "\n")
    atomic_write(out / "README.md", model_card(info, out.name))
    import timm

    back = timm.create_model(f"local-dir:{out}", pretrained=True).eval()
    return Exported("hf", out, ("model.safetensors", "config.json", "README.md"), _features_error(encoder, back, info))


def _to_onnx(encoder: nn.Module, info: EncoderInfo, out: Path) -> Exported:
    path = out / "encoder.onnx"
    model = _vision_transformer(encoder, "ONNX")
    export_onnx(model, info, path)
    patch = cast(Any, encoder).patch_embed.patch_size[0]
    height, width = info.image_size
    sizes = [(height, width), (height + patch, max(width - patch, patch)), (2 * height, width)]
    shapes = [(batch, info.channels, *size) for batch, size in zip((1, 3, 2), sizes, strict=True)]
    error = largest_difference(cast(Any, encoder).forward_features, lambda images: run_onnx(path, images)[0], shapes)
    return Exported("onnx", path, (path.name,), error)


def _to_reference(weights: str | Path, out: Path) -> Exported:
    model = _pretraining_model(weights)
    if model is None:
        raise WeightsError(f"{weights}: no pre-training model with its decoder; give a run's folder or checkpoint")
    path = out / "checkpoint.pth"
    partial = out / ".checkpoint.pth.tmp"
    torch.save({"model": {key: value.contiguous() for key, value in model.state_dict().items()}, "epoch": 0}, partial)
    partial.replace(path)
    return Exported("reference", path, (path.name,), _pretraining_error(model, load_pretraining_model(path)))


def _add_pretraining(done: Exported, model: MaskedAutoencoder) -> Exported:
    """Put the whole pre-training model beside an encoder's folder."""
    from safetensors.torch import save

    path = done.path / "pretraining.safetensors"
    state = {key: value.contiguous() for key, value in model.state_dict().items()}
    atomic_write(path, save(state, {"format": "pt", "method": model.method, "version": __version__}))
    error = max(done.max_error, _pretraining_error(model, load_pretraining_model(path)))
    return Exported(done.format, done.path, (*done.files, path.name), error)


def _pretraining_model(weights: str | Path) -> MaskedAutoencoder | None:
    """The pre-training model of a run, checkpoint or reference file; None when only an encoder is there."""
    path = Path(weights)
    if not path.exists():
        return None
    file = find_pretraining_file(path)
    if file.is_dir() or not any(key.endswith("decoder_pred.weight") for key in read_state_dict(file)):
        return None
    return load_pretraining_model(file)


def _pretraining_error(left: MaskedAutoencoder, right: MaskedAutoencoder) -> float:
    """Largest difference of the reconstructions of two models for the same patches."""
    config, tokens = left.config, left.grid[0] * left.grid[1]
    visible = torch.arange(0, tokens, 2)[None]
    targets = torch.arange(1, tokens, 2)[None]

    def rebuild(model: MaskedAutoencoder) -> Callable[[Tensor], Tensor]:
        return lambda images: model.eval().reconstruct(model.encode(images, visible), targets, visible)

    return largest_difference(rebuild(left), rebuild(right), [(1, config.in_chans, config.height, config.width)])


def _features_error(left: nn.Module, right: nn.Module, info: EncoderInfo) -> float:
    shapes = [(2, info.channels, *info.image_size)]
    return largest_difference(cast(Any, left).forward_features, cast(Any, right).forward_features, shapes)


def _timm_model(encoder: nn.Module, info: EncoderInfo) -> nn.Module:
    """A stock timm model of the encoder's name and sizes, with fresh weights."""
    import timm

    arguments = model_arguments(encoder, info)
    return timm.create_model(_registered(info.architecture), num_classes=0, **arguments).eval()


def _registered(name: str) -> str:
    """``name`` if timm knows it, else a timm vision transformer that takes any sizes by argument."""
    import timm

    return name if timm.is_model(name) else "vit_base_patch16_224"


def _vision_transformer(encoder: nn.Module, form: str) -> nn.Module:
    from timm.models.vision_transformer import VisionTransformer

    if type(encoder) is not VisionTransformer:
        raise ConfigError(f"only plain vision transformers can be written as {form}, not a {type(encoder).__name__}")
    return encoder


def model_card(info: EncoderInfo, name: str) -> str:
    """The ``README.md`` of a hub folder."""
    height, width = info.image_size
    history = f", {info.samples_seen:,} images seen" if info.samples_seen else ""
    return f"""---
library_name: timm
pipeline_tag: image-feature-extraction
tags: [timm, remote-sensing, selectivemae]
---
# {name}

`{info.architecture}` encoder{f" pre-trained with {info.method}" if info.method else ""}{history}.

| | |
| --- | --- |
| image size | {height} x {width} pixels (others work: positions are resampled) |
| channels | {info.channels} |
| mean | {", ".join(f"{value:g}" for value in info.mean)} (pixels in 0 to 1) |
| std | {", ".join(f"{value:g}" for value in info.std)} |
| licence | that of the weights this was made from; state it here before you publish |
| written by | selectivemae {info.version} |

```python
import timm
model = timm.create_model("hf_hub:OWNER/{name}", pretrained=True).eval()   # or "local-dir:PATH"
tokens = model.forward_features(images)                                    # (B, 1 + patches, width)
```
"""
