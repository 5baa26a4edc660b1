"""Books the losses of samples for pruning.

Every process books those of all: the engine gathers each step's losses with their int64 samples, so the tables are
equal to that of one process (method.md, section 5), and so are the draws that they lead to.
"""

import torch
from torch import Tensor

from selectivemae.data.pruning import PrunedOrder
from selectivemae.engine.state import BaseHook, RunState


class PruneHook(BaseHook):
    """Keeps each step's losses on the device and books them when ``flush`` is called: before a draw, a save, or when
    64 steps have gathered."""

    name = "prune"

    def __init__(self, order: PrunedOrder) -> None:
        self.order = order
        self._pending: list[tuple[Tensor, Tensor, Tensor]] = []

    def after_step(self, state: RunState) -> None:
        """Keep the step's losses."""
        assert state.loss is not None
        assert state.index is not None
        assert state.weight is not None
        self._pending.append((state.index, state.loss, state.weight))
        if len(self._pending) >= 64:
            self.flush()

    def flush(self) -> None:
        """Book what has gathered; samples that could not be read or whose loss is no number keep the one they had."""
        pending, self._pending = self._pending, []
        if not pending:
            return
        index = torch.cat([i for i, _, _ in pending]).cpu().numpy()
        loss = torch.cat([loss for _, loss, _ in pending]).float().cpu().numpy()
        weight = torch.cat([w for _, _, w in pending]).cpu().numpy()
        good = (weight > 0) & (loss < float("inf"))
        self.order.record(index[good], loss[good])

    def stream_tensors(self) -> dict[str, Tensor]:
        """The order's arrays, for a checkpoint."""
        self.flush()
        return {k: torch.from_numpy(v) for k, v in self.order.saved().items()}
