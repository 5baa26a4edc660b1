"""Data sets of small images with masks, in the layouts that are read, and fine-tunings of seconds."""

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from selectivemae.tasks.segment.config import SegmentConfig
from selectivemae.tasks.segment.run import SegmentResult, finetune_segment

NAMES = ("ground", "house", "water")
COLOURS = np.array([(60, 140, 60), (200, 80, 60), (40, 60, 200)])
SETTINGS: dict[str, Any] = {
    "weights": "random:vit_tiny_patch8", "crop": 32, "head_width": 8, "batch_size": 4, "steps": 6, "warmup_steps": 1,
    "lr": 3e-3, "eval_every": 1.0, "workers": 0, "device": "cpu", "resize": "image", "scale": (0.8, 1.2),
}  # fmt: skip


def scene(seed: int, height: int = 40, width: int = 48) -> tuple[np.ndarray, np.ndarray]:
    """Noisy pixels (H, W, 3) of blocks of three classes, and their numbers (H, W)."""
    draw = np.random.default_rng(seed)
    blocks = draw.integers(0, 3, (height // 8, width // 8))
    numbers = np.kron(blocks, np.ones((8, 8), int)).astype(np.uint8)
    pixels = COLOURS[numbers] + draw.normal(0, 20, (*numbers.shape, 3))
    return pixels.clip(0, 255).astype(np.uint8), numbers


def save(path: Path, array: np.ndarray) -> None:
    """An image file of an array, in the place of any other."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)  # a file that is written over is noticed only when it is read
    Image.fromarray(array).save(path)


def write_pairs(root: Path, count: int = 10, masks: str = "masks") -> Path:
    """``images/a_0.png`` and ``masks/a_0.png`` and so on, with classes.txt."""
    for i in range(count):
        pixels, numbers = scene(i)
        save(root / "images" / f"a_{i}.png", pixels)
        save(root / masks / f"a_{i}.png", numbers)
    (root / "classes.txt").write_text("\n".join(NAMES))
    return root


def train(data: Path, out: Path, resume: bool = False, **settings: Any) -> SegmentResult:
    """A fine-tuning of seconds."""
    config = SegmentConfig.build(SETTINGS, {"data": str(data), "out": out}, settings)
    return finetune_segment(config, resume=resume, quiet=True)
