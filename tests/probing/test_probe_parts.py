"""kNN and the linear probe against other implementations and against what must not matter."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import stats
from scipy.optimize import minimize

from selectivemae.cli.probe import run_probe, table
from selectivemae.probing.config import ProbeConfig
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


def test_the_minimum_is_reached_where_features_go_together() -> None:
    """Deviations along the axes over four orders, as encoders have them: float64 gradient by its formula is near 0."""
    rng, penalty = np.random.default_rng(3), 1e-3
    axes = np.linalg.qr(rng.normal(size=(40, 40)))[0]
    x = (rng.normal(size=(300, 40)) * np.geomspace(10, 1e-3, 40) @ axes).astype(np.float32)
    label = (x @ rng.normal(size=(40, 5)) + rng.normal(size=(300, 5))).argmax(1)
    weight, bias = (part.numpy().astype(np.float64) for part in fit_linear(x, label, penalty, 5))
    share = np.exp(x @ weight + bias)
    error = share / share.sum(1, keepdims=True) - np.eye(5)[label]
    assert np.abs(x.T @ error / 300 + penalty * weight).max() < 1e-4
    assert np.abs(error.mean(0)).max() < 1e-4


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


def test_what_is_said_of_a_probe(tmp_path: Path) -> None:
    """Bands of colour, two images of a class missing: shares of what could be read, exactly, and what is not there."""
    for part, count in (("train", 6), ("test", 3)):
        for number, name in enumerate(("blue", "green", "red")):
            (tmp_path / part / name).mkdir(parents=True)
            for i in range(count):
                pixels = np.random.default_rng(100 * number + i + count).integers(0, 60, (24, 24, 3), dtype=np.uint8)
                pixels[..., 2 - number] += 150
                Image.fromarray(pixels).save(tmp_path / part / name / f"{i}.png")
    (tmp_path / "test" / "red" / "0.png").write_bytes(b"no image")
    (tmp_path / "train" / "green" / "0.png").write_bytes(b"")
    result = run_probe("random:vit_tiny_patch8", ProbeConfig(data=str(tmp_path), image_size=24, device="cpu"))
    assert (result.train, result.test, result.unreadable, result.unreadable_test) == (17, 8, 2, 1)
    assert result.baselines["colour"].linear == 100
    assert result.knn * 8 / 100 == round(result.knn * 8 / 100)
    interval = stats.binomtest(round(result.linear * 8 / 100), 8).proportion_ci(method="wilson")
    assert result.linear_interval == pytest.approx((100 * interval.low, 100 * interval.high), abs=0.01)
    told = table(result)
    assert "no 10-shot: a class has only 5 training images" in told
    assert "1 training and 1 test images could not be read" in told
    assert "deviation over 20 draws: 1-shot" in told
