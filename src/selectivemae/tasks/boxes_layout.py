"""Which labelled boxes a folder holds: the layouts that ``finetune`` and ``evaluate`` recognise, and their parts.

======================================================= =========================================================
DIOR, DIOR-R                                            JPEGImages-trainval/ JPEGImages-test/ (or JPEGImages/),
                                                        Annotations/Horizontal (or Oriented) Bounding Boxes/,
                                                        ImageSets/Main/{train,val,trainval,test}.txt
HRSC2016 (oriented)                                     FullDataSet/{AllImages,Annotations}/, ImageSets/*.txt
COCO (upright)                                          {train,val,test}.json, annotations/instances_*.json, or
                                                        _annotations.coco.json among the images of each part
images in parts                                         {train,val,test}/ with images/ and labels as in the next line
images with lists                                       images/ (or JPEGImages/) with Annotations/*.xml (VOC; upright),
                                                        labelTxt/*.txt (DOTA), or annotations.csv (Airbus; upright), and
                                                        {train,val,test}.txt beside them or in ImageSets/[Main/]
======================================================= =========================================================

Judged is the part ``test``, or ``val`` where no ``test`` has labels, or all images where there are no lists; trained on
is all that is before it.
``classes.txt`` (one name a line) beside the data orders the classes; DIOR's and HRSC2016's are fixed; otherwise names
are sorted.
"""

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Literal

import numpy as np

from selectivemae.core.errors import DataError
from selectivemae.tasks.boxes_common import BoxSet, Notes, read_ids
from selectivemae.tasks.detect.data import read_airbus, read_coco, read_dior, read_voc
from selectivemae.tasks.dota_txt import read_dota
from selectivemae.tasks.oriented.data import read_dior_r, read_hrsc

Part = Literal["train", "test"]
_NAMES = ("train", "val", "trainval", "test")


def open_boxes(
    root: Path, part: Part, sides: int, split: str | None = None, classes: Sequence[str] | None = None
) -> BoxSet:
    """Labelled images below a folder of one of the layouts above; ``sides`` is 4 for upright boxes, 5 for rotated.

    ``split`` names the list or folder instead of ``part``, several joined by + (``train+val``). ``classes`` orders the
    classes; objects of others are left out and noted. Raises DataError that says what is missing.
    """
    if not root.is_dir():
        raise DataError(f"{root}: no such folder; --data names a folder of labelled images")
    known = tuple(classes) if classes is not None else _named_classes(root)
    readers = (_read_lists, _read_coco_parts, _read_parts) if sides == 4 else (_read_lists, _read_parts)
    for reader in readers:
        found = reader(root, part, sides, split, known)
        if found is not None:
            return _relabelled(found, known) if known else found
    wanted = "DIOR, COCO json, VOC XML, DOTA labelTxt" if sides == 4 else "DIOR-R, HRSC2016, DOTA labelTxt"
    raise DataError(
        f"{root}: no layout of labelled {'upright' if sides == 4 else 'oriented'} boxes ({wanted}) is there"
    )


def choose(available: Sequence[str], part: Part, split: str | None, where: Path) -> list[str]:
    """The lists (or folders) to read, of those available, for a part or for the names in ``split``.

    Raises DataError when a named one is missing, or none is left to train on or to judge by.
    """
    if split is not None:
        names = split.split("+")
        if missing := [name for name in names if name not in available]:
            raise DataError(f"{where}: no part {missing[0]!r}; there are: {', '.join(available) or 'none'}")
        return names
    test = "test" if "test" in available else "val" if "val" in available else None
    if test is None:
        there = f"there are: {', '.join(available)}" if available else "write lists of ids: train.txt and val.txt"
        raise DataError(f"{where}: no part called test or val to judge by; {there}")
    if part == "test":
        return [test]
    options = [["trainval"], ["train", "val"], ["train"]] if test == "test" else [["train"]]
    for names in options:
        if set(names) <= set(available):
            return names
    raise DataError(f"{where}: no part called train; there are: {', '.join(available)}")


def _read_lists(root: Path, part: Part, sides: int, split: str | None, classes: Sequence[str] | None) -> BoxSet | None:
    """A layout whose parts are lists of ids; None where there is none."""
    dior = root / "Annotations" / f"{'Horizontal' if sides == 4 else 'Oriented'} Bounding Boxes"
    hrsc = root / "FullDataSet" / "Annotations"
    if not (dior.is_dir() or (sides == 5 and hrsc.is_dir()) or _has_labels(root, sides)):
        return None
    lists = {}
    for folder in (root, root / "ImageSets", root / "ImageSets" / "Main"):
        lists |= {name: folder / f"{name}.txt" for name in _NAMES if (folder / f"{name}.txt").is_file()}
        if split is not None:
            lists |= {name: path for name in split.split("+") if (path := folder / f"{name}.txt").is_file()}
    if not lists and split is None and part == "test" and _has_labels(root, sides):
        return _read_flat(root, sides, classes, None)  # a folder of a single part: judge all of it
    chosen = [lists[name] for name in choose(list(lists), part, split, root)]
    ids = [id for path in chosen for id in read_ids(path)]
    if not ids:
        raise DataError(f"{' and '.join(map(str, chosen))}: no image is named there; write one id a line")
    if dior.is_dir():
        return (read_dior if sides == 4 else read_dior_r)(root, ids)
    if sides == 5 and hrsc.is_dir():
        return read_hrsc(root, ids)
    return _read_flat(root, sides, classes, ids)


