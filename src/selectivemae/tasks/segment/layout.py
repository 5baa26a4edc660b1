"""Which image goes with which mask, and in which part it is, from the paths of a data set.

Images lie in a folder of one of the names in ``IMAGES`` and masks, of the same stem, in the same place under one of
``MASKS``; folders before and after it may name the part (LoveDA: ``Train/Urban/images_png/7.png``). Footprints
(SpaceNet) may differ from their image in what stands before the first underscore.
"""

import csv
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np

from selectivemae.core.errors import DataError
from selectivemae.core.order import Int64, permute
from selectivemae.core.suggest import did_you_mean
from selectivemae.data.labels import check_present, inner_paths, listed
from selectivemae.data.stores import Store

TRAIN, VAL, TEST = 0, 1, 2
PARTS = {"train": TRAIN, "val": VAL, "test": TEST}
IMAGES = ("images", "images_png", "image", "imgs", "img", "3band", "jpegimages")
MASKS = ("masks", "labels", "masks_png", "mask", "label", "annotations", "gt", "segmentationclass", "geojson")
_PART_NAMES = PARTS | {"training": TRAIN, "trainval": TRAIN, "valid": VAL, "validation": VAL, "testing": TEST}
_SPACENET_VAL = 1940 / 6940  # of SpaceNet v1, the last by number: SatMAE's counts; nobody has published the ids
_PREFIX = re.compile(r"^(3band|8band|geo|rgb|mul)_", re.IGNORECASE)

Key = tuple[str, ...]


@dataclass(frozen=True)
class Layout:
    """N images of a store with masks, and those without."""

    image: Int64  # (N,) place in the store
    mask: Int64  # (N,) place in the store; -1: the mask is in ``footprints``
    footprints: tuple[str, ...]  # of each image the path of its GeoJSON file; empty: there are none
    part: Int64  # (N,) TRAIN, VAL or TEST
    names: tuple[str, ...]  # of each image: path without its image folder and suffix
    unlabelled: Int64  # places of the images of a test part without masks
    how: str  # how the parts were made, in words

    def of(self, part: int) -> Int64:
        """Store places of the images of one part."""
        return self.image[self.part == part]


@dataclass(frozen=True)
class Chosen:
    """Which folders and files an option names, where the usual names do not do."""

    images: str | None = None
    masks: str | None = None
    split: Path | None = None
    val_share: float = 0.2
    seed: int = 0


def find_pairs(store: Store, root: Path | None, chosen: Chosen) -> Layout:
    """The images and masks of a store, and their parts; ``root`` is its folder where it is one.

    Parts come from ``chosen.split`` or split.csv (columns file and split), train.txt, val.txt and test.txt (a name a
    line), folders of these names, or a draw of ``val_share``; footprints without any are cut by number. DataError when
    nothing fits together, or images (outside the test part) have no mask.
    """
    paths = inner_paths(store)
    images = _in_folders(paths, (chosen.images,) if chosen.images else IMAGES)
    if not images:
        raise DataError(
            f"no folder of images ({chosen.images or ', '.join(IMAGES)}) with files in it: put images into images/ and "
            "masks of the same names into masks/, or name the folders by --images and --masks"
        )
    rasters, footprints = _masks(paths, root, images, chosen.masks)
    has = [key in rasters or _plain(key) in footprints for key in images]
    keys = [key for key, found in zip(images, has, strict=True) if found]
    if not keys:
        raise DataError(
            f"none of the {len(images)} images has a mask of its name in {chosen.masks or ', '.join(MASKS)}"
        )
    parts, how = _parts(images, has, paths, root, chosen, bool(footprints))
    without = [key for key, found in zip(images, has, strict=True) if not found]
    lacking = [paths[images[key]] for key in without if parts.get(key, TEST) != TEST]
    if lacking:
        raise DataError(f"{len(lacking)} images have no mask: {listed(lacking)}; add them or take the images away")
    keys = sorted((key for key in keys if key in parts), key=lambda key: images[key])
    return Layout(
        np.array([images[key] for key in keys], np.int64),
        np.array([rasters.get(key, -1) for key in keys], np.int64),
        tuple(footprints.get(_plain(key), "") for key in keys) if footprints else (),
        np.array([parts[key] for key in keys], np.int64),
        tuple("/".join(key) for key in keys),
        np.array([images[key] for key in without if key in parts], np.int64),
        how,
    )


def _in_folders(paths: Sequence[str], folders: Sequence[str]) -> dict[Key, int]:
    """Places of the paths that lie below a folder of one of the names, by what else their path says."""
    wanted = [folder.lower() for folder in folders]
    found: dict[Key, tuple[int, int]] = {}
    for place, path in enumerate(paths):
        *above, name = path.split("/")
        ranks = [(wanted.index(step.lower()), -i) for i, step in enumerate(above) if step.lower() in wanted]
        if ranks:
            rank, i = min(ranks)
            key = (*above[:-i], *above[1 - i :], PurePosixPath(name).stem)
            if key in found and found[key][0] == rank:
                raise DataError(f"{path} and {paths[found[key][1]]} differ in their suffix alone: which one is meant?")
            if key not in found or found[key][0] > rank:
                found[key] = rank, place
    return {key: place for key, (_, place) in found.items()}


