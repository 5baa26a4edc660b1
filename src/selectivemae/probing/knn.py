"""k nearest neighbours on frozen features."""

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


def _unit(x: Float32) -> Float32:
    return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)


def knn_predict(train: Float32, labels: Int64, test: Float32, k: int = 20, temperature: float = 0.07) -> Int64:
    """Classes (M,) of test features (M, E) by the k most similar training features (N, E) with labels (N,).

    Cosine similarity; a neighbour's vote weighs exp(similarity / temperature) (Wu et al., arXiv 1805.01978). k is
    cut to the number of training features.
    """
    k = min(k, len(train))
    known, classes = _unit(train), int(labels.max()) + 1
    out = np.empty(len(test), np.int64)
    for begin in range(0, len(test), 1024):
        similarity = _unit(test[begin : begin + 1024]) @ known.T
        near = np.argpartition(-similarity, k - 1, axis=1)[:, :k]
        weight = np.exp((np.take_along_axis(similarity, near, axis=1) - 1) / temperature)
        votes = np.zeros((len(near), classes))
        np.add.at(votes, (np.arange(len(near))[:, None], labels[near]), weight)
        out[begin : begin + len(near)] = votes.argmax(axis=1)
    return out


def accuracy(predicted: Int64, wanted: Int64) -> float:
    """Percent of predictions that are right."""
    return 100.0 * float((predicted == wanted).mean())
