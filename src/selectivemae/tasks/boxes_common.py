"""Labelled images for box detection, and what is done about objects and files that are not as they should be.

Upright boxes are x1 y1 x2 y2, rotated ones cx cy w h θ (radians, θ clockwise on the screen), both float64 pixels.

The rules, the same for every reader; what they change is counted and named in ``Notes``:

===================== =============================================================================
not_finite            a coordinate is NaN or infinite: the object is left out
inverted              an upright box with x2 < x1 or y2 < y1: left out
too_small             an upright box under 1 px wide or high, a rotated one without area: left out (*)
repeated_corner       an oriented object with two equal neighbouring corners: left out
crossed_corners       the corners are not in order around the object: kept, as the rectangle around them
outside               wholly outside the image: left out (*); an object that only crosses the border is kept whole
unknown_class         a class that was not asked for: left out (names are compared without regard to case)
bad_object            a line or element without readable numbers: left out
unreadable            a label file that is no XML, or an image that is none: the image is left out
no_image              labels without an image, where images are asked for: left out
no_labels             an image without a label file: left out
no_objects            a label file without objects: kept (training leaves it out, evaluation does not)
no_size               neither the labels nor an image say how large the image is: kept, nothing counts as outside
other_size            labels that belong to another size of the image (they say so, or do not say and most of their
                      objects lie outside): the image is left out
===================== =============================================================================

(*) Kept where somebody's detections are judged by a COCO or VOC file (``as_is``): such figures are those of that file.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from selectivemae.core.errors import DataError, DecodeError
from selectivemae.data.decode import header
from selectivemae.ops import rotated

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff")
Array = NDArray[np.float64]


@dataclass
class Notes:
    """What a reader left out or found odd: (reason, where) in the order met."""

    entries: list[tuple[str, str]] = field(default_factory=list)

    def add(self, reason: str, where: str) -> None:
        """Note that the rule ``reason`` was applied at ``where``."""
        self.entries.append((reason, where))

    @property
    def counts(self) -> dict[str, int]:
        """How often each reason occurred."""
        return dict(Counter(reason for reason, _ in self.entries))

    def __str__(self) -> str:
        """One line a reason: its count and the first place."""
        first: dict[str, str] = {}
        for reason, where in self.entries:
            first.setdefault(reason, where)
        return "\n".join(f"{reason}: {n} (first: {first[reason]})" for reason, n in self.counts.items())


@dataclass(frozen=True)
class RawObject:
    """One object as its file has it: ``values`` is a box (4,) or (5,), or four corners (4, 2)."""

    name: str
    values: Array
    difficult: bool
    where: str


@dataclass(frozen=True)
class Labelled:
    """One image's objects. ``size`` is (height, width); ``image`` is None when only labels were read.

    ``window`` (x, y, width, height) is what part of the image is meant, of which then size and boxes are; None is all.
    """

    id: str
    image: Path | None
    size: tuple[int, int] | None
    boxes: Array  # (N, 4) upright or (N, 5) rotated
    labels: NDArray[np.int64]  # (N,) index of the class
    difficult: NDArray[np.bool_]  # (N,) marked as difficult, or as a crowd
    window: tuple[int, int, int, int] | None = None


@dataclass(frozen=True)
class BoxSet:
    """A data set of labelled images, sorted by id, with its classes in index order."""

    classes: tuple[str, ...]
    items: list[Labelled]
    notes: Notes

    def __len__(self) -> int:
        return len(self.items)

    def __iter__(self) -> Iterator[Labelled]:
        return iter(self.items)

    def for_training(self, min_side: int = 32) -> "BoxSet":
        """Without images that have no objects or a side under ``min_side`` pixels."""
        items = [i for i in self.items if len(i.boxes) and (i.size is None or min(i.size) >= min_side)]
        return replace(self, items=items)


@dataclass(frozen=True)
class Detections:
    """A detector's answer for one image: boxes (K, 4) or (K, 5), scores (K,), class indices (K,)."""

    boxes: Array
    scores: Array
    labels: NDArray[np.int64]


def no_detections(sides: int) -> Detections:
    """Nothing found; ``sides`` is 4 for upright and 5 for rotated boxes."""
    return Detections(np.zeros((0, sides)), np.zeros(0), np.zeros(0, np.int64))


