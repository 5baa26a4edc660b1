"""Batches of a detector: labelled images as a store, their pixels on a canvas, and their boxes beside them."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from selectivemae.core.errors import DataError, DecodeError, StoreError
from selectivemae.core.order import Int64
from selectivemae.data.batch import Batch, Position, Stream
from selectivemae.data.decode import decode
from selectivemae.data.pixels import Reasons
from selectivemae.data.stores.base import Skipped
from selectivemae.tasks.boxes_common import BoxSet, Detections, Labelled
from selectivemae.tasks.boxes_geometry import Geometry, Place, inverse, move, paste, place_objects
from selectivemae.tasks.photometric import Photometric


class BoxStore:
    """The images of a data set as a store: number i is ``data.items[i]``, whatever folder its file lies in.

    The fingerprint covers ids, windows, boxes and classes, and the sizes of the files.
    """

    skipped: Skipped

    def __init__(self, data: BoxSet) -> None:
        self.data, self.skipped = data, list(data.notes.entries)
        digest = hashlib.blake2b(repr(data.classes).encode(), digest_size=32)
        for item in data:
            digest.update(f"{item.id}\0{item.window}\0{self._path(item).stat().st_size}\0".encode())
            digest.update(item.boxes.tobytes() + item.labels.tobytes())
        self.fingerprint = digest.hexdigest()

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> bytes:
        path = self._path(self.data.items[index])
        try:
            return path.read_bytes()
        except OSError as error:
            raise StoreError(f"{path}: cannot be read ({error.strerror})") from error

    def id(self, index: int) -> str:
        """The id of the image at ``index``."""
        return self.data.items[index].id

    @staticmethod
    def _path(item: Labelled) -> Path:
        if item.image is None or item.size is None:
            raise DataError(f"{item.id}: only its labels were read; a detector needs the image")
        return item.image


@dataclass(frozen=True)
class CanvasPixels:
    """Images at their places on a canvas, all else in the colour ``colour``: the ``Pixels`` of a detector."""

    store: BoxStore
    geometry: Geometry
    channels: int
    colour: tuple[int, ...]
    photometric: Photometric | None = None

    @property
    def image_size(self) -> int:
        """Side of the canvas."""
        return self.geometry.canvas

    def fill(self, index: Int64, key: Int64, images: NDArray[np.uint8], reasons: Reasons) -> None:
        """See ``Pixels.fill``."""
        for slot, (number, lot) in enumerate(zip(index.tolist(), key.tolist(), strict=True)):
            reasons[slot] = b""
            try:
                pixels = self._read(number)
            except (DecodeError, StoreError) as error:
                reasons[slot] = getattr(error, "reason", "unreadable").encode()
                images[slot] = 0
                continue
            if self.photometric:
                pixels = self.photometric(pixels, lot)
            paste(pixels, self.geometry.place(lot, pixels.shape[:2]), images[slot], self.colour)

    def explain(self, number: int) -> str:
        """See ``Pixels.explain``."""
        try:
            self._read(number)
        except (DecodeError, StoreError) as error:
            return str(error)
        return "it can be read now"

    def _read(self, number: int) -> NDArray[np.uint8]:
        item = self.store.data.items[number]
        pixels = decode(self.store[number], self.channels)
        if item.window:
            x, y, width, height = item.window
            pixels = pixels[y : y + height, x : x + width]
        if pixels.shape[:2] != item.size:
            raise DecodeError("other_size", f"{item.image}: its size is not what it was when the labels were read")
        return pixels


@dataclass(frozen=True)
class BoxTargets:
    """What B images hold: boxes (G, 4) or (G, 5) float32 and labels (G,) int64 of each, in pixels of the canvas, and
    the part (height, width) of the canvas that each image covers."""

    boxes: list[Tensor]
    labels: list[Tensor]
    sizes: list[tuple[int, int]]

    def split(self, size: int) -> list["BoxTargets"]:
        """In parts of at most ``size`` images."""
        parts = [slice(start, start + size) for start in range(0, len(self.sizes), size)]
        return [BoxTargets(self.boxes[p], self.labels[p], self.sizes[p]) for p in parts]


class BoxStream:
    """A stream of canvases with :class:`BoxTargets`, which follow from key and index by the geometry of the pixels.

    An image that could not be read has none.
    """

    def __init__(self, stream: Stream, data: BoxSet, geometry: Geometry, device: torch.device) -> None:
        self.stream, self.data, self.geometry, self.device = stream, data, geometry, device

    def batches(self, start: Position) -> Iterator[tuple[Batch, Position]]:
        """Yield (batch with targets, position after it) for ever."""
        inner = self.stream.batches(start)
        try:
            for batch, after in inner:
                batch.targets = self._targets(batch)
                yield batch, after
        finally:
            inner.close()  # pyright: ignore[reportAttributeAccessIssue]

    def _targets(self, batch: Batch) -> BoxTargets:
        boxes, labels, sizes = [], [], []
        usable = (batch.weight > 0).tolist()
        for number, key, good in zip(batch.index.tolist(), batch.key.tolist(), usable, strict=True):
            item = self.data.items[number]
            place = self.place(item, key)
            placed, stays = place_objects(item.boxes, place)
            boxes.append(torch.from_numpy(placed[: None if good else 0]).float().to(self.device))
            labels.append(torch.from_numpy(item.labels[stays][: None if good else 0]).to(self.device))
            sizes.append(place.size)
        return BoxTargets(boxes, labels, sizes)

    def place(self, item: Labelled, key: int) -> Place:
        """Where an image lies for a noise key."""
        assert item.size is not None, "BoxStore has seen to it"
        return self.geometry.place(key, item.size)


def from_canvas(boxes: Tensor, scores: Tensor, labels: Tensor, place: Place) -> Detections:
    """A detector's answer for a canvas as detections in the pixels of its image."""
    values = move(boxes.double().cpu().numpy(), inverse(place.matrix))
    return Detections(values, scores.double().cpu().numpy(), labels.cpu().numpy())
