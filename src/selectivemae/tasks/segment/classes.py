"""The classes of a data set of masks: their names, the values or colours that stand for them, and class files.

classes.txt      a name a line, which may end with a colour: ``water #0000ff``; the first class has value 0
classes.yaml     (or .json) a list of names, or of mappings {name, value, colour}; or a mapping with that list under
                 ``classes`` and under ``ignore`` the values and colours that say nothing. 255 says nothing unless it
                 is a class.
"""

import json
import logging
import re
from collections.abc import Collection
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from selectivemae.core.errors import ConfigError, DataError, DecodeError
from selectivemae.core.suggest import did_you_mean

UInt8 = NDArray[np.uint8]
Colour = tuple[int, int, int]

log = logging.getLogger("selectivemae")

IGNORED = 255  # class number of a pixel that says nothing
PADDED = 254  # and of one outside the image
MAX_CLASSES = 254
_FILES = ("classes.yaml", "classes.yml", "classes.json", "classes.txt")
_VALUES = 1 << 16


@dataclass(frozen=True)
class Classes:
    """Names of K classes, in the order of their numbers, and how masks spell them.

    ``values`` are those of index masks and ``colours`` those of colour-coded ones (``coded``) and of pictures.
    ``given`` says that the values were written down by somebody, not counted from 0.
    """

    names: tuple[str, ...]
    values: tuple[int, ...]
    colours: tuple[Colour, ...]
    ignored: tuple[int, ...] = ()
    ignored_colours: tuple[Colour, ...] = ()
    coded: bool = False
    given: bool = True

    def __post_init__(self) -> None:
        for what, those in (("name", self.names), ("value", self.values), ("colour", self.colours)):
            twice = [x for x in those if those.count(x) > 1]
            if twice and (what != "colour" or self.coded):
                raise DataError(f"two classes have the {what} {twice[0]!r}: each needs one of its own")
        if not 2 <= len(self.names) <= MAX_CLASSES:
            raise DataError(f"{len(self.names)} classes: segmentation takes 2 to {MAX_CLASSES}")
        wrong = [v for v in (*self.values, *self.ignored) if not 0 <= v < _VALUES]
        if wrong:
            raise DataError(f"value {wrong[0]} of a mask is outside 0..{_VALUES - 1}")

    @cached_property
    def _of_value(self) -> NDArray[np.int16]:
        """Class number of each value; -1 for none."""
        table = np.full(_VALUES, -1, np.int16)
        table[IGNORED] = IGNORED
        table[list(self.ignored)] = IGNORED
        table[list(self.values)] = range(len(self.values))
        return table

    @property
    def all_colours(self) -> tuple[Colour, ...]:
        """The colours that a colour-coded mask may hold; none where masks are not colour-coded."""
        return (*self.colours, *self.ignored_colours) if self.coded else ()

    def numbers(self, mask: NDArray[Any], valid: NDArray[np.bool_] | None = None) -> UInt8:
        """Class numbers (H, W) of an index mask (H, W) or a colour mask (H, W, 3); pixels that are not ``valid``
        (H, W) say nothing.

        Raises DecodeError ``mask_values`` naming the value that is no class, and where the first pixel of it is.
        """
        if mask.ndim == 3 and self.coded:
            numbers = self._from_colours(mask)
        else:
            if mask.ndim == 3:
                if (mask != mask[..., :1]).any():
                    raise DecodeError("mask_values", "the mask is coloured, but the classes have no colours")
                mask = mask[..., 0]
            outside = (mask < 0) | (mask >= _VALUES)
            numbers = self._of_value[np.where(outside, 0, mask).astype(np.uint16)]
            numbers = np.where(outside, -1, numbers)
        if valid is not None:
            numbers = np.where(valid, numbers, IGNORED)
        if numbers.min() < 0:
            row, column = (int(i) for i in np.argwhere(numbers < 0)[0])
            value = mask[row, column].tolist()
            raise DecodeError(
                "mask_values",
                f"value {value} at row {row}, column {column} is none of the classes ({int((numbers < 0).sum())} pixels"
                f" are none); known: {self.spelt()}",
            )
        return numbers.astype(np.uint8)

    def _from_colours(self, mask: NDArray[Any]) -> NDArray[np.int16]:
        """Class numbers (H, W) of colours (H, W, 3), -1 for none."""
        known = np.array([*self.colours, *self.ignored_colours], np.int64) @ (1 << 16, 1 << 8, 1)
        number = np.array([*range(len(self.names)), *[IGNORED] * len(self.ignored_colours)], np.int16)
        order = np.argsort(known, kind="stable")
        packed = mask.astype(np.int64) @ (1 << 16, 1 << 8, 1)
        place = order[np.searchsorted(known, packed, sorter=order).clip(max=len(known) - 1)]
        return np.where(known[place] == packed, number[place], -1).astype(np.int16)

    def spelt(self) -> str:
        """The values or colours of the classes, for messages."""
        spelling = self.colours if self.coded else self.values
        return ", ".join(f"{value} {name}" for value, name in list(zip(spelling, self.names, strict=True))[:12])


def numbered_classes(count: int) -> Classes:
    """Classes named by their values 0 to count - 1."""
    return Classes(tuple(str(i) for i in range(count)), tuple(range(count)), _drawn_colours(count), given=False)


