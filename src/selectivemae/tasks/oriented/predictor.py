"""A fine-tuned oriented model to be asked for windows of a scene."""

from pathlib import Path

import torch

from selectivemae.tasks.boxes_model import BoxPredictor, load_box_predictor


def load_predictor(path: Path, device: str | torch.device = "auto", precision: str = "auto") -> BoxPredictor:
    """A predictor from a run's folder or its model.safetensors; WeightsError for a file that is none."""
    return load_box_predictor(path, "oriented", device, precision)
