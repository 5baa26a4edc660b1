"""What ``predict`` writes beside maps: tables of labels, COCO results, DOTA's text files, and folders of images."""

import csv
import hashlib
import io
import json
import tempfile
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
from selectivemae.scenes.preview import box_preview
from selectivemae.scenes.run import SceneResult, Writer, map_classes, result_of, search
from selectivemae.scenes.seam import BoxPredictor, Predictor, ScorePredictor
from selectivemae.scenes.source import Scene
from selectivemae.scenes.vectors import DRIVERS, Features, corner_polygons, write_features
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
    """Map every image of a folder: class maps into a folder, boxes as ``map_box_folder`` does. Images that cannot be
    read are left out and named; DataError when none can be."""
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
        results: list[SceneResult] = []
        left_out: list[str] = []
        for path in images:
            out = config.out / f"{path.stem}.tif"
            if not (manner["resume"] and out.exists()):
                each = config.model_copy(update={"image": path, "out": out})
                try:
                    results.append(map_classes(scored, each, model, **manner))
                except DataError as error:
                    left_out.append(f"left out: {error}")
        if len(left_out) == len(images):
            raise DataError(f"none of {len(images)} images could be mapped; {left_out[0]}")
        if results:
            results[-1].notes += left_out
        return results
    return [map_box_folder(cast(Sequence[BoxPredictor], predictors), images, config, **manner)]


def map_box_folder(
    predictors: Sequence[BoxPredictor], images: Sequence[Path], config: PredictConfig, **manner: bool
) -> SceneResult:
    """Search images for boxes: all into one file (COCO results, GeoPackage, GeoJSON) or a folder of Task1 files, and a
    picture of each. Images that cannot be read are left out and named; DataError when none can be."""
    out, task, classes = config.out, predictors[0].task, predictors[0].classes
    assert out is not None
    pictures = _ready_for_boxes(out, task, manner)
    vectors = out.suffix.lower() in DRIVERS
    found: dict[str, Found] = {}
    scenes: dict[str, Scene] = {}
    results, notes = [], []
    for path in images:
        try:
            job, boxes, clock = search(predictors, config.model_copy(update={"image": path}), quiet=manner["quiet"])
        except DataError as error:
            notes.append(f"left out: {error}")
            continue
        if vectors and any(job.scene.crs != scene.crs for scene in scenes.values()):
            raise ConfigError(f"{path} has another coordinate system than the images before it: map each alone")
        found[path.stem], scenes[path.stem] = boxes, job.scene
        pictures.mkdir(exist_ok=True)
        box_preview(pictures / f"{path.stem}.png", job.scene, job.area, boxes, classes)
        results.append(result_of(job, clock, [], len(boxes.scores)))
        notes += job.notes if job.scene.placed else job.notes[1:]  # the first says that it is not, of each of them
    if not found:
        raise DataError(f"none of {len(images)} images could be searched; {notes[0]}")
    if out.suffix.lower() == ".json":
        atomic_write(out, json.dumps([row for id, each in found.items() for row in coco_rows(id, each, classes)]))
    elif vectors:
        _write_vectors(out, found, scenes, classes)
    else:
        write_submission(out, classes, {id: Detections(f.boxes, f.scores, f.labels) for id, f in found.items()})
    if loose := sum(not scene.placed for scene in scenes.values()):
        notes.append(
            f"{loose} of {len(scenes)} images have no place on the ground: coordinates are pixels, y downwards"
        )
    seconds = sum(each.seconds for each in results)
    outside = sum(each.outside_network * each.seconds for each in results) / max(seconds, 1e-9)
    megapixels, windows = sum(each.megapixels for each in results), sum(each.windows for each in results)
    objects = sum(len(each.scores) for each in found.values())
    return SceneResult([out, pictures], megapixels, seconds, windows, outside, None, objects, notes)


def _ready_for_boxes(out: Path, task: str, manner: Mapping[str, bool]) -> Path:
    """Refuse an ``out`` that does not do before anything is searched; the folder for pictures."""
    files = (".json", *DRIVERS) if task == "detect" else tuple(DRIVERS)
    if not out.suffix and task == "oriented":
        _own_folder(out, task, **manner)
        return out / "pictures"
    if out.suffix.lower() not in files:
        folder = "" if task == "detect" else "a folder for Task1 files, or "
        raise ConfigError(f"boxes of a folder of images need {folder}a file that ends in {' '.join(files)}, got {out}")
    if out.exists() and not manner["overwrite"]:
        raise ConfigError(f"{out} is there already: replace it with --overwrite, or name another")
    if not out.parent.is_dir():
        raise ConfigError(f"{out.parent} is no folder; make it, or name another --out")
    return out.with_name(f"{out.stem}.pictures")


def _write_vectors(out: Path, found: Mapping[str, Found], scenes: Mapping[str, Scene], classes: Sequence[str]) -> None:
    """Boxes of several images, in one coordinate system, as one layer with the fields image, class and score."""
    polygons = np.concatenate([corner_polygons(f.corners(), scenes[id].transform) for id, f in found.items()])
    columns = {
        "image": np.array([id for id, f in found.items() for _ in f.labels], object),
        "class": np.array([classes[label] for f in found.values() for label in f.labels], object),
        "score": np.concatenate([f.scores for f in found.values()]),
    }
    with tempfile.TemporaryDirectory(dir=out.parent) as parts:
        write_features(out, Path(parts), out.stem, Features(polygons, columns), next(iter(scenes.values())).crs)


def _own_folder(out: Path, task: str, *, resume: bool, overwrite: bool, quiet: bool) -> None:
    if out.suffix:
        raise ConfigError(f"a folder of images needs a folder in --out, got {out}")
    prepare_output(out, resume=resume, overwrite=overwrite, marker=_MARKER)
    atomic_write(out / _MARKER, json.dumps({"task": task}))


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