def second_by_255(classes: Classes, found: Collection[int]) -> Classes:
    """The classes, where the second of two is spelt 255 if masks hold that value and never 1 (``found``).

    SpaceNet's masks are published so: read as "ignore", 255 would take every pixel of that class away.
    """
    if len(classes.names) != 2 or classes.given or 255 not in found or 1 in found:
        return classes
    log.info("masks hold 255 and never 1: 255 is taken for %s", classes.names[1])
    return replace(classes, values=(0, 255))


def _drawn_colours(count: int) -> tuple[Colour, ...]:
    """Colours for pictures: hues at the golden angle, at two brightnesses."""
    hue = np.arange(count) * 0.618034 % 1.0
    k = (np.array([5, 3, 1]) + 6 * hue[:, None]) % 6
    value = np.where(np.arange(count) % 2, 0.65, 0.95)[:, None]
    rgb = value * (1 - 0.75 * np.clip(np.minimum(k, 4 - k), 0, 1))
    return tuple((int(r), int(g), int(b)) for r, g, b in np.rint(255 * rgb))


def _known(names: str, colours: str, start: int, coded: bool = False) -> Classes:
    those = tuple(_colour(c) for c in colours.split())
    ignored = tuple(range(start))
    blank = ((0, 0, 0),) if coded else ()
    return Classes(tuple(names.split()), tuple(range(start, start + len(those))), those, ignored, blank, coded)


def _colour(text: Any) -> Colour:
    """``#rrggbb`` or three numbers as a colour; ValueError otherwise."""
    if isinstance(text, str) and re.fullmatch(r"#[0-9a-fA-F]{6}", text):
        return int(text[1:3], 16), int(text[3:5], 16), int(text[5:7], 16)
    if isinstance(text, list | tuple) and len(text) == 3 and all(isinstance(v, int) and 0 <= v < 256 for v in text):
        return text[0], text[1], text[2]
    raise ValueError(f"{text!r} is no colour: write '#rrggbb' or [red, green, blue]")


KNOWN = {
    "loveda": _known(
        "background building road water barren forest agricultural",
        "#ffffff #ff0000 #ffff00 #0000ff #9f81b7 #00ff00 #ffc380",
        start=1,
    ),
    "spacenet": replace(_known("background building", "#202020 #ff4d4d", start=0), given=False),
    "isprs": _known(
        "impervious building low_vegetation tree car clutter",
        "#ffffff #0000ff #00ffff #00ff00 #ffff00 #ff0000",
        start=1,
        coded=True,
    ),
}


def find_classes(name: str | None, root: Path | None) -> Classes | None:
    """The classes that an option names (one of ``KNOWN`` or a file), else those of a class file in ``root``, else None.

    ConfigError for a name that is neither; DataError for a file that cannot be understood, with the place.
    """
    if name is not None:
        if name in KNOWN:
            return KNOWN[name]
        if not Path(name).is_file():
            raise ConfigError(
                f"--classes {name}: no such file, and not one of {', '.join(KNOWN)}{did_you_mean(name, KNOWN)}"
            )
        return read_classes(Path(name))
    files = [root / file for file in _FILES if (root / file).is_file()] if root else []
    return read_classes(files[0]) if files else None


def read_classes(path: Path) -> Classes:
    """The classes of a class file, in one of the forms above. DataError names file and entry."""
    try:
        text = path.read_text(encoding="utf-8")
        if path.suffix == ".txt":
            return _from_entries([_text_line(line) for line in text.splitlines() if line.strip()], [])
        data = json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
        ignore = data.get("ignore", []) if isinstance(data, dict) else []
        entries = data.get("classes") if isinstance(data, dict) else data
        if not isinstance(entries, list) or not isinstance(ignore, list):
            raise ValueError("it must hold a list of classes (and one of values to ignore)")
        return _from_entries([{"name": e} if not isinstance(e, dict) else e for e in entries], ignore)
    except (OSError, ValueError, yaml.YAMLError, DataError) as error:
        said = str(error).partition("\n")[0]
        raise DataError(f"{path}: {said}; write a list of names, or of name, value and colour") from error


def _text_line(line: str) -> dict[str, Any]:
    name, _, colour = line.strip().rpartition(" ")
    return {"name": name.strip(), "colour": colour} if name and colour.startswith("#") else {"name": line.strip()}


def _from_entries(entries: list[dict[str, Any]], ignore: list[Any]) -> Classes:
    for number, entry in enumerate(entries, 1):
        unknown = set(entry) - {"name", "value", "colour", "color"}
        if "name" not in entry or unknown:
            raise ValueError(f"entry {number} needs a name and may have value and colour, not {sorted(unknown)}")
    given = ["value" in entry for entry in entries]
    if any(given) and not all(given):
        raise ValueError(f"class {entries[given.index(False)]['name']} has no value, but others have")
    named = [_colour(e.get("colour", e.get("color"))) for e in entries if "colour" in e or "color" in e]
    if named and len(named) < len(entries):
        raise ValueError(f"{len(named)} of {len(entries)} classes have a colour: give all or none")
    values = tuple(int(entry.get("value", i)) for i, entry in enumerate(entries))
    return Classes(
        tuple(str(entry["name"]) for entry in entries),
        values,
        tuple(named) or _drawn_colours(len(entries)),
        tuple(int(v) for v in ignore if isinstance(v, int)),
        tuple(_colour(v) for v in ignore if not isinstance(v, int)),
        coded=bool(named),
        given=any(given),
    )
