"""Readers of oriented boxes: DIOR-R, DOTA labelTxt, HRSC2016; DOTA submission files in and out.

Rules for objects and files that are not as they should be: ``tasks.boxes_common``.
"""

import logging
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from xml.etree.ElementTree import Element

import numpy as np
import torch

from selectivemae.core.errors import DataError
from selectivemae.ops import rotated
from selectivemae.tasks import voc_xml
from selectivemae.tasks.boxes_common import (
    Array,
    BoxSet,
    Detections,
    find_images,
    read_ids,
)
from selectivemae.tasks.detect.data import DIOR_CLASSES, dior_images

log = logging.getLogger("selectivemae")

DOTA_CLASSES = (
    "plane", "baseball-diamond", "bridge", "ground-track-field", "small-vehicle", "large-vehicle", "ship",
    "tennis-court", "basketball-court", "storage-tank", "soccer-ball-field", "roundabout", "harbor", "swimming-pool",
    "helicopter",
)  # fmt: skip
_CORNERS = [f"{axis}_{corner}" for corner in ("left_top", "right_top", "right_bottom", "left_bottom") for axis in "xy"]


def read_dior_r(
    root: Path, split: str | Sequence[str], with_images: bool = True, annotations: Path | None = None
) -> BoxSet:
    """Read DIOR-R below its root folder; ``split`` names a file of ImageSets/Main (``train``, ``val``, ``test``), or
    gives ids. ``annotations`` overrides the folder of XML files."""
    ids = read_ids(root / "ImageSets" / "Main" / f"{split}.txt") if isinstance(split, str) else split
    folder = annotations or root / "Annotations" / "Oriented Bounding Boxes"
    return voc_xml.read_folder(folder, _DIOR_R, dior_images(root) if with_images else None, DIOR_CLASSES, ids)


def _robndbox(element: Element) -> tuple[str, Array]:
    box = element.find("robndbox")
    if box is None:
        raise ValueError("<robndbox> is missing")
    return element.findtext("name") or "", voc_xml.numbers(box, *_CORNERS).reshape(4, 2)


_DIOR_R = voc_xml.Form("object", _robndbox, sides=5)


def read_hrsc(root: Path, split: str | Sequence[str], with_images: bool = True) -> BoxSet:
    """Read HRSC2016 below its root folder as one class, ``ship``; ``split`` names a file of ImageSets, or gives ids."""
    ids = read_ids(root / "ImageSets" / f"{split}.txt") if isinstance(split, str) else split
    images = find_images(root / "FullDataSet" / "AllImages") if with_images else None
    return voc_xml.read_folder(root / "FullDataSet" / "Annotations", _HRSC, images, ("ship",), ids)


def _hrsc_object(element: Element) -> tuple[str, Array]:
    return "ship", voc_xml.numbers(element, "mbox_cx", "mbox_cy", "mbox_w", "mbox_h", "mbox_ang")


_HRSC = voc_xml.Form("HRSC_Objects/HRSC_Object", _hrsc_object, sides=5, height="Img_SizeHeight", width="Img_SizeWidth")


_TASK1 = re.compile(r"Task1_(.+)\.txt", re.IGNORECASE)


def file_word(name: str) -> str:
    """A class's name as part of a file's name: slashes become hyphens."""
    return re.sub(r"[/\\]", "-", name)


def write_submission(folder: Path, classes: Sequence[str], predictions: Mapping[str, Detections]) -> list[Path]:
    """Write DOTA's Task1 files, one a class: ``image score x1 y1 … x4 y4``. Returns their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for label, name in enumerate(classes):
        lines = []
        for id, found in sorted(predictions.items()):
            own = found.labels == label
            corners = rotated.corners(torch.from_numpy(found.boxes[own])).reshape(-1, 8).tolist()
            for score, points in zip(found.scores[own].tolist(), corners, strict=True):
                lines.append(" ".join([id, f"{score:.6f}", *(f"{p:.2f}" for p in points)]))
        path = folder / f"Task1_{file_word(name)}.txt"
        path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        paths.append(path)
    return paths


def read_submission(folder: Path, classes: Sequence[str]) -> dict[str, Detections]:
    """Read Task1 files: detections by image id. Names of classes are compared without regard to case; files of other
    classes are named in the log. Raises DataError naming file and line that does not fit."""
    rows: dict[str, list[tuple[float, list[float], int]]] = {}
    there = sorted(folder.iterdir()) if folder.is_dir() else []
    paths = {match[1].lower(): path for path in there if (match := _TASK1.fullmatch(path.name))}
    places = {file_word(name).lower(): label for label, name in enumerate(classes)}
    if not paths.keys() & places.keys():
        raise DataError(f"{folder}: no Task1_<class>.txt of the classes {', '.join(classes)}")
    for name, path in paths.items():
        lines = _lines(path)
        if name not in places and lines:
            log.warning("%s: %d detections do not count: the ground truth has no such class", path, len(lines))
            continue
        for number, line in enumerate(lines, start=1):
            id, *words = line.rsplit(maxsplit=9)
            try:
                score, *points = (float(word) for word in words)
            except ValueError:
                score, points = np.nan, []
            if len(points) != 8 or not np.isfinite([score, *points]).all():
                raise DataError(f"{path} line {number}: expected an image id, a score and eight coordinates")
            rows.setdefault(id, []).append((score, points, places[name]))
    out = {}
    for id, of_image in rows.items():
        quads = torch.tensor([points for _, points, _ in of_image], dtype=torch.float64).view(-1, 4, 2)
        scores, labels = np.array([r[0] for r in of_image]), np.array([r[2] for r in of_image], np.int64)
        out[id] = Detections(rotated.from_quads(quads).numpy(), scores, labels)
    return out


def _lines(path: Path) -> list[str]:
    try:
        return [line for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: detections cannot be read ({error})") from None
