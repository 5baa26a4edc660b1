"""Average precision as PASCAL VOC defines it, for boxes of any kind: matching, curves and both areas.

Boxes come in as IoU matrices, so upright and rotated detection share every line of this file. Legend: K detections and
G objects of one class in one image, D detections of a class in all images.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from selectivemae.core.errors import DataError
from selectivemae.tasks.boxes_common import Array, BoxSet, Detections, no_detections

Difficult = Literal["keep", "ignore"]
Overlap = Callable[[Array, Array], Array]
TRUE, FALSE, NEITHER = 1, 0, -1
_EPS = 1e-9  # a recall of exactly 0.3 counts as having reached 0.3, whatever the rounding of the sum


@dataclass(frozen=True)
class Curve:
    """Precision and recall (D,) after each detection of a class, best score first; ``positives`` objects to find."""

    recall: Array
    precision: Array
    scores: Array
    positives: int

    @property
    def ap_11_point(self) -> float:
        """Mean of the highest precision at recalls of at least 0, 0.1, …, 1 (VOC 2007); NaN without objects."""
        if not self.positives:
            return float("nan")
        reached = [self.precision[self.recall >= t / 10 - _EPS] for t in range(11)]
        return float(np.mean([p.max() if len(p) else 0.0 for p in reached]))

    @property
    def ap_area(self) -> float:
        """Area under the precision made non-increasing from the right (VOC from 2010 on); NaN without objects."""
        if not self.positives:
            return float("nan")
        envelope = np.maximum.accumulate(self.precision[::-1])[::-1]
        return float((np.diff(self.recall, prepend=0.0) * envelope).sum())


@dataclass(frozen=True)
class AveragePrecision:
    """VOC average precision of every class at one IoU threshold; the means are over classes that have objects."""

    threshold: float
    curves: dict[str, Curve]

    @property
    def map_11_point(self) -> float:
        """Mean over classes of the 11-point AP; NaN when no class has objects."""
        return _mean([c.ap_11_point for c in self.curves.values()])

    @property
    def map_area(self) -> float:
        """Mean over classes of the area AP; NaN when no class has objects."""
        return _mean([c.ap_area for c in self.curves.values()])


def average_precision(
    truth: BoxSet,
    predictions: Mapping[str, Detections],
    overlap: Overlap,
    sides: int,
    threshold: float = 0.5,
    difficult: Difficult = "keep",
) -> AveragePrecision:
    """AP of every class over all images of ``truth``; ``predictions`` go by image id, a missing image has none.

    ``overlap`` gives the IoU (K, G) of boxes. ``difficult="ignore"`` takes difficult objects out of the count and
    detections that match them out of the curve (the DOTA rule). Raises DataError for predictions of unknown images
    or classes.
    """
    check_predictions(truth, predictions, sides)
    verdicts: dict[int, list[tuple[Array, NDArray[np.int64]]]] = {c: [] for c in range(len(truth.classes))}
    positives = np.zeros(len(truth.classes), dtype=np.int64)
    for item in truth:
        found = predictions.get(item.id, no_detections(sides))
        for label in np.union1d(item.labels, found.labels).tolist():
            own, theirs = item.labels == label, found.labels == label
            ignored = item.difficult[own] if difficult == "ignore" else np.zeros(own.sum(), np.bool_)
            positives[label] += (~ignored).sum()
            order = np.argsort(-found.scores[theirs], kind="stable")
            boxes, scores = found.boxes[theirs][order], found.scores[theirs][order]
            verdicts[label].append((scores, match(overlap(boxes, item.boxes[own]), ignored, threshold)))
    curves = {name: curve(verdicts[c], int(positives[c])) for c, name in enumerate(truth.classes)}
    return AveragePrecision(threshold, curves)


def match(iou: Array, ignored: NDArray[np.bool_], threshold: float) -> NDArray[np.int64]:
    """Verdicts (K,) on detections, best first, from their IoU (K, G) with the objects of their class and image.

    Each looks at the one object it overlaps most: TRUE when the IoU reaches ``threshold`` and it is the first there,
    FALSE when it is not the first or overlaps too little, NEITHER when the object is ``ignored`` (G,).
    """
    verdicts = np.full(len(iou), FALSE, dtype=np.int64)
    if not iou.shape[1]:
        return verdicts
    taken = np.zeros(iou.shape[1], np.bool_)
    for k, best in enumerate(iou.argmax(axis=1)):
        if iou[k, best] < threshold:
            continue
        if ignored[best]:
            verdicts[k] = NEITHER
        elif not taken[best]:
            verdicts[k] = TRUE
            taken[best] = True
    return verdicts


def curve(parts: list[tuple[Array, NDArray[np.int64]]], positives: int) -> Curve:
    """The precision-recall curve of a class from (scores, verdicts) of its images; ties keep the order of images."""
    scores = np.concatenate([np.zeros(0), *(s for s, _ in parts)])
    verdicts = np.concatenate([np.zeros(0, np.int64), *(v for _, v in parts)])
    order = np.argsort(-scores, kind="stable")
    order = order[verdicts[order] != NEITHER]
    hits, misses = np.cumsum(verdicts[order] == TRUE), np.cumsum(verdicts[order] == FALSE)
    return Curve(hits / max(positives, 1), hits / np.maximum(hits + misses, 1), scores[order], positives)


def check_predictions(truth: BoxSet, predictions: Mapping[str, Detections], sides: int) -> None:
    """Raise DataError unless all predictions belong to known images and classes and are finite."""
    known = {item.id for item in truth}
    for id, found in predictions.items():
        if id not in known:
            raise DataError(f"predictions for image {id}, which is not in the ground truth; evaluate the same images")
        if found.boxes.shape != (len(found.scores), sides) or len(found.labels) != len(found.scores):
            raise DataError(f"predictions for image {id}: {found.boxes.shape} boxes with {len(found.scores)} scores")
        if not (np.isfinite(found.boxes).all() and np.isfinite(found.scores).all()):
            raise DataError(f"predictions for image {id}: a number is not finite")
        if len(found.labels) and not 0 <= found.labels.min() <= found.labels.max() < len(truth.classes):
            raise DataError(f"predictions for image {id}: a class index beyond the {len(truth.classes)} classes")


def _mean(values: list[float]) -> float:
    present = [v for v in values if not np.isnan(v)]
    return float(np.mean(present)) if present else float("nan")