def assemble(
    raw: Iterable[tuple[str, Path | None, tuple[int, int] | None, Sequence[RawObject]]],
    classes: Sequence[str] | None,
    notes: Notes,
    source: Path,
    sides: int,
    as_is: bool = False,
) -> BoxSet:
    """Check and index raw objects; items are (id, image, size, objects).

    ``classes`` None takes the names that occur, sorted; ``as_is`` keeps what the rules say. Raises DataError when
    nothing usable is left.
    """
    raw = list(raw)
    if classes is None:
        found = {o.name.lower(): o.name for _, _, _, objects in raw for o in objects}
        classes = [found[key] for key in sorted(found)]
    index = {name.lower(): i for i, name in enumerate(classes)}
    if len(index) != len(classes):
        raise DataError(f"{source}: class names occur twice (case does not count); give each once")
    items = [_check(*item, index, notes, sides, as_is) for item in raw]
    kept = sorted((i for i in items if i is not None), key=lambda i: i.id)
    for earlier, later in pairwise(kept):
        if earlier.id == later.id:
            raise DataError(f"{source}: two images are called {later.id}; rename one")
    if not kept:
        why = ", ".join(f"{k} {v}" for k, v in notes.counts.items()) or "no label files"
        raise DataError(f"{source}: no usable labelled image ({why}); check the folder and the class names")
    return BoxSet(tuple(classes), kept, notes)


def _check(
    id: str,
    image: Path | None,
    size: tuple[int, int] | None,
    objects: Sequence[RawObject],
    index: Mapping[str, int],
    notes: Notes,
    sides: int,
    as_is: bool,
) -> Labelled | None:
    stated = size
    if image is not None:
        try:
            actual = image_size(image)
        except DataError as error:
            notes.add("unreadable", str(error))
            return None
        if size is not None and size != actual:
            notes.add("other_size", f"{id}: labels say {size[1]} x {size[0]}, the image has {actual[1]} x {actual[0]}")
            return None
        size = actual
    if size is None:
        notes.add("no_size", id)
    if not objects:
        notes.add("no_objects", id)
    boxes, reasons = (upright_boxes if sides == 4 else rotated_boxes)([o.values for o in objects], size)
    if as_is:
        reasons = ["" if reason in ("too_small", "outside") else reason for reason in reasons]
    kept = []
    for item, reason in zip(objects, reasons, strict=True):
        known = item.name.lower() in index
        if reason:
            notes.add(reason, item.where)
        elif not known:
            notes.add("unknown_class", f"{item.where}: {item.name}")
        kept.append(known and reason in ("", "crossed_corners"))
    outside = reasons.count("outside")
    if stated is None and size is not None and 2 * outside > len(objects):
        notes.add("other_size", f"{id}: {outside} of {len(objects)} objects lie outside {size[1]} x {size[0]}")
        return None
    good = [o for o, keep in zip(objects, kept, strict=True) if keep]
    labels = np.array([index[o.name.lower()] for o in good], dtype=np.int64)
    return Labelled(
        id, image, size, boxes[np.array(kept, np.bool_)], labels, np.array([o.difficult for o in good], np.bool_)
    )


def upright_boxes(values: Sequence[Array], size: tuple[int, int] | None) -> tuple[Array, list[str]]:
    """Upright boxes (N, 4) of boxes (4,) or corners (P, 2), and what is wrong with each, or ""."""
    boxes = np.array([v if v.ndim == 1 else np.concatenate((v.min(0), v.max(0))) for v in values]).reshape(-1, 4)
    sides = boxes[:, 2:] - boxes[:, :2]
    checks = {
        "not_finite": ~np.isfinite(boxes).all(axis=1),
        "inverted": (sides < 0).any(axis=1),
        "too_small": (sides < 1).any(axis=1),
        "outside": _outside(boxes, size),
    }
    return boxes, _first_reason(checks, len(boxes))


