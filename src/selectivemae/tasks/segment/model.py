"""The segmenter: a backbone with UPerNet; trained by a loss of every pixel; saved and loaded.

model.safetensors of a run holds all tensors, and in its metadata what ``EncoderInfo`` says of an encoder (its image
size is the crop), with ``task`` (segment), ``classes`` and ``colours`` (JSON lists in the order of the outputs), and in
``segment`` (JSON) the window's stride, bands, taps, width of the head and whether there is an auxiliary one.

Shapes: B images, C channels, H x W pixels, S side of the crop, K classes.
"""

import json
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from selectivemae.core.errors import ConfigError
from selectivemae.data.batch import Batch
from selectivemae.engine.precision import attention_kernel
from selectivemae.engine.state import StepOutput
from selectivemae.models.features import KeptPrefix, dense_backbone
from selectivemae.models.heads.upernet import FCNHead, UPerHead
from selectivemae.tasks.common import NoiseKeys, described, fill, layer_decay_groups
from selectivemae.tasks.segment.classes import IGNORED, PADDED, Colour
from selectivemae.tasks.segment.data import targets_of
from selectivemae.weights.info import EncoderInfo, write_encoder
from selectivemae.weights.load import load_encoder

TASK = "segment"


@dataclass(frozen=True)
class Shape:
    """What makes a segmenter beside its encoder and classes."""

    stride: int  # pixels from window to window
    bands: tuple[int, ...] | None = None  # of an image's file, from 1 on
    taps: tuple[int, ...] | None = None
    head_width: int = 512
    aux: bool = False

    @classmethod
    def from_json(cls, text: str) -> "Shape":
        """Read back what ``json`` made of its fields. KeyError, TypeError or ValueError for anything else."""
        said = json.loads(text)
        bands, taps = (tuple(int(v) for v in said[k]) if said[k] else None for k in ("bands", "taps"))
        return cls(int(said["stride"]), bands, taps, int(said["head_width"]), bool(said["aux"]))


