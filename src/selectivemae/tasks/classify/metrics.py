"""Figures of classification: overall and average accuracy, per class, and the confusion matrix.

Shapes: N images, K classes.
"""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from selectivemae.core.errors import DataError
from selectivemae.core.order import Int64
from selectivemae.core.statistics import wilson
from selectivemae.core.suggest import did_you_mean
from selectivemae.data.labels import listed

_SCORE = "score_"  # and a class: the column of its scores
UNREAD = -1  # the "prediction" for an image that could not be read


@dataclass(frozen=True)
class Figures:
    """What a classifier is worth on a set of images; shares in percent."""

    oa: float  # overall accuracy: right / all images
    oa_interval: tuple[float, float]  # 95 %, Wilson
    aa: float  # average accuracy: mean over the classes that have images
    images: int
    unreadable: int  # of them; they count as wrong
    classes: tuple[str, ...]
    per_class: tuple[float | None, ...]  # accuracy; None for a class without images
    counts: tuple[int, ...]  # images of each class
    confusion: Int64  # (K, K): rows the label, columns the prediction

    def as_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "oa": self.oa,
            "oa_interval": list(self.oa_interval),
            "aa": self.aa,
            "images": self.images,
            "unreadable": self.unreadable,
            "classes_without_images": [c for c, n in zip(self.classes, self.counts, strict=True) if not n],
            "per_class": dict(zip(self.classes, self.per_class, strict=True)),
            "confusion": self.confusion.tolist(),
        }

    def as_text(self) -> str:
        """The figures for people: OA, AA, the weakest classes, and what was not read."""
        low, high = self.oa_interval
        lines = [
            f"OA {self.oa:.2f} % (95 % interval {low:.2f} to {high:.2f}), AA {self.aa:.2f} %, {self.images} images"
        ]
        known = [(s, n, c) for s, n, c in zip(self.per_class, self.counts, self.classes, strict=True) if s is not None]
        weakest = sorted(known)[:5]
        lines.append("weakest classes: " + ", ".join(f"{name} {share:.1f} % of {n}" for share, n, name in weakest))
        without = [name for name, count in zip(self.classes, self.counts, strict=True) if not count]
        if without:
            lines.append(f"{len(without)} of {len(self.classes)} classes have no image here: {listed(without)}")
        if self.unreadable:
            lines.append(f"{self.unreadable} images could not be read; they count as wrong")
        return "\n".join(lines)


def figures(predicted: Int64, label: Int64, classes: Sequence[str]) -> Figures:
    """Figures of predictions (N,) for labels (N,); a prediction ``UNREAD`` is a wrong one.

    OA and AA as in downstream.md, A.5. DataError without an image.
    """
    if not len(label):
        raise DataError("there is no image to evaluate")
    read = predicted != UNREAD
    confusion = confusion_matrix(predicted[read], label[read], len(classes))
    counts = np.bincount(label, minlength=len(classes))
    right = confusion.diagonal()
    per_class = [100.0 * float(r) / int(n) if n else None for r, n in zip(right, counts, strict=True)]
    low, high = wilson(int(right.sum()), len(label))
    return Figures(
        oa=100.0 * float(right.sum()) / len(label),
        oa_interval=(100.0 * low, 100.0 * high),
        aa=float(np.mean([share for share in per_class if share is not None])),
        images=len(label),
        unreadable=int((~read).sum()),
        classes=tuple(classes),
        per_class=tuple(per_class),
        counts=tuple(counts.tolist()),
        confusion=confusion,
    )


def confusion_matrix(predicted: Int64, label: Int64, classes: int) -> Int64:
    """How often each class (rows) was taken for each (columns): (K, K) int64."""
    return np.bincount(label * classes + predicted, minlength=classes * classes).reshape(classes, classes)


def evaluate_tables(predictions: Path, ground_truth: Path) -> Figures:
    """Figures of a CSV of predictions (``id,label``) against one of ground truth.

    Classes are those of the ground truth, in alphabetical order; or, where the predictions have a column
    ``score_CLASS`` for each of them, those of such columns, in their order: the ground truth may lack some. Other
    columns are passed over. DataError names file and line for a table without these columns, an id that stands there
    twice, ids that only one of them has, and predicted classes that are unknown.
    """
    (truth, _), (said, scored) = read_table(ground_truth), read_table(predictions)
    for there, others, lacking_in in ((truth, said, predictions), (said, truth, ground_truth)):
        absent = sorted(there.keys() - others.keys())
        if absent:
            raise DataError(f"{lacking_in} has no line for {len(absent)} ids: {listed(absent)}")
    classes = sorted({label for label, _ in truth.values()})
    if set(classes) <= set(scored):
        classes = list(dict.fromkeys(scored))
    number = {name: i for i, name in enumerate(classes)}
    for label, line in said.values():
        if label not in number:
            raise DataError(
                f"{predictions}, line {line}: class {label!r} is not in {ground_truth}{did_you_mean(label, classes)}"
            )
    predicted = np.array([number[said[name][0]] for name in truth], np.int64)
    return figures(predicted, np.array([number[label] for label, _ in truth.values()], np.int64), classes)


def read_table(path: Path) -> tuple[dict[str, tuple[str, int]], list[str]]:
    """Label and line number by id from a CSV with the columns ``id`` and ``label``; and the classes that it has a
    column of scores for. DataError."""
    rows: dict[str, tuple[str, int]] = {}
    try:
        with open(path, newline="", encoding="utf-8-sig") as f:
            reader = csv.DictReader(f)
            columns = list(reader.fieldnames or ())
            if not {"id", "label"} <= set(columns):
                raise DataError(f"{path}, line 1: needs the columns id and label")
            for row in reader:
                name, label = row["id"], row["label"]
                if not name or not label:
                    raise DataError(f"{path}, line {reader.line_num}: id or label is missing")
                if name in rows:
                    raise DataError(f"{path}, line {reader.line_num}: id {name!r} stands in line {rows[name][1]} too")
                rows[name] = (label, reader.line_num)
    except (OSError, UnicodeDecodeError, csv.Error) as e:
        raise DataError(f"cannot read {path}: {e}") from e
    if not rows:
        raise DataError(f"{path} has no lines")
    return rows, [name.removeprefix(_SCORE) for name in columns if name.startswith(_SCORE)]


def per_class_rows(found: Figures) -> list[tuple[str, int, str]]:
    """(class, images, accuracy in percent with two decimals or an empty text) of each class."""
    shares = ("" if share is None else f"{share:.2f}" for share in found.per_class)
    return list(zip(found.classes, found.counts, shares, strict=True))


def mistakes(scores: NDArray[np.float32], label: Int64, count: int) -> Int64:
    """Places of the wrong predictions among images with ``scores`` (N, K), the most confident first, at most
    ``count``."""
    predicted = scores.argmax(axis=1)
    wrong = np.flatnonzero(predicted != label)
    order = np.argsort(-scores[wrong, predicted[wrong]], kind="stable")
    return wrong[order[:count]]
