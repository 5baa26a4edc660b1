"""Figures for upright boxes: COCO AP (the published "mAP50" of DIOR) and both VOC definitions."""

import contextlib
import io
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from faster_coco_eval import COCO, COCOeval_faster

from selectivemae.ops import boxes as ops
from selectivemae.tasks.average_precision import (
    AveragePrecision,
    Difficult,
    average_precision,
    check_predictions,
)
from selectivemae.tasks.boxes_common import Array, BoxSet, Detections
from selectivemae.tasks.detect.data import to_coco, to_results

MAX_DETECTIONS = 1000  # a class and image, as in the published evaluation; the detector itself gives at most 100


@dataclass(frozen=True)
class CocoFigures:
    """COCO AP in [0, 1], NaN without objects: mean over IoU 0.5:0.05:0.95, at 0.5, at 0.75, and by class.

    ``precision50`` (classes, 101) is the precision envelope at recalls 0, 0.01, …, 1 for IoU 0.5.
    """

    map: float
    map50: float
    map75: float
    class_ap: dict[str, float]
    class_ap50: dict[str, float]
    precision50: Array


def coco_figures(truth: BoxSet, predictions: Mapping[str, Detections], crowds: Difficult = "keep") -> CocoFigures:
    """COCO AP of detections by image id (a missing image has none).

    ``crowds="ignore"`` treats objects marked difficult as COCO treats crowds. Raises DataError for predictions that
    do not belong to ``truth``.
    """
    check_predictions(truth, predictions, sides=4)
    document, results = to_coco(truth), to_results(truth, predictions)
    if crowds == "keep":
        for annotation in document["annotations"]:
            annotation["iscrowd"] = 0
    with contextlib.redirect_stdout(io.StringIO()):
        reference = COCO(document)
        evaluation = COCOeval_faster(
            reference, reference.loadRes(results) if results else COCO(_none_of(document)), "bbox"
        )
        evaluation.params.maxDets = [1, 100, MAX_DETECTIONS]
        evaluation.evaluate()
        evaluation.accumulate()
    precision = np.asarray(evaluation.eval["precision"])[:, :, :, 0, -1]  # (IoU, recall, class)
    precision = np.where(precision < 0, np.nan, precision)
    by_class = precision.mean(axis=1)  # (IoU, class)
    return CocoFigures(
        map=_mean(by_class),
        map50=_mean(by_class[0]),
        map75=_mean(by_class[5]),
        class_ap=dict(zip(truth.classes, by_class.mean(axis=0).tolist(), strict=True)),
        class_ap50=dict(zip(truth.classes, by_class[0].tolist(), strict=True)),
        precision50=precision[0].T,
    )


def voc_figures(
    truth: BoxSet, predictions: Mapping[str, Detections], threshold: float = 0.5, difficult: Difficult = "ignore"
) -> AveragePrecision:
    """VOC AP (11-point and area, by class, with curves) of detections by image id, at one IoU threshold."""
    return average_precision(truth, predictions, _overlap, 4, threshold, difficult)


def _overlap(a: Array, b: Array) -> Array:
    return ops.iou(torch.from_numpy(a), torch.from_numpy(b)).numpy()


def _none_of(document: dict) -> dict:
    return {**document, "annotations": []}


def _mean(values: Array) -> float:
    return float(np.nanmean(values)) if (~np.isnan(values)).any() else float("nan")
