"""How samples become pixels: bytes -> decode -> crop and turn, for a chunk of samples at a time."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from selectivemae.core.errors import DataError, DecodeError, StoreError
from selectivemae.core.order import Int64
from selectivemae.data.augment import Augment, resample, shrink_factor
from selectivemae.data.decode import decode, header, judge, judge_content, judge_size
from selectivemae.data.stores.base import Store

Reasons = NDArray[np.bytes_]
"""(B,) of at most 24 ASCII bytes: why a sample is unusable, empty where it is fine."""

Finish = Callable[[NDArray[np.uint8], int], NDArray[np.uint8]]
"""Last change to an image (S, S, C), a pure function of it and its noise key; it can be pickled."""


class Pixels(Protocol):
    """How samples become pixels: what workers do. It can be pickled, and does the same in every process."""

    @property
    def store(self) -> Store:
        """Where the samples are."""
        ...

    @property
    def image_size(self) -> int:
        """Side S of the square that a sample fills."""
        ...

    @property
    def channels(self) -> int:
        """Channels C of it; a mask may be one of them."""
        ...

    def fill(self, index: Int64, key: Int64, images: NDArray[np.uint8], reasons: Reasons) -> None:
        """Write the samples ``index`` (n,) with noise keys ``key`` (n,) into ``images`` (n, S, S, C).

        An unusable sample is black and has its reason in ``reasons`` (n,); the others' is empty.
        """
        ...

    def explain(self, number: int) -> str:
        """What is wrong with an unusable sample, in words."""
        ...


@dataclass(frozen=True)
class Task:
    """Decoded, cropped and turned images: the :class:`Pixels` of pre-training and of classification.

    With ``dct_scaling`` a JPEG is decoded at 1/2, 1/4 or 1/8 of its size where its crop stays larger than the image
    wanted; the crop then begins and ends on multiples of 2, 4 or 8 pixels. ``finish`` is the last change to each image.
    Unless ``judged``, every image that can be decoded is used: one with a label is, however small or uniform.
    """

    store: Store
    image_size: int
    channels: int
    augment: Augment
    dct_scaling: bool = False
    judged: bool = True
    finish: Finish | None = None

    def fill(self, index: Int64, key: Int64, images: NDArray[np.uint8], reasons: Reasons) -> None:
        """Write the samples ``index`` (n,) with noise keys ``key`` (n,) into ``images`` (n, S, S, C).

        An unusable sample is black and has its reason in ``reasons`` (n,); the others' is empty.
        """
        files, sizes, is_jpeg = self.read(index, reasons)
        boxes, turns = self.augment(key, sizes[:, 0], sizes[:, 1])
        buffer = np.empty(3 * int(sizes.prod(axis=1).max()), np.uint8)  # one for all: its pages are taken once
        for place, data in enumerate(files):
            if not reasons[place]:
                may_shrink = self.dct_scaling and is_jpeg[place]
                shrink = shrink_factor(boxes[place], self.image_size) if may_shrink else 1
                try:
                    pixels = decode(data, self.channels, buffer=buffer, shrink=shrink)
                    if self.judged:
                        reasons[place] = (judge_content(pixels) or "").encode()
                except DecodeError as error:
                    reasons[place] = error.reason.encode()
                else:
                    image = resample(pixels, boxes[place] // shrink, self.image_size, int(turns[place]))
                    torch.from_numpy(images[place]).copy_(image.permute(1, 2, 0))
                    if self.finish and not reasons[place]:
                        images[place] = self.finish(images[place], int(key[place]))
            if reasons[place]:
                images[place] = 0

    def read(self, index: Int64, reasons: Reasons) -> tuple[list[bytes], Int64, NDArray[np.bool_]]:
        """Files, (width, height) (n, 2) from their headers, and which are JPEGs, of the samples ``index`` (n,).

        Those that are unusable so far have their reason in ``reasons`` (n,) and the size (1, 1).
        """
        files: list[bytes] = []
        sizes = np.ones((len(index), 2), np.int64)
        is_jpeg = np.zeros(len(index), bool)
        for place, number in enumerate(index):
            data, reasons[place] = b"", b""
            try:
                data = self.store[int(number)]
                width, height, kind = header(data)
                sizes[place], is_jpeg[place] = (width, height), kind == "jpeg"
                if self.judged:
                    reasons[place] = (judge_size(width, height) or "").encode()
            except (DecodeError, StoreError) as error:
                reasons[place] = getattr(error, "reason", "unreadable").encode()
            files.append(data)
        return files, sizes, is_jpeg

    def explain(self, number: int) -> str:
        """What is wrong with an unusable sample, in words."""
        try:
            pixels = decode(self.store[number], self.channels)
            return (judge(pixels) if self.judged else None) or "it can be read now"
        except (DecodeError, StoreError) as error:
            return str(error)


def check_usable(task: Pixels, tries: int = 256) -> None:
    """Raise DataError, with the first reason, when none of up to ``tries`` samples spread over the store is usable."""
    count = len(task.store)
    image = np.empty((1, task.image_size, task.image_size, task.channels), np.uint8)
    first = ""
    for number in np.unique(np.linspace(0, count - 1, min(count, tries)).astype(np.int64)):
        reason: Reasons = np.zeros(1, dtype="S24")
        task.fill(np.array([number]), np.zeros(1, np.int64), image, reason)
        if not reason[0]:
            return
        first = first or f"{task.store.id(int(number))}: {task.explain(int(number))}"
    looked = f"all {count}" if count <= tries else f"{tries} of {count}"
    raise DataError(f"no usable image: {looked} files were tried, the first ({first}); point --data to images")
