"""Evaluation of upright boxes: of a run, or of a COCO results file made by anything."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from selectivemae.core.errors import DataError
from selectivemae.tasks.boxes_evaluate import evaluate_run as evaluate_boxes
from selectivemae.tasks.boxes_evaluate import report_notes, write_evaluation
from selectivemae.tasks.boxes_figures import BoxFigures, judge
from selectivemae.tasks.classify.config import EvaluateConfig
from selectivemae.tasks.detect.data import DIOR_CLASSES, coco_ids, read_coco, read_results, read_voc


def evaluate_run(run: Path, config: EvaluateConfig, out: Path | None = None) -> BoxFigures:
    """Judge a fine-tuned detector; see :func:`selectivemae.tasks.boxes_evaluate.evaluate_run`."""
    return evaluate_boxes("detect", run, config, out)


def evaluate_files(predictions: Path, ground_truth: Path, out: Path | None = None) -> BoxFigures:
    """Judge a COCO results json against a COCO json, or against a folder of VOC XML files.

    Against XML, ``image_id`` is the file's name without suffix (or the number that this is) and ``category_id`` the
    place of the class (from 0) in DIOR's order where all are DIOR's, else in alphabetical order. Where detections name
    their ``category``, that decides. Crowds and difficult objects are ignored as COCO and VOC do; objects that readers
    leave out for their size or place count here. DataError names what does not fit.
    """
    if ground_truth.is_dir():
        truth = read_voc(ground_truth, as_is=True)
        if {name.lower() for name in truth.classes} <= set(DIOR_CLASSES):
            truth = read_voc(ground_truth, classes=DIOR_CLASSES, as_is=True)
        images = {item.id: item.id for item in truth} | _numbered([item.id for item in truth])
        categories = {i: i for i in range(len(truth.classes))}
    elif ground_truth.is_file():
        truth = read_coco(ground_truth, as_is=True)
        images, categories = coco_ids(ground_truth, truth)
    else:
        raise DataError(f"{ground_truth}: no such file or folder; --ground-truth is a COCO json or a folder of VOC XML")
    report_notes(truth, "ground truth")
    found = read_results(predictions, images, categories, truth.classes)
    figures = judge(truth, found, 4, "ignore")
    if out is not None:
        write_evaluation(out, truth, found, figures)
    return figures


def _numbered(ids: Sequence[str]) -> dict[int, str]:
    """Ids that are numbers, by the number, unless two are the same."""
    numbers = Counter(int(id) for id in ids if id.isdecimal())
    return {int(id): id for id in ids if id.isdecimal() and numbers[int(id)] == 1}
