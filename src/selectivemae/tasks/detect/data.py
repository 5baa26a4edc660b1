"""Readers of upright boxes: PASCAL VOC folders, COCO json, DIOR, the aircraft CSV; COCO results in and out.

Rules for objects and files that are not as they should be: ``tasks.boxes_common``.
"""

import csv
import json
import logging
import re
from collections import Counter
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
    images_by_stem,
    no_detections,
    read_ids,
)

log = logging.getLogger("selectivemae")

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
    as_is: bool = False,
) -> BoxSet:
    """Read a folder of PASCAL VOC XML files (``object/bndbox``); coordinates are taken as they are, without -1.

    ``images`` None reads labels alone; ``ids`` picks and ``classes`` orders, otherwise all files and sorted names.
    ``as_is`` keeps objects that are too small or outside.
    """
    found = None if images is None else find_images(images)
    return voc_xml.read_folder(annotations, _VOC, found, classes, ids, as_is)


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


def read_coco(
    path: Path, images: Sequence[Path] | None = None, classes: Sequence[str] | None = None, as_is: bool = False
) -> BoxSet:
    """Read a COCO json of boxes; crowds count as difficult.

    The id of an image is its file name without suffix, and without folder where that tells it from the others.
    ``images`` are the folders that file names are sought in, None reads labels alone; ``classes`` picks and orders,
    otherwise all categories in the order of their ids. ``as_is`` keeps objects that are too small or outside.
    """
    document = _load_json(path)
    notes = Notes()
    by_stem = images_by_stem(*(images or ()))
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
        for key, id in coco_images(document).items():
            record = records[key]
            image = None if images is None else _image_of(record["file_name"], images) or by_stem.get(Path(id).name)
            if image is None and images is not None:
                notes.add("no_image", id)
                continue
            size = (int(record["height"]), int(record["width"])) if {"height", "width"} <= record.keys() else None
            raw.append((id, image, size, objects[key]))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataError(f"{path}: not a COCO file of boxes ({type(error).__name__}: {error})") from None
    return assemble(raw, classes or list(names.values()), notes, path, sides=4, as_is=as_is)


def coco_images(document: Mapping[str, Any]) -> dict[Any, str]:
    """Our id of every image of a COCO document by its own id."""
    names = {r["id"]: str(r["file_name"]).replace("\\", "/") for r in document["images"]}
    short = Counter(Path(name).stem for name in names.values())
    return {
        key: Path(name).stem if short[Path(name).stem] == 1 else str(Path(name).with_suffix(""))
        for key, name in names.items()
    }


def _image_of(name: str, folders: Sequence[Path]) -> Path | None:
    """The file of an image, by its name with or without the folder that stands in it."""
    tries = (folder / part for part in (name, Path(name).name) for folder in folders)
    return next((path for path in tries if path.is_file()), None)


def read_airbus(
    table: Path, images: Path | None = None, classes: Sequence[str] | None = None, ids: Sequence[str] | None = None
) -> BoxSet:
    """Read the CSV of the Airbus aircraft sample: columns image_id, geometry (a closed polygon of x, y), class."""
    notes = Notes()
    found = None if images is None else find_images(images)
    objects: dict[str, list[RawObject]] = {} if ids is None else {id: [] for id in ids}
    try:
        with table.open(encoding="utf-8-sig", newline="") as file:
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


def read_results(
    path: Path, images: Mapping[Any, str], categories: Mapping[Any, int], classes: Sequence[str] = ()
) -> dict[str, Detections]:
    """Read a COCO results json: detections by image id.

    ``images`` maps the file's image ids to ours (which also stand for themselves), ``categories`` its category ids to
    class indices. An entry that names its ``category``, as those of ``predict`` do, is of that one of ``classes``
    whatever its number, and counts nowhere when it is none of them. Raises DataError naming the first entry that does
    not fit.
    """
    rows: dict[str, list[tuple[list[float], float, int]]] = {}
    named = {name.lower(): i for i, name in enumerate(classes)}
    strange: Counter[str] = Counter()
    document = _load_json(path)
    if not isinstance(document, list):
        raise DataError(f"{path}: a COCO results file is a list of detections")
    ours = set(images.values())
    for i, entry in enumerate(document):
        try:
            id = images.get(entry["image_id"], entry["image_id"])
            x, y, w, h = map(float, entry["bbox"])
            name = str(entry.get("category", "")).lower() if classes else ""
            label = named.get(name, -1) if name else categories.get(entry["category_id"])
            box, score = [x, y, x + w, y + h], float(entry["score"])
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise DataError(f"{path} entry {i}: not a detection ({type(error).__name__}: {error})") from None
        if id not in ours:
            raise DataError(f"{path} entry {i}: image {id} is not in the ground truth")
        if label is None:
            known = ", ".join(map(str, categories))
            raise DataError(f"{path} entry {i}: category {entry['category_id']} is not in the ground truth ({known})")
        if label < 0:
            strange[entry["category"]] += 1
            continue
        if not np.isfinite([*box, score]).all():
            raise DataError(f"{path} entry {i}: a number is not finite")
        rows.setdefault(id, []).append((box, score, label))
    for name, count in strange.items():
        log.warning("%s: %d detections of %s do not count: the ground truth has no such class", path, count, name)
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
    images = {key: id for key, id in coco_images(document).items() if id in known}
    places = {name: i for i, name in enumerate(truth.classes)}
    return images, {c["id"]: places[str(c["name"])] for c in document["categories"]}


def _load_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise DataError(f"{path}: cannot be read as JSON ({error})") from None
