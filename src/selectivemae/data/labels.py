"""Class folders: images with a label and a part (train or test)."""

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from os.path import commonprefix
from pathlib import Path
from typing import Protocol

import numpy as np

from selectivemae.core.errors import DataError
from selectivemae.core.order import Int64, permute
from selectivemae.core.suggest import did_you_mean

TRAIN, TEST = 0, 1
PART_WORDS = {TRAIN: "training", TEST: "test"}
_VAL_NAMES = ("val", "valid", "validation")
_PART_NAMES = {"train": TRAIN, "training": TRAIN, "test": TEST} | dict.fromkeys(_VAL_NAMES, TEST)
TEST_SHARE = 0.3
_NAMED = 10  # names listed in a message


class Ids(Protocol):
    """What labels are read from: the ids of a store."""

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
    drawn: bool = False  # whether the parts are a draw of ours, the data having none

    def of(self, part: int) -> tuple[Int64, Int64]:
        """Store places and labels of one part."""
        chosen = self.part == part
        return self.index[chosen], self.label[chosen]

    def lacking(self, part: int) -> list[str]:
        """Classes without an image in a part."""
        there = set(self.label[self.part == part].tolist())
        return [name for number, name in enumerate(self.classes) if number not in there]


def read_labels(
    store: Ids,
    root: Path | None,
    seed: int = 0,
    *,
    test_share: float = TEST_SHARE,
    parts: Sequence[int] = (TRAIN, TEST),
) -> Labelled:
    """Labels from the folders' names: ``CLASS/img.jpg`` at any depth, or ``train/CLASS/…`` and ``test/CLASS/…``.

    The parts are those of ``split.csv`` (columns file, label, split) in ``root`` where there is one, else of folders
    named train and test (or val), which may lie in a folder that holds all, else a seeded draw of ``test_share`` of
    each class for the test. Where there are val and test, val is left out. Images of a test folder without classes
    (MillionAID), or in no folder at all, have no label and are left out. DataError when there are fewer than two
    classes (where ``parts`` are asked for), a class lacks an image in one of ``parts``, a class folder is empty, or
    split.csv names files that are not there, or one twice.
    """
    paths = inner_paths(store)
    table = root / "split.csv" if root is not None else None
    fewest = 2 if parts else 1
    if table is not None and table.is_file():
        labelled = _from_table(table, paths, fewest)
    else:
        labelled = _from_folders(paths, seed, test_share, fewest)
        if root is not None:
            _check_no_empty_class(root, paths, labelled.classes)
    return require_parts(labelled, parts)


def inner_paths(store: Ids) -> list[str]:
    """Paths of the samples inside their store: the ids without the store's name."""
    return [store.id(i).partition("/")[2] for i in range(len(store))]


def require_parts(labelled: Labelled, parts: Sequence[int]) -> Labelled:
    """The same, or DataError when a class lacks an image in one of ``parts``."""
    for part in parts:
        lacking = labelled.lacking(part)
        if lacking:
            raise DataError(
                f"no {PART_WORDS[part]} image of class {listed(lacking)} ({labelled.how}): each class needs at least "
                "one in both parts"
            )
    return labelled


def listed(names: Sequence[str]) -> str:
    """The first names of a list, and how many more there are."""
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more


def _from_names(
    index: Sequence[int], labels: Sequence[str], parts: Sequence[int], how: str, fewest: int, drawn: bool = False
) -> Labelled:
    """Labels by name, the classes in alphabetical order. DataError when there are fewer than ``fewest``."""
    classes = tuple(sorted(set(labels)))
    if len(classes) < fewest:
        need = "at least two class folders" if fewest > 1 else "a class folder"
        raise DataError(f"labels need {need} (CLASS/image.jpg), found {list(classes)}")
    number = {name: i for i, name in enumerate(classes)}
    label = np.array([number[name] for name in labels], np.int64)
    return Labelled(np.array(index, np.int64), label, np.array(parts, np.int64), classes, how, drawn)


