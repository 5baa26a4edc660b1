"""AdamW, parameter groups, the learning-rate schedule and the budget of a run."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import nn

from selectivemae.core.errors import ConfigError


def decay_groups(named: Iterable[tuple[str, nn.Parameter]], weight_decay: float) -> list[dict]:
    """Two groups: matrices with weight decay; biases, norms and other 1-D parameters, and tokens, without."""
    decayed, plain = [], []
    for name, parameter in named:
        if parameter.requires_grad:
            small = parameter.ndim <= 1 or name.endswith(("cls_token", "mask_token"))
            (plain if small else decayed).append(parameter)
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": plain, "weight_decay": 0.0}]


def adamw(groups: list[dict], betas: tuple[float, float], eps: float = 1e-8) -> torch.optim.AdamW:
    """Fused AdamW; a non-finite step is skipped on the device by its ``found_inf``, without a synchronisation."""
    return torch.optim.AdamW(groups, lr=0.0, betas=betas, eps=eps, fused=True)


@dataclass(frozen=True)
class Budget:
    """How long a run lasts: exactly one of epochs, samples seen, or minutes of training."""

    epochs: float | None = None
    samples: int | None = None
    minutes: float | None = None

    def __post_init__(self) -> None:
        given = [v for v in (self.epochs, self.samples, self.minutes) if v is not None]
        if len(given) != 1:
            raise ConfigError("give exactly one of --epochs, --samples-seen, --minutes")
        if given[0] <= 0:
            raise ConfigError(f"the length of training must be above 0, got {given[0]}")

    def progress(self, epochs: float, samples: int, elapsed: float) -> float:
        """Share of training done, in [0, 1]."""
        if self.epochs is not None:
            done = epochs / self.epochs
        elif self.samples is not None:
            done = samples / self.samples
        else:
            done = elapsed / (60 * (self.minutes or 1))
        return min(done, 1.0)

    def total_epochs(self, count: int) -> float | None:
        """Length in epochs of ``count`` samples; None when only the clock knows."""
        if self.epochs is not None:
            return self.epochs
        return self.samples / count if self.samples is not None else None


@dataclass(frozen=True)
class Schedule:
    """Linear warm-up over a share of training, then half a cosine down to ``min_lr``, per step."""

    lr: float
    min_lr: float = 0.0
    warmup: float = 0.05

    def at(self, progress: float) -> float:
        """Learning rate at ``progress`` in [0, 1]."""
        if progress < self.warmup:
            return self.lr * progress / self.warmup
        rest = (progress - self.warmup) / max(1.0 - self.warmup, 1e-9)
        return self.min_lr + (self.lr - self.min_lr) * 0.5 * (1 + math.cos(math.pi * min(rest, 1.0)))


@dataclass(frozen=True)
class StepSchedule:
    """Linear warm-up from ``start`` times the rate over a share of training, then the rate, multiplied by ``factor``
    at each of ``milestones`` (shares of training)."""

    lr: float
    milestones: tuple[float, ...]
    factor: float = 0.1
    warmup: float = 0.0
    start: float = 1e-6

    def at(self, progress: float) -> float:
        """Learning rate at ``progress`` in [0, 1]."""
        lr = self.lr * self.factor ** sum(progress >= m - 1e-9 for m in self.milestones)
        share = progress / self.warmup if progress < self.warmup else 1.0
        return lr * (self.start + (1 - self.start) * share)


AnySchedule = Schedule | StepSchedule


def set_lr(optimizer: torch.optim.Optimizer, schedule: AnySchedule, progress: float) -> float:
    """Set every group's rate, each times its ``lr_scale`` (layer decay); returns the unscaled rate."""
    lr = schedule.at(progress)
    for group in optimizer.param_groups:
        group["lr"] = lr * group.get("lr_scale", 1.0)
    return lr
