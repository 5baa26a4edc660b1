"""Readers of upright boxes: PASCAL VOC folders, COCO json, DIOR, the aircraft CSV; COCO results in and out.

Rules for objects and files that are not as they should be: ``tasks.boxes_common``.
"""

import csv
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element

import numpy as np

from selectivemae.core.errors import DataError
from selectivemae.tasks import voc_xml
from selectivemae.tasks.boxes_common import (
    Array,
    BoxSet,
    Detections,
    Notes,
    RawObject,
    assemble,
    find_images,
    no_detections,
    read_ids,
)

DIOR_CLASSES = (
    "airplane", "airport", "baseballfield", "basketballcourt", "bridge", "chimney", "expressway-service-area",
    "expressway-toll-station", "dam", "golffield", "groundtrackfield", "harbor", "overpass", "ship", "stadium",
    "storagetank", "tenniscourt", "trainstation", "vehicle", "windmill",
)  # fmt: skip
_NUMBER = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?|nan", re.IGNORECASE)


def read_voc(
    annotations: Path,
    images: Path | None = None,
    classes: Sequence[str] | None = None,
    ids: Sequence[str] | None = None,
) -> BoxSet:
    """Read a folder of PASCAL VOC XML files (``object/bndbox``); coordinates are taken as they are, without -1.

    ``images`` None reads labels alone; ``ids`` picks and ``classes`` orders, otherwise all files and sorted names.
    """
    return voc_xml.read_folder(annotations, _VOC, None if images is None else find_images(images), classes, ids)


def read_dior(root: Path, split: str | Sequence[str] = "trainval", with_images: bool = True) -> BoxSet:
    """Read DIOR's horizontal boxes below its root folder; ``split`` names a file of ImageSets/Main, or gives ids.

    Images lie in JPEGImages-trainval and JPEGImages-test, or in one folder JPEGImages.
    """
    ids = read_ids(root / "ImageSets" / "Main" / f"{split}.txt") if isinstance(split, str) else split
    annotations = root / "Annotations" / "Horizontal Bounding Boxes"
    return voc_xml.read_folder(annotations, _VOC, dior_images(root) if with_images else None, DIOR_CLASSES, ids)


def dior_images(root: Path) -> dict[str, Path]:
    """All images of DIOR by id."""
    return find_images(*(root / name for name in ("JPEGImages", "JPEGImages-trainval", "JPEGImages-test")))


def _bndbox(element: Element) -> tuple[str, Array]:
    box = element.find("bndbox")
    if box is None:
        raise ValueError("<bndbox> is missing")
    return element.findtext("name") or "", voc_xml.numbers(box, "xmin", "ymin", "xmax", "ymax")


_VOC = voc_xml.Form("object", _bndbox, sides=4)


def read_coco(path: Path, images: Sequence[Path] | None = None, classes: Sequence[str] | None = None) -> BoxSet:
    """Read a COCO json of boxes; crowds count as difficult.

    The id of an image is its file name without folder and suffix. ``images`` are folders, None reads labels alone;
    ``classes`` picks and orders, otherwise all categories in the order of their ids.
    """
    document = _load_json(path)
    notes = Notes()
    found = None if images is None else find_images(*images)
    try:
        names = {c["id"]: str(c["name"]) for c in sorted(document["categories"], key=lambda c: c["id"])}
        records = {r["id"]: r for r in document["images"]}
        objects: dict[Any, list[RawObject]] = {key: [] for key in records}
        for a in document["annotations"]:
            where = f"{path} annotation {a.get('id')}"
            values = np.array(a["bbox"], dtype=np.float64)
            if a["image_id"] not in objects or values.shape != (4,):
                notes.add("bad_object", where)
                continue
            values[2:] += values[:2]
            name = names.get(a["category_id"], f"category {a['category_id']}")
            objects[a["image_id"]].append(RawObject(name, values, bool(a.get("iscrowd", 0)), where))
        raw = []
        for key, record in records.items():
            id = Path(record["file_name"]).stem
            if found is not None and id not in found:
                notes.add("no_image", id)
                continue
            size = (int(record["height"]), int(record["width"])) if {"height", "width"} <= record.keys() else None
            raw.append((id, None if found is None else found[id], size, objects[key]))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataError(f"{path}: not a COCO file of boxes ({type(error).__name__}: {error})") from None
    return assemble(raw, classes or list(names.values()), notes, path, sides=4)


