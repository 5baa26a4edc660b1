"""A fine-tuned classifier as a function of windows, for maps of scenes."""

from pathlib import Path

import torch
from torch import Tensor

from selectivemae.engine.precision import autocast, resolve_precision
from selectivemae.tasks.classify.model import TASK, Classifier, load_classifier


class ClassifyPredictor:
    """Windows (B, C, S, S) uint8 to logits (B, K) float32, on one device.

    Windows are taken whole: the model saw images of ``size`` pixels at the scale they were resized to, which the scene
    should have too.
    """

    task = TASK

    def __init__(self, classifier: Classifier, device: torch.device, precision: str = "fp32") -> None:
        self.classifier, self.device, self.precision = classifier, device, precision
        classifier.model.to(device).eval()

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the K classes."""
        return self.classifier.classes

    @property
    def channels(self) -> int:
        """Bands of a window."""
        return self.classifier.info.channels

    @property
    def size(self) -> int:
        """Side of a window in pixels."""
        return self.classifier.size

    @torch.inference_mode()
    def scores(self, images: Tensor) -> Tensor:
        """Windows (B, C, S, S) uint8 to logits (B, K)."""
        with autocast(self.precision, self.device):
            return self.classifier.logits(images.to(self.device, non_blocking=True))


def load_predictor(path: Path, device: torch.device, precision: str = "auto") -> ClassifyPredictor:
    """The predictor of a run's folder or its model.safetensors; WeightsError for what is none."""
    return ClassifyPredictor(load_classifier(path), device, resolve_precision(precision, device))
