"""Class folders: images with a label and a part (train or test)."""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from selectivemae.core.errors import DataError
from selectivemae.core.order import Int64, permute
from selectivemae.core.suggest import did_you_mean

TRAIN, TEST = 0, 1
_PART_NAMES = {"train": TRAIN, "training": TRAIN, "test": TEST, "val": TEST, "valid": TEST, "validation": TEST}
TEST_SHARE = 0.3


class _Ids(Protocol):
    def __len__(self) -> int: ...
    def id(self, index: int, /) -> str: ...


@dataclass(frozen=True)
class Labelled:
    """Samples of a store with their classes and parts; N samples."""

    index: Int64  # (N,) place in the store
    label: Int64  # (N,) class number
    part: Int64  # (N,) TRAIN or TEST
    classes: tuple[str, ...]
    how: str  # how the parts were made, in words

    def of(self, part: int) -> tuple[Int64, Int64]:
        """Store places and labels of one part."""
        chosen = self.part == part
        return self.index[chosen], self.label[chosen]


def read_labels(store: _Ids, root: Path | None, seed: int = 0) -> Labelled:
    """Labels from the folders' names: ``CLASS/img.jpg``, or ``train/CLASS/…`` and ``test/CLASS/…``.

    The parts are those of ``split.csv`` (columns file, label, split) in ``root`` where there is one, else of folders
    named train and test (or val), else a seeded draw of 30 % of each class for the test. DataError when there are
    fewer than two classes, a class lacks one of the parts, or split.csv names files that are not there.
    """
    paths = [store.id(i).partition("/")[2] for i in range(len(store))]
    table = root / "split.csv" if root is not None else None
    if table is not None and table.is_file():
        return _from_table(table, paths)
    parts = [_PART_NAMES.get(p.split("/", 1)[0].lower()) for p in paths]
    if {TRAIN, TEST} <= set(parts):
        kept = [i for i, part in enumerate(parts) if part is not None]
        names = [paths[i].split("/", 1)[1] for i in kept]
        return _build(kept, [_folder(n) for n in names], [parts[i] or 0 for i in kept], "train and test folders")
    labels = [_folder(p) for p in paths]
    return _build(
        range(len(paths)), labels, _draw_parts(labels, seed), f"{TEST_SHARE:.0%} of each class drawn for test"
    )


def _folder(path: str) -> str:
    """The class of a path: the folder that the image lies in."""
    return path.rsplit("/", 2)[-2] if "/" in path else ""


def _draw_parts(labels: Sequence[str], seed: int) -> list[int]:
    parts = [TRAIN] * len(labels)
    for number, name in enumerate(sorted(set(labels))):
        members = [i for i, label in enumerate(labels) if label == name]
        shuffled = permute(np.arange(len(members)), len(members), seed * 100003 + number)
        for i in shuffled[: max(1, round(TEST_SHARE * len(members)))]:
            parts[members[int(i)]] = TEST
    return parts


def _from_table(table: Path, paths: list[str]) -> Labelled:
    place = {p: i for i, p in enumerate(paths)}
    index, labels, parts, absent = [], [], [], []
    with open(table, newline="", encoding="utf-8") as f:
        for line, row in enumerate(csv.DictReader(f), 2):
            try:
                name, label, part = row["file"], row["label"], row["split"].lower()
            except (KeyError, AttributeError):
                raise DataError(f"{table}, line {line}: needs the columns file, label and split") from None
            if part not in _PART_NAMES:
                raise DataError(
                    f"{table}, line {line}: split {part!r} is not train or test{did_you_mean(part, _PART_NAMES)}"
                )
            if name not in place:
                absent.append(name)
                continue
            index.append(place[name])
            labels.append(label)
            parts.append(_PART_NAMES[part])
    if absent:
        more = f" and {len(absent) - 3} more" if len(absent) > 3 else ""
        raise DataError(f"{table} names {len(absent)} files that are not there: {', '.join(absent[:3])}{more}")
    return _build(index, labels, parts, "split.csv")


def _build(index: Sequence[int], labels: list[str], parts: list[int], how: str) -> Labelled:
    classes = tuple(sorted(set(labels)))
    if len(classes) < 2:
        raise DataError(f"labels need at least two class folders (CLASS/image.jpg), found {list(classes)}")
    number = {name: i for i, name in enumerate(classes)}
    part = np.array(parts, np.int64)
    label = np.array([number[name] for name in labels], np.int64)
    for which, word in ((TRAIN, "training"), (TEST, "test")):
        lacking = [classes[i] for i in sorted(set(range(len(classes))) - set(label[part == which].tolist()))]
        if lacking:
            raise DataError(f"no {word} image of class {', '.join(lacking[:5])} ({how}): each class needs both parts")
    return Labelled(np.array(index, np.int64), label, part, classes, how)