def read_airbus(
    table: Path, images: Path | None = None, classes: Sequence[str] | None = None, ids: Sequence[str] | None = None
) -> BoxSet:
    """Read the CSV of the Airbus aircraft sample: columns image_id, geometry (a closed polygon of x, y), class."""
    notes = Notes()
    found = None if images is None else find_images(images)
    objects: dict[str, list[RawObject]] = {} if ids is None else {id: [] for id in ids}
    try:
        with table.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{table}: cannot be read as CSV ({error})") from None
    for line, row in enumerate(rows, start=2):
        where = f"{table} line {line}"
        values = [float(v) for v in _NUMBER.findall(row.get("geometry") or "")]
        id = Path(row.get("image_id") or "").stem
        if len(values) < 6 or len(values) % 2 or not id or not row.get("class"):
            notes.add("bad_object", where)
        elif ids is None or id in objects:
            points = np.array(values).reshape(-1, 2)
            objects.setdefault(id, []).append(RawObject(row["class"].strip(), points, False, where))
    raw = []
    for id, of_image in objects.items():
        if found is not None and id not in found:
            notes.add("no_image", id)
        else:
            raw.append((id, None if found is None else found[id], None, of_image))
    for id in sorted((found or {}).keys() - objects.keys() if ids is None else ()):
        notes.add("no_labels", id)
    return assemble(raw, classes, notes, table, sides=4)


def to_coco(data: BoxSet) -> dict[str, Any]:
    """The data set as a COCO document: image ids count from 1, category ids are the class indices from 0."""
    images, annotations = [], []
    for number, item in enumerate(data, start=1):
        height, width = item.size or (0, 0)
        name = item.image.name if item.image else item.id
        images.append({"id": number, "file_name": name, "height": height, "width": width})
        for box, label, difficult in zip(
            item.boxes.tolist(), item.labels.tolist(), item.difficult.tolist(), strict=True
        ):
            x1, y1, x2, y2 = box
            bbox = [x1, y1, x2 - x1, y2 - y1]
            fields = {"bbox": bbox, "area": bbox[2] * bbox[3], "category_id": label, "iscrowd": int(difficult)}
            annotations.append({"id": len(annotations) + 1, "image_id": number, **fields})
    categories = [{"id": i, "name": name} for i, name in enumerate(data.classes)]
    return {"images": images, "annotations": annotations, "categories": categories}


def to_results(data: BoxSet, predictions: Mapping[str, Detections]) -> list[dict[str, Any]]:
    """Predictions by image id as a COCO results list, with the image and category ids of ``to_coco``."""
    out = []
    for number, item in enumerate(data, start=1):
        found = predictions.get(item.id, no_detections(4))
        for (x1, y1, x2, y2), s, c in zip(
            found.boxes.tolist(), found.scores.tolist(), found.labels.tolist(), strict=True
        ):
            out.append({"image_id": number, "category_id": c, "bbox": [x1, y1, x2 - x1, y2 - y1], "score": s})
    return out


def read_results(path: Path, images: Mapping[Any, str], categories: Mapping[Any, int]) -> dict[str, Detections]:
    """Read a COCO results json: detections by image id.

    ``images`` maps the file's image ids to ours (file stems also stand for themselves), ``categories`` its category
    ids to class indices. Raises DataError naming the first entry that does not fit.
    """
    rows: dict[str, list[tuple[list[float], float, int]]] = {}
    document = _load_json(path)
    if not isinstance(document, list):
        raise DataError(f"{path}: a COCO results file is a list of detections")
    ours = set(images.values())
    for i, entry in enumerate(document):
        try:
            id = images.get(entry["image_id"], entry["image_id"])
            x, y, w, h = map(float, entry["bbox"])
            row = ([x, y, x + w, y + h], float(entry["score"]), categories[entry["category_id"]])
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"{path} entry {i}: not a detection ({type(error).__name__}: {error})") from None
        if id not in ours:
            raise DataError(f"{path} entry {i}: image {id} is not in the ground truth")
        if not np.isfinite([*row[0], row[1]]).all():
            raise DataError(f"{path} entry {i}: a number is not finite")
        rows.setdefault(id, []).append(row)
    return {
        id: Detections(
            np.array([r[0] for r in of]), np.array([r[1] for r in of]), np.array([r[2] for r in of], np.int64)
        )
        for id, of in rows.items()
    }


def coco_ids(path: Path, truth: BoxSet) -> tuple[dict[Any, str], dict[Any, int]]:
    """A COCO json's image ids to our ids, and its category ids to the class indices of ``truth``, read from it."""
    document = _load_json(path)
    known = {item.id for item in truth}
    images = {r["id"]: Path(r["file_name"]).stem for r in document["images"] if Path(r["file_name"]).stem in known}
    places = {name: i for i, name in enumerate(truth.classes)}
    return images, {c["id"]: places[str(c["name"])] for c in document["categories"]}


def _load_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise DataError(f"{path}: cannot be read as JSON ({error})") from None
