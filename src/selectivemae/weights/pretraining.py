"""Whole pre-training models, decoder included: our own files and the reference's, of both methods.

Both use the same key names (spec: checkpoint_keys_*.csv); our files say the rest in their metadata, for others it is
read off the shapes.
"""

import json
import logging
import re
from collections.abc import Callable, Mapping
from pathlib import Path

from safetensors import safe_open
from torch import Tensor

from selectivemae.core.errors import WeightsError
from selectivemae.core.version import __version__
from selectivemae.models.create import create_model, normalisation
from selectivemae.models.mae import MAE
from selectivemae.models.masked import MaskedAutoencoder, MaskedConfig
from selectivemae.models.selective_mae import SelectionConfig, SelectiveMAE
from selectivemae.models.vit import SIZES, Architecture, stock_timm_name
from selectivemae.weights.convert import adapt_channels, find_layout, relabel
from selectivemae.weights.files import read_state_dict
from selectivemae.weights.info import EncoderInfo, write_encoder

# Stored by the reference but used by nothing (method.md, section 7, row 7), and its HOG layer's constant buffers.
UNUSED = ("decoder_embed1.", "get_token_probs", "pos_embed_probs", "hog.")
PREFIXES = ("module.", "model.")

log = logging.getLogger("selectivemae")


def find_pretraining_file(path: Path) -> Path:
    """The weight file of a run folder (its newest checkpoint), a checkpoint folder, or ``path`` itself."""
    if (path / "checkpoints" / "latest").is_file():
        path = path / "checkpoints" / (path / "checkpoints" / "latest").read_text().strip()
    return path / "model.safetensors" if (path / "model.safetensors").is_file() else path


def load_pretraining_model(
    path: str | Path,
    *,
    heads: int | None = None,
    decoder_heads: int | None = None,
    report: Callable[[str], None] | None = None,
) -> MaskedAutoencoder:
    """A pre-training model from a run folder, one of our checkpoints, or a reference ``.pth`` of either method.

    Sizes come from the file's metadata or from the shapes of its tensors; heads, which no shape tells, from the
    standard sizes, unless given. ``report`` gets a line on how many keys matched; by default it is logged.
    WeightsError names missing, unexpected or misshapen keys. Nothing in the file is executed.
    """
    file = find_pretraining_file(Path(path))
    state = _strip(read_state_dict(file))
    metadata = _metadata(file)
    if "create" in metadata:
        model = create_model(**json.loads(metadata["create"]))
    else:
        model = _from_shapes(state, metadata, heads, decoder_heads, file)
    wanted = model.state_dict()
    known = {k: v for k, v in state.items() if not k.startswith(UNUSED)}
    problems = _problems(wanted, known)
    if problems:
        raise WeightsError(f"{file} does not fit a {model.method} model: {problems}")
    model.load_state_dict(known)
    unused = len(state) - len(known)
    note = f", {unused} keys that the reference stores but never uses were passed over" if unused else ""
    say = report or log.info
    say(f"{file}: {len(known)} of {len(wanted)} keys matched ({model.method}, {model.config.arch.name}){note}")
    return model