class SegmentNet(nn.Module):
    """Backbone, head, and an auxiliary head if there is one."""

    def __init__(self, encoder: nn.Module, classes: int, shape: Shape, checkpointing: bool = False) -> None:
        super().__init__()
        self.backbone = dense_backbone(encoder, shape.taps, checkpointing=checkpointing)
        self.head = UPerHead(self.backbone.channels, classes, shape.head_width)
        self.aux = FCNHead(self.backbone.channels, classes, max(1, shape.head_width // 2)) if shape.aux else None

    def forward(self, images: Tensor, key: Tensor | None = None) -> Tensor:
        """Logits (B, K, S / 4, S / 4) of normalised images (B, C, S, S)."""
        return self.head(self.backbone(images), key)

    def both(self, images: Tensor, key: Tensor | None = None) -> list[Tensor]:
        """Logits of the head, and of the auxiliary one where there is one."""
        maps = self.backbone(images)
        return [head(maps, key) for head in (self.head, self.aux) if head is not None]


@dataclass(frozen=True)
class Segmenter:
    """A model with what it expects and what its outputs mean."""

    model: SegmentNet
    classes: tuple[str, ...]
    colours: tuple[Colour, ...]
    info: EncoderInfo
    shape: Shape

    @property
    def crop(self) -> int:
        """Side of a window in pixels."""
        return self.info.image_size[0]

    def logits(self, images: Tensor) -> Tensor:
        """Logits (B, K, H, W) float32 of images (B, C, H, W) uint8 on the model's device, none larger than a window.

        Smaller ones are padded, right and below, with what is 0 after normalisation.
        """
        rows, columns = images.shape[-2:]
        whole = F.pad(self.info.normalise(images), (0, self.crop - columns, 0, self.crop - rows))
        with self.attention(images.device):
            out = self.model(whole).float()
        return upsample(out, self.crop)[..., :rows, :columns]

    def attention(self, device: torch.device) -> AbstractContextManager:
        """The kind of attention that is fast for a window."""
        return attention_kernel((self.crop // self.model.backbone.strides[2]) ** 2, device)


def upsample(logits: Tensor, side: int) -> Tensor:
    """Maps (B, K, h, w) at (side, side), bilinear."""
    return F.interpolate(logits, size=(side, side), mode="bilinear", align_corners=False)


def build_segmenter(
    weights: str,
    classes: tuple[str, ...],
    colours: tuple[Colour, ...],
    crop: int,
    shape: Shape,
    *,
    layout: str | None = None,
    checkpointing: bool = False,
    seed: int = 0,
) -> Segmenter:
    """An encoder of any weights that ``load_encoder`` takes, with a fresh pyramid and head.

    Raises ConfigError for a crop that the strides of its maps do not divide, WeightsError for weights that cannot be
    read.
    """
    channels = len(shape.bands) if shape.bands else None
    encoder = load_encoder(weights, layout=layout, image_size=crop, in_chans=channels, seed=seed)
    info = replace(EncoderInfo.of(encoder), image_size=(crop, crop))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = SegmentNet(encoder, len(classes), shape, checkpointing)
    largest = max(model.backbone.strides)
    if crop % largest:
        raise ConfigError(f"--crop {crop} is not a multiple of {largest}, the coarsest stride of {info.architecture}")
    return Segmenter(model, classes, colours, info, shape)


class SegmentObjective:
    """Cross-entropy of every pixel that says something, over the number of all pixels (what the engine trains)."""

    def __init__(
        self,
        segmenter: Segmenter,
        keys: NoiseKeys,
        *,
        weight_decay: float,
        layer_decay: float,
        class_weights: tuple[float, ...] | None = None,
        aux_weight: float = 0.0,
    ) -> None:
        self.segmenter, self.keys = segmenter, keys
        self.weight_decay, self.layer_decay, self.aux_weight = weight_decay, layer_decay, aux_weight
        self.class_weights = torch.tensor(class_weights) if class_weights else None

    @property
    def model(self) -> nn.Module:
        """The segmenter's model."""
        return self.segmenter.model

    def parameter_groups(self) -> list[dict]:
        """Groups by layer of the encoder, each with its ``lr_scale``; pyramid and heads have scale 1."""
        inner = "inner." if isinstance(self.segmenter.model.backbone.encoder, KeptPrefix) else ""
        return layer_decay_groups(self.model, self.weight_decay, self.layer_decay, f"backbone.encoder.{inner}")

    def step(self, batch: Batch, progress: float) -> StepOutput:
        """Loss of each image (B,) fp32."""
        mask = targets_of(batch)
        images = self.segmenter.info.normalise(batch.images)
        images = images.masked_fill((mask == PADDED)[:, None], 0.0)
        self.keys.current = batch.key
        with self.segmenter.attention(images.device):
            logits = self.segmenter.model.both(images, batch.key)
        loss = self._loss(logits[0], mask)
        if len(logits) > 1:
            loss = loss + self.aux_weight * self._loss(logits[1], mask)
        return StepOutput(loss)

    def _loss(self, logits: Tensor, mask: Tensor) -> Tensor:
        """(B,) of logits (B, K, h, w) for class numbers (B, S, S)."""
        weight = self.class_weights.to(logits.device) if self.class_weights is not None else None
        target = mask.long().masked_fill_(mask >= PADDED, IGNORED)
        whole = upsample(logits.float(), mask.shape[-1])
        return F.cross_entropy(whole, target, weight, ignore_index=IGNORED, reduction="none").mean((1, 2))


def metadata(segmenter: Segmenter) -> dict[str, str]:
    """What a segmenter's file says of itself."""
    return segmenter.info.to_metadata() | {
        "task": TASK,
        "classes": json.dumps(segmenter.classes),
        "colours": json.dumps(segmenter.colours),
        "segment": json.dumps(asdict(segmenter.shape)),
    }


def load_segmenter(path: Path) -> Segmenter:
    """A segmenter from a run's folder or its model.safetensors, in evaluation mode on the CPU.

    Raises WeightsError for a file that is none, or does not fit its own description.
    """

    def own(about: Mapping[str, str]) -> tuple[tuple[str, ...], tuple[tuple[int, int, int], ...], Shape]:
        colours = tuple((int(r), int(g), int(b)) for r, g, b in json.loads(about["colours"]))
        return tuple(str(name) for name in json.loads(about["classes"])), colours, Shape.from_json(about["segment"])

    file, info, (classes, colours, shape) = described(path, TASK, "classes, colours and segment", own)
    encoder = load_encoder(f"random:{info.architecture}", image_size=info.image_size, in_chans=info.channels)
    model = SegmentNet(encoder, len(classes), shape)
    fill(model, file, info)
    return Segmenter(model, classes, colours, info, shape)


def save_segmenter(path: Path, segmenter: Segmenter) -> None:
    """Write a segmenter's file, whole or not at all."""
    write_encoder(path, segmenter.model.state_dict(), segmenter.info, metadata(segmenter))