def _from_folders(paths: list[str], seed: int, test_share: float, fewest: int) -> Labelled:
    # Folders that hold all, as archives often have one; whole ones only, hence the slashes.
    depth = commonprefix(paths).count("/")  # noqa: RUF071
    inside = [path.split("/")[depth:] for path in paths]
    words = [steps[0].lower() if len(steps) > 2 else "" for steps in inside]
    kept = [i for i, word in enumerate(words) if word in _PART_NAMES]
    if {_PART_NAMES[words[i]] for i in kept} == {TRAIN, TEST}:
        kept, unused = _without_val(kept, [words[i] for i in kept])
        labels, parts = [_folder(paths[i]) for i in kept], [_PART_NAMES[words[i]] for i in kept]
        return _from_names(kept, labels, parts, f"train and test folders{unused}", fewest)
    # Only one of the two has classes: what lies flat in the other has no label.
    kept = kept or [i for i, path in enumerate(paths) if "/" in path]
    labels = [_folder(paths[i]) for i in kept]
    how = f"{test_share:.0%} of each class drawn for test"
    if len(kept) < len(paths):
        how += f"; {len(paths) - len(kept)} images in no class folder left out"
    return _from_names(kept, labels, _draw_parts(labels, seed, test_share), how, fewest, drawn=True)


def _without_val(kept: list[int], words: Sequence[str]) -> tuple[list[int], str]:
    """The samples whose parts have these names without those of val where there is a test part too: people tune on
    val, and judge on test. Also what to say of it."""
    if "test" not in words or not any(word in _VAL_NAMES for word in words):
        return kept, ""
    chosen = [i for i, word in zip(kept, words, strict=True) if word not in _VAL_NAMES]
    return chosen, f"; {len(kept) - len(chosen)} images of the val part left out"


def _folder(path: str) -> str:
    """The class of a path: the folder that the image lies in."""
    return path.rsplit("/", 2)[-2]


def _draw_parts(labels: Sequence[str], seed: int, test_share: float) -> list[int]:
    parts = [TRAIN] * len(labels)
    members: dict[str, list[int]] = {}
    for i, label in enumerate(labels):
        members.setdefault(label, []).append(i)
    for number, name in enumerate(sorted(members)):
        places = members[name]
        shuffled = permute(np.arange(len(places)), len(places), seed * 100003 + number)
        # Both parts get an image of every class that has two.
        for i in shuffled[: max(1, min(round(test_share * len(places)), len(places) - 1))]:
            parts[places[int(i)]] = TEST
    return parts


def _check_no_empty_class(root: Path, paths: list[str], classes: tuple[str, ...]) -> None:
    """DataError for an empty folder beside the class folders: a class would be missing without a word."""
    folders = {Path(path).parent for path in paths}
    for parent in {folder.parent for folder in folders if folder.name in classes}:
        if (root / parent).is_dir():
            for child in sorted((root / parent).iterdir()):
                if child.is_dir() and not any(child.iterdir()):
                    raise DataError(f"class folder {child} is empty: put images in, or remove it")


def _from_table(table: Path, paths: list[str], fewest: int) -> Labelled:
    place = {p: i for i, p in enumerate(paths)}
    index, labels, words, absent = [], [], [], []
    seen: dict[str, int] = {}
    for line, row in _rows(table):
        name, label, part = row.get("file"), row.get("label"), row.get("split")
        if not name or not label or part is None:
            raise DataError(f"{table}, line {line}: needs the columns file, label and split")
        if part.lower() not in _PART_NAMES:
            raise DataError(
                f"{table}, line {line}: split {part!r} is not train or test{did_you_mean(part, _PART_NAMES)}"
            )
        if name in seen:
            raise DataError(f"{table}, line {line}: {name} stands in line {seen[name]} too")
        seen[name] = line
        if name not in place:
            absent.append(name)
            continue
        index.append(place[name])
        labels.append(label)
        words.append(part.lower())
    check_present(table, absent)
    kept, unused = _without_val(list(range(len(index))), words)
    parts = [_PART_NAMES[words[i]] for i in kept]
    return _from_names([index[i] for i in kept], [labels[i] for i in kept], parts, f"split.csv{unused}", fewest)


def _rows(table: Path) -> Iterator[tuple[int, dict[str, str | None]]]:
    """Line numbers and cells by column of a CSV file. DataError when it is none."""
    try:
        with open(table, newline="", encoding="utf-8-sig") as f:
            reader = csv.DictReader(f)
            for row in reader:
                yield reader.line_num, row
    except (OSError, UnicodeDecodeError, csv.Error) as e:
        raise DataError(f"cannot read {table}: {e}") from e


def check_present(table: Path, absent: Sequence[str]) -> None:
    """DataError that lists what a table names and the data lack, if anything."""
    if absent:
        raise DataError(f"{table} names {len(absent)} files that are not there: {listed(absent)}")
