"""Nearest neighbours in a file of features (``embed``): by cosine, a block at a time, however large the file is.

N images, E features of each.
"""

from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import nn

from selectivemae.core.errors import ConfigError, DataError
from selectivemae.data.reading import read_images
from selectivemae.data.stores import Store
from selectivemae.probing.embed import digest, open_features
from selectivemae.probing.features import encoder_describer
from selectivemae.probing.knn import Float32
from selectivemae.weights.info import EncoderInfo

BLOCK = 1 << 24  # numbers of vectors held at a time: 64 MiB


@dataclass(frozen=True)
class Neighbour:
    """One image and its cosine similarity to the query, in [-1, 1]."""

    id: str
    similarity: float


def nearest(path: Path, query: Float32, top: int) -> list[Neighbour]:
    """The ``top`` images whose features are nearest to ``query`` (E,), the nearest first; equals in the file's order.

    Memory holds one block, whatever N is. DataError for a query of another length, or one that is zero.
    """
    norm = float(np.linalg.norm(query))
    if not np.isfinite(norm) or norm == 0:
        raise DataError("the query's features are zero or not finite: there is no angle to compare")
    best: list[tuple[float, int, str]] = []  # minus similarity, row, id
    row = 0
    for ids, vectors in blocks(path):
        if vectors.shape[1] != len(query):
            raise DataError(f"{path} holds {vectors.shape[1]} features an image, the query has {len(query)}")
        lengths = np.linalg.norm(vectors, axis=1)
        cosine = vectors @ (query / norm) / np.where(lengths > 0, lengths, 1)
        first = np.argsort(-cosine, kind="stable")[:top]
        names = ids.take(pa.array(first)).to_pylist()
        best += zip((-cosine[first]).tolist(), (row + first).tolist(), names, strict=True)
        best = sorted(best)[:top]
        row += len(vectors)
    return [Neighbour(name, -similarity) for similarity, _, name in best]


def blocks(path: Path) -> Iterator[tuple[pa.Array, Float32]]:
    """Ids and vectors (n, E) of a file of features, block after block, in its order."""
    file, _ = open_features(path)
    width = file.schema_arrow.field("vector").type.list_size
    for batch in file.iter_batches(max(BLOCK // width, 1), columns=["id", "vector"]):
        yield batch["id"], batch["vector"].flatten().to_numpy().reshape(len(batch), width)


def vector_of(path: Path, name: str) -> Float32 | None:
    """The vector (E,) of the image with an id, None where there is no such image."""
    for ids, vectors in blocks(path):
        place = pc.index(ids, name).as_py()
        if place >= 0:
            return vectors[place]
    return None


class OneImage:
    """A store of one image file."""

    skipped = ()

    def __init__(self, path: Path) -> None:
        self.path, self.fingerprint = path, ""

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> bytes:
        try:
            return self.path.read_bytes()
        except OSError as e:
            raise DataError(f"cannot read the query {self.path}: {e.strerror}") from e

    def id(self, index: int) -> str:
        """The file's path."""
        return str(self.path)


def describe_image(image: Path, encoder: nn.Module, about: dict[str, str], device: torch.device) -> Float32:
    """Features (E,) of an image file, made as those of a file of features, which says how of itself (``about``).

    ConfigError when the encoder is not the one that made them; DataError for a file that is no image.
    """
    if digest(encoder) != about.get("state"):
        raise ConfigError(
            f"these weights are not those that made the features ({about.get('weights')}): name them by --weights"
        )
    channels = EncoderInfo.of(encoder).channels
    store = cast(Any, OneImage(image))
    ((pixels, _, bad),) = read_images(store, np.zeros(1, np.int64), int(about["image_size"]), channels)
    if bad:
        raise DataError(f"the query {image} cannot be used as an image: {bad[0][1]}")
    return encoder_describer(encoder.to(device).eval(), device, about["pool"])(pixels)[0]


def place_of(store: Store, name: str) -> int | None:
    """Where the image with an id is in a store (ids stand in the order of their bytes); None if it is not there."""
    wanted = name.encode()
    place = bisect_left(range(len(store)), wanted, key=lambda i: store.id(i).encode())
    return place if place < len(store) and store.id(place) == name else None