def _strip(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    for prefix in PREFIXES:
        if all(k.startswith(prefix) for k in state if "." in k) and any(k == f"{prefix}cls_token" for k in state):
            return {k.removeprefix(prefix): v for k, v in state.items()}
    model_keys = {k.removeprefix("model."): v for k, v in state.items() if k.startswith("model.")}
    return model_keys if "cls_token" in model_keys else dict(state)


def _metadata(file: Path) -> dict[str, str]:
    if file.suffix != ".safetensors":
        return {}
    with safe_open(file, "pt") as f:
        return f.metadata() or {}


def _problems(wanted: Mapping[str, Tensor], got: Mapping[str, Tensor]) -> str:
    def some(keys: list[str]) -> str:
        return ", ".join(keys[:5]) + (f" and {len(keys) - 5} more" if len(keys) > 5 else "")

    missing = [k for k in wanted if k not in got]
    unexpected = [k for k in got if k not in wanted]
    shapes = [
        f"{k} is {tuple(got[k].shape)}, needs {tuple(wanted[k].shape)}"
        for k in wanted
        if k in got and got[k].shape != wanted[k].shape
    ]
    parts = [f"{what}: {some(keys)}" for what, keys in
             (("missing", missing), ("unexpected", unexpected), ("wrong shape", shapes)) if keys]  # fmt: skip
    return "; ".join(parts)


def _depth(state: Mapping[str, Tensor], stem: str) -> int:
    found = [int(m[1]) for k in state if (m := re.match(rf"{stem}\.(\d+)\.", k))]
    return max(found) + 1 if found else 0


def _from_shapes(
    state: Mapping[str, Tensor], metadata: Mapping[str, str], heads: int | None, decoder_heads: int | None, file: Path
) -> MaskedAutoencoder:
    """The model whose tensors have a file's shapes."""
    needed = ("cls_token", "mask_token", "patch_embed.proj.weight", "pos_embed", "decoder_pred.weight")
    absent = [k for k in needed if k not in state]
    if absent:
        raise WeightsError(f"{file} is no MAE or SelectiveMAE pre-training checkpoint: it lacks {', '.join(absent)}")
    width, in_chans, patch, _ = state["patch_embed.proj.weight"].shape
    depth, decoder_depth = _depth(state, "blocks"), _depth(state, "decoder_blocks")
    decoder_width = state["mask_token"].shape[-1]
    size, table = next(
        ((name, row) for name, row in SIZES.items() if row[:2] == (depth, width)), ("custom", (0, 0, 0, 0, 0))
    )
    heads = heads or int(metadata.get("heads", table[2]))
    by_width = {row[3]: row[4] for row in SIZES.values()}
    decoder_heads = decoder_heads or int(metadata.get("decoder_heads", by_width.get(decoder_width, 0)))
    if not heads or not decoder_heads:
        raise WeightsError(
            f"{file}: a width of {width} at depth {depth} (decoder {decoder_width}) is no standard size, "
            "so its heads must be told: heads=…, decoder_heads=…"
        )
    patches = state["pos_embed"].shape[1] - 1
    side = round(patches**0.5)
    if side * side != patches:
        raise WeightsError(f"{file}: its {patches} positions are no square grid, and it says no image size")
    selective = "decoder_blocks.0.cross_attn.q.weight" in state
    mean, std = normalisation(in_chans)
    config = MaskedConfig(
        arch=Architecture(size, patch, depth, width, heads, decoder_width, decoder_heads),
        height=side * patch, width=side * patch, in_chans=in_chans, decoder_depth=decoder_depth,
        mask_ratio=0.85 if selective else 0.75, reconstruction_ratio=0.25 if selective else None,
        norm_pix=True, mean=mean, std=std,
    )  # fmt: skip
    if not selective:
        return MAE(config)
    return SelectiveMAE(config, SelectionConfig(), "decoder_blocks.0.self_attn.qkv.weight" in state)


def begin_from(model: MaskedAutoencoder, weights: str, report: Callable[[str], None]) -> None:
    """Fill a fresh model with the weights of another pre-training (``--init``), decoder and all where both are alike.

    ``weights`` is a run folder, or a file of any layout of a plain vision transformer (MAE and SelectiveMAE with
    decoder, SatMAE, Scale-MAE, SSL4EO, a bare encoder ...). The encoder must match, but for input channels, which are
    adapted; decoder weights are taken where names and shapes do. Positions stay the model's own, so image sizes may
    differ. WeightsError names what does not fit; ``report`` gets a line on what was taken, and one on adapted channels.
    """
    file = find_pretraining_file(Path(weights))
    raw = read_state_dict(file)
    layout = find_layout(raw, where=str(file))
    if layout.family not in ("vit", "scalemae"):
        raise WeightsError(f"{file}: {layout.name} is no plain vision transformer, as pre-training needs one")
    inside = relabel(raw, layout, str(file)).state
    for name in layout.inputs:
        if inside[name].shape[1] != model.config.in_chans:
            inside[name], said = adapt_channels(inside[name], model.config.in_chans, str(file))
            report(f"{file}: {said}")
    own = {k: v for k, v in model.state_dict().items() if k not in ("pos_embed", "decoder_pos_embed")}
    encoder = {k: v for k, v in own.items() if not k.startswith(("decoder_", "mask_token"))}
    state = _strip(raw) | {k: v for k, v in inside.items() if k in encoder}
    problems = _problems(encoder, {k: v for k, v in state.items() if k in encoder})
    if problems:
        raise WeightsError(f"{file} does not fit the encoder {model.config.arch.name}: {problems}")
    taken = {k: state[k] for k, v in own.items() if k in state and state[k].shape == v.shape}
    model.load_state_dict(taken, strict=False)
    report(
        f"{file}: layout {layout.name}, {len(taken)} of {len(own)} weights taken, {len(encoder)} of them the encoder's"
    )


def pretraining_metadata(create: dict) -> dict[str, str]:
    """Metadata of ``model.safetensors``: the arguments of ``create_model`` that make the same model again."""
    return {"format": "pt", "version": __version__, "create": json.dumps(create)}


def save_encoder(path: Path, model: MaskedAutoencoder, samples_seen: int) -> None:
    """Write ``encoder.safetensors``: timm key names, and all that a user of the weights must know as metadata."""
    config = model.config
    info = EncoderInfo(
        stock_timm_name(config.arch),
        (config.height, config.width),
        config.in_chans,
        config.mean,
        config.std,
        model.method,
        samples_seen,
    )
    write_encoder(path, model.encoder_state(), info, {"patch_size": str(config.arch.patch)})