def _masks(
    paths: Sequence[str], root: Path | None, images: dict[Key, int], folder: str | None
) -> tuple[dict[Key, int], dict[Key, str]]:
    """Places of masks by key, or else paths of footprints by key: of the first folder name that has any."""
    files = sorted(root.rglob("*.geojson")) if root else []
    inside = [file.relative_to(root).as_posix() for file in files] if root else []
    for name in (folder,) if folder else MASKS:
        rasters = _in_folders(paths, (name,))
        if rasters.keys() & images.keys():
            return rasters, {}
        found = {_plain(key): str(files[place]) for key, place in _in_folders(inside, (name,)).items()}
        if found.keys() & {_plain(key) for key in images}:
            return {}, found
    return {}, {}


def _plain(key: Key) -> Key:
    """A key without what SpaceNet puts before the name of a tile (``3band_``, ``Geo_``)."""
    return (*key[:-1], _PREFIX.sub("", key[-1]))


def _parts(
    images: dict[Key, int],
    has: Sequence[bool],
    paths: Sequence[str],
    root: Path | None,
    chosen: Chosen,
    numbered: bool,
) -> tuple[dict[Key, int], str]:
    """The part of each image that is in one, and how it was made."""
    files = [chosen.split] if chosen.split else [root / "split.csv"] if root else []
    if files and (chosen.split or files[0].is_file()):
        return _from_table(files[0], images, paths), files[0].name
    lists = {part: root / f"{name}.txt" for name, part in PARTS.items()} if root else {}
    lists = {part: file for part, file in lists.items() if file.is_file()}
    if {TRAIN, VAL} <= lists.keys() or {TRAIN, TEST} <= lists.keys():
        return _from_lists(lists, images, paths), ", ".join(file.name for file in lists.values())
    folders = {key: _PART_NAMES[step.lower()] for key in images for step in key[:-1] if step.lower() in _PART_NAMES}
    labelled = [key for key, found in zip(images, has, strict=True) if found]
    if len({folders[key] for key in labelled if key in folders}) > 1:
        return folders, "folders of these names"
    # One part alone is no split, and a test part without masks says nothing about the others.
    without = images.keys() - labelled
    parts = {key: TEST if folders.get(key) == TEST else TRAIN for key in without}
    if numbered:
        order = sorted(labelled, key=lambda key: [int(n) for n in re.findall(r"\d+", key[-1])] or [0])
        count = max(1, round(_SPACENET_VAL * len(order)))
        parts |= {key: VAL if i >= len(order) - count else TRAIN for i, key in enumerate(order)}
        return parts, f"the last {count} by number for val; nobody has published the lists"
    drawn = permute(np.arange(len(labelled)), len(labelled), chosen.seed)
    count = max(1, round(chosen.val_share * len(labelled)))
    val = set(drawn[:count].tolist())
    return parts | {key: VAL if i in val else TRAIN for i, key in enumerate(labelled)}, f"{count} drawn for val"


def _spellings(images: dict[Key, int], paths: Sequence[str]) -> dict[str, Key]:
    """How a list may name an image: its path, with or without suffix, with or without the image folder."""
    names: dict[str, Key] = {}
    for key, place in images.items():
        names[paths[place]] = names[str(PurePosixPath(paths[place]).with_suffix(""))] = names["/".join(key)] = key
        names["/".join(key) + PurePosixPath(paths[place]).suffix] = key
    return names


def _from_lists(lists: dict[int, Path], images: dict[Key, int], paths: Sequence[str]) -> dict[Key, int]:
    names, parts = _spellings(images, paths), {}
    for part, file in lists.items():
        lines = [line.strip() for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
        check_present(file, [line for line in lines if line not in names])
        for line in lines:
            if parts.setdefault(names[line], part) != part:
                raise DataError(f"{file}: {line} is in another list as well")
    return parts


def _from_table(table: Path, images: dict[Key, int], paths: Sequence[str]) -> dict[Key, int]:
    names, parts, absent = _spellings(images, paths), {}, []
    try:
        text = table.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"{table}: cannot be read ({error}); --split needs a CSV with columns file and split"
        ) from error
    for line, row in enumerate(csv.DictReader(text.splitlines()), 2):
        try:
            name, part = row["file"], row["split"].lower()
        except (KeyError, AttributeError):
            raise DataError(f"{table}, line {line}: needs the columns file and split") from None
        if part not in _PART_NAMES:
            raise DataError(f"{table}, line {line}: split {part!r} is none{did_you_mean(part, _PART_NAMES)}")
        if name in names:
            parts[names[name]] = _PART_NAMES[part]
        else:
            absent.append(name)
    check_present(table, absent)
    return parts
