"""What ``scenes`` asks of a model: three small protocols, met by the predictors of ``tasks`` and by any callable.

Windows are (B, C, S, S) uint8 tensors on the CPU, B at most what was asked for, S = ``size`` and C = ``channels``.
A predictor moves them to its device, normalises them and answers for each; the answer may stay on the device.
"""

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

Boxes = tuple[Tensor, Tensor, Tensor]
"""One window's boxes (N, 4) x1, y1, x2, y2 or (N, 5) cx, cy, w, h, angle in its pixels, scores (N,), classes (N,)."""


class Predictor(Protocol):
    """What all predictors of a fine-tuned run say of themselves."""

    @property
    def task(self) -> str:
        """``classify``, ``segment``, ``detect`` or ``oriented``."""
        ...

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the K classes, in the order of the outputs."""
        ...

    @property
    def channels(self) -> int:
        """Bands of a window, C."""
        ...

    @property
    def size(self) -> int:
        """Side of a window in pixels, S."""
        ...


class ScorePredictor(Predictor, Protocol):
    """``segment`` and ``classify``."""

    def scores(self, images: Tensor) -> Tensor:
        """Windows (B, C, S, S) uint8 to logits float32: (B, K, S, S) of each pixel, or (B, K) of each window."""
        ...


class BoxPredictor(Predictor, Protocol):
    """``detect`` and ``oriented``."""

    def boxes(self, images: Tensor) -> list[Boxes]:
        """Windows (B, C, S, S) uint8 to the boxes of each."""
        ...


class FieldFunction(Protocol):
    """The function of a ``Field``."""

    def __call__(self, images: Tensor, /) -> Tensor: ...


@dataclass(frozen=True)
class Field:
    """A function of windows that gives values on a grid of cells: what is blended into a raster.

    ``run`` takes windows (B, ``channels``, S, S) uint8, S = ``size``, and gives (B, ``bands``, S / ``cell``,
    S / ``cell``) float32 on any device; ``cell`` is the side of a cell in pixels (1: a value for each pixel).
    ``bound`` is the largest absolute value that counts; sums are exact below it (``blend``).
    """

    run: FieldFunction
    channels: int
    size: int
    bands: int
    cell: int = 1
    bound: float = 1.0
