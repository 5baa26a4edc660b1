"""The detector: any encoder under a Faster or Oriented R-CNN, with what it expects; trained, saved, loaded, asked.

model.safetensors of a run holds all tensors, and in its metadata what ``EncoderInfo`` says of an encoder (its image
size is the side of the canvas), with ``task`` (detect or oriented), ``classes`` (JSON list of names), ``neck_width``,
``head_width`` and ``window``.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from selectivemae.core.errors import ConfigError
from selectivemae.data.batch import Batch
from selectivemae.engine.precision import autocast, choose_device, resolve_precision
from selectivemae.engine.state import StepOutput
from selectivemae.models.features import KeptPrefix, dense_backbone, is_transformer, patch_side
from selectivemae.models.heads.faster_rcnn import FasterRCNN
from selectivemae.models.heads.oriented_rcnn import OrientedRCNN
from selectivemae.models.heads.roi_head import Detected
from selectivemae.tasks.boxes_data import BoxTargets
from selectivemae.tasks.common import NoiseKeys, described, fill, layer_decay_groups
from selectivemae.weights.info import EncoderInfo, write_encoder
from selectivemae.weights.load import load_encoder

Task = Literal["detect", "oriented"]
KINDS: dict[str, type[FasterRCNN]] = {"detect": FasterRCNN, "oriented": OrientedRCNN}


@dataclass(frozen=True)
class Detector:
    """A model with what it expects and what its labels mean; ``window`` is how many pixels of an image a side of the
    canvas commonly showed in training: the scale at which scenes are searched."""

    task: Task
    model: FasterRCNN
    classes: tuple[str, ...]
    info: EncoderInfo
    window: int

    @property
    def sides(self) -> int:
        """Numbers of a box: 4 upright (x1 y1 x2 y2), 5 rotated (cx cy w h θ)."""
        return self.model.box_numbers

    @property
    def size(self) -> int:
        """Side of the canvas in pixels."""
        return self.info.image_size[0]

    @property
    def colour(self) -> tuple[int, ...]:
        """The mean colour: what a canvas has where there is no image."""
        return tuple(min(255, round(255 * value)) for value in self.info.mean)

    def normalise(self, images: Tensor, sizes: list[tuple[int, int]]) -> Tensor:
        """Canvases (B, C, S, S) uint8 to float32, less the mean and over the deviation of each channel; 0 outside the
        (height, width) that each image covers."""
        out = self.info.normalise(images)
        for image, (height, width) in zip(out, sizes, strict=True):
            image[:, height:] = 0
            image[:, :, width:] = 0
        return out

    def found(self, images: Tensor, sizes: list[tuple[int, int]]) -> list[Detected]:
        """Objects of canvases (B, C, S, S) uint8 on the model's device, in pixels of the canvas."""
        return self.model.predict(self.normalise(images, sizes), sizes)


def build_detector(
    task: Task,
    weights: str,
    classes: tuple[str, ...],
    *,
    layout: str | None = None,
    image_size: int = 800,
    window: int | None = None,
    neck_width: int = 256,
    head_width: int = 1024,
    checkpointing: bool = False,
    seed: int = 0,
) -> Detector:
    """An encoder of any weights that ``load_encoder`` takes, under a fresh detector of the published kind.

    ``window`` is the canvas's own side unless given; ``neck_width`` are the channels of the feature pyramid,
    ``head_width`` those of the second stage's layers. Raises ConfigError for an encoder or canvas that does not do,
    WeightsError for weights that cannot be read.
    """
    encoder = load_encoder(weights, layout=layout, seed=seed)
    if is_transformer(encoder):
        if image_size % patch_side(encoder):
            raise ConfigError(f"--image-size {image_size} is no multiple of the patches' {patch_side(encoder)} px")
        encoder = load_encoder(weights, layout=layout, image_size=image_size, seed=seed, report=lambda _: None)
    info = replace(EncoderInfo.of(encoder), image_size=(image_size, image_size))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        backbone = dense_backbone(encoder, checkpointing=checkpointing)
        model = KINDS[task](backbone, len(classes), neck_width, head_width)
    return Detector(task, model, classes, info, window or image_size)


