"""Class folders of a few dozen small images, and fine-tunings of a few seconds."""

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from selectivemae.tasks.classify.config import ClassifyConfig
from selectivemae.tasks.classify.run import ClassifyResult, finetune_classify

COLOURS = {"blue": (60, 60, 190), "green": (60, 190, 60), "red": (190, 60, 60)}
SETTINGS: dict[str, Any] = {
    "weights": "random:vit_tiny_patch8", "image_size": 32, "batch_size": 8, "epochs": 4.0, "warmup_epochs": 1.0,
    "eval_every": 2.0, "lr": 3e-3, "workers": 0, "precision": "fp32", "device": "cpu",
}  # fmt: skip


def write_image(path: Path, colour: tuple[int, int, int], seed: int, side: int = 40) -> None:
    """A noisy image of a colour."""
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).normal(colour, 30, (side, side, 3))
    Image.fromarray(noise.clip(0, 255).astype(np.uint8)).save(path)


def write_classes(root: Path, each: int = 10, names: tuple[str, ...] = tuple(COLOURS)) -> Path:
    """``each`` images a class: CLASS/class_1.png and so on."""
    for number, name in enumerate(names):
        colour = COLOURS.get(name, (60 * number % 256,) * 3)
        for i in range(1, each + 1):
            write_image(root / name / f"{name.lower()}_{i}.png", colour, 100 * number + i)
    return root


def train(data: Path, out: Path, resume: bool = False, **settings: Any) -> ClassifyResult:
    """A fine-tuning of seconds."""
    config = ClassifyConfig.build(SETTINGS, {"data": str(data), "out": out}, settings)
    return finetune_classify(config, resume=resume, quiet=True)
