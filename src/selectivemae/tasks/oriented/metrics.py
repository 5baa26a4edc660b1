"""Figures for rotated boxes: VOC AP by exact polygon IoU (the published "mAP50" of DIOR-R is the 11-point one)."""

from collections.abc import Mapping

import torch

from selectivemae.ops import rotated
from selectivemae.tasks.average_precision import AveragePrecision, Difficult, average_precision
from selectivemae.tasks.boxes_common import Array, BoxSet, Detections


def oriented_figures(
    truth: BoxSet, predictions: Mapping[str, Detections], threshold: float = 0.5, difficult: Difficult = "keep"
) -> AveragePrecision:
    """Oriented AP (11-point and area, by class, with curves) of detections by image id, at one IoU threshold.

    ``difficult="ignore"`` is the rule of the DOTA server; "keep" that of the published DIOR-R figures.
    """
    return average_precision(truth, predictions, _overlap, 5, threshold, difficult)


def _overlap(a: Array, b: Array) -> Array:
    return rotated.iou(torch.from_numpy(a), torch.from_numpy(b)).numpy()
