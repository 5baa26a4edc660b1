"""Saves the state of a run now and then, and when it ends."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from selectivemae.core.errors import OutputError
from selectivemae.engine.checkpoint import optimizer_tensors, prune_checkpoints, save_checkpoint
from selectivemae.engine.state import BaseHook, Hook, RunState


class CheckpointHook(BaseHook):
    """A checkpoint every ``minutes`` of training or every ``steps`` steps, and at the end, however it comes.

    ``beside`` is called after each with the state, to write what goes with it (the encoder's own file);
    ``saved_step`` is that of the checkpoint from which a run goes on.
    """

    name = "checkpoint"

    def __init__(
        self,
        root: Path,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        hooks: Sequence[Hook],
        *,
        minutes: float,
        steps: int | None,
        keep: int,
        keep_every: int,
        identity: dict,
        metadata: dict[str, str],
        stream_tensors: Callable[[], dict[str, Tensor]],
        beside: Callable[[RunState], None],
        saved_step: int | None = None,
    ) -> None:
        self.root, self.model, self.optimizer, self.hooks = root, model, optimizer, hooks
        self.minutes, self.steps, self.keep, self.keep_every = minutes, steps, keep, keep_every
        self.identity, self.metadata = identity, metadata
        self.stream_tensors, self.beside = stream_tensors, beside
        self._last_time = time.monotonic()
        self._last_step = saved_step
        self._beside_step: int | None = None  # a kill may have come between a checkpoint and what lies beside it
        self._failed = False

    def after_step(self, state: RunState) -> None:
        """Save when it is time."""
        by_steps = self.steps is not None and state.step % self.steps == 0
        by_keep = self.keep_every > 0 and state.step % self.keep_every == 0
        if by_steps or by_keep or self.clock(state) - self._last_time >= 60 * self.minutes:
            self.write(state)

    def clock(self, state: RunState) -> float:
        """Seconds, from any beginning."""
        return time.monotonic()

    def saved(self, state: RunState) -> dict:
        """What ``state.json`` holds."""
        hooks = {h.name: h.save() for h in self.hooks if h.name}  # pyright: ignore[reportAttributeAccessIssue]
        return state.saved() | {"identity": self.identity, "hooks": hooks}

    def write(self, state: RunState) -> None:
        """Save now. OutputError on a full disk; the checkpoints before it stay whole."""
        saved = self.saved(state)
        tensors = optimizer_tensors(self.optimizer, self.model)
        try:
            save_checkpoint(
                self.root, state.step, self.model.state_dict(), tensors, self.stream_tensors(), saved, self.metadata
            )
            self.beside(state)
        except OutputError:
            self._failed = True
            raise
        prune_checkpoints(self.root, state.step, self.keep, self.keep_every)
        self._last_time, self._last_step, self._beside_step = self.clock(state), state.step, state.step

    def close(self, state: RunState) -> None:
        """Save the last whole state, unless it is saved already or the disk just refused."""
        if not state.whole or self._failed or state.step == 0:
            return
        if state.step != self._last_step:
            self.write(state)
        elif state.step != self._beside_step:
            self.beside(state)
