"""The training loop: batches in, steps out, hooks beside.

for batch, position in stream:  rate -> step (in micro-batches) -> clip -> optimizer -> hooks
"""

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import torch
from torch import Tensor

from selectivemae.core.errors import Interrupted, TrainingError
from selectivemae.data.batch import Batch, Stream
from selectivemae.data.ledger import chain, step_sum
from selectivemae.engine.optim import Budget, Schedule, set_lr
from selectivemae.engine.precision import autocast
from selectivemae.engine.signals import StopSignal
from selectivemae.engine.state import Hook, Objective, RunState


@dataclass(frozen=True)
class FitConfig:
    """What the loop needs to know beside objective, stream and hooks."""

    budget: Budget
    schedule: Schedule
    batch_size: int
    micro_batch: int
    device: torch.device
    precision: str
    clip_grad: float | None = 1.0


def split(batch: Batch, size: int) -> list[Batch]:
    """A batch in parts of at most ``size`` samples."""
    if len(batch.index) <= size:
        return [batch]
    fields = (batch.images, batch.index, batch.key, batch.weight)
    parts = zip(*(f.split(size) for f in fields), strict=True)
    targets = batch.targets.split(size) if batch.targets is not None else None
    return [Batch(*part, targets=targets[i] if targets is not None else None) for i, part in enumerate(parts)]


class Trainer:
    """One optimizer step at a time, for any objective."""

    def __init__(self, objective: Objective, optimizer: torch.optim.Optimizer, config: FitConfig) -> None:
        self.objective = objective
        self.optimizer = optimizer
        self.config = config
        self.micro_batch = config.micro_batch
        self.parameters = [p for group in optimizer.param_groups for p in group["params"]]

    def step(self, batch: Batch, state: RunState) -> None:
        """Forward, backward and update for one batch; notes the outcome in ``state``.

        When the device's memory does not suffice the micro-batch is halved and the step begins again.
        """
        while (done := self._try(batch, state.progress)) is None:
            if self.micro_batch == 1:
                raise TrainingError(
                    f"not enough memory on {self.config.device} for one image: use a smaller model or image size"
                )
            self.micro_batch = (self.micro_batch + 1) // 2
            torch.cuda.empty_cache()
        loss, scalars = done
        clip = self.config.clip_grad or float("inf")
        norm = torch.nn.utils.clip_grad_norm_(self.parameters, clip, foreach=True)
        usable = torch.where(batch.weight > 0, loss, 0.0)
        finite = torch.isfinite(norm) & torch.isfinite(usable.sum())
        # A fused optimizer leaves parameters and state alone where this is 1, with no look from the host.
        self.optimizer.found_inf = (~finite).float()  # pyright: ignore[reportAttributeAccessIssue]
        self.optimizer.step()
        state.batch, state.loss, state.scalars = batch, loss, scalars
        state.grad_norm, state.finite = norm, finite

    def _try(self, batch: Batch, progress: float) -> tuple[Tensor, dict[str, Tensor]] | None:
        """``_gradients``, or None when the memory did not suffice; what it had taken is free again by then."""
        try:
            return self._gradients(batch, progress)
        except torch.OutOfMemoryError:
            return None

    def _gradients(self, batch: Batch, progress: float) -> tuple[Tensor, dict[str, Tensor]]:
        self.optimizer.zero_grad(set_to_none=True)
        losses: list[Tensor] = []
        scalars: dict[str, Tensor] = {}
        for part in split(batch, self.micro_batch):
            with autocast(self.config.precision, self.config.device):
                out = self.objective.step(part, progress)
            # A sample that could not be read is black and has weight 0: it adds nothing.
            ((out.loss * part.weight).sum() / self.config.batch_size).backward()
            losses.append(out.loss.detach())
            for name, value in out.scalars.items():
                scalars[name] = scalars.get(name, 0.0) + value.detach() * (len(part.index) / len(batch.index))
        return torch.cat(losses), scalars


def fit(
    objective: Objective,
    optimizer: torch.optim.Optimizer,
    stream: Stream,
    config: FitConfig,
    hooks: Sequence[Hook],
    state: RunState,
    count: Callable[[int], int],
) -> RunState:
    """Train from ``state`` until the budget is spent; ``count(epoch)`` is the number of samples of an epoch.

    Raises Interrupted after SIGINT or SIGTERM, with every hook closed (so the state is saved).
    """
    trainer = Trainer(objective, optimizer, config)
    objective.model.train()
    # Of a resumed run the length may be another one now.
    state.progress = config.budget.progress(state.epochs, state.samples, state.elapsed)
    batches = stream.batches(state.position)
    with StopSignal() as stop, ExitStack() as ends:  # signals are noted until the state is saved
        for hook in reversed(hooks):
            ends.callback(hook.close, state)
        ends.callback(batches.close)  # pyright: ignore[reportAttributeAccessIssue]
        began, before = time.monotonic(), state.elapsed
        while state.progress < 1.0 and stop.received is None:
            batch, position = next(batches)
            state.whole = False
            state.lr = set_lr(optimizer, config.schedule, state.progress)
            trainer.step(batch, state)
            state.step += 1
            state.position = position
            state.samples += config.batch_size
            state.ledger = chain(state.ledger, step_sum(state.step, batch.index.numpy()))
            state.elapsed = before + time.monotonic() - began
            # The order of an epoch that has not begun is not asked for: it may depend on losses not yet booked.
            share = position.consumed / count(position.epoch) if position.consumed else 0.0
            state.epochs = position.epoch + share
            state.progress = config.budget.progress(state.epochs, state.samples, state.elapsed)
            state.whole = True
            for hook in hooks:
                hook.after_step(state)
        state.finished = state.progress >= 1.0
        if not state.finished:
            raise Interrupted(f"stopped after step {state.step}; continue with --resume", stop.exit_code)
    return state
