"""What fine-tuning of all tasks shares: its files, layer decay, and stochastic depth without a generator."""

import io
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
from matplotlib.figure import Figure
from safetensors.torch import load_file
from torch import Tensor, nn

from selectivemae.core.errors import WeightsError
from selectivemae.ops.noise import uniform
from selectivemae.weights.files import read_metadata
from selectivemae.weights.info import EncoderInfo

T = TypeVar("T")

MODEL = "model.safetensors"  # of a run's folder; its metadata name the task and all that its use needs
EVALUATION_FOLDER, EVALUATION = "evaluation", "figures.json"

_STEM = ("pos_embed", "cls_token", "mask_token", "reg_token", "patch_embed.")
_NO_DECAY = ("pos_embed", "cls_token", "mask_token", "reg_token")
_DROP_PATH = 0xD000  # purpose of the hash; each layer has its own


def png(figure: Figure, dpi: int = 110) -> bytes:
    """A figure as the bytes of a PNG file."""
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=dpi)
    return file.getvalue()


def model_file(run: Path) -> Path:
    """The model's file of a run's folder, or the file itself. WeightsError where there is none."""
    file = run / MODEL if run.is_dir() else run
    if run.is_dir() and not file.is_file():
        seeds = sorted(folder.name for folder in run.glob("seed-*"))
        hint = f"name one of its runs ({', '.join(seeds)})" if seeds else "name a folder of selectivemae finetune"
        raise WeightsError(f"{run} has no {MODEL}: {hint}")
    return file


def task_of(run: Path, known: Sequence[str]) -> str:
    """The task that a run's folder, or its model's file, was fine-tuned for. WeightsError for any other."""
    file = model_file(run)
    task = read_metadata(file).get("task")
    if task is None or task not in known:
        raise WeightsError(f"{file} is no model made by selectivemae finetune ({', '.join(known)})")
    return task


def described(path: Path, task: str, keys: str, read: Callable[[Mapping[str, str]], T]) -> tuple[Path, EncoderInfo, T]:
    """The model's file of a run, its encoder, and what ``read`` makes of the metadata that are the task's own.

    ``keys`` names these for people. Raises WeightsError for a file that was not made by this task, or says too little.
    """
    file = model_file(path)
    about = read_metadata(file)
    info = EncoderInfo.from_metadata(about, str(file))
    if info is None or about.get("task") != task:
        raise WeightsError(f"{file} is no model made by finetune {task}")
    try:
        return file, info, read(about)
    except (KeyError, ValueError, TypeError) as e:
        raise WeightsError(f"{file}: its metadata do not say {keys}") from e


def fill(model: nn.Module, file: Path, info: EncoderInfo) -> None:
    """Put a file's tensors into a model, which is in evaluation mode then. WeightsError where they do not fit."""
    try:
        model.load_state_dict(load_file(file))
    except RuntimeError as e:
        raise WeightsError(f"{file} does not fit a {info.architecture}: {str(e).splitlines()[1].strip()}") from e
    model.eval()


def layer_of(name: str, starts: tuple[int, ...]) -> int:
    """Layer of a parameter of an encoder by its name: 0 the stem, i + 1 block i, and one more for all the rest.

    ``starts`` has, for each of the encoder's stages, the number of its first block, and last the number of all (a
    plain transformer is one stage: ``(0, depth)``; ``block_starts`` gives it).
    """
    if name.startswith(_STEM):
        return 0
    if match := re.match(r"blocks\.(\d+)\.", name):
        return int(match[1]) + 1
    if match := re.match(r"layers\.(\d+)\.blocks\.(\d+)\.", name):
        return starts[int(match[1])] + int(match[2]) + 1
    if match := re.match(r"layers\.(\d+)\.downsample\.", name):  # it leads into its stage's first block
        return starts[int(match[1])] + 1
    return starts[-1] + 1