def rotated_boxes(values: Sequence[Array], size: tuple[int, int] | None) -> tuple[Array, list[str]]:
    """Rotated boxes (N, 5), le90, of corners (4, 2) or of boxes (5,), and what is wrong or odd with each, or ""."""
    if not values or values[0].ndim == 1:
        boxes = rotated.le90(torch.from_numpy(np.array(values).reshape(-1, 5)))
        repeated = crossed = np.zeros(len(values), np.bool_)
    else:
        quads = np.array(values)
        boxes = rotated.from_quads(torch.from_numpy(quads))
        repeated = (np.roll(quads, -1, axis=1) == quads).all(axis=2).any(axis=1)
        crossed = _crossed(quads)
    checks = {
        "not_finite": np.array([not np.isfinite(v).all() for v in values], np.bool_),
        "repeated_corner": repeated,
        "too_small": (boxes[:, 2:4] <= 1e-9).any(dim=1).numpy(),
        "outside": _outside(rotated.hull(boxes).numpy(), size),
        "crossed_corners": crossed,
    }
    return boxes.numpy(), _first_reason(checks, len(boxes))


def _first_reason(checks: Mapping[str, NDArray[np.bool_]], n: int) -> list[str]:
    return [next((reason for reason, found in checks.items() if found[i]), "") for i in range(n)]


def _crossed(quads: Array) -> NDArray[np.bool_]:
    """Which quadrilaterals (N, 4, 2) have two opposite edges that cut each other."""

    def side(a: Array, b: Array, p: Array) -> Array:
        u, v = b - a, p - a
        return u[:, 0] * v[:, 1] - u[:, 1] * v[:, 0]

    def cut(a: Array, b: Array, c: Array, d: Array) -> NDArray[np.bool_]:
        return (side(a, b, c) * side(a, b, d) < 0) & (side(c, d, a) * side(c, d, b) < 0)

    a, b, c, d = quads.transpose(1, 0, 2)
    return cut(a, b, c, d) | cut(b, c, d, a)


def _outside(boxes: Array, size: tuple[int, int] | None) -> NDArray[np.bool_]:
    """Which boxes (N, 4) have no pixel of an image of (height, width)."""
    if size is None:
        return np.zeros(len(boxes), np.bool_)
    x1, y1, x2, y2 = boxes.T
    return (x2 <= 0) | (y2 <= 0) | (x1 >= size[1]) | (y1 >= size[0])


def image_size(path: Path) -> tuple[int, int]:
    """(height, width) from an image's header. Raises DataError when it is no readable image."""
    try:
        with Image.open(path) as image:
            return image.height, image.width
    except (OSError, Image.DecompressionBombError):
        pass  # Pillow does not know images of many bands or more than 8 bits a sample
    try:
        width, height, _ = header(path.read_bytes())
    except (OSError, DecodeError) as error:
        raise DataError(f"{path}: not a readable image ({error}); remove or replace it") from None
    return height, width


def images_by_stem(*folders: Path) -> dict[str, Path]:
    """Images of some folders (those that exist) by file name without suffix; of two called alike the one in the earlier
    folder."""
    return {
        path.stem: path
        for folder in reversed(folders)
        if folder.is_dir()
        for path in sorted(folder.iterdir())
        if path.suffix.lower() in IMAGE_SUFFIXES
    }


def find_images(*folders: Path) -> dict[str, Path]:
    """As ``images_by_stem``; raises DataError if there are none."""
    found = images_by_stem(*folders)
    if not found:
        raise DataError(f"no images in {' or '.join(map(str, folders))}; check the path")
    return found


def read_ids(path: Path) -> list[str]:
    """Image ids of a split file, one a line (spaces may be in them); a suffix of an image file is taken off."""
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: split file cannot be read ({error})") from None
    return [Path(line).stem if Path(line).suffix.lower() in IMAGE_SUFFIXES else line for line in lines]


def pair_files(
    labels: Path, suffix: str, images: Mapping[str, Path] | None, ids: Sequence[str] | None, notes: Notes
) -> Iterator[tuple[str, Path, Path | None]]:
    """(id, label file, image) for every label file of a folder, or those of ``ids``; notes what has no partner."""
    if not labels.is_dir():
        raise DataError(f"{labels}: no such folder of labels")
    files = {path.stem: path for path in sorted(labels.iterdir()) if path.suffix.lower() == suffix}
    wanted = list(dict.fromkeys(ids)) if ids is not None else sorted(files.keys() | (images or {}).keys())
    for id in wanted:
        if id not in files:
            notes.add("no_labels", id)
        elif images is not None and id not in images:
            notes.add("no_image", id)
        else:
            yield id, files[id], None if images is None else images[id]
