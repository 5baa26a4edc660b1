"""DOTA's text form of boxes: lines of four corners, class and difficulty."""

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from selectivemae.core.errors import DataError
from selectivemae.tasks.boxes_common import BoxSet, Notes, RawObject, assemble, find_images, pair_files


def read_dota(
    labels: Path,
    images: Path | None = None,
    classes: Sequence[str] | None = None,
    ids: Sequence[str] | None = None,
    sides: int = 5,
) -> BoxSet:
    """Read a folder of DOTA labelTxt files: lines ``x1 y1 x2 y2 x3 y3 x4 y4 class difficult``, after header lines.

    Commas part as spaces do. ``difficult`` other than 0 counts as difficult (a missing one as 0). ``images`` None reads
    labels alone; ``ids`` picks and ``classes`` orders, otherwise all files and sorted names. With ``sides`` 4 the boxes
    are the upright ones around the corners.
    """
    notes = Notes()
    found = None if images is None else find_images(images)
    raw = [
        (id, image, None, _label_lines(path, notes))
        for id, path, image in pair_files(labels, ".txt", found, ids, notes)
    ]
    return assemble(raw, classes, notes, labels, sides)


def _label_lines(path: Path, notes: Notes) -> list[RawObject]:
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: label file cannot be read ({error})") from None
    out = []
    for number, line in enumerate(lines, start=1):
        if not line.strip() or re.match(r"\s*(imagesource|gsd)\s*:", line, re.IGNORECASE):
            continue
        words = line.replace(",", " ").split()
        try:
            corners = np.array([float(word) for word in words[:8]]).reshape(4, 2)
        except ValueError:
            corners = None
        name, difficult = _class_and_difficulty(words[8:])
        if corners is None or not name:
            notes.add("bad_object", f"{path} line {number}")
            continue
        out.append(RawObject(name, corners, difficult, f"{path} line {number}"))
    return out


def _class_and_difficulty(words: Sequence[str]) -> tuple[str, bool]:
    """What stands behind the corners: the class, of one word or more, and a number, which may be missing."""
    if len(words) > 1:
        try:
            return " ".join(words[:-1]), float(words[-1]) != 0
        except ValueError:
            pass
    return " ".join(words), False