def _has_labels(folder: Path, sides: int) -> bool:
    upright = sides == 4 and ((folder / "Annotations").is_dir() or (folder / "annotations.csv").is_file())
    return _image_folder(folder) is not None and (upright or (folder / "labelTxt").is_dir())


def _image_folder(folder: Path) -> Path | None:
    return next((folder / name for name in ("images", "JPEGImages") if (folder / name).is_dir()), None)


def _read_flat(folder: Path, sides: int, classes: Sequence[str] | None, ids: Sequence[str] | None) -> BoxSet:
    images = _image_folder(folder)
    if sides == 4 and (folder / "Annotations").is_dir():
        return read_voc(folder / "Annotations", images, classes, ids)
    if (folder / "labelTxt").is_dir():
        return read_dota(folder / "labelTxt", images, classes, ids, sides)
    return read_airbus(folder / "annotations.csv", images, classes, ids)


def _read_parts(root: Path, part: Part, sides: int, split: str | None, classes: Sequence[str] | None) -> BoxSet | None:
    """A folder for each part; None where there is none."""
    known = dict.fromkeys([*_NAMES, *(split.split("+") if split else ())])
    available = [name for name in known if _has_labels(root / name, sides)]
    if not available:
        return None
    names = choose(available, part, split, root)
    return joined([_read_flat(root / name, sides, classes, None) for name in names], root)


def _read_coco_parts(
    root: Path, part: Part, sides: int, split: str | None, classes: Sequence[str] | None
) -> BoxSet | None:
    """A COCO json for each part; None where there is none."""
    files: dict[str, Path] = {}
    for name in dict.fromkeys([*_NAMES, *(split.split("+") if split else ())]):
        inside = root / "annotations"
        forms = [
            root / f"{name}.json",
            root / name / "_annotations.coco.json",
            *(inside / f"{h}{name}{y}.json" for h in ("", "instances_") for y in ("", "2017")),
        ]
        if file := next((form for form in forms if form.is_file()), None):
            files[name] = file
    if not files:
        return None
    sets = []
    for name in choose(list(files), part, split, root):
        folders = [root / name / "images", root / "images", root / name, root / f"{name}2017", root / "JPEGImages"]
        sets.append(read_coco(files[name], [*(f for f in folders if f.is_dir()), root], classes))
    return joined(sets, root)


def _named_classes(root: Path) -> tuple[str, ...] | None:
    file = root / "classes.txt"
    if not file.is_file():
        return None
    try:
        return tuple(line.strip() for line in file.read_text(encoding="utf-8").splitlines() if line.strip())
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{file}: class names cannot be read ({error})") from None


def joined(sets: list[BoxSet], root: Path) -> BoxSet:
    """Several data sets as one, with the classes of all. Raises DataError when an image is in two of them."""
    if len(sets) == 1:
        return sets[0]
    names = tuple(sorted({name for s in sets for name in s.classes}, key=str.lower))
    sets = [_relabelled(s, names) for s in sets]
    items = sorted((item for s in sets for item in s.items), key=lambda item: item.id)
    for earlier, later in pairwise(items):
        if earlier.id == later.id:
            raise DataError(f"{root}: two images are called {later.id}; rename one")
    return BoxSet(names, items, Notes([entry for s in sets for entry in s.notes.entries]))


def _relabelled(data: BoxSet, classes: Sequence[str]) -> BoxSet:
    """A data set with its class indices by ``classes``; objects of other classes are left out and noted."""
    if tuple(classes) == data.classes:
        return data
    index = {name.lower(): i for i, name in enumerate(classes)}
    table = np.array([index.get(name.lower(), -1) for name in data.classes], np.int64)
    items = []
    for item in data:
        labels = table[item.labels]
        keep = labels >= 0
        for old in item.labels[~keep].tolist():
            data.notes.add("unknown_class", f"{item.id}: {data.classes[old]}")
        boxes, difficult = item.boxes[keep], item.difficult[keep]
        items.append(replace(item, boxes=boxes, labels=labels[keep], difficult=difficult))
    return BoxSet(tuple(classes), items, data.notes)
