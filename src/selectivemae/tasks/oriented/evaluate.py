"""Evaluation of oriented boxes: of a run, or of DOTA submission files made by anything."""

from pathlib import Path

from selectivemae.tasks.boxes_evaluate import evaluate_run as evaluate_boxes
from selectivemae.tasks.boxes_evaluate import report_notes, write_evaluation
from selectivemae.tasks.boxes_figures import BoxFigures, judge
from selectivemae.tasks.classify.config import EvaluateConfig
from selectivemae.tasks.dota_txt import read_dota
from selectivemae.tasks.oriented.data import DOTA_CLASSES, read_submission


def evaluate_run(run: Path, config: EvaluateConfig, out: Path | None = None) -> BoxFigures:
    """Judge a fine-tuned detector; see :func:`selectivemae.tasks.boxes_evaluate.evaluate_run`."""
    return evaluate_boxes("oriented", run, config, out)


def evaluate_files(predictions: Path, ground_truth: Path, out: Path | None = None) -> BoxFigures:
    """Judge a folder of DOTA submission files (Task1_CLASS.txt) against a folder of labelTxt files.

    Difficult objects are neither asked for nor counted, as on DOTA's server. DataError names what does not fit.
    """
    truth = read_dota(ground_truth)
    if {name.lower() for name in truth.classes} <= set(DOTA_CLASSES):
        truth = read_dota(ground_truth, classes=DOTA_CLASSES)
    report_notes(truth, "ground truth")
    found = read_submission(predictions, truth.classes)
    figures = judge(truth, found, 5, "ignore")
    if out is not None:
        write_evaluation(out, truth, found, figures)
    return figures