class DetectObjective:
    """The four losses of a two-stage detector: what the engine trains."""

    def __init__(self, detector: Detector, keys: NoiseKeys, *, weight_decay: float, layer_decay: float) -> None:
        self.detector, self.keys = detector, keys
        self.weight_decay, self.layer_decay = weight_decay, layer_decay

    @property
    def model(self) -> nn.Module:
        """The detector's model."""
        return self.detector.model

    def parameter_groups(self) -> list[dict]:
        """Groups by layer, each with its ``lr_scale``; pyramid, neck and heads have 1."""
        inner = isinstance(self.model.get_submodule("backbone.encoder"), KeptPrefix)
        prefix = "backbone.encoder.inner." if inner else "backbone.encoder."
        return layer_decay_groups(self.model, self.weight_decay, self.layer_decay, prefix)

    def step(self, batch: Batch, progress: float) -> StepOutput:
        """Sum of the four losses of each image (B,) fp32; their means over the usable images as scalars."""
        targets = cast(BoxTargets, batch.targets)
        self.keys.current = batch.key
        images = self.detector.normalise(batch.images, targets.sizes)
        losses = self.detector.model.losses(images, targets.boxes, targets.labels, batch.key, targets.sizes)
        usable = (batch.weight > 0).float()
        share = usable / usable.sum().clamp(min=1)
        return StepOutput(
            torch.stack(list(losses.values())).sum(dim=0),
            {f"loss_{name}": (value.detach() * share).sum() for name, value in losses.items()},
        )


class BoxPredictor:
    """A fine-tuned detector to be asked for windows: what ``scenes`` takes."""

    def __init__(self, detector: Detector, device: torch.device, precision: str) -> None:
        self.detector, self.device, self.precision = detector, device, precision
        self.task, self.classes = detector.task, detector.classes
        self.channels, self.size = detector.info.channels, detector.window
        detector.model.to(device).eval()

    def boxes(self, images: Tensor) -> list[tuple[Tensor, Tensor, Tensor]]:
        """Of windows (B, C, S, S) uint8: boxes (N, 4) x1 y1 x2 y2 or (N, 5) cx cy w h θ in the window's pixels, best
        first, with scores (N,) and labels (N,) int64; on the model's device. Windows are resized to the canvas as
        images are in evaluation."""
        side, scale = self.detector.size, images.shape[-1] / self.detector.size
        if scale != 1:
            images = F.interpolate(images, (side, side), mode="bilinear", antialias=True)
        factor = torch.ones(self.detector.sides, device=self.device)
        factor[:4] = scale
        with torch.inference_mode(), autocast(self.precision, self.device):
            found = self.detector.found(images.to(self.device), [(side, side)] * len(images))
        return [(f.boxes * factor, f.scores, f.labels) for f in found]


def load_box_predictor(path: Path, task: Task, device: str | torch.device, precision: str) -> BoxPredictor:
    """A predictor from a run's folder or its model.safetensors; ``device`` and ``precision`` as the options are."""
    place = choose_device(str(device))
    return BoxPredictor(load_detector(path, task), place, resolve_precision(precision, place))


def metadata(detector: Detector) -> dict[str, str]:
    """What a detector's file says of itself."""
    widths = {"neck_width": str(detector.model.width), "head_width": str(detector.model.hidden)}
    own = {"task": detector.task, "classes": json.dumps(detector.classes), "window": str(detector.window)}
    return detector.info.to_metadata() | own | widths


def save_detector(path: Path, detector: Detector) -> None:
    """Write a detector's file, whole or not at all."""
    write_encoder(path, detector.model.state_dict(), detector.info, metadata(detector))


def load_detector(path: Path, task: Task) -> Detector:
    """A detector from a run's folder or its model.safetensors, in evaluation mode on the CPU.

    Raises WeightsError for a file that is none, or does not fit its own description.
    """

    def own(about: Mapping[str, str]) -> tuple[tuple[str, ...], int | None, int, int]:
        window = int(about["window"]) if "window" in about else None  # older files do not say it
        return tuple(json.loads(about["classes"])), window, int(about["neck_width"]), int(about["head_width"])

    file, info, (classes, window, *widths) = described(path, task, "classes, neck_width and head_width", own)
    encoder = load_encoder(f"random:{info.architecture}", image_size=info.image_size, in_chans=info.channels)
    model = KINDS[task](dense_backbone(encoder), len(classes), *widths)
    fill(model, file, info)
    return Detector(task, model, classes, info, window or info.image_size[0])
