"""Published split files of scene classification: ``train_labels_28_0.txt`` beside ``valid_labels_28_0.txt``.

A line is ``<file> <directory> <class number>`` or ``<directory/file> <class number>``, with spaces or tabs between; a
directory may have spaces in it. Of the directory only the last
component counts (the rest is a path of the lists' authors); the class numbers' order is kept, since published heads
follow it, and it is not alphabetical. ``28`` means 20 % for training and 80 % for the test, ``0`` numbers the draw.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from selectivemae.core.errors import DataError
from selectivemae.core.suggest import did_you_mean
from selectivemae.data.labels import TEST, TRAIN, Ids, Labelled, inner_paths, listed

_TRAIN_FILE, _TEST_FILE = "train_labels_{}.txt", "valid_labels_{}.txt"
_THREE = re.compile(r"([^/]*?\.\w+)\s+(\S.*)")  # file and directory; else it is directory/file


@dataclass(frozen=True)
class Line:
    """One image of a list."""

    number: int  # of the line, from 1
    directory: str  # its last component; empty where only a file is named
    file: str
    label: int


def find_lists(folder: Path, split: str) -> tuple[Path, Path]:
    """The two files of a split in a folder: ``28`` is ``28_0``, or the pair without a draw's number (MillionAID's test
    list, ``valid_labels.txt``, names no split). DataError when they are not there."""
    known = sorted(f.name[len("train_labels_") : -4] for f in folder.glob("train_labels_*.txt"))
    for name in (split, f"{split}_0"):
        train = folder / _TRAIN_FILE.format(name)
        for test in (folder / _TEST_FILE.format(name), folder / "valid_labels.txt"):
            if train.is_file() and test.is_file():
                return train, test
    there = f" (there: {', '.join(known)})" if known else " (there is none)"
    raise DataError(
        f"{folder} has no pair train_labels_{split}.txt and valid_labels_{split}.txt{there}{did_you_mean(split, known)}"
    )


def read_lists(store: Ids, train: Path, test: Path) -> Labelled:
    """Labels and parts of a store's images by two published lists; the classes in the order of their numbers.

    DataError with file and line for what is no such line, an image that is named twice, in both lists, or matches
    several files, and for a directory with two numbers where directories are classes; with names for images that are
    not there; and for class numbers without an image.
    """
    paths = inner_paths(store)
    finder = _Finder(paths)
    taken: dict[int, str] = {}
    index, labels, parts, lines = [], [], [], []
    absent: dict[Path, list[str]] = {train: [], test: []}
    for table, part in ((train, TRAIN), (test, TEST)):
        for line in _lines(table):
            place = finder.find(line, table)
            if place is None:
                absent[table].append(f"{line.directory}/{line.file}".lstrip("/"))
                continue
            if place in taken:
                raise DataError(f"{table}, line {line.number}: {paths[place]} is named in {taken[place]} already")
            taken[place] = f"{table.name}, line {line.number}"
            index.append(place)
            labels.append(line.label)
            parts.append(part)
            lines.append(line)
    _check_all_present(absent)
    how = f"lists {train.name} and {test.name}"
    _check_directories(lines, train)
    places, numbers, which = (np.array(values, np.int64) for values in (index, labels, parts))
    return Labelled(places, numbers, which, _class_names(lines, train), how)


def _check_all_present(absent: dict[Path, list[str]]) -> None:
    """DataError that lists what the lists name and the data lack, if anything."""
    told = [f"{t} names {len(names)} files that are not there: {listed(names)}" for t, names in absent.items() if names]
    if told:
        raise DataError("; ".join(told))


def _lines(table: Path) -> Iterator[Line]:
    try:
        text = table.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as e:
        raise DataError(f"cannot read the list {table}: {e}") from e
    for number, raw in enumerate(text.splitlines(), 1):
        if not raw.strip():
            continue
        match = re.fullmatch(r"(.*\S)\s+(\d+)", raw.strip())
        if not match:
            raise DataError(
                f"{table}, line {number}: {raw[:80]!r} is neither 'file directory number' nor 'class/file number'"
            )
        what, label = match[1].replace("\\", "/"), int(match[2])
        three = _THREE.fullmatch(what)
        file, directory = three.groups() if three else (what, "")
        *before, file = file.split("/")
        steps = [step for step in directory.split("/") if step] or before
        yield Line(number, steps[-1] if steps else "", file, label)


class _Finder:
    """Places of images by their last folder and name, or by a name that occurs once."""

    def __init__(self, paths: Sequence[str]) -> None:
        self.paths = paths
        self._by_folder: dict[str, list[int]] = {}
        self._by_name: dict[str, list[int]] = {}
        for place, path in enumerate(paths):
            self._by_folder.setdefault("/".join(path.split("/")[-2:]), []).append(place)
            self._by_name.setdefault(path.rpartition("/")[2], []).append(place)

    def find(self, line: Line, table: Path) -> int | None:
        """The place of a line's image, None where it is not there; DataError when several fit."""
        exact = self._by_folder.get(f"{line.directory}/{line.file}", []) if line.directory else []
        found = exact or self._by_name.get(line.file, [])
        if len(found) > 1:
            one, other = (self.paths[place] for place in found[:2])
            raise DataError(f"{table}, line {line.number}: {line.file} may be {one} or {other}")
        return found[0] if found else None


def _check_directories(lines: Sequence[Line], table: Path) -> None:
    """DataError for a directory with two class numbers, unless directories are no classes (all images lie in few)."""
    numbers: dict[str, int] = {}
    for line in lines:
        numbers.setdefault(line.directory, line.label)
    if len(numbers) < len({line.label for line in lines}):
        return
    for line in lines:
        if line.label != numbers[line.directory]:
            raise DataError(
                f"{table} and its pair give the directory {line.directory} class number {numbers[line.directory]}, and "
                f"{line.label} in line {line.number} ({line.file})"
            )


def _class_names(lines: Sequence[Line], table: Path) -> tuple[str, ...]:
    """Names by number: the directory's where it tells the classes apart, else the file's without its number."""
    count = max((line.label for line in lines), default=-1) + 1
    lacking = sorted(set(range(count)) - {line.label for line in lines})
    if count < 2 or lacking:
        what = f"no image of class number {lacking[0]}" if lacking else "fewer than two classes"
        raise DataError(f"{table} and its pair have {what}: is the list whole?")
    by_directory = [(line.label, line.directory) for line in lines]
    by_file = [(line.label, re.sub(r"[_\-]?\d+$", "", line.file.rpartition(".")[0])) for line in lines]
    for pairs in (by_directory, by_file):
        names = dict(pairs)
        if len(set(pairs)) == count == len(set(names.values())) and all(names.values()):
            return tuple(names[number] for number in range(count))
    return tuple(f"class {number}" for number in range(count))
