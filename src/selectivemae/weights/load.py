"""An encoder from whatever a user names: a run, a file of a known layout, timm, the hub, or fresh weights."""

import json
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, cast

import torch
from torch import nn

from selectivemae.core.errors import ConfigError, WeightsError
from selectivemae.models._torchvision import ensure_torchvision
from selectivemae.models.vit import architecture as vit_architecture
from selectivemae.models.vit import build_encoder, timm_name
from selectivemae.weights.catalogue import kept_file, names
from selectivemae.weights.convert import NOTHING, find_layout, fit, relabel
from selectivemae.weights.families import Size, build, native_size
from selectivemae.weights.files import find_file, read_metadata, read_state_dict
from selectivemae.weights.hub import fetch
from selectivemae.weights.info import EncoderInfo
from selectivemae.weights.layouts import RVSA_OWN

Report = Callable[[str], None]
Backbone = Literal["rvsa"]
Pool = Literal["token", "avg"]

log = logging.getLogger(__name__)


def load_encoder(
    weights: str | Path,
    *,
    layout: str | None = None,
    backbone: Backbone | None = None,
    image_size: int | Size | None = None,
    in_chans: int | None = None,
    pool: Pool | None = None,
    gsd_ratio: float = 1.0,
    partial: bool = False,
    seed: int = 0,
    report: Report | None = None,
) -> nn.Module:
    """An encoder without head, in evaluation mode, with what it expects of images in ``pretrained_cfg``.

    ``weights`` is a run's folder, ``encoder.safetensors``, a file of any layout of ``layouts.LAYOUTS`` (recognised by
    its keys, or forced by ``layout``), ``timm:NAME``, ``random:NAME`` (fresh weights of ``seed``),
    ``hf:OWNER/NAME[/FILE]``, or a name of ``catalogue.PUBLISHED``.
    ``image_size`` (pixels, side or (height, width)) and ``in_chans`` None take the file's.
    ``backbone="rvsa"`` puts the weights of a plain vision transformer into RVSA, whose own parameters start fresh.
    ``pool`` sets what the model's ``forward`` gives: the class token or the mean of the patches.
    ``gsd_ratio`` is Scale-MAE's: ground sampling distance of the images over that of its training.
    ``report`` gets one line for the coverage and for everything adapted; by default they are logged.
    Vision transformers come as timm's ``VisionTransformer`` (images (B, C, H, W) of any size that the patch divides;
    ``forward_features`` gives (B, 1 + L, E)). Raises ``WeightsError`` when less than 95 % of the encoder is covered or
    any tensor of a block is not, unless a ``partial`` encoder will do: what is missing keeps its fresh values.
    """
    say = report or log.info
    size = (image_size, image_size) if isinstance(image_size, int) else image_size
    scheme, _, name = str(weights).partition(":")
    if scheme in ("random", "timm") and (layout or backbone):
        raise ConfigError(f"{weights}: a layout or another backbone goes with a weight file only")
    with _seeded(seed):
        if scheme == "random":
            model = _random(name, size, in_chans)
        elif scheme == "timm":
            model = _timm(name, size, in_chans, pretrained=True)
        elif scheme == "hf":
            model = _from_path(_fetched(name), layout, backbone, size, in_chans, partial, say)
        elif str(weights) in names():
            model = _from_path(kept_file(str(weights)), layout, backbone, size, in_chans, partial, say)
        else:
            model = _from_path(Path(weights), layout, backbone, size, in_chans, partial, say)
    if gsd_ratio != 1:
        if not hasattr(model, "gsd_ratio"):
            raise ConfigError(f"{weights}: a ground sampling distance means something to Scale-MAE only")
        cast(Any, model).gsd_ratio = gsd_ratio
    if pool is not None:
        if not hasattr(model, "reset_classifier") or (pool == "token" and not getattr(model, "num_prefix_tokens", 0)):
            raise ConfigError(f"{weights}: a {type(model).__name__} cannot pool by {pool}")
        cast(Any, model).reset_classifier(0, global_pool=pool)
    return model.eval()


def _fetched(name: str) -> Path:
    """What ``OWNER/NAME[/FILE]`` on the hub is here."""
    parts = name.split("/", 2)
    if len(parts) < 2:
        raise WeightsError(f"hf:{name}: give OWNER/NAME or OWNER/NAME/FILE")
    return fetch("/".join(parts[:2]), parts[2] if len(parts) > 2 else None)


def _from_path(
    path: Path,
    layout_name: str | None,
    backbone: Backbone | None,
    size: Size | None,
    in_chans: int | None,
    partial: bool,
    say: Report,
) -> nn.Module:
    """A file of weights, or a folder; one with timm's ``config.json`` may hold any of its models."""
    file = find_file(path)
    config = _timm_config(file.parent)
    if file.name == "model.safetensors" and config and not layout_name and not backbone:
        return _timm(f"local-dir:{file.parent}", size, in_chans, pretrained=True, family=config["architecture"])
    return _from_file(file, layout_name, backbone, size, in_chans, partial, say)


