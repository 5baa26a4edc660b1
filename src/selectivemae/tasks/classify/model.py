"""The classifier: an encoder with a linear head, as one timm model under timm's names; saved and loaded.

model.safetensors of a run holds all tensors, and in its metadata what ``EncoderInfo`` says of an encoder, with
``task`` (classify), ``classes`` (JSON list of names in the order of the outputs), ``pool`` and ``crop_share``.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from selectivemae.core.errors import ConfigError
from selectivemae.data.batch import Batch
from selectivemae.engine.precision import attention_kernel
from selectivemae.engine.state import StepOutput
from selectivemae.models.vit import LayerNorm
from selectivemae.tasks.classify.mixing import Targets
from selectivemae.tasks.common import NoiseKeys, described, fill, layer_decay_groups
from selectivemae.weights.info import EncoderInfo, write_encoder
from selectivemae.weights.load import load_encoder

TASK = "classify"
_HEAD_STD = 2e-5  # of the fresh head: it begins without an opinion
Pool = Literal["cls", "mean"]


@dataclass(frozen=True)
class Classifier:
    """A model with what it expects and what its outputs mean.

    ``model`` takes normalised images (B, C, S, S) and gives logits (B, K) for the K ``classes``.
    """

    model: nn.Module
    classes: tuple[str, ...]
    info: EncoderInfo
    pool: Pool
    crop_share: float

    @property
    def size(self) -> int:
        """Side of the images in pixels."""
        return self.info.image_size[0]

    def logits(self, images: Tensor) -> Tensor:
        """Images (B, C, S, S) uint8 on the model's device to logits (B, K) float32."""
        with attention_kernel(sequence_length(self.model), images.device):
            return self.model(self.info.normalise(images)).float()


def build_classifier(
    weights: str,
    classes: tuple[str, ...],
    *,
    layout: str | None = None,
    image_size: int | None = None,
    pool: Pool = "cls",
    crop_share: float = 1.0,
    seed: int = 0,
) -> Classifier:
    """An encoder of any weights that ``load_encoder`` takes, with a fresh head (downstream.md, A.3).

    ``image_size`` None keeps the encoder's own. Raises ConfigError for an encoder that takes no head, WeightsError for
    weights that cannot be read.
    """
    encoder = load_encoder(weights, layout=layout, image_size=image_size, seed=seed)
    info = EncoderInfo.of(encoder)
    height, width = info.image_size
    if height != width:
        raise ConfigError(f"{weights}: made for images of {height} x {width} pixels; give a square one by --image-size")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        add_head(encoder, len(classes), pool, weights)
    return Classifier(encoder, classes, info, pool, crop_share)


def add_head(encoder: nn.Module, classes: int, pool: Pool, where: str) -> None:
    """Put a fresh linear head on an encoder, in place: weights truncated normal of deviation 2e-5, bias 0.

    ``cls`` reads a transformer's class token after the final norm; ``mean`` drops that norm and reads the mean of the
    patches through one of its own. Encoders without tokens keep their own pooling. ConfigError when neither will do.
    """
    model = cast(Any, encoder)
    if not hasattr(model, "reset_classifier"):
        raise ConfigError(f"{where}: a {type(encoder).__name__} takes no classification head")
    if not hasattr(model, "fc_norm"):
        model.reset_classifier(classes)
    elif pool == "cls":
        if not model.num_prefix_tokens:
            raise ConfigError(f"{where}: it has no class token; use --pool mean")
        model.reset_classifier(classes, global_pool="token")
    else:
        model.reset_classifier(classes, global_pool="avg")
        if isinstance(model.fc_norm, nn.Identity):
            model.norm, model.fc_norm = nn.Identity(), LayerNorm(model.embed_dim)
    head = model.get_classifier()
    nn.init.trunc_normal_(head.weight, std=_HEAD_STD)
    nn.init.zeros_(head.bias)


def sequence_length(model: nn.Module) -> int:
    """Tokens of a plain transformer's sequence; for other models a number that asks for no special attention."""
    embed = getattr(model, "patch_embed", None)
    patches = getattr(embed, "num_patches", None) if hasattr(model, "blocks") else None
    return patches + cast(Any, model).num_prefix_tokens if patches else 1 << 30


class ClassifyObjective:
    """Soft-target cross-entropy of mixed images: what the engine trains."""

    def __init__(
        self, classifier: Classifier, keys: NoiseKeys, *, smoothing: float, weight_decay: float, layer_decay: float
    ) -> None:
        self.classifier, self.keys, self.smoothing = classifier, keys, smoothing
        self.weight_decay, self.layer_decay = weight_decay, layer_decay

    @property
    def model(self) -> nn.Module:
        """The classifier's model."""
        return self.classifier.model

    def parameter_groups(self) -> list[dict]:
        """Groups by layer, each with its ``lr_scale``."""
        return layer_decay_groups(self.model, self.weight_decay, self.layer_decay)

    def step(self, batch: Batch, progress: float) -> StepOutput:
        """Loss of each image (B,) fp32."""
        targets = cast(Targets, batch.targets)
        images = self.classifier.info.normalise(batch.images)
        if targets.partner is not None:
            images = targets.blend.images(images, self.classifier.info.normalise(targets.partner))
        self.keys.current = batch.key
        with attention_kernel(sequence_length(self.model), images.device):
            logits = self.model(images).float()
        soft = targets.soft(len(self.classifier.classes), self.smoothing)
        return StepOutput(-(soft * logits.log_softmax(dim=1)).sum(dim=1))


def metadata(classifier: Classifier) -> dict[str, str]:
    """What a classifier's file says of itself."""
    return classifier.info.to_metadata() | {
        "task": TASK,
        "classes": json.dumps(classifier.classes),
        "pool": classifier.pool,
        "crop_share": str(classifier.crop_share),
    }


def load_classifier(path: Path) -> Classifier:
    """A classifier from a run's folder or its model.safetensors, in evaluation mode on the CPU.

    Raises WeightsError for a file that is none, or does not fit its own description.
    """

    def own(about: Mapping[str, str]) -> tuple[tuple[str, ...], Pool, float]:
        return tuple(json.loads(about["classes"])), cast(Pool, about["pool"]), float(about["crop_share"])

    file, info, (classes, pool, crop_share) = described(path, TASK, "classes, pool and crop_share", own)
    model = load_encoder(f"random:{info.architecture}", image_size=info.image_size, in_chans=info.channels)
    add_head(model, len(classes), pool, str(file))
    fill(model, file, info)
    return Classifier(model, classes, info, pool, crop_share)


def save_classifier(path: Path, classifier: Classifier) -> None:
    """Write a classifier's file, whole or not at all."""
    write_encoder(path, classifier.model.state_dict(), classifier.info, metadata(classifier))
