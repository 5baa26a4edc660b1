"""k nearest neighbours on frozen features."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from selectivemae.core.order import Int64

Float32 = NDArray[np.float32]


def standardise(train: Float32, test: Float32) -> tuple[Float32, Float32]:
    """Both parts (N, E) less the training part's mean, over its deviation, per feature.

    It makes kNN fair to masked pre-training, as the batch norm before MAE's linear probe does.
    """
    mean, deviation = train.mean(axis=0), train.std(axis=0)
    deviation = np.where(deviation < 1e-6, 1.0, deviation)
    return ((train - mean) / deviation).astype(np.float32), ((test - mean) / deviation).astype(np.float32)


def unit(x: Float32) -> Float32:
    """Rows at length 1."""
    return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)


def knn_predict(train: Float32, labels: Int64, test: Float32, k: int = 20, temperature: float = 0.07) -> Int64:
    """Classes (M,) of test features (M, E) by the k most similar training features (N, E) with labels (N,).

    Cosine similarity; a neighbour's vote weighs exp(similarity / temperature) (Wu et al., arXiv 1805.01978). k is
    cut to the number of training features.
    """
    return knn_predict_several(train, labels, test, [k], temperature)[k]


def knn_predict_several(
    train: Float32, labels: Int64, test: Float32, ks: Sequence[int], temperature: float = 0.07
) -> dict[int, Int64]:
    """The same for several k at the cost of the largest."""
    known, classes = unit(train), int(labels.max()) + 1
    most = min(max(ks), len(train))
    out = {k: np.empty(len(test), np.int64) for k in ks}
    for begin in range(0, len(test), 1024):
        similarity = unit(test[begin : begin + 1024]) @ known.T
        near = np.argpartition(-similarity, most - 1, axis=1)[:, :most]
        value = np.take_along_axis(similarity, near, axis=1)
        nearest_first = np.argsort(-value, axis=1, kind="stable")
        near = np.take_along_axis(near, nearest_first, axis=1)
        value = np.take_along_axis(value, nearest_first, axis=1)
        weight = np.exp((value - 1) / temperature)
        for k in ks:
            votes = np.zeros((len(near), classes))
            np.add.at(votes, (np.arange(len(near))[:, None], labels[near[:, :k]]), weight[:, :k])
            out[k][begin : begin + len(near)] = votes.argmax(axis=1)
    return out


def accuracy(predicted: Int64, wanted: Int64) -> float:
    """Percent of predictions that are right."""
    return 100.0 * float((predicted == wanted).mean())