def _timm_config(folder: Path) -> dict[str, Any] | None:
    """timm's description of the model in a folder, if there is one."""
    try:
        config = json.loads((folder / "config.json").read_text())
    except (OSError, ValueError):
        return None
    return config if isinstance(config, dict) and "architecture" in config else None


def _from_file(
    file: Path,
    layout_name: str | None,
    backbone: Backbone | None,
    size: Size | None,
    in_chans: int | None,
    partial: bool,
    say: Report,
) -> nn.Module:
    where = str(file)
    state = read_state_dict(file)
    info = EncoderInfo.from_metadata(read_metadata(file), where)
    layout = find_layout(state, layout_name or ("vit" if info else None), where)
    relabelled = relabel(state, layout, where)
    family, fresh = layout.family, NOTHING
    if backbone == "rvsa" and family != "rvsa":
        if family != "vit":
            raise ConfigError(f"{where}: RVSA takes the weights of vision transformers, and this is {layout.name}")
        family, fresh = "rvsa", RVSA_OWN
    native = info.image_size if info else native_size(relabelled.state, (layout.image_size, layout.image_size))
    channels = in_chans or relabelled.state[layout.inputs[0]].shape[1]
    built = build(family, relabelled.state, size or native, channels, where)
    source_grid = None  # square
    if info and built.grid:
        rows, columns = built.grid
        source_grid = (native[0] * rows // (size or native)[0], native[1] * columns // (size or native)[1])
    fitted = fit(
        relabelled,
        built.model.state_dict(),
        grid=built.grid,
        source_grid=source_grid,
        fresh=fresh,
        partial=partial,
        where=where,
    )
    built.model.load_state_dict(fitted.state, strict=False)
    say(f"{where}: layout {layout.name} as {built.name}, {fitted.coverage}")
    for note in fitted.notes:
        say(f"{where}: {note}")
    mean, std = (info.mean, info.std) if info else (layout.mean, layout.std)
    return _describe(built.model, built.name, size or native, channels, mean, std)


def _random(name: str, size: Size | None, in_chans: int | None) -> nn.Module:
    """Fresh weights of one of our sizes, or of any timm model."""
    try:
        arch = vit_architecture(name)
    except ConfigError:
        return _timm(name, size, in_chans, pretrained=False)
    model = build_encoder(name, size or (224, 224), in_chans or 3)
    return _describe(model, timm_name(arch), size or (224, 224), in_chans or 3)


def _timm(
    name: str, size: Size | None, in_chans: int | None, *, pretrained: bool, family: str | None = None
) -> nn.Module:
    """A timm model without head, for any image size where its kind allows; ``family`` is the name behind a path."""
    ensure_torchvision()
    import timm
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    kind = family or name
    transformer, windows = kind.startswith(("vit_", "deit", "eva")), kind.startswith("swin")
    options: dict[str, Any] = {"num_classes": 0}
    if size is not None and (transformer or windows):
        options["img_size"] = size
    if in_chans is not None:
        options["in_chans"] = in_chans
    if transformer:
        options["dynamic_img_size"] = True
    elif windows:
        options["strict_img_size"] = False
    try:
        model = timm.create_model(name, pretrained=pretrained, **options)
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise WeightsError(f"timm:{name}: cannot fetch its weights ({_first_line(error)})") from error
    except RuntimeError as error:
        raise WeightsError(f"timm:{name}: {_first_line(error)}; see timm.list_models() for names") from error
    described = dict(cast(Any, model).pretrained_cfg)
    channels, *native = described.get("input_size", (3, 224, 224))
    described["input_size"] = (in_chans or channels, *(size or native))
    described.setdefault("architecture", kind)
    cast(Any, model).pretrained_cfg = described
    return model


def _describe(
    model: nn.Module,
    name: str,
    size: Size,
    channels: int,
    mean: tuple[float, ...] | None = None,
    std: tuple[float, ...] | None = None,
) -> nn.Module:
    """Put what the encoder expects of its input where timm keeps it (``timm.data.resolve_data_config`` reads it)."""
    default = EncoderInfo(name)
    if mean is None or std is None or len(mean) != channels:
        mean, std = (default.mean, default.std) if channels == 3 else ((0.5,) * channels, (0.25,) * channels)
    cast(Any, model).pretrained_cfg = {
        "architecture": name,
        "input_size": (channels, *size),
        "fixed_input_size": False,
        "interpolation": "bicubic",
        "crop_pct": 1.0,
        "mean": mean,
        "std": std,
        "num_classes": 0,
    }
    return model


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Torch's generator at ``seed`` inside, as it was outside: building a model leaves no trace."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def _first_line(error: BaseException) -> str:
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__
