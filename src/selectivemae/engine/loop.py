"""The training loop: batches in, steps out, hooks beside.

for batch, position in stream:  rate -> step (in micro-batches) -> clip -> optimizer -> hooks
"""

import logging
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from selectivemae.core.errors import ElsewhereError, Interrupted, TrainingError
from selectivemae.data.batch import Batch, Stream
from selectivemae.data.ledger import step_sum
from selectivemae.distributed.each_step import gather_outcome
from selectivemae.distributed.gather import gather_numbers
from selectivemae.distributed.group import Group
from selectivemae.engine.accord import Accord, Post
from selectivemae.engine.memory import begin_again, no_memory, out_of_memory, would_fit
from selectivemae.engine.optim import AnySchedule, Budget, set_lr
from selectivemae.engine.parallel import parallel
from selectivemae.engine.precision import autocast
from selectivemae.engine.signals import StopSignal
from selectivemae.engine.state import Hook, Objective, RunState

log = logging.getLogger("selectivemae")


@dataclass(frozen=True)
class FitConfig:
    """What the loop needs to know beside objective, stream and hooks."""

    budget: Budget
    schedule: AnySchedule
    batch_size: int
    micro_batch: int
    device: torch.device
    precision: str
    clip_grad: float | None = 1.0
    gradient_precision: str = "fp32"  # in which gradients travel between processes: fp32 or bf16


def split(batch: Batch, size: int) -> list[Batch]:
    """A batch in parts of at most ``size`` samples."""
    if len(batch.index) <= size:
        return [batch]
    fields = (batch.images, batch.index, batch.key, batch.weight)
    parts = zip(*(f.split(size) for f in fields), strict=True)
    targets = batch.targets.split(size) if batch.targets is not None else None
    return [Batch(*part, targets=targets[i] if targets is not None else None) for i, part in enumerate(parts)]


