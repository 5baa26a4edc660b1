"""Folders of synthetic scenes on disk, in the layouts that tasks read.

``classes``                       ``detection``                         ``segmentation``

    out/                              out/                                  out/
      airport/000001.jpg                train.json  test.json  (COCO)         classes.txt
      ...                               classes.txt                           train/images/airport_000001.jpg
      split.csv                         train/images/airport_000001.jpg       train/masks/airport_000001.png
                                        train/Annotations/….xml  (VOC)        test/...
                                        train/labelTxt/….txt    (DOTA)
                                        test/...

``split.csv`` has the columns file, label, split. Boxes are in pixels with (0, 0) at the image's top left corner,
category ids are places in ``OBJECTS`` (``classes.txt``), masks hold places in ``LAND``.
"""

import csv
import json
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from selectivemae.core.errors import ConfigError, OutputError
from selectivemae.core.files import atomic_folder
from selectivemae.core.order import mix, permute
from selectivemae.data.synthetic.scene import CLASSES, Scene, class_index, scene
from selectivemae.data.synthetic.tables import LAND, OBJECTS

Layout = Literal["classes", "detection", "segmentation"]
JPEG_QUALITY = 90
_SPLIT = 0x5917  # sets the numbers that part train from test apart from those that draw scenes


@dataclass(frozen=True)
class _Job:
    """One scene to write: scene ``index`` of class ``label``."""

    label: int
    index: int
    split: str

    @property
    def name(self) -> str:
        return f"{CLASSES[self.label]}_{self.index + 1:06d}"


def write_scenes(
    out: Path,
    per_class: int,
    size: int = 256,
    seed: int = 0,
    layout: Layout = "classes",
    classes: Sequence[str | int] = CLASSES,
    test_share: float = 1 / 3,
    workers: int = 1,
) -> None:
    """Write ``per_class`` scenes of each class, ``size`` pixels a side, as a folder that appears as a whole.

    ``test_share`` of every class (rounded) is the test split. ``workers`` processes share the drawing; the files are
    the same for any number of them. Above 1 they are spawned, so a script needs its ``__main__`` guard.

    Raises ConfigError for settings out of range, OutputError when ``out`` holds something or cannot be written.
    """
    if per_class < 1 or not 0 <= test_share <= 1 or workers < 1:
        raise ConfigError(
            f"per_class {per_class}, test_share {test_share}, workers {workers}: "
            "choose at least 1 scene and 1 worker, and a share from 0 to 1"
        )
    if layout not in _WRITERS:
        raise ConfigError(f"no layout {layout!r}: choose one of {', '.join(_WRITERS)}")
    jobs = _jobs([class_index(label) for label in classes], per_class, seed, test_share)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise OutputError(f"{out} exists already: choose a new folder for the synthetic scenes")
    with atomic_folder(out, sums=False) as folder:
        for place in dict.fromkeys(_place(layout, job) for job in jobs):
            (folder / place).mkdir(parents=True)
        work = partial(_write_one, folder, layout, seed, size)
        if workers == 1:
            records = [work(job) for job in jobs]
        else:
            with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
                records = list(pool.map(work, jobs, chunksize=16))
        _write_index(folder, layout, jobs, records)


def _jobs(classes: Sequence[int], per_class: int, seed: int, test_share: float) -> list[_Job]:
    jobs = []
    tests = round(per_class * test_share)
    for label in dict.fromkeys(classes):
        place = permute(np.arange(per_class), per_class, int(mix(seed, label, _SPLIT)))
        jobs += [_Job(label, index, "test" if place[index] < tests else "train") for index in range(per_class)]
    return jobs


def _place(layout: Layout, job: _Job) -> Path:
    """Folder of a job's image, relative to the output."""
    return Path(CLASSES[job.label]) if layout == "classes" else Path(job.split) / "images"


def _write_one(folder: Path, layout: Layout, seed: int, size: int, job: _Job) -> Any:
    """Draw and write one scene; returns what the layout's index needs of it."""
    return _WRITERS[layout](folder, scene(seed, job.index, job.label, size), job)


def _write_class_image(folder: Path, drawn: Scene, job: _Job) -> None:
    _save_jpeg(drawn.image, folder / CLASSES[job.label] / f"{job.index + 1:06d}.jpg")


def _write_segmentation(folder: Path, drawn: Scene, job: _Job) -> None:
    _save_jpeg(drawn.image, folder / job.split / "images" / f"{job.name}.jpg")
    masks = folder / job.split / "masks"
    masks.mkdir(exist_ok=True)
    Image.fromarray(drawn.mask).save(masks / f"{job.name}.png")


