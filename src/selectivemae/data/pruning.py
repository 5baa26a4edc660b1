"""Loss-based pruning (InfoBatch, arXiv 2303.04947; method.md, section 5) as an order of samples.

Each sample keeps its last loss. An epoch's draw skips a share of the samples whose loss is below the mean and weighs
the rest of those up, so that the expected gradient is that of all samples.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from selectivemae.core.errors import CheckpointError
from selectivemae.core.order import Int64, epoch_order, mix, uniform

PLAIN, RAISED, SKIPPED = 0, 1, 2  # what a draw made of a sample: weight 1, weight 1 / (1 - ratio), left out
_DRAW = 0xB1A5


def draw(losses: NDArray[np.float32], ratio: float, seed: int, epoch: int) -> NDArray[np.uint8]:
    """What becomes of each of n samples in an epoch, (n,) uint8, a function of (losses, ratio, seed, epoch) alone.

    Samples without a loss yet (infinite) and those at or above the mean are plain; each of the others is skipped with
    probability ``ratio`` and raised otherwise.
    """
    known = np.isfinite(losses)
    if not known.any():
        return np.zeros(len(losses), np.uint8)
    low = losses < losses[known].mean(dtype=np.float64)
    chance = uniform(mix(seed, epoch, np.arange(len(losses))), _DRAW)
    return np.where(low, np.where(chance < ratio, SKIPPED, RAISED), PLAIN).astype(np.uint8)


class PrunedOrder:
    """The order of a pruned training: ``data.loader.Order``, with a table of losses.

    ``rest(epoch)`` tells whether an epoch keeps everything (the last part of training). Epochs are asked for in
    ascending order, each when the steps before it are done (``barrier``); 5 bytes a sample.
    """

    barrier = True

    def __init__(self, seed: int, n: int, ratio: float, rest: Callable[[int], bool]) -> None:
        self.seed, self.n, self.ratio, self.rest = seed, n, ratio, rest
        self.losses = np.full(n, np.inf, np.float32)
        self.drawn = np.zeros(n, np.uint8)
        self.epoch = -1
        self._kept: NDArray[np.integer] | None = None

    def record(self, index: Int64, losses: NDArray[np.float32]) -> None:
        """Book the losses (B,) of samples (B,)."""
        self.losses[index] = losses

    def _open(self, epoch: int) -> None:
        if epoch <= self.epoch:
            assert epoch == self.epoch, f"epoch {epoch} was asked for after epoch {self.epoch}"
            return
        self.epoch = epoch
        keep_all = self.rest(epoch)
        self.drawn = np.zeros(self.n, np.uint8) if keep_all else draw(self.losses, self.ratio, self.seed, epoch)
        self._find_kept()

    def _find_kept(self) -> None:
        kept = np.flatnonzero(self.drawn != SKIPPED)
        small = kept.astype(np.int32) if self.n < 2**31 else kept
        self._kept = None if len(kept) == self.n else small

    def count(self, epoch: int) -> int:
        """Number of samples that the epoch keeps."""
        self._open(epoch)
        return self.n if self._kept is None else len(self._kept)

    def samples(self, epoch: int, positions: Int64) -> Int64:
        """Sample numbers (B,) at positions (B,) of the epoch's kept order."""
        self._open(epoch)
        if self._kept is None:
            return epoch_order(self.seed, epoch, positions, self.n)
        return self._kept[epoch_order(self.seed, epoch, positions, len(self._kept))].astype(np.int64)

    def weights(self, epoch: int, indices: Int64) -> NDArray[np.float32]:
        """Loss weights (B,) of samples (B,) in the epoch."""
        self._open(epoch)
        return np.where(self.drawn[indices] == RAISED, 1 / (1 - self.ratio), 1.0).astype(np.float32)

    def saved(self) -> dict[str, NDArray]:
        """The arrays that a checkpoint keeps."""
        return {"losses": self.losses, "drawn": self.drawn, "drawn_epoch": np.array([self.epoch], np.int64)}

    def restore(self, saved: dict[str, NDArray]) -> None:
        """Take back what ``saved`` returned. CheckpointError when it is of another number of samples."""
        if len(saved["losses"]) != self.n:
            raise CheckpointError(f"the checkpoint holds losses of {len(saved['losses'])} samples, the data {self.n}")
        self.losses, self.drawn = saved["losses"].copy(), saved["drawn"].copy()
        self.epoch = int(saved["drawn_epoch"][0])
        self._find_kept()
