"""Images with masks: opening and checking them, and how training samples become pixels and targets."""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from selectivemae.core.errors import ConfigError, DataError, DecodeError, StoreError
from selectivemae.core.order import Int64
from selectivemae.data.batch import Batch, Position, Stream
from selectivemae.data.decode import decode
from selectivemae.data.pixels import Reasons
from selectivemae.data.stores import Store, open_store
from selectivemae.tasks.segment.augment import PairAugment
from selectivemae.tasks.segment.classes import IGNORED, KNOWN, Classes, find_classes, second_by_255
from selectivemae.tasks.segment.config import MaskSettings
from selectivemae.tasks.segment.layout import PARTS, TRAIN, Chosen, Layout, find_pairs
from selectivemae.tasks.segment.masks import Mask, decode_mask, rasterise, systems

UInt8 = NDArray[np.uint8]

log = logging.getLogger("selectivemae")

_CHECKED = 64  # pairs that are looked at before anything begins
# What would spoil every sample alike: said at once. A single file that cannot be read goes into quarantine.
_GENERAL = ("mask_size", "mask_values", "mask_lossy", "no_crs", "channels", "needs_rasterio")


@dataclass(frozen=True)
class Pairs:
    """Images of a store, their masks, classes and parts.

    ``bands`` are the bands of an image that are read, from 1 on, in their order; None: the first ones.
    """

    store: Store
    layout: Layout
    classes: Classes
    bands: tuple[int, ...] | None = None

    def pixels(self, number: int, channels: int) -> UInt8:
        """The image at a store place: pixels (H, W, channels). Raises DecodeError, StoreError."""
        return read_bands(self.store[number], channels, self.bands)

    def mask(self, row: int) -> UInt8:
        """Class numbers (H, W) of the ``row``-th image of the layout. Raises DecodeError, DataError."""
        return self.classes.numbers(*self.raw_mask(row))

    def raw_mask(self, row: int) -> Mask:
        """The mask of the ``row``-th image as it is written."""
        place = int(self.layout.mask[row])
        if place < 0:
            return rasterise(Path(self.layout.footprints[row]), self.store[int(self.layout.image[row])])
        return decode_mask(self.store[place], self.classes.all_colours)

    def pair(self, row: int, channels: int) -> tuple[UInt8, UInt8]:
        """Pixels (H, W, channels) and class numbers (H, W) of the ``row``-th image.

        Raises DecodeError (``mask_size`` where the sizes differ), StoreError, DataError.
        """
        pixels, mask = self.pixels(int(self.layout.image[row]), channels), self.mask(row)
        if pixels.shape[:2] != mask.shape:
            raise DecodeError(
                "mask_size",
                f"the image has {pixels.shape[0]} rows and {pixels.shape[1]} columns, its mask {mask.shape[0]} and "
                f"{mask.shape[1]}",
            )
        return pixels, mask

    def where(self, row: int) -> str:
        """Id of the mask of the ``row``-th image."""
        place = int(self.layout.mask[row])
        return self.store.id(place) if place >= 0 else self.layout.footprints[row]


def read_bands(data: bytes, channels: int, bands: Sequence[int] | None) -> UInt8:
    """Pixels (H, W, channels) uint8 of an image's file: its first bands, or those numbered (from 1 on). DecodeError."""
    if bands is None:
        return decode(data, channels)
    return np.ascontiguousarray(decode(data, max(*bands, 2))[..., [band - 1 for band in bands]])


def open_pairs(settings: MaskSettings) -> Pairs:
    """The images, masks, classes and parts that settings name.

    Raises ConfigError without data; DataError for what does not fit together or cannot be read (the first pairs are
    looked at), naming image and mask.
    """
    if settings.data is None:
        raise ConfigError("no data given: --data FOLDER with images/ and masks/ of the same names")
    root = Path(settings.data)
    store = open_store(settings.data)
    folder = root if root.is_dir() else None
    chosen = Chosen(settings.images, settings.masks, settings.split, settings.val_share, settings.split_seed)
    layout = find_pairs(store, folder, chosen)
    classes = find_classes(settings.classes, folder) or _by_layout(store, layout, root)
    pairs = Pairs(store, layout, classes, settings.bands)
    return replace(pairs, classes=_settled_values(pairs))


def _by_layout(store: Store, layout: Layout, root: Path) -> Classes:
    """The classes that a data set with an own layout has."""
    if layout.footprints:
        return KNOWN["spacenet"]
    if "/masks_png/" in store.id(int(layout.mask[0])):
        return KNOWN["loveda"]
    raise DataError(
        f"{root} says nothing about its classes: put a classes.txt (a name a line) into it, or give --classes "
        f"({', '.join(KNOWN)} or a file)"
    )


