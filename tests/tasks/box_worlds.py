"""Small labelled pictures for detection, and fine-tunings of seconds with small heads."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from selectivemae.models.heads.faster_rcnn import FasterRCNN
from selectivemae.models.heads.oriented_rcnn import OrientedRCNN
from selectivemae.ops import rotated
from selectivemae.tasks import boxes_model
from selectivemae.tasks.boxes_run import DetectResult, finetune_boxes
from selectivemae.tasks.detect.config import DetectConfig
from selectivemae.tasks.oriented.config import OrientedConfig

CONFIGS = {"detect": DetectConfig, "oriented": OrientedConfig}
COLOURS = {"plane": (230, 60, 60), "ship": (60, 200, 90)}
SETTINGS: dict[str, Any] = {
    "weights": "random:vit_tiny_patch16", "image_size": 64, "batch_size": 2, "epochs": 2.0, "warmup_steps": 1,
    "lr": 1e-3, "milestones": [1.5], "eval_every": 1.0, "workers": 0, "precision": "fp32", "device": "cpu",
    "neck_width": 16, "head_width": 32,
}  # fmt: skip


class SmallFaster(FasterRCNN):
    """Faster R-CNN with few regions."""

    proposal_rules = replace(FasterRCNN.proposal_rules, before=100, before_test=100, after=40)
    region_rules = replace(FasterRCNN.region_rules, sampled=32)


class SmallOriented(OrientedRCNN):
    """Oriented R-CNN with few regions."""

    proposal_rules = replace(OrientedRCNN.proposal_rules, before=100, before_test=100, after=40)
    region_rules = replace(OrientedRCNN.region_rules, sampled=32)


@pytest.fixture(autouse=True)
def small_heads(monkeypatch: pytest.MonkeyPatch) -> None:
    """The detectors of every fine-tuning in the test look at few regions."""
    monkeypatch.setitem(boxes_model.KINDS, "detect", SmallFaster)
    monkeypatch.setitem(boxes_model.KINDS, "oriented", SmallOriented)


def write_scene(folder: Path, id: str, seed: int, size: tuple[int, int] = (64, 64), objects: int = 2) -> None:
    """images/ID.png of (height, width) with bars of the two classes, and labelTxt/ID.txt."""
    rng = np.random.default_rng(seed)
    (folder / "images").mkdir(parents=True, exist_ok=True)
    (folder / "labelTxt").mkdir(exist_ok=True)
    image = Image.fromarray(rng.normal(90, 12, (*size, 3)).clip(0, 255).astype(np.uint8))
    lines = []
    for number in range(objects):
        name = list(COLOURS)[int(rng.integers(2))]
        cell = size[1] / objects
        centre = (cell * (number + 0.5), size[0] * rng.uniform(0.35, 0.65))
        box = torch.tensor([*centre, cell * 0.6, cell * 0.35, rng.uniform(-1.5, 1.5)], dtype=torch.float64)
        quad = rotated.corners(box).tolist()
        ImageDraw.Draw(image).polygon([(x, y) for x, y in quad], fill=COLOURS[name])
        lines.append(" ".join([*(f"{v:.2f}" for point in quad for v in point), name, "0"]))
    image.save(folder / "images" / f"{id}.png")
    (folder / "labelTxt" / f"{id}.txt").write_text("".join(f"{line}\n" for line in lines))


def write_world(root: Path, train: int = 4, test: int = 2, size: tuple[int, int] = (64, 64)) -> Path:
    """train/ and test/ with images and labelTxt, and classes.txt."""
    for part, count in (("train", train), ("test", test)):
        for i in range(count):
            write_scene(root / part, f"{part}_{i}", i + 100 * (part == "test"), size)
    (root / "classes.txt").write_text("plane\nship\n")
    return root


def fine_tune(task: Any, data: Path, out: Path, resume: bool = False, **settings: Any) -> DetectResult:
    """A fine-tuning of seconds."""
    config = CONFIGS[task].build(SETTINGS, {"data": str(data), "out": str(out)}, settings)
    return finetune_boxes(task, config, resume=resume, quiet=True)
