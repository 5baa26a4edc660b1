"""A fine-tuned segmenter for whole scenes: windows in, logits of every pixel out."""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from selectivemae.engine.precision import choose_device, resolve_precision
from selectivemae.tasks.segment.classes import Colour
from selectivemae.tasks.segment.evaluate import Predictor
from selectivemae.tasks.segment.model import TASK, load_segmenter


@dataclass(frozen=True)
class SegmentPredictor:
    """What ``scenes`` asks of a model (``scenes.seam.ScorePredictor``)."""

    inner: Predictor
    task: str = TASK

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the K classes, in the order of the outputs."""
        return self.inner.segmenter.classes

    @property
    def colours(self) -> tuple[Colour, ...]:
        """A colour of each class, for pictures."""
        return self.inner.segmenter.colours

    @property
    def channels(self) -> int:
        """Bands of a window."""
        return self.inner.segmenter.info.channels

    @property
    def bands(self) -> tuple[int, ...] | None:
        """Which bands of a file they are, from 1 on; None: the first ones."""
        return self.inner.segmenter.shape.bands

    @property
    def size(self) -> int:
        """Side of a window in pixels."""
        return self.inner.segmenter.crop

    def scores(self, images: Tensor) -> Tensor:
        """Windows (B, C, S, S) uint8 to logits (B, K, S, S) float32 on the model's device."""
        return self.inner.scores(images)


def load_predictor(path: Path, device: torch.device | str = "auto", precision: str = "auto") -> SegmentPredictor:
    """The segmenter of a run's folder, or of its model.safetensors, ready to answer.

    Raises WeightsError for a file that is none, ConfigError for a device that is not there.
    """
    segmenter = load_segmenter(path)
    where = choose_device(str(device))
    segmenter.model.to(where)
    return SegmentPredictor(Predictor(segmenter, where, resolve_precision(precision, where)))