def _settled_values(pairs: Pairs) -> Classes:
    """The classes, once some pairs over the whole set have been looked at (``second_by_255``)."""
    classes, count = pairs.classes, len(pairs.layout.image)
    rows = np.unique(np.linspace(0, count - 1, min(count, _CHECKED)).astype(np.int64)).tolist()
    if len(classes.names) == 2 and not classes.given and not pairs.layout.footprints:
        found: set[int] = set()
        for row in rows:
            with _named(pairs, row):
                values, _ = pairs.raw_mask(row)
                found |= set(np.unique(values).tolist()) if values.ndim == 2 else set()
        classes = second_by_255(classes, found)
    settled = replace(pairs, classes=classes)
    for row in rows:
        with _named(settled, row):
            settled.pair(row, 1)
    if pairs.layout.footprints:
        differing = systems(Path(pairs.layout.footprints[0]), pairs.store[int(pairs.layout.image[0])])
        if differing:
            log.warning("footprints are in %s and the images in %s: they are reprojected", *differing)
    return classes


@contextmanager
def _named(pairs: Pairs, row: int) -> Iterator[None]:
    """What is wrong with the mask of a row inside becomes a DataError that names it.

    A file that cannot be read at all is passed over: training puts it into quarantine.
    """
    try:
        yield
    except DecodeError as error:
        if error.reason in _GENERAL:
            image = pairs.store.id(int(pairs.layout.image[row]))
            raise DataError(f"{pairs.where(row)}, mask of {image}: {error}") from error


@dataclass(frozen=True)
class PairPixels:
    """Training samples as (S, S, C + 1): the image's channels, then the mask (``Pixels`` of segmentation).

    Samples are numbered by their place in the store.
    """

    pairs: Pairs
    augment: PairAugment
    image_channels: int

    @property
    def store(self) -> Store:
        """Where the samples are."""
        return self.pairs.store

    @property
    def image_size(self) -> int:
        """Side of the crops."""
        return self.augment.crop

    @property
    def channels(self) -> int:
        """Those of the image and the mask."""
        return self.image_channels + 1

    def fill(self, index: Int64, key: Int64, images: UInt8, reasons: Reasons) -> None:
        """Write the samples ``index`` (n,) with noise keys ``key`` (n,) into ``images`` (n, S, S, C + 1).

        An unusable one is black, says nothing and has its reason in ``reasons`` (n,).
        """
        rows = np.searchsorted(self.pairs.layout.image, index)
        for place, row in enumerate(rows.tolist()):
            try:
                pixels, mask = self.pairs.pair(row, self.image_channels)
            except (DecodeError, StoreError, DataError) as error:
                reasons[place] = getattr(error, "reason", "unreadable").encode()
                images[place, ..., :-1], images[place, ..., -1] = 0, IGNORED
            else:
                reasons[place] = b""
                images[place] = self.augment(pixels, mask, int(key[place]))

    def explain(self, number: int) -> str:
        """What is wrong with an unusable sample, in words."""
        try:
            self.pairs.pair(int(np.searchsorted(self.pairs.layout.image, number)), self.image_channels)
        except (DecodeError, StoreError, DataError) as error:
            return str(error)
        return "it can be read now"


class MaskStream:
    """A stream of images whose last channel becomes the targets: class numbers (B, S, S) uint8."""

    def __init__(self, stream: Stream) -> None:
        self.stream = stream

    def batches(self, start: Position) -> Iterator[tuple[Batch, Position]]:
        """Yield (batch with targets, position after it) for ever."""
        inner = self.stream.batches(start)
        try:
            for batch, after in inner:
                batch.targets = batch.images[:, -1]
                batch.images = batch.images[:, :-1]
                yield batch, after
        finally:
            inner.close()  # pyright: ignore[reportAttributeAccessIssue]


def training_places(pairs: Pairs, train_on: str) -> Int64:
    """Store places (n,) of the images that are trained on: the training part, or all with masks. DataError if none."""
    layout = pairs.layout
    places = layout.image if train_on == "all" else layout.of(TRAIN)
    if not len(places):
        raise DataError(f"no image is in the training part ({layout.how})")
    return places


def rows_of(pairs: Pairs, part: str) -> Int64:
    """Rows of the layout in a part: ``train``, ``val`` (test where there is no val), ``test`` (val where no test image
    has a mask) or ``all``."""
    parts = pairs.layout.part
    if part == "all":
        return np.arange(len(parts))
    other = {"val": "test", "test": "val"}.get(part, part)
    rows = np.flatnonzero(parts == PARTS[part])
    return rows if len(rows) else np.flatnonzero(parts == PARTS[other])


def targets_of(batch: Batch) -> torch.Tensor:
    """The class numbers (B, S, S) of a batch."""
    assert isinstance(batch.targets, torch.Tensor)
    return batch.targets