class Trainer:
    """One optimizer step at a time, for any objective, on this process's part of the global batch.

    ConfigError when the batch cannot be divided among the processes of ``group``.
    """

    def __init__(
        self, objective: Objective, optimizer: torch.optim.Optimizer, config: FitConfig, group: Group | None = None
    ) -> None:
        self.objective = objective
        self.group = group or Group.single(config.device)
        self.share = self.group.share(config.batch_size, "--batch-size")  # torch averages over processes
        self.parallel = parallel(objective, self.group, config.gradient_precision == "bf16")
        self.optimizer = optimizer
        self.config = config
        self.micro_batch = config.micro_batch
        self.parameters = [p for group in optimizer.param_groups for p in group["params"]]
        # Whether images know of each other: batch norm, over all processes, in the middle of a step.
        self.coupled = any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in objective.model.modules())

    def step(self, batch: Batch, state: RunState) -> None:
        """Forward, backward and update for one batch; notes the outcome of the global batch in ``state``.

        When the memory of a device does not suffice the micro-batch is halved, by all, and the step begins again.
        """
        asked = self.micro_batch
        while (done := self._try(batch, state.progress)) is None:
            if self.micro_batch == 1:
                raise no_memory(self.config.device, 1)
            self.micro_batch = (self.micro_batch + 1) // 2
            begin_again(self.config.device)
        if self.micro_batch < asked:
            log.warning(
                "not enough memory on %s for %d images at a time: going on with %d, %s%s",
                self.config.device,
                asked,
                self.micro_batch,
                "which is all that batch norm sees at a time" if self.coupled else "the same training",
                would_fit(self.config.device, min(self.micro_batch, self.share)),
            )
        loss, weight = self._outcome(batch, *done, state)
        clip = self.config.clip_grad or float("inf")
        norm = torch.nn.utils.clip_grad_norm_(self.parameters, clip, foreach=True)
        if hasattr(norm, "full_tensor"):  # of a sharded model
            norm = norm.full_tensor()  # pyright: ignore[reportAttributeAccessIssue]
        usable = torch.where(weight > 0, loss, 0.0)
        finite = torch.isfinite(norm) & torch.isfinite(usable.sum())
        # A fused optimizer leaves parameters and state alone where this is 1, with no look from the host.
        self.optimizer.found_inf = (~finite).float()  # pyright: ignore[reportAttributeAccessIssue]
        self.optimizer.step()
        state.grad_norm, state.finite = norm, finite

    def _outcome(
        self, batch: Batch, loss: Tensor, scalars: dict[str, Tensor], state: RunState
    ) -> tuple[Tensor, Tensor]:
        """Note what the step was made of, from all processes; losses and weights of the global batch."""
        mine = step_sum(state.step + 1, batch.index.numpy())
        if self.group.world == 1:
            state.index, state.loss, state.weight, state.scalars = batch.index, loss, batch.weight, scalars
            state.ledger.add([mine])
            return loss, batch.weight
        index, losses, weight, sums, means = gather_outcome(self.group, batch.index, loss, batch.weight, mine, scalars)
        state.index, state.loss, state.weight, state.scalars = index, losses, weight, means
        state.ledger.add(sums)
        return losses, weight

    def _try(self, batch: Batch, progress: float) -> tuple[Tensor, dict[str, Tensor]] | None:
        """``_gradients``, or None when the memory of any process did not suffice; what it had taken is free again by
        then. Memory that suffices once suffices for all steps of the same shape."""
        done, enough = None, True
        try:
            done = self._gradients(batch, progress)
        except RuntimeError as e:
            if not out_of_memory(e):
                raise
            enough = False
        if not enough and self.group.world > 1 and (self.coupled or not self.parallel.trial):
            raise no_memory(self.config.device, self.micro_batch, f"process {self.group.rank} of {self.group.world}")
        if self.parallel.trial:
            enough = all(gather_numbers(self.group, int(enough)))
            if enough:
                self.parallel.settle(-(-len(batch.index) // self.micro_batch))
        return done if enough else None

    def _gradients(self, batch: Batch, progress: float) -> tuple[Tensor, dict[str, Tensor]]:
        self.optimizer.zero_grad(set_to_none=True)
        losses: list[Tensor] = []
        scalars: dict[str, Tensor] = {}
        parts = split(batch, self.micro_batch)
        for number, part in enumerate(parts, 1):
            self.group.beat.passed()
            with autocast(self.config.precision, self.config.device):
                out = self.parallel.forward(part, progress, number == len(parts))
            self.group.beat.passed()
            # A sample that could not be read is black and has weight 0: it adds nothing.
            ((out.loss * part.weight).sum() / self.share).backward()
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
    group: Group | None = None,
    post: Post | None = None,
) -> RunState:
    """Train from ``state`` until the budget is spent; ``count(epoch)`` is the number of samples of an epoch.

    Every process of ``group`` calls it with its part of the stream and the same settings; hooks see the outcome of the
    whole global batch on all of them, and those that write are given to process 0 alone. ``post`` brings it the others'
    reports of samples. Raises Interrupted after SIGINT or SIGTERM to any of them, with every hook closed (so the state
    is saved); what process 0 says is an ElsewhereError on the others.
    """
    trainer = Trainer(objective, optimizer, config, group)
    group = trainer.group
    objective.model.train()
    # Of a resumed run the length may be another one now.
    state.progress = config.budget.progress(state.epochs, state.samples, state.elapsed)
    batches = stream.batches(state.position)
    with StopSignal() as stop, ExitStack() as ends:  # signals are noted until the state is saved
        for hook in reversed(hooks):
            ends.callback(hook.close, state)
        ends.callback(batches.close)  # pyright: ignore[reportAttributeAccessIssue]
        began, before = time.monotonic(), state.elapsed
        accord = Accord(group, stop, post, before)
        state.together = group.world == 1
        while state.progress < 1.0 and not accord.stopped():
            group.beat.at(state.step + 1, "waiting for data")
            batch, position = next(batches)
            group.beat.at(state.step + 1, "training")
            state.whole = False
            state.lr = set_lr(optimizer, config.schedule, state.progress)
            trainer.step(batch, state)
            state.step += 1
            state.position = position
            state.samples += config.batch_size
            state.elapsed = accord.clock(before + time.monotonic() - began)
            # The order of an epoch that has not begun is not asked for: it may depend on losses not yet booked.
            share = position.consumed / count(position.epoch) if position.consumed else 0.0
            state.epochs = position.epoch + share
            state.progress = config.budget.progress(state.epochs, state.samples, state.elapsed)
            state.whole = True
            if state.progress >= 1.0:
                accord.finish()  # what others have to report belongs into the last records
            group.beat.at(state.step, "records")
            _after_step(hooks, state, group)
        accord.finish()
        state.together = True
        state.finished = state.progress >= 1.0
        if not state.finished:
            code = 128 + (accord.signal or 0)
            if not group.is_main:
                raise ElsewhereError(code)
            raise Interrupted(f"stopped after step {state.step}; continue with --resume", code)
    return state


def _after_step(hooks: Sequence[Hook], state: RunState, group: Group) -> None:
    """The hooks; training that cannot go on ends on all processes alike, and process 0 says why."""
    try:
        for hook in hooks:
            hook.after_step(state)
    except TrainingError as e:
        state.together = True
        raise e if group.is_main else ElsewhereError(e.exit_code) from e
