"""The order of a training part's samples."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from selectivemae.core.order import Int64, epoch_order


@dataclass(frozen=True)
class TrainingOrder:
    """The training part's samples in every epoch, freshly shuffled.

    With ``drop_last`` an epoch is as many whole batches of ``batch_size`` as there are, its last samples by lot left
    out; a part smaller than one batch is taken whole, and batches then reach into the next epoch.
    """

    index: Int64  # (n,) places in the store
    seed: int
    batch_size: int
    drop_last: bool = True
    barrier: bool = False

    def count(self, epoch: int) -> int:
        """Samples of an epoch."""
        n = len(self.index)
        return n // self.batch_size * self.batch_size if self.drop_last and n >= self.batch_size else n

    def samples(self, epoch: int, positions: Int64) -> Int64:
        """Store places (B,) at positions (B,) of the epoch."""
        return self.index[epoch_order(self.seed, epoch, positions, len(self.index))]

    def weights(self, epoch: int, indices: Int64) -> NDArray[np.float32]:
        """Ones."""
        return np.ones(len(indices), np.float32)
