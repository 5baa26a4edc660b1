"""Figures of segmentation over a whole set, never means of images (downstream.md, E.10).

Shapes: H x W image, K classes.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from selectivemae.core.errors import DataError
from selectivemae.core.order import Int64
from selectivemae.tasks.segment.classes import IGNORED

UInt8 = NDArray[np.uint8]
TOLERANCE = 3  # pixels within which boundaries agree
_STRIP = 1 << 23  # numbers at a time


@dataclass
class Tally:
    """Counts over all images so far: the confusion matrix (rows the label, columns the prediction), and how many
    boundary pixels of each class there are, and of them near one of the other side."""

    classes: int
    confusion: Int64 = field(init=False)  # (K, K)
    boundary: Int64 = field(
        init=False
    )  # (K, 4): predicted, of them near a true one, true, of them near a predicted one
    images: int = 0

    def __post_init__(self) -> None:
        self.confusion = np.zeros((self.classes, self.classes), np.int64)
        self.boundary = np.zeros((self.classes, 4), np.int64)

    def add(self, predicted: Tensor, label: Tensor) -> None:
        """Count an image: class numbers (H, W) on one device; pixels labelled ``IGNORED`` do not count."""
        for true, said in zip(*(values.split(_lines(label.shape[1], 1)) for values in (label, predicted)), strict=True):
            valid = true != IGNORED
            pairs = true[valid].long() * self.classes + said[valid].long()
            counts = torch.bincount(pairs, minlength=self.classes**2)
            self.confusion += counts.reshape(self.classes, self.classes).cpu().numpy()
        self.boundary += boundary_counts(predicted, label, self.classes, TOLERANCE).cpu().numpy()
        self.images += 1


def boundary_counts(predicted: Tensor, label: Tensor, classes: int, tolerance: int) -> Tensor:
    """(K, 4) counts of boundary pixels: predicted, of them within ``tolerance`` of a true one, true, of them within
    ``tolerance`` of a predicted one; distance is the larger of rows and columns.

    A pixel is on a class's boundary when it is of the class and its right or lower neighbour is not, or the other way
    round. What touches ignored pixels, whose class nobody knows, is no boundary. Large images are counted in strips.
    """
    height, width = label.shape
    lines = _lines(width, 2 * classes)
    total = torch.zeros((classes, 4), dtype=torch.int64, device=label.device)
    for top in range(0, height, lines):
        low, high = max(top - tolerance, 0), min(top + lines + tolerance + 1, height)
        mine, true, near_mine, near_true = _near_boundaries(predicted[low:high], label[low:high], classes, tolerance)
        counted = torch.stack([mine, mine & near_true, true, true & near_mine], dim=-1)
        total += counted[:, top - low : top - low + lines].sum((1, 2))
    return total


def _lines(width: int, planes: int) -> int:
    """Rows of a strip of an image on which ``planes`` planes of numbers take bounded memory."""
    return max(_STRIP // max(width * planes, 1), 64)


def _near_boundaries(predicted: Tensor, label: Tensor, classes: int, tolerance: int) -> list[Tensor]:
    """Boundary pixels (K, H, W) predicted and true, and what is near the predicted and near the true ones."""
    valid = label != IGNORED
    masks = torch.stack([_boundaries(values, valid, classes) for values in (predicted, label)])  # (2, K, H, W)
    side = 2 * tolerance + 1  # a square is a column of rows
    rows = F.max_pool2d(masks.float(), (1, side), stride=1, padding=(0, tolerance))
    near = F.max_pool2d(rows, (side, 1), stride=1, padding=(tolerance, 0)) > 0
    return [*masks, *near]


def _boundaries(values: Tensor, valid: Tensor, classes: int) -> Tensor:
    """Boundary pixels (K, H, W) of class numbers (H, W)."""
    one = values[None] == torch.arange(classes, device=values.device, dtype=values.dtype)[:, None, None]
    edge = torch.zeros_like(one)
    down = (one[:, 1:] != one[:, :-1]) & (valid[1:] & valid[:-1])
    right = (one[:, :, 1:] != one[:, :, :-1]) & (valid[:, 1:] & valid[:, :-1])
    edge[:, :-1] |= down
    edge[:, :, :-1] |= right
    return edge


@dataclass(frozen=True)
class Figures:
    """What a segmenter is worth on a set of images; shares in percent, None for a class that is nowhere."""

    miou: float
    mf1: float
    macc: float
    aacc: float  # pixels that are right
    boundary_f1: float | None  # mean over the classes that have a boundary
    images: int
    unreadable: int
    classes: tuple[str, ...]
    iou: tuple[float | None, ...]
    f1: tuple[float | None, ...]
    boundary: tuple[float | None, ...]
    pixels: tuple[int, ...]  # of each class, by the labels
    confusion: Int64  # (K, K): rows the label, columns the prediction

    def as_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "miou": self.miou,
            "mf1": self.mf1,
            "macc": self.macc,
            "aacc": self.aacc,
            "boundary_f1": self.boundary_f1,
            "boundary_tolerance_px": TOLERANCE,
            "images": self.images,
            "unreadable": self.unreadable,
            "iou": dict(zip(self.classes, self.iou, strict=True)),
            "f1": dict(zip(self.classes, self.f1, strict=True)),
            "boundary": dict(zip(self.classes, self.boundary, strict=True)),
            "pixels": dict(zip(self.classes, self.pixels, strict=True)),
            "confusion": self.confusion.tolist(),
        }

    def as_text(self) -> str:
        """The figures for people."""
        edge = f", boundary F1 {self.boundary_f1:.2f} %" if self.boundary_f1 is not None else ""
        means = f"mIoU {self.miou:.2f} %, mF1 {self.mf1:.2f} %, pixel accuracy {self.aacc:.2f} %"
        lines = [f"{means}{edge}, {self.images} images"]
        each = [
            f"{name} {share:.1f} %" for name, share in zip(self.classes, self.iou, strict=True) if share is not None
        ]
        lines.append("IoU: " + ", ".join(each))
        if self.unreadable:
            lines.append(f"{self.unreadable} images could not be read and are not in these figures")
        return "\n".join(lines)


def figures(tally: Tally, classes: Sequence[str], unreadable: int = 0) -> Figures:
    """Figures of a whole set. DataError when no pixel of it says anything."""
    confusion = tally.confusion
    if not confusion.sum():
        raise DataError("there is no labelled pixel to evaluate")
    right, said, true = confusion.diagonal(), confusion.sum(axis=0), confusion.sum(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        iou = right / (said + true - right)
        f1 = 2 * right / (said + true)
        accuracy = right / true
        near = tally.boundary.astype(np.float64)
        precision, recall = near[:, 1] / near[:, 0], near[:, 3] / near[:, 2]
        edge = np.where(precision + recall > 0, 2 * precision * recall / (precision + recall), precision + recall)
        # Predicted or true alone: nothing agrees. Neither: the class has no boundary.
        edge = np.where((near[:, 0] == 0) ^ (near[:, 2] == 0), 0.0, edge)
    return Figures(
        miou=100 * float(np.nanmean(iou)),
        mf1=100 * float(np.nanmean(f1)),
        macc=100 * float(np.nanmean(accuracy)),
        aacc=100 * float(right.sum() / confusion.sum()),
        boundary_f1=None if np.isnan(edge).all() else 100 * float(np.nanmean(edge)),
        images=tally.images,
        unreadable=unreadable,
        classes=tuple(classes),
        iou=_percent(iou),
        f1=_percent(f1),
        boundary=_percent(edge),
        pixels=tuple(true.tolist()),
        confusion=confusion,
    )


def majority_miou(confusion: Int64) -> float:
    """mIoU in percent of calling every pixel the most frequent class of the labels."""
    true = confusion.sum(axis=1)
    there = true > 0
    return 100 * float(true.max() / true.sum()) / int(there.sum())


def _percent(shares: NDArray[np.float64]) -> tuple[float | None, ...]:
    return tuple(None if math.isnan(share) else 100 * share for share in shares.tolist())
