"""Writes the figures of training to ``metrics.jsonl``."""

from collections.abc import Callable

import torch

from selectivemae.core.records import Metrics
from selectivemae.engine.state import BaseHook, RunState


class RecordHook(BaseHook):
    """One "train" line every ``every`` steps and at the end, with the mean loss since the line before.

    Lines stand at multiples of ``every`` and their window survives a resume, so a run that was interrupted writes the
    same losses as one that was not. Nothing is read from the device between lines.
    """

    name = "records"

    def __init__(self, metrics: Metrics, every: int, more: Callable[[RunState], dict] | None = None) -> None:
        self.metrics = metrics
        self.every = every
        self.more = more
        self.last: dict = {}
        self._sum: torch.Tensor | float = 0.0
        self._count = 0
        self._samples, self._elapsed = 0, 0.0
        self._started = False

    def after_step(self, state: RunState) -> None:
        """Add a step's mean loss to the window; write a line when it is full."""
        assert state.loss is not None
        assert state.weight is not None
        if not self._started:
            # The first window of a session has no earlier line to measure its rate from.
            self._samples, self._elapsed, self._started = state.samples, state.elapsed, True
        weight = state.weight
        usable = torch.where(weight > 0, state.loss, 0.0).sum() / (weight > 0).sum().clamp(min=1)
        self._sum = self._sum + usable
        self._count += 1
        if state.step % self.every and state.progress < 1.0:
            return
        assert state.grad_norm is not None
        assert isinstance(self._sum, torch.Tensor)
        seconds = state.elapsed - self._elapsed
        self.last = state.at() | {
            "progress": round(state.progress, 6),
            "loss": self._sum.item() / self._count,
            "lr": state.lr,
            "grad_norm": state.grad_norm.item(),
            "images_per_s": round((state.samples - self._samples) / seconds, 2) if seconds > 0 else None,
            "ledger": f"{state.ledger.digest:016x}",
        }
        self.last |= {k: v.item() for k, v in state.scalars.items()}
        self.last |= self.more(state) if self.more else {}
        self.metrics.write("train", state.step, **self.last)
        self._sum, self._count = 0.0, 0
        self._samples, self._elapsed = state.samples, state.elapsed

    def save(self) -> dict:
        """The open window."""
        return {"sum": float(self._sum), "count": self._count}

    def restore(self, saved: dict) -> None:
        """Take the open window back."""
        self._sum, self._count = saved["sum"], saved["count"]
