"""Evaluation of a classifier on labelled images, and the folder that it leaves.

evaluation/
  figures.json       OA, AA, per class, confusion matrix
  per_class.csv      class, images, accuracy
  predictions.csv    id, label, true_label, score_CLASS ... of every image that could be read
  confusion.png      share of each class taken for each
  mistakes.png       the most confident wrong predictions
  quarantine.csv     images that could not be read
"""

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from selectivemae.core.errors import DataError
from selectivemae.core.files import atomic_folder
from selectivemae.core.order import Int64
from selectivemae.core.records import csv_text
from selectivemae.data.labels import TEST, TRAIN, Labelled, listed
from selectivemae.data.reading import read_images
from selectivemae.data.stores import Store
from selectivemae.engine.folder import saved_settings
from selectivemae.engine.precision import autocast, choose_device, resolve_precision
from selectivemae.tasks.classify.config import EvaluateConfig, LabelSettings
from selectivemae.tasks.classify.data import open_classes
from selectivemae.tasks.classify.metrics import UNREAD, Figures, evaluate_tables, figures, mistakes, per_class_rows
from selectivemae.tasks.classify.model import Classifier, load_classifier
from selectivemae.tasks.classify.pictures import confusion_picture, mistakes_picture
from selectivemae.tasks.common import EVALUATION

log = logging.getLogger("selectivemae")

PARTS = {"train": TRAIN, "test": TEST}
_SHOWN = 24  # mistakes on the sheet


@dataclass(frozen=True)
class Predictions:
    """Scores of N images, with their places in the store; those that could not be read have scores 0."""

    index: Int64  # (N,)
    scores: NDArray[np.float32]  # (N, K) softmax
    unread: list[tuple[str, str]]  # (id, reason)

    @property
    def predicted(self) -> Int64:
        """Classes (N,), ``UNREAD`` for images that could not be read."""
        return np.where(self.scores.any(axis=1), self.scores.argmax(axis=1), UNREAD)


def predict(
    classifier: Classifier,
    store: Store,
    index: Int64,
    device: torch.device,
    precision: str,
    workers: int = 0,
    batch: int = 64,
) -> Predictions:
    """Scores of a store's images ``index`` (N,); the model is in evaluation mode meanwhile."""
    model = classifier.model
    training = model.training
    model.eval()
    scores = np.zeros((len(index), len(classifier.classes)), np.float32)
    unread: list[tuple[str, str]] = []
    channels = classifier.info.channels
    reading = read_images(store, index, classifier.size, channels, workers, batch, classifier.crop_share)
    with torch.inference_mode():
        for images, places, bad in reading:
            unread += bad
            if len(places):
                with autocast(precision, device):
                    logits = classifier.logits(torch.from_numpy(images).to(device))
                scores[places] = logits.softmax(dim=1).cpu().numpy()
    model.train(training)
    return Predictions(index, scores, unread)


def evaluate_run(run: Path, config: EvaluateConfig, out: Path | None = None) -> Figures:
    """Judge a fine-tuned classifier on labelled images; the command ``evaluate`` is this call.

    Without data, or with those of the run, its own split is used; of other data that have no parts, all images are
    judged unless a draw is asked for. ``out`` gets the folder described above. Raises UserError subclasses: for a run
    that is none, data that do not do, and classes that it does not know.
    """
    classifier = load_classifier(run)
    device = choose_device(config.device)
    own = {
        k: v for k, v in saved_settings(run if run.is_dir() else run.parent).items() if k in LabelSettings.model_fields
    }
    if is_own := config.data is None or ("data" in own and Path(config.data).resolve() == Path(own["data"]).resolve()):
        config = EvaluateConfig.build(own, config.given())
    store, labelled = open_classes(config, parts=())
    numbers = match_classes(labelled, classifier.classes, str(run))
    asked = {"part", "test_share", "split_seed"} & config.given().keys()
    part = "all" if labelled.drawn and not is_own and not asked else config.part
    chosen = np.ones(len(numbers), bool) if part == "all" else labelled.part == PARTS[part]
    if not chosen.any():
        raise DataError(f"{config.data} has no {part} image ({labelled.how})")
    log.info("judging %d of %d images (%s)", chosen.sum(), len(numbers), "all" if part == "all" else labelled.how)
    classifier.model.to(device)
    precision = resolve_precision(config.precision, device)
    found = predict(classifier, store, labelled.index[chosen], device, precision, config.workers, config.batch_size)
    if out is not None:
        return write_evaluation(out, classifier, store, found, numbers[chosen])
    return figures(found.predicted, numbers[chosen], classifier.classes)


def evaluate_files(predictions: Path, ground_truth: Path, out: Path | None = None) -> Figures:
    """Judge a CSV of predictions by one of ground truth; ``out`` gets figures, the table per class and the confusion.

    DataError says what is wrong with them; see :func:`~selectivemae.tasks.classify.metrics.evaluate_tables`.
    """
    found = evaluate_tables(predictions, ground_truth)
    if out is not None:
        with atomic_folder(out, sums=False) as folder:
            _write_figures(folder, found)
    return found


def match_classes(labelled: Labelled, classes: Sequence[str], where: str) -> Int64:
    """Numbers (N,) of labels by a classifier's ``classes``; the data may lack some of them, but have no others.

    DataError names those that the classifier does not know.
    """
    unknown = [name for name in labelled.classes if name not in classes]
    if unknown:
        raise DataError(
            f"{where} knows {len(classes)} classes, the data have {len(labelled.classes)}, of which it does not know "
            f"{len(unknown)}: {listed(unknown)}"
        )
    numbers = np.array([classes.index(name) for name in labelled.classes], np.int64)
    return numbers[labelled.label]


def write_evaluation(
    folder: Path, classifier: Classifier, store: Store, predictions: Predictions, label: Int64
) -> Figures:
    """Write the folder described above, as a whole, for images with labels (N,) and give its figures."""
    found = figures(predictions.predicted, label, classifier.classes)
    read = predictions.predicted != UNREAD
    index, scores, wanted = predictions.index[read], predictions.scores[read], label[read]
    with atomic_folder(folder, sums=False) as out:
        _write_figures(out, found)
        head = ["id", "label", "true_label", *(f"score_{name}" for name in classifier.classes)]
        names = classifier.classes
        rows = [
            (store.id(int(i)), names[s.argmax()], names[w], *(f"{v:.6f}" for v in s))
            for i, s, w in zip(index, scores, wanted, strict=True)
        ]
        (out / "predictions.csv").write_text(csv_text(head, rows))
        if predictions.unread:
            (out / "quarantine.csv").write_text(csv_text(["id", "reason"], predictions.unread))
        worst = mistakes(scores, wanted, _SHOWN)
        if len(worst):
            sheet = mistakes_picture(store, index[worst], scores[worst], wanted[worst], names, classifier.info.channels)
            (out / "mistakes.png").write_bytes(sheet)
    return found


def _write_figures(out: Path, found: Figures) -> None:
    (out / EVALUATION).write_text(json.dumps(found.as_dict(), indent=1))
    (out / "per_class.csv").write_text(csv_text(["class", "images", "accuracy"], per_class_rows(found)))
    (out / "confusion.png").write_bytes(confusion_picture(found))