def _write_detection(folder: Path, drawn: Scene, job: _Job) -> list[tuple[int, list[float]]]:
    """Write image, VOC and DOTA files; returns (category, COCO box x, y, w, h) of each object."""
    _save_jpeg(drawn.image, folder / job.split / "images" / f"{job.name}.jpg")
    for part, suffix, text in (("Annotations", "xml", voc_xml(drawn, job.name)), ("labelTxt", "txt", dota_text(drawn))):
        (folder / job.split / part).mkdir(exist_ok=True)
        (folder / job.split / part / f"{job.name}.{suffix}").write_text(text, encoding="utf-8")
    sides = np.concatenate([drawn.boxes[:, :2], drawn.boxes[:, 2:] - drawn.boxes[:, :2]], 1)
    return list(zip(drawn.box_labels.tolist(), np.round(sides.astype(float), 2).tolist(), strict=True))


_WRITERS = {"classes": _write_class_image, "detection": _write_detection, "segmentation": _write_segmentation}


def _write_index(folder: Path, layout: Layout, jobs: list[_Job], records: list[Any]) -> None:
    """Write the files that stand for the whole folder."""
    if layout == "classes":
        with open(folder / "split.csv", "w", newline="", encoding="utf-8") as f:
            rows = csv.writer(f, lineterminator="\n")
            rows.writerow(["file", "label", "split"])
            rows.writerows([f"{CLASSES[j.label]}/{j.index + 1:06d}.jpg", CLASSES[j.label], j.split] for j in jobs)
        return
    names = LAND if layout == "segmentation" else OBJECTS
    (folder / "classes.txt").write_text("".join(f"{name}\n" for name in names), encoding="utf-8")
    if layout == "detection":
        for split in ("train", "test"):
            part = [(job, record) for job, record in zip(jobs, records, strict=True) if job.split == split]
            (folder / f"{split}.json").write_text(json.dumps(_coco(folder, part)), encoding="utf-8")


def _coco(folder: Path, part: list[tuple[_Job, list[tuple[int, list[float]]]]]) -> dict[str, Any]:
    """COCO instances document; file names are relative to the output folder, ids count from 1, categories from 0."""
    images, annotations = [], []
    for number, (job, objects) in enumerate(part, 1):
        file = f"{job.split}/images/{job.name}.jpg"
        with Image.open(folder / file) as image:
            width, height = image.size
        images.append({"id": number, "file_name": file, "width": width, "height": height})
        for category, box in objects:
            entry = {"id": len(annotations) + 1, "image_id": number, "category_id": category, "bbox": box}
            annotations.append({**entry, "area": round(box[2] * box[3], 2), "iscrowd": 0})
    categories = [{"id": i, "name": name} for i, name in enumerate(OBJECTS)]
    return {"images": images, "annotations": annotations, "categories": categories}


def voc_xml(drawn: Scene, name: str) -> str:
    """Upright boxes as a VOC annotation, coordinates with two decimals."""
    height, width = drawn.mask.shape
    lines = [f"<annotation><filename>{name}.jpg</filename>"]
    lines.append(f"<size><width>{width}</width><height>{height}</height><depth>3</depth></size>")
    for label, (x0, y0, x1, y1) in zip(drawn.box_labels, drawn.boxes.tolist(), strict=True):
        box = f"<xmin>{x0:.2f}</xmin><ymin>{y0:.2f}</ymin><xmax>{x1:.2f}</xmax><ymax>{y1:.2f}</ymax>"
        lines.append(f"<object><name>{OBJECTS[label]}</name><difficult>0</difficult><bndbox>{box}</bndbox></object>")
    return "\n".join([*lines, "</annotation>", ""])


def dota_text(drawn: Scene) -> str:
    """Oriented boxes as DOTA text: two header lines, then eight coordinates, class and difficulty a line."""
    lines = ["imagesource:synthetic", f"gsd:{drawn.gsd:.6f}"]
    for label, box in zip(drawn.box_labels, drawn.oriented.astype(float), strict=True):
        points = " ".join(f"{v:.2f}" for v in _quadrilateral(box).ravel())
        lines.append(f"{points} {OBJECTS[label]} 0")
    return "\n".join([*lines, ""])


def _quadrilateral(box: NDArray[np.float64]) -> NDArray[np.float64]:
    """Corners (4, 2) of an oriented box (5,), clockwise on screen from the front left one."""
    cx, cy, w, h, theta = box
    u = w / 2 * np.array([np.cos(theta), np.sin(theta)])
    v = h / 2 * np.array([-np.sin(theta), np.cos(theta)])
    return np.array([cx, cy]) + np.stack([-u - v, u - v, u + v, v - u])


def _save_jpeg(image: NDArray[np.uint8], path: Path) -> None:
    Image.fromarray(image).save(path, quality=JPEG_QUALITY)
