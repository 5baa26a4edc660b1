"""The published implementation's training step, to measure beside: taken from a checkout that the user names."""

import sys
import time
import warnings
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import torch

from selectivemae.engine.measure import synchronise
from selectivemae.engine.precision import autocast
from selectivemae.models._torchvision import ensure_torchvision

SIZES = {"vit_small_patch16": "mae_vit_small_patch16", "vit_base_patch16": "mae_vit_base_patch16",
         "vit_large_patch16": "mae_vit_large_patch16"}  # fmt: skip


def clock(device: torch.device) -> float:
    """Seconds: on a CPU those in which this process computed (other programs on it do not count), else the clock's."""
    synchronise(device)
    return time.process_time() if device.type == "cpu" else time.perf_counter()


def reference_model(path: Path, model: str, decoder_depth: int, device: torch.device) -> torch.nn.Module:
    """The published SelectiveMAE with the settings that its main program gives it, in its first (near) phase.

    ``path`` is a checkout of github.com/MiliLab/SelectiveMAE, 224 pixels, mask ratio 0.85.
    """
    ensure_torchvision()
    folder = path / "SelectiveMAE"
    if not (folder / "models_selectivemae.py").is_file():
        raise SystemExit(f"{path} is no checkout of the reference: {folder / 'models_selectivemae.py'} is missing")
    sys.path.insert(0, str(folder))
    try:
        models, select = import_module("models_selectivemae"), import_module("token_selected_smooth")
    finally:
        sys.path.remove(str(folder))
    made = getattr(models, SIZES[model])(norm_pix_loss=True, decoder_depth=decoder_depth)
    made.token_select = select.TokenSelect_smooth(
        expansion_step=[0, 280, 300, 580, 600],
        keep_rate=[1 - 0.85] * 5,
        initialization_keep_rate=(1 - 0.85) / 2,
        expansion_multiple_stage=2,
        smooth_scale_epoch=20,
    )
    made.token_select.update_current_stage(0)
    return made.to(device)


def reference_step(model: torch.nn.Module, images: torch.Tensor, precision: str) -> Callable[[], float]:
    """A call that makes one step of the published loop on normalised ``images`` and returns its ``clock`` seconds.

    Its AdamW, loss scaler, clipping and a look at the loss in every step. ``precision``: ``own`` is what it does by
    itself (fp16 on a GPU, fp32 on a CPU); ``bf16`` is bf16 around it on a CPU, its HOG left in fp32 (it fails in bf16).
    """
    device = images.device
    matrices = [p for p in model.parameters() if p.requires_grad and p.ndim > 1]
    others = [p for p in model.parameters() if p.requires_grad and p.ndim <= 1]
    groups = [{"params": others, "weight_decay": 0.0}, {"params": matrices, "weight_decay": 0.05}]
    optimizer = torch.optim.AdamW(groups, lr=1e-4, betas=(0.9, 0.95))
    scaler = torch.amp.GradScaler(device.type, enabled=device.type == "cuda")
    if precision == "bf16":
        model.hog.forward = torch.autocast(device.type, enabled=False)(model.hog.forward)  # pyright: ignore

    def once() -> float:
        began = clock(device)
        with warnings.catch_warnings(), autocast(precision, device):
            warnings.simplefilter("ignore")  # it asks for CUDA's autocast by an old name, also on a CPU
            loss = model(images, mask_ratio=0.85, kept_mask_ratio=0.25).mean()
        loss.item()
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
        return clock(device) - began

    return once
