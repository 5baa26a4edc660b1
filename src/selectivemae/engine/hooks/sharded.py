"""Saves the state of a sharded run: all processes write their part, while training goes on."""

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch.distributed as dist
from torch import nn
from torch.distributed.checkpoint.api import CheckpointException

from selectivemae.core.errors import OutputError, UserError
from selectivemae.core.files import cannot_write
from selectivemae.distributed.gather import barrier, together
from selectivemae.distributed.group import Group
from selectivemae.engine.checkpoint import optimizer_shards, prune_checkpoints, save_sharded
from selectivemae.engine.hooks.checkpoint import CheckpointHook
from selectivemae.engine.sharded import begin_shards, gathered
from selectivemae.engine.state import RunState


class ShardedCheckpointHook(CheckpointHook):
    """A hook of all processes: ``whole`` is a model of process 0 that is not sharded and gets the weights of each
    checkpoint, for what goes beside it. The clock is the one that the processes agree on."""

    def __init__(self, *arguments: Any, group: Group, whole: nn.Module | None, elapsed: float, **more: Any) -> None:
        super().__init__(*arguments, **more)
        self.group, self.whole = group, whole
        self._last_time = elapsed
        self._line = dist.new_group(backend="gloo")
        self._writing: threading.Thread | None = None
        self._error: UserError | None = None

    def clock(self, state: RunState) -> float:
        """The same on all processes."""
        return state.elapsed

    def write(self, state: RunState) -> None:
        """Begin to save; what can go wrong with it is raised by the next call."""
        self._finish()
        step = state.step  # by the time that all is written the run has gone on
        folder = self.root / f".shards-{step:08d}.tmp"
        saved, stream = self.saved(state), {k: v.clone() for k, v in self.stream_tensors().items()}
        weights = gathered(self.model)
        with together(self.group):
            if self.whole is not None:
                self.whole.load_state_dict(weights)
                self.root.mkdir(parents=True, exist_ok=True)
                folder.mkdir(exist_ok=True)
                self.beside(state)
        barrier(self.group)  # the folder is there
        future = begin_shards(folder, optimizer_shards(self.optimizer, self.model), self._line)

        def complete() -> None:
            future.result()
            if self.group.is_main:
                save_sharded(self.root, step, weights, folder, stream, saved, self.metadata)
                prune_checkpoints(self.root, step, self.keep, self.keep_every)

        self._writing = threading.Thread(target=self._guarded, args=(complete, folder), name="checkpoint", daemon=True)
        self._writing.start()
        self._last_time, self._last_step, self._beside_step = self.clock(state), step, step

    def _guarded(self, complete: Callable[[], None], folder: Path) -> None:
        try:
            complete()
        except UserError as e:
            self._error = e
        except OSError as e:
            self._error = cannot_write(e, folder)
        except CheckpointException as e:
            why = next(iter(e.failures.values()))[0]
            self._error = cannot_write(why, folder) if isinstance(why, OSError) else OutputError(f"{folder}: {why}")

    def _finish(self) -> None:
        """Wait until the last checkpoint is there. OutputError, on all processes, when it could not be written."""
        if self._writing is None:
            return
        self._writing.join()
        self._writing = None
        with together(self.group):
            if self._error is not None:
                self._failed = True
                raise self._error

    def close(self, state: RunState) -> None:
        """Save the last whole state, where all processes have come to the end together."""
        if state.together:
            super().close(state)
            self._finish()
