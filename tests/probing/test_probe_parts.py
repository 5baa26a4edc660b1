"""kNN and the linear probe against other implementations and against what must not matter."""

import numpy as np
import pytest
import torch
from scipy.optimize import minimize

from selectivemae.probing.features import colour_describer, pixel_describer
from selectivemae.probing.knn import accuracy, knn_predict, standardise
from selectivemae.probing.linear import PENALTIES, fit_linear, linear_predict, predict_linear


def clouds(n: int = 90, width: int = 5, classes: int = 3, spread: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    label = np.arange(n) % classes
    return (rng.normal(size=(classes, width))[label] * 2 + rng.normal(size=(n, width)) * spread).astype(
        np.float32
    ), label


def test_knn_equals_loops() -> None:
    x, label = clouds()
    train, test = x[:60], x[60:]
    wanted = []
    for row in test.astype(np.float64):
        similarity = [row @ t / np.linalg.norm(row) / np.linalg.norm(t) for t in train.astype(np.float64)]
        near = np.argsort(similarity)[::-1][:7]
        votes = np.zeros(3)
        for i in near:
            votes[label[i]] += np.exp(similarity[i] / 0.07)
        wanted.append(votes.argmax())
    assert knn_predict(train, label[:60], test, 7).tolist() == wanted


def test_knn_with_fewer_images_than_neighbours() -> None:
    x, label = clouds(9, spread=0.1)
    assert knn_predict(x[:6], label[:6], x[6:], 20).tolist() == label[6:].tolist()


def test_standardised_features() -> None:
    rng = np.random.default_rng(1)
    x = (rng.normal(size=(50, 4)) * [1, 9, 0.1, 0] + 3).astype(np.float32)
    train, test = standardise(x[:30], x[30:])
    np.testing.assert_allclose(train.mean(0), 0, atol=1e-5)
    np.testing.assert_allclose(train.std(0), [1, 1, 1, 0], atol=1e-4)
    np.testing.assert_allclose(test[:, 1] * x[:30, 1].std() + x[:30, 1].mean(), x[30:, 1], rtol=1e-4)


def test_the_linear_probe_reaches_the_minimum() -> None:
    """The same objective minimised by scipy in float64."""
    x, label = clouds(60, 4)
    penalty = 1e-2

    def objective(flat: np.ndarray) -> float:
        weight, bias = flat[:12].reshape(4, 3), flat[12:]
        logits = x.astype(np.float64) @ weight + bias
        logits -= logits.max(1, keepdims=True)
        loss = np.log(np.exp(logits).sum(1)) - logits[np.arange(60), label]
        return loss.mean() + penalty * (weight**2).sum() / 2

    found = minimize(objective, np.zeros(15), tol=1e-10)
    weight, bias = fit_linear(x, label, penalty, 3)
    reached = objective(np.concatenate([weight.numpy().ravel(), bias.numpy()]))
    assert reached == pytest.approx(found.fun, abs=1e-5)
    np.testing.assert_allclose(weight.numpy(), found.x[:12].reshape(4, 3), atol=5e-3)


def test_the_penalty_is_chosen_without_the_test_part() -> None:
    x, label = clouds(120, 6, spread=2.0)
    predicted, penalty = linear_predict(x[:90], label[:90], x[90:])
    other, same = linear_predict(x[:90], label[:90], x[90:][::-1].copy())
    assert penalty == same
    assert penalty in PENALTIES
    assert predicted.tolist() == other[::-1].tolist()
    assert accuracy(predicted, label[90:]) > 50
    assert predict_linear(x[90:], *fit_linear(x[:90], label[:90], penalty, 3)).tolist() == predicted.tolist()


def test_simple_descriptions_of_images() -> None:
    images = np.random.default_rng(2).integers(0, 256, (3, 3, 48, 48), dtype=np.uint8)
    colour = colour_describer(images)
    assert colour.shape == (3, 6)
    assert colour[1, 2] == pytest.approx(images[1, 2].mean() / 255, abs=1e-5)
    assert colour[2, 3] == pytest.approx(images[2, 0].std() / 255, abs=1e-5)
    pixels = pixel_describer(images).reshape(3, 3, 24, 24)
    wanted = images.reshape(3, 3, 24, 2, 24, 2).mean((3, 5)) / 255
    np.testing.assert_allclose(pixels, wanted, atol=1e-5)
    torch.testing.assert_close(torch.from_numpy(pixels).mean(), torch.from_numpy(wanted).float().mean())
