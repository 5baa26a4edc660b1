"""Evaluation of a detector on labelled images, and the folder that it leaves.

evaluation/
  figures.json          every figure with its definition, by class as well
  per_class.csv         class, objects, figures
  precision_recall.png  a curve a class
  examples.png          some images: labels beside detections
  predictions.json      upright boxes: COCO results, for the images and categories of ground_truth.json beside it
  submission/           rotated boxes: DOTA's Task1_CLASS.txt
  left_out.csv          labels and images that the readers left out or found odd
  quarantine.csv        images that could not be read
"""

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from selectivemae.core.errors import ConfigError, DataError
from selectivemae.core.files import atomic_folder
from selectivemae.core.records import csv_text
from selectivemae.data.reading import read_pixels
from selectivemae.engine.folder import saved_settings
from selectivemae.engine.precision import autocast, choose_device, resolve_precision
from selectivemae.tasks.boxes_common import BoxSet, Detections
from selectivemae.tasks.boxes_config import BoxConfig
from selectivemae.tasks.boxes_data import BoxStore, CanvasPixels, from_canvas
from selectivemae.tasks.boxes_figures import DEFINITIONS, BoxFigures, judge
from selectivemae.tasks.boxes_geometry import Geometry
from selectivemae.tasks.boxes_layout import joined, open_boxes
from selectivemae.tasks.boxes_model import Detector, Task, load_detector
from selectivemae.tasks.boxes_pictures import curves_picture, examples_picture
from selectivemae.tasks.boxes_tiles import merge, tiled
from selectivemae.tasks.classify.config import EvaluateConfig
from selectivemae.tasks.common import EVALUATION
from selectivemae.tasks.detect.data import to_coco, to_results
from selectivemae.tasks.oriented.data import write_submission

log = logging.getLogger("selectivemae")

Found = tuple[dict[str, Detections], list[tuple[str, str]]]
"""Detections by image id, and (id, reason) of images that could not be read."""

_BATCH = 4  # images at a time unless said otherwise: their maps are large


def detect(
    detector: Detector,
    data: BoxSet,
    device: torch.device,
    precision: str,
    *,
    tile: int | None = None,
    overlap: int = 0,
    workers: int = 0,
    batch: int = _BATCH,
) -> Found:
    """What a detector finds in the images of a data set, whole or tile by tile; it is in evaluation mode meanwhile."""
    parts = data if tile is None else tiled(data, tile, overlap)
    geometry = Geometry(detector.size)
    pixels = CanvasPixels(BoxStore(parts), geometry, detector.info.channels, detector.colour)
    found: dict[str, Detections] = {}
    unread: list[tuple[str, str]] = []
    training = detector.model.training
    detector.model.eval()
    with torch.inference_mode():
        for images, places, bad in read_pixels(pixels, np.arange(len(parts)), workers, batch):
            unread += bad
            if not len(places):
                continue
            items = [parts.items[i] for i in places.tolist()]
            laid = [geometry.place(0, item.size) for item in items if item.size]
            with autocast(precision, device):
                answers = detector.found(torch.from_numpy(images).to(device), [place.size for place in laid])
            for item, place, answer in zip(items, laid, answers, strict=True):
                found[item.id] = from_canvas(*answer, place)
    detector.model.train(training)
    if len(unread) == len(parts):
        raise DataError(f"none of the {len(parts)} images can be read, {unread[0][0]} because: {unread[0][1]}")
    return (found if tile is None else merge(found, detector.model.region_rules.nms)), unread


def evaluate_run(task: Task, run: Path, config: EvaluateConfig, out: Path | None = None) -> BoxFigures:
    """Judge a fine-tuned detector on labelled images; the command ``evaluate`` is this call.

    Without data its own are used; tiles and the rule for difficult objects are always the run's. ``out`` gets the
    folder described above. Raises UserError subclasses for a run that is none and data that do not do.
    """
    detector = load_detector(run, task)
    keys = ("data", "test_split", "train_split", "tile", "overlap", "difficult")
    saved = saved_settings(run if run.is_dir() else run.parent)
    own = BoxConfig.build({k: v for k, v in saved.items() if k in keys}, where=str(run))
    root = Path(config.data) if config.data else own.data
    if root is None:
        raise ConfigError(f"{run} does not say which data it was trained on: give --data")
    same = root == own.data
    sets = []
    for part in ("test", "train"):
        if config.part in (part, "all"):
            split = own.test_split if part == "test" else own.train_split
            sets.append(
                open_boxes(root, part, detector.sides, config.split or (split if same else None), detector.classes)
            )
    data = joined(sets, root)
    report_notes(data, "test")
    if "unknown_class" in data.notes.counts and not any(len(item.boxes) for item in data):
        raise DataError(f"{root}: none of its objects is of a class that {run} knows: {', '.join(detector.classes)}")
    device = choose_device(config.device)
    detector.model.to(device)
    batch = config.batch_size if "batch_size" in config.model_fields_set else _BATCH
    found, unread = detect(
        detector,
        data,
        device,
        resolve_precision(config.precision, device),
        tile=own.tile,
        overlap=own.overlap,
        workers=config.workers,
        batch=batch,
    )
    figures = judge(data, found, detector.sides, own.difficult, len(unread))
    if out is not None:
        write_evaluation(out, data, found, figures, unread)
    return figures


def report_notes(data: BoxSet, name: str) -> None:
    """Log what a reader left out or found odd, a line a reason; of labels alone nobody expects an image's size."""
    alone = all(item.image is None for item in data)
    for line in str(data.notes).splitlines():
        if not (alone and line.startswith("no_size:")):
            log.warning("%s labels: %s", name, line)


def write_evaluation(
    folder: Path,
    data: BoxSet,
    predictions: Mapping[str, Detections],
    figures: BoxFigures,
    unread: Sequence[tuple[str, str]] = (),
) -> None:
    """Write the folder described above, as a whole; pictures of examples only where the images are known."""
    sides = 4 if "coco_ap50" in figures.mean else 5
    with atomic_folder(folder, sums=False) as out:
        (out / EVALUATION).write_text(json.dumps(figures.as_dict(), indent=1), encoding="utf-8")
        names = list(next(iter(figures.by_class.values()), {}))
        rows = [
            [name, figures.objects[name], *(f"{row[k]:.4f}" for k in names)] for name, row in figures.by_class.items()
        ]
        (out / "per_class.csv").write_text(csv_text(["class", "objects", *names], rows))
        (out / "precision_recall.png").write_bytes(curves_picture(figures.curves, DEFINITIONS[names[-1]]))
        if sides == 4:
            (out / "ground_truth.json").write_text(json.dumps(to_coco(data)), encoding="utf-8")
            (out / "predictions.json").write_text(json.dumps(to_results(data, predictions)), encoding="utf-8")
        else:
            write_submission(out / "submission", data.classes, predictions)
        if all(item.image is not None for item in data):
            (out / "examples.png").write_bytes(examples_picture(data, predictions))
        if data.notes.entries:
            (out / "left_out.csv").write_text(csv_text(["reason", "where"], data.notes.entries))
        if unread:
            (out / "quarantine.csv").write_text(csv_text(["id", "reason"], unread))