def block_starts(encoder: nn.Module) -> tuple[int, ...] | None:
    """Numbers of the first block of each stage, and of all blocks; None for an encoder without blocks (ResNet)."""
    model = cast(Any, encoder)
    stages: list[Any] = list(model.layers) if hasattr(model, "layers") else [model] if hasattr(model, "blocks") else []
    counts = [len(cast(Any, stage).blocks) for stage in stages if hasattr(stage, "blocks")]
    if not counts or len(counts) != len(stages):
        return None
    return tuple(sum(counts[:i]) for i in range(len(counts) + 1))


def layer_decay_groups(model: nn.Module, weight_decay: float, decay: float, prefix: str = "") -> list[dict]:
    """Optimizer groups whose ``lr_scale`` is ``decay`` ^ (L + 1 - layer), L the number of blocks (BEiT, MAE).

    ``prefix`` is that of the encoder's parameters in ``model`` (``"backbone."``); all others have scale 1. 1-D
    parameters, positions and tokens take no weight decay. Encoders without blocks take no layer decay. ``names`` of
    each group are kept for people; the first groups are the lowest layers.
    """
    encoder = model.get_submodule(prefix.rstrip("."))
    starts = block_starts(encoder)
    groups: dict[tuple[int, bool], dict] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        top = starts[-1] + 1 if starts else 0
        layer = layer_of(name.removeprefix(prefix), starts) if starts and name.startswith(prefix) else top
        plain = parameter.ndim <= 1 or name.endswith(_NO_DECAY)
        group = groups.setdefault(
            (layer, plain),
            {
                "params": [],
                "names": [],
                "layer": layer,
                "lr_scale": decay ** (top - layer),
                "weight_decay": 0.0 if plain else weight_decay,
            },
        )
        group["params"].append(parameter)
        group["names"].append(name)
    return [groups[key] for key in sorted(groups)]


def decay_line(groups: list[dict]) -> str:
    """The rates of ``layer_decay_groups`` in words, from the lowest layer to the highest, as shares of the peak."""
    scales = {group["layer"]: group["lr_scale"] for group in groups}
    return "learning rates by layer, stem to head: " + " ".join(f"{scales[layer]:.3g}" for layer in sorted(scales))


class NoiseKeys:
    """The noise keys (B,) of the batch that a model works on: set before each forward pass in training."""

    current: Tensor | None = None


class KeyedDropPath(nn.Module):
    """Stochastic depth (Huang et al., ECCV 2016): a residual branch is left out for a sample with probability
    ``rate``, by lot from its noise key, and weighs 1 / (1 - rate) otherwise.

    What is left out depends on (seed, epoch, sample, ``layer``) alone: not on the batch, and not on a generator that a
    resumed run would have to find again.
    """

    def __init__(self, rate: float, layer: int, keys: NoiseKeys) -> None:
        super().__init__()
        self.rate, self.layer, self.keys = rate, layer, keys

    def forward(self, x: Tensor) -> Tensor:
        """Branches (B, ...) to the same shape; in evaluation nothing is changed."""
        if not self.training or self.keys.current is None:
            return x
        kept = uniform(self.keys.current, _DROP_PATH + self.layer, 1)[:, 0] >= self.rate
        return x * (kept.to(x.dtype) / (1 - self.rate)).reshape(-1, *[1] * (x.ndim - 1))

    def extra_repr(self) -> str:
        """For people."""
        return f"rate={self.rate:.3f}"


def add_drop_path(encoder: nn.Module, rate: float) -> NoiseKeys:
    """Put stochastic depth into a transformer's blocks, rising linearly from 0 at the first to ``rate`` at the last.

    Gives what the keys of each batch are put into. An encoder whose blocks have no place for it stays as it is.
    """
    keys = NoiseKeys()
    blocks = [cast(Any, m) for m in encoder.modules() if hasattr(m, "drop_path1") and hasattr(m, "drop_path2")]
    rates = torch.linspace(0, rate, max(len(blocks), 1)).tolist()
    for number, (block, share) in enumerate(zip(blocks, rates, strict=False)):
        if share > 0:
            block.drop_path1 = KeyedDropPath(share, 2 * number, keys)
            block.drop_path2 = KeyedDropPath(share, 2 * number + 1, keys)
    return keys
