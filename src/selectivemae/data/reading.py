"""Images of a store one batch after the other, each once, without chance: for features and for evaluation."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from selectivemae.core.order import Int64
from selectivemae.data.augment import CentreCrop
from selectivemae.data.pixels import Pixels, Task
from selectivemae.data.stores import Store
from selectivemae.data.workers import Inline, Pool

UInt8 = NDArray[np.uint8]


def read_images(
    store: Store, index: Int64, size: int, channels: int = 3, workers: int = 0, batch: int = 64, share: float = 1.0
) -> Iterator[tuple[UInt8, Int64, list[tuple[str, str]]]]:
    """Centre squares (``share`` of the shorter side) of a store's images, resized to ``size``; see ``read_pixels``."""
    return read_pixels(Task(store, size, channels, CentreCrop(share), judged=False), index, workers, batch)


def read_pixels(
    task: Pixels, index: Int64, workers: int = 0, batch: int = 64
) -> Iterator[tuple[UInt8, Int64, list[tuple[str, str]]]]:
    """A task's samples ``index`` (N,) in batches, with noise key 0.

    Yields (images (B, channels, size, size) uint8, their places (B,) in ``index``, [(id, reason)] of those that cannot
    be decoded, which are left out).
    """
    source = Pool(task, workers, batch, 2, 300.0) if workers else Inline(task)
    chunks = [np.arange(i, min(i + batch, len(index))) for i in range(0, len(index), batch)]
    pending = iter(chunks)
    waiting: list[Int64] = []
    try:
        for _ in chunks:
            while len(waiting) < source.slots and (chunk := next(pending, None)) is not None:
                # A pool's ring takes whole batches only: the last one is filled up with what it ends with.
                whole = np.pad(index[chunk], (0, batch - len(chunk)), mode="edge") if workers else index[chunk]
                source.submit(whole, np.zeros(len(whole), np.int64))
                waiting.append(chunk)
            images, reasons = source.collect()
            chunk = waiting.pop(0)
            good = reasons[: len(chunk)] == b""
            bad = [(task.store.id(int(index[chunk[i]])), reasons[i].decode()) for i in np.flatnonzero(~good)]
            yield images[: len(chunk)].permute(0, 3, 1, 2).numpy()[good], chunk[good], bad
    finally:
        source.close()
