"""What detections are worth: every figure under a name that says which definition it follows."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from selectivemae.tasks.average_precision import Curve, Difficult
from selectivemae.tasks.boxes_common import BoxSet, Detections
from selectivemae.tasks.detect.metrics import coco_figures, voc_figures
from selectivemae.tasks.oriented.metrics import oriented_figures

DEFINITIONS = {
    "coco_ap50": "COCO AP at IoU 0.5, 101 recalls (the published mAP50 of DIOR)",
    "coco_ap": "COCO AP, mean over IoU 0.5 to 0.95",
    "coco_ap75": "COCO AP at IoU 0.75, 101 recalls",
    "voc07_ap50": "VOC 2007 AP at IoU 0.5, 11 recalls",
    "voc_area_ap50": "VOC AP at IoU 0.5, area under the curve",
    "rotated_voc07_ap50": "VOC 2007 AP at rotated IoU 0.5, 11 recalls (the published mAP50 of DIOR-R)",
    "rotated_area_ap50": "VOC AP at rotated IoU 0.5, area under the curve",
}
"""Every figure by its name, in percent as the mean over the classes that have objects; each task's first is its own."""


@dataclass(frozen=True)
class BoxFigures:
    """Figures of detections on labelled images, in percent; NaN where there was nothing to find.

    ``by_class`` has the figures of every class; ``curves`` their precision and recall at IoU 0.5. Objects marked
    difficult count by the rule ``difficult``.
    """

    mean: dict[str, float]
    by_class: dict[str, dict[str, float]]
    curves: dict[str, Curve]
    difficult: Difficult
    images: int
    unreadable: int

    @property
    def main(self) -> tuple[str, float]:
        """Name and value of the figure that the field compares by."""
        return next(iter(self.mean.items()))

    @property
    def objects(self) -> dict[str, int]:
        """Objects to find of each class."""
        return {name: curve.positives for name, curve in self.curves.items()}

    def as_dict(self) -> dict[str, Any]:
        """For JSON; a figure of nothing is null."""
        return {
            **{k: _number(v) for k, v in self.mean.items()},
            "definitions": {k: DEFINITIONS[k] for k in self.mean},
            "difficult": self.difficult,
            "images": self.images,
            "unreadable": self.unreadable,
            "objects": sum(self.objects.values()),
            "by_class": {
                name: {"objects": self.objects[name]} | {k: _number(v) for k, v in row.items()}
                for name, row in self.by_class.items()
            },
        }

    def as_text(self) -> str:
        """For people: the means by their definitions, then a table of the classes."""
        lines = [f"{value:6.2f} %  {DEFINITIONS[name]}" for name, value in self.mean.items()]
        width = max(len(name) for name in [*self.by_class, "class"])
        lines.append(f"{'class':{width}}  objects  {'  '.join(self.mean)}")
        for name, row in self.by_class.items():
            cells = "  ".join(f"{row[k]:{len(k)}.2f}" if k in row else " " * len(k) for k in self.mean)
            lines.append(f"{name:{width}}  {self.objects[name]:7d}  {cells}")
        ignored = "; difficult objects are neither asked for nor counted" if self.difficult == "ignore" else ""
        bad = f"; {self.unreadable} could not be read and count as empty" if self.unreadable else ""
        lines.append(f"{self.images} images, {sum(self.objects.values())} objects{ignored}{bad}")
        return "\n".join(lines)


def judge(
    truth: BoxSet, predictions: Mapping[str, Detections], sides: int, difficult: Difficult = "keep", unreadable: int = 0
) -> BoxFigures:
    """Figures of detections by image id (a missing image has none), upright (``sides`` 4) or rotated (5).

    Raises DataError for predictions that do not belong to ``truth``.
    """
    voc = (voc_figures if sides == 4 else oriented_figures)(truth, predictions, difficult=difficult)
    names = ("voc07_ap50", "voc_area_ap50") if sides == 4 else ("rotated_voc07_ap50", "rotated_area_ap50")
    mean = {names[0]: voc.map_11_point, names[1]: voc.map_area}
    by_class = {c: {names[0]: curve.ap_11_point, names[1]: curve.ap_area} for c, curve in voc.curves.items()}
    if sides == 4:
        coco = coco_figures(truth, predictions, difficult)
        mean = {"coco_ap50": coco.map50, "coco_ap": coco.map, "coco_ap75": coco.map75} | mean
        for name, row in by_class.items():
            by_class[name] = {"coco_ap50": coco.class_ap50[name], "coco_ap": coco.class_ap[name]} | row
    percent = {name: 100 * value for name, value in mean.items()}
    rows = {name: {k: 100 * v for k, v in row.items()} for name, row in by_class.items()}
    return BoxFigures(percent, rows, voc.curves, difficult, len(truth), unreadable)


def _number(value: float) -> float | None:
    return None if math.isnan(value) else value
