"""What ``predict`` writes beside maps: tables of labels, COCO results, DOTA's text files, and folders of images."""

import csv
import hashlib
import io
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np

from selectivemae.core.errors import ConfigError, DataError
from selectivemae.core.files import atomic_write, prepare_output
from selectivemae.data.stores import Store, open_stores
from selectivemae.scenes.boxes import Found
from selectivemae.scenes.config import PredictConfig
from selectivemae.scenes.run import SceneResult, Writer, map_classes, result_of, search
from selectivemae.scenes.seam import BoxPredictor, Predictor, ScorePredictor
from selectivemae.scenes.source import Scene
from selectivemae.tasks.boxes_common import IMAGE_SUFFIXES, Detections
from selectivemae.tasks.classify.evaluate import predict
from selectivemae.tasks.classify.predictor import ClassifyPredictor
from selectivemae.tasks.oriented.data import write_submission

_MARKER = "predict.json"  # shows a folder of results to be ours


class _OneFile:
    """A single image as a store."""

    def __init__(self, path: Path) -> None:
        self.path, self.skipped = path, ()
        self.fingerprint = hashlib.sha256(str(path).encode()).hexdigest()

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> bytes:
        return self.path.read_bytes()

    def id(self, index: int) -> str:
        return self.path.name


def classify_images(
    predictor: ClassifyPredictor, config: PredictConfig, *, overwrite: bool, quiet: bool
) -> SceneResult:
    """Write the label and all scores of each image of a folder, archive or file: CSV ``id,label,score_CLASS...``.

    Images are cropped and resized as in evaluation. Those that cannot be read are left out and named in the notes.
    """
    assert config.image is not None
    assert config.out is not None
    if config.out.exists() and not overwrite:
        raise ConfigError(f"{config.out} is there already: replace it with --overwrite, or name another")
    began = time.perf_counter()
    single = config.image.is_file() and config.image.suffix.lower() in IMAGE_SUFFIXES
    store = cast(Store, _OneFile(config.image)) if single else open_stores([config.image])
    index = np.arange(len(store))
    found = predict(predictor.classifier, store, index, predictor.device, predictor.precision, batch=config.batch_size)
    if len(found.unread) == len(store):
        raise DataError(f"none of {len(store)} images could be read, the first because: {found.unread[0][1]}")
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["id", "label", *(f"score_{name}" for name in predictor.classes)])
    for place, scores in zip(index.tolist(), found.scores, strict=True):
        if scores.any():
            table.writerow([store.id(place), predictor.classes[scores.argmax()], *(f"{v:.6f}" for v in scores)])
    atomic_write(config.out, text.getvalue())
    notes = [f"{name} could not be read: {reason}" for name, reason in found.unread]
    read = len(store) - len(found.unread)
    pixels = read * predictor.size**2 / 1e6
    return SceneResult([config.out], pixels, time.perf_counter() - began, read, 0.0, None, read, notes)


def map_folder(predictors: Sequence[Predictor], config: PredictConfig, model: str, **manner: bool) -> list[SceneResult]:
    """Map every image of a folder: class maps or polygons into a folder, boxes into COCO results or Task1 files."""
    assert config.image is not None
    assert config.out is not None
    images = sorted(path for path in config.image.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES)
    if not images:
        raise DataError(f"{config.image} holds no images ({', '.join(IMAGE_SUFFIXES)}); subfolders are not searched")
    stems = [path.stem for path in images]
    if twice := next((stem for stem in stems if stems.count(stem) > 1), None):
        raise DataError(f"{config.image} has several images called {twice}: their results would be one file")
    task = predictors[0].task
    if task in ("classify", "segment"):
        scored = cast(Sequence[ScorePredictor], predictors)
        _own_folder(config.out, task, **manner)
        results = []
        for path in images:
            out = config.out / f"{path.stem}.tif"
            if not (manner["resume"] and out.exists()):
                each = config.model_copy(update={"image": path, "out": out})
                results.append(map_classes(scored, each, model, **manner))
        return results
    found: dict[str, Found] = {}
    jobs = []
    for path in images:
        each = config.model_copy(update={"image": path})
        boxed = cast(Sequence[BoxPredictor], predictors)
        job, found[path.stem], clock = search(boxed, each, quiet=manner["quiet"])
        jobs.append(result_of(job, clock, [config.out], len(found[path.stem].scores)))
    _write_boxes(config.out, task, found, predictors[0].classes, manner)
    return jobs


def _own_folder(out: Path, task: str, *, resume: bool, overwrite: bool, quiet: bool) -> None:
    if out.suffix:
        raise ConfigError(f"a folder of images needs a folder in --out, got {out}")
    prepare_output(out, resume=resume, overwrite=overwrite, marker=_MARKER)
    atomic_write(out / _MARKER, json.dumps({"task": task}))


def _write_boxes(
    out: Path, task: str, found: Mapping[str, Found], classes: Sequence[str], manner: Mapping[str, bool]
) -> None:
    """Boxes of several images as one COCO results file, or as a folder of Task1 files."""
    if task == "detect":
        if out.suffix.lower() != ".json" or (out.exists() and not manner["overwrite"]):
            raise ConfigError(f"boxes of a folder of images need a new .json file in --out, got {out}")
        rows = [row for id, each in found.items() for row in coco_rows(id, each, classes)]
        atomic_write(out, json.dumps(rows))
        return
    _own_folder(out, task, **manner)
    write_submission(out, classes, {id: Detections(f.boxes, f.scores, f.labels) for id, f in found.items()})


def coco_rows(id: str, found: Found, classes: Sequence[str]) -> list[dict[str, Any]]:
    """Upright boxes as entries of a COCO results file: the image is named by its file's stem, a category counts from
    0 in the order of the classes; ``category`` is its name."""
    return [
        {
            "image_id": id,
            "category_id": label,
            "category": classes[label],
            "bbox": [round(v, 3) for v in (x1, y1, x2 - x1, y2 - y1)],
            "score": round(score, 6),
        }
        for (x1, y1, x2, y2), score, label in zip(
            found.boxes.tolist(), found.scores.tolist(), found.labels.tolist(), strict=True
        )
    ]


def write_coco(out: Path, found: Found, scene: Scene, classes: Sequence[str]) -> None:
    """The boxes of a scene as a COCO results file, in pixels."""
    atomic_write(out, json.dumps(coco_rows(scene.path.stem, found, classes)))


def write_dota(out: Path, found: Found, scene: Scene, classes: Sequence[str]) -> None:
    """The boxes of a scene as in DOTA's labelTxt, in pixels, best first: eight coordinates, class, difficulty 0."""
    names = [name.replace(" ", "-") for name in classes]  # spaces part the columns
    lines = [
        " ".join([*(f"{v:.2f}" for v in points), names[label], "0\n"])
        for points, label in zip(found.corners().reshape(-1, 8).tolist(), found.labels.tolist(), strict=True)
    ]
    atomic_write(out, "".join(lines))


BOX_WRITERS: dict[str, dict[str, Writer]] = {"detect": {".json": write_coco}, "oriented": {".txt": write_dota}}
