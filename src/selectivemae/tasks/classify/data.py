"""Labelled images for training: which are in the training part, in which order, with which label."""

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from selectivemae.core.errors import ConfigError, DataError
from selectivemae.core.order import mix
from selectivemae.data.batch import Batch, Position, Stream
from selectivemae.data.labels import TEST, TRAIN, Labelled, read_labels, require_parts
from selectivemae.data.lists import find_lists, read_lists
from selectivemae.data.stores import Store, open_store
from selectivemae.tasks.classify.config import LabelSettings
from selectivemae.tasks.classify.mixing import Mixing, partnered

_MIX = 0xC300  # purpose of the hash


def open_classes(settings: LabelSettings, parts: tuple[int, ...] = (TRAIN,)) -> tuple[Store, Labelled]:
    """The store, labels and parts that settings name; every class has an image in each of ``parts``.

    Class folders at any depth (AID, RESISC-45, UC Merced, EuroSAT, MillionAID), split.csv, or published lists with
    ``split``. ConfigError without data; DataError says what is wrong with them.
    """
    if settings.data is None:
        raise ConfigError("no data given: --data FOLDER with class folders (CLASS/image.jpg)")
    root = Path(settings.data)
    store = open_store(settings.data)
    if settings.split is not None:
        labelled = require_parts(read_lists(store, *find_lists(settings.lists or root, settings.split)), parts)
    elif settings.lists is not None:
        raise ConfigError("--lists goes with --split, the name of one of them (28 for train_labels_28_0.txt)")
    else:
        labelled = read_labels(
            store,
            root if root.is_dir() else None,
            settings.split_seed,
            test_share=settings.test_share,
            parts=parts,
        )
    if parts and not len(labelled.of(TEST)[0]):
        raise DataError(f"{settings.data} has no test image ({labelled.how})")
    return store, labelled


class LabelledStream:
    """A stream of images with :class:`~selectivemae.tasks.classify.mixing.Targets`: labels, and partners to mix with.

    The mixture of a batch depends on the seed and its place in the stream alone.
    """

    def __init__(self, stream: Stream, labelled: Labelled, mixing: Mixing, seed: int, device: torch.device) -> None:
        self.stream, self.mixing, self.seed, self.device = stream, mixing, seed, device
        self.label = torch.zeros(int(labelled.index.max()) + 1, dtype=torch.int64)
        self.label[torch.from_numpy(labelled.index)] = torch.from_numpy(labelled.label)

    def labels(self, index: Tensor) -> Tensor:
        """Labels (B,) on the device of samples (B,)."""
        return self.label[index].to(self.device)

    def batches(self, start: Position) -> Iterator[tuple[Batch, Position]]:
        """Yield (batch with targets, position after it) for ever."""
        inner, before = self.stream.batches(start), start
        try:
            for batch, after in inner:
                key = int(mix(self.seed, _MIX, before.epoch, before.consumed))
                blend = self.mixing.draw(key, *batch.images.shape[-2:])
                batch.targets = partnered(batch.images, self.labels(batch.index), batch.weight > 0, blend)
                yield batch, after
                before = after
        finally:
            inner.close()  # pyright: ignore[reportAttributeAccessIssue]
