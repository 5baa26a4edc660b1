"""The parts of XML label files that several readers share."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

import numpy as np

from selectivemae.tasks.boxes_common import Array, BoxSet, Notes, RawObject, assemble, pair_files


@dataclass(frozen=True)
class Form:
    """A kind of XML label file: where its objects are, how one becomes (class name, values), and the tags of size."""

    objects: str
    parse: Callable[[ElementTree.Element], tuple[str, Array]]
    sides: int
    height: str = "size/height"
    width: str = "size/width"


def read_folder(
    folder: Path,
    form: Form,
    images: Mapping[str, Path] | None,
    classes: Sequence[str] | None,
    ids: Sequence[str] | None,
    as_is: bool = False,
) -> BoxSet:
    """Read a folder of XML label files, all of them or those of ``ids``; ``images`` by id, None reads labels alone."""
    notes, raw = Notes(), []
    for id, path, image in pair_files(folder, ".xml", images, ids, notes):
        root = read_xml(path, notes)
        if root is not None:
            objects = objects_of(root, form.objects, path, notes, form.parse)
            raw.append((id, image, size_of(root, form.height, form.width), objects))
    return assemble(raw, classes, notes, folder, form.sides, as_is)


def read_xml(path: Path, notes: Notes) -> ElementTree.Element | None:
    """The root of an XML file; None, with a note, when it is none."""
    try:
        return ElementTree.parse(path).getroot()
    except (ElementTree.ParseError, OSError, UnicodeDecodeError) as error:
        notes.add("unreadable", f"{path}: {error}")
        return None


def number(element: ElementTree.Element, tag: str) -> float:
    """The number in a child element. Raises ValueError when it is missing or no number."""
    text = element.findtext(tag)
    if text is None:
        raise ValueError(f"<{tag}> is missing")
    return float(text)


def numbers(element: ElementTree.Element, *tags: str) -> Array:
    """The numbers in some child elements (len(tags),)."""
    return np.array([number(element, tag) for tag in tags])


def size_of(root: ElementTree.Element, height: str, width: str) -> tuple[int, int] | None:
    """(height, width) from two tags; None when they are missing, no numbers or not positive."""
    try:
        size = int(number(root, height)), int(number(root, width))
    except ValueError:
        return None
    return size if min(size) > 0 else None


def objects_of(
    root: ElementTree.Element,
    tag: str,
    path: Path,
    notes: Notes,
    parse: Callable[[ElementTree.Element], tuple[str, Array]],
) -> list[RawObject]:
    """All objects under ``tag``; ``parse`` gives (class name, values) or raises ValueError (noted, left out)."""
    out = []
    for i, element in enumerate(root.findall(tag)):
        where = f"{path} object {i + 1}"
        try:
            name, values = parse(element)
        except ValueError as error:
            notes.add("bad_object", f"{where}: {error}")
            continue
        difficult = (element.findtext("difficult") or "0").strip() not in ("", "0")
        out.append(RawObject(name.strip(), values, difficult, where))
    return out
