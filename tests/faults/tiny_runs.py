"""Pre-training runs of a few seconds, in this process or in one of their own that may be killed."""

import io
import multiprocessing
import os
from collections.abc import Callable
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file

from selectivemae.core.records import read_metrics
from selectivemae.engine.checkpoint import newest_checkpoint
from selectivemae.models import vit
from selectivemae.models._torchvision import ensure_torchvision
from selectivemae.pretrain import run
from selectivemae.pretrain.config import PretrainConfig
from selectivemae.pretrain.run import RunResult, pretrain

ensure_torchvision()
import timm.models.vision_transformer  # noqa: E402, F401 (models need it; imported once, before processes are forked)

SIZE = (2, 64, 2, 32, 2)  # depth, width, heads | decoder width, heads
SETTINGS: dict[str, Any] = {
    "model": "vit_tiny_patch8", "image_size": 32, "mask_ratio": 0.5, "decoder_depth": 1, "batch_size": 4, "epochs": 5.0,
    "lr": 1e-3, "workers": 0, "precision": "fp32", "device": "cpu", "order": "near-far-random", "richness": "hog",
    "checkpoint_steps": 5,
}  # fmt: skip
STEPS = 25  # of 20 images in batches of 4 over 5 epochs


def write_images(folder: Path, n: int = 20, side: int = 40) -> Path:
    """``n`` small JPEGs, each another picture, in two sub-folders."""
    for number in range(n):
        pixels = np.random.default_rng(number).integers(0, 256, (side // 5, side // 5, 3), dtype=np.uint8)
        file = io.BytesIO()
        Image.fromarray(pixels).resize((side, side), Image.Resampling.BICUBIC).save(file, "JPEG", quality=90)
        path = folder / f"part{number % 2}" / f"{number:03}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(file.getvalue())
    return folder


def train(data: Path, out: Path, resume: bool = False, overwrite: bool = False, **settings: Any) -> RunResult:
    """A run of a model of two narrow blocks (the smallest named one is too slow for tests of many runs)."""
    torch.set_num_threads(1)
    named, pictures = vit.SIZES["tiny"], run.fixed_images
    vit.SIZES["tiny"] = SIZE
    run.fixed_images = lambda *_: None  # no pictures: drawing takes longer than the run
    try:
        config = PretrainConfig.build(SETTINGS, {"data": [str(data)], "out": out}, settings)
        return pretrain(config, resume=resume, overwrite=overwrite, quiet=True)
    finally:
        vit.SIZES["tiny"], run.fixed_images = named, pictures


def start(target: Callable[..., Any], *arguments: Any, **more: Any) -> Any:
    """Call ``target`` in a process of its own, forked from a clean one that has imported everything already."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parent), *([before] if before else [])])
    try:
        forkserver.ensure_running()
    finally:
        if before is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = before
    process = context.Process(target=target, args=arguments, kwargs=more)
    process.start()
    return process


def losses(out: Path) -> dict[int, float]:
    """Loss by step; fails when a step stands there twice."""
    lines = [r for r in read_metrics(out / "metrics.jsonl") if r["kind"] == "train"]
    steps = [r["step"] for r in lines]
    assert len(set(steps)) == len(steps), f"steps twice in {out}: {steps}"
    assert steps == sorted(steps)
    return {r["step"]: float(r["loss"]) for r in lines}


def ledger(out: Path) -> str:
    """The digest of the samples of all steps."""
    return [r["ledger"] for r in read_metrics(out / "metrics.jsonl") if r["kind"] == "train"][-1]


def weights(out: Path) -> dict[str, torch.Tensor]:
    """The weights of a run's newest whole checkpoint."""
    checkpoint, _ = newest_checkpoint(out / "checkpoints")
    assert checkpoint is not None
    return checkpoint.model


def same_weights(a: Path, b: Path) -> bool:
    """Whether two runs ended with the same weights, bit for bit, in checkpoints and encoder files alike."""
    first, second = weights(a), weights(b)
    encoders = load_file(a / "encoder.safetensors"), load_file(b / "encoder.safetensors")
    return first.keys() == second.keys() and all(
        torch.equal(one[k], other[k]) for one, other in ((first, second), encoders) for k in one
    )


def leftovers(out: Path) -> list[str]:
    """Half-written files and folders."""
    return sorted(str(f.relative_to(out)) for f in out.rglob("*.tmp"))
