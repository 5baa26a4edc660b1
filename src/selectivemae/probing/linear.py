"""A linear probe: multinomial logistic regression on frozen, standardised features, solved to convergence."""

import numpy as np
import torch
from torch import Tensor

from selectivemae.core.order import Int64, permute
from selectivemae.probing.knn import Float32, accuracy

PENALTIES = (1e-4, 1e-3, 1e-2, 1e-1)  # L2 on the weights, per mean loss
HELD_BACK = 0.2  # of the training part, to choose the penalty on


def fit_linear(features: Float32, labels: Int64, penalty: float, classes: int) -> tuple[Tensor, Tensor]:
    """Weights (E, K) and bias (K,) that minimise mean cross-entropy + penalty |W|^2 / 2 over features (N, E).

    The search is along the features' principal axes, each scaled by about the curvature there: features go together so
    much that it would not end otherwise.
    """
    x, y = torch.from_numpy(features), torch.from_numpy(labels)
    spread, axes = torch.linalg.eigh(x.T @ x / len(x))
    turn = axes / (spread.clamp(min=0) / classes + penalty).sqrt()
    turned = x @ turn
    scaled = torch.zeros(x.shape[1], classes, requires_grad=True)
    bias = torch.zeros(classes, requires_grad=True)
    optimizer = torch.optim.LBFGS([scaled, bias], max_iter=200, tolerance_grad=1e-5, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        size = (turn @ scaled).square().sum()
        loss = torch.nn.functional.cross_entropy(turned @ scaled + bias, y) + penalty * size / 2
        loss.backward()
        return loss

    optimizer.step(closure)  # pyright: ignore[reportArgumentType]
    return turn @ scaled.detach(), bias.detach()


def predict_linear(features: Float32, weight: Tensor, bias: Tensor) -> Int64:
    """Classes (M,) of features (M, E)."""
    return (torch.from_numpy(features) @ weight + bias).argmax(dim=1).numpy()


def linear_predict(train: Float32, labels: Int64, test: Float32, seed: int = 0) -> tuple[Int64, float]:
    """Classes (M,) of test features (M, E), and the penalty used.

    The penalty is chosen on a fifth of the training part that is held back from it; the test part is never looked at.
    """
    classes = int(labels.max()) + 1
    shuffled = permute(np.arange(len(train)), len(train), seed)
    held = shuffled[: max(1, int(HELD_BACK * len(train)))]
    rest = np.setdiff1d(shuffled, held)

    def score(penalty: float) -> float:
        fitted = fit_linear(train[rest], labels[rest], penalty, classes)
        return accuracy(predict_linear(train[held], *fitted), labels[held])

    best = max(PENALTIES, key=score)
    return predict_linear(test, *fit_linear(train, labels, best, classes)), best
