"""What the loader hands to the engine: a batch of images and a position in the stream."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor


@dataclass(frozen=True, order=True)
class Position:
    """Where the stream of samples stands: the whole of its state.

    ``consumed`` counts the samples of ``epoch``'s order that were handed out by all processes together.
    """

    epoch: int = 0
    consumed: int = 0


@dataclass
class Batch:
    """One process's part of a global batch; B is its number of samples.

    A sample that could not be decoded is black and has weight 0, so shapes never change and its neighbours are
    untouched; the loader reports it by id and reason.
    """

    images: Tensor  # (B, C, H, W) uint8
    index: Tensor  # (B,) int64, place in the sorted list of all samples; stays on the CPU, it is for records
    key: Tensor  # (B,) int64, noise key of (seed, epoch, sample)
    weight: Tensor  # (B,) float32, weight of the sample's loss: 0 unusable, 1 plain, 1 / (1 - ratio) kept by pruning
    targets: Any = None  # labels, boxes, masks: the task's own type


class Stream(Protocol):
    """Order -> decoded batches on the device, from any position, for ever (it wraps into the next epoch)."""

    def batches(self, start: Position) -> Iterator[tuple[Batch, Position]]:
        """Yield (batch, position after it); every batch has the same size, the last of an epoch is filled up
        with the first samples of the next."""
        ...
