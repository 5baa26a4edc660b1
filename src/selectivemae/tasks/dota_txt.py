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

    ``difficult`` other than 0 counts as difficult (a missing one as 0). ``images`` None reads labels alone;
    ``ids`` picks and ``classes`` orders, otherwise all files and sorted names. With ``sides`` 4 the boxes are the
    upright ones around the corners.
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
        words = line.split()
        try:
            corners = np.array([float(word) for word in words[:8]])
            difficult = len(words) > 9 and int(words[9]) != 0
            name = words[8]
        except (ValueError, IndexError):
            notes.add("bad_object", f"{path} line {number}")
            continue
        out.append(RawObject(name, corners.reshape(4, 2), difficult, f"{path} line {number}"))
    return out
