"""Few-shot classification on frozen features: how far 1, 5 or 10 labelled images of a class go."""

from dataclasses import dataclass

import numpy as np

from selectivemae.core.order import Int64, mix, permute
from selectivemae.core.statistics import mean_deviation
from selectivemae.probing.knn import Float32, accuracy, unit

SHOTS = (1, 5, 10)
DRAWS = 20
_DRAW = 0xF500  # purpose of the hash


@dataclass(frozen=True)
class FewShot:
    """Accuracy in percent with ``shots`` training images a class: mean and deviation over draws of them."""

    shots: int
    accuracy: float
    deviation: float


def few_shot(
    train: Float32, labels: Int64, test: Float32, test_labels: Int64, shots: int, seed: int = 0, draws: int = DRAWS
) -> FewShot | None:
    """Nearest class mean by cosine similarity (Snell et al., NeurIPS 2017), the means of ``shots`` training features a
    class, tested on all test features.

    None where a class has fewer training features than that. Nothing is tuned.
    """
    if np.bincount(labels).min() < shots:
        return None
    scores = []
    for number in range(draws):
        drawn = draw_shots(labels, shots, int(mix(seed, _DRAW, number)))
        scores.append(accuracy(nearest_mean(train[drawn], labels[drawn], test), test_labels))
    mean, deviation = mean_deviation(scores)
    return FewShot(shots, mean, deviation or 0.0)


def draw_shots(labels: Int64, shots: int, key: int) -> Int64:
    """Places of ``shots`` features of each class, without repetition, by the lot of a key."""
    drawn = []
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        drawn.append(members[permute(np.arange(shots), len(members), int(mix(key, int(label))))])
    return np.concatenate(drawn)


def nearest_mean(train: Float32, labels: Int64, test: Float32) -> Int64:
    """Classes (M,) of test features (M, E): that of the most similar mean of unit training features (N, E)."""
    known = unit(train)
    classes = np.unique(labels)
    means = unit(np.stack([known[labels == label].mean(axis=0) for label in classes]))
    return classes[(unit(test) @ means.T).argmax(axis=1)]
