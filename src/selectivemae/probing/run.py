"""Probe: how much a frozen encoder tells about classes, beside what simple numbers tell."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from selectivemae.core.order import Int64
from selectivemae.core.statistics import wilson
from selectivemae.data.labels import TEST, TRAIN, Labelled, read_labels
from selectivemae.data.reading import UInt8
from selectivemae.data.stores import Store, open_store
from selectivemae.probing.config import ProbeConfig
from selectivemae.probing.features import collect, colour_describer, encoder_describer, image_side, pixel_describer
from selectivemae.probing.fewshot import SHOTS, few_shot
from selectivemae.probing.knn import Float32, accuracy, knn_predict, knn_predict_several, standardise
from selectivemae.probing.linear import linear_predict
from selectivemae.weights.info import EncoderInfo

KS = (1, 5, 10, 20, 50)


@dataclass
class Row:
    """Accuracies on the test part, percent; ``few_shot`` by the number of training images a class."""

    knn: float
    linear: float
    few_shot: dict[int, float] = field(default_factory=dict)


@dataclass
class ProbeResult:
    """What a probe found: percent of the test part. It is never tuned on: every k is reported, and the penalty of the
    linear probe is chosen within the training part. Images that cannot be read are left out and counted. Intervals are
    Wilson's, 95 %."""

    weights: str
    knn: float
    linear: float
    classes: int
    train: int
    test: int
    split: str
    k: int
    penalty: float
    unreadable: int
    unreadable_test: int  # of them
    fewest: int  # training images of the class that has fewest
    knn_interval: tuple[float, float]
    linear_interval: tuple[float, float]
    knn_by_k: dict[int, float]
    few_shot: dict[int, float]
    few_shot_deviation: dict[int, float]
    baselines: dict[str, Row] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)


@dataclass
class Prepared:
    """Features of both parts with their labels."""

    train: Float32
    train_label: Int64
    test: Float32
    test_label: Int64
    unreadable: int
    unreadable_test: int  # of them


def open_labelled(path: str, seed: int) -> tuple[Store, Labelled]:
    """A store of class folders with its labels and parts."""
    store = open_store(path)
    return store, read_labels(store, Path(path) if Path(path).is_dir() else None, seed)


def prepare(
    store: Store, labelled: Labelled, size: int, channels: int, workers: int, describe: Callable[[UInt8], Float32]
) -> Prepared:
    """Standardised features of both parts."""
    sides = []
    for part in (TRAIN, TEST):
        index, label = labelled.of(part)
        features, places, bad = collect(store, index, size, channels, workers, describe)
        sides.append((features, label[places], len(bad)))
    (train, train_label, bad_train), (test, test_label, bad_test) = sides
    train, test = standardise(train, test)
    return Prepared(train, train_label, test, test_label, bad_train + bad_test, bad_test)


@dataclass
class Judged:
    """What prepared features are worth: predictions (M,) of the test part, and few-shot figures."""

    knn: dict[int, Int64]
    linear: Int64
    penalty: float
    few_shot: dict[int, tuple[float, float]]  # shots -> mean accuracy and deviation over draws

    def row(self, data: Prepared, k: int) -> Row:
        """The figures that all compared features get."""
        knn, linear = (accuracy(p, data.test_label) for p in (self.knn[k], self.linear))
        return Row(knn, linear, {shots: mean for shots, (mean, _) in self.few_shot.items()})


def judge(data: Prepared, k: int, seed: int) -> Judged:
    """kNN over several k, a linear probe and few-shot classification of prepared features."""
    near = knn_predict_several(data.train, data.train_label, data.test, sorted({*KS, k}))
    predicted, penalty = linear_predict(data.train, data.train_label, data.test, seed)
    few = (few_shot(data.train, data.train_label, data.test, data.test_label, shots, seed) for shots in SHOTS)
    return Judged(near, predicted, penalty, {f.shots: (f.accuracy, f.deviation) for f in few if f})


def _interval(predicted: Int64, wanted: Int64) -> tuple[float, float]:
    low, high = wilson(int((predicted == wanted).sum()), len(wanted))
    return 100 * low, 100 * high


def probe_encoder(
    encoder: nn.Module,
    config: ProbeConfig,
    device: torch.device,
    weights: str,
    random_twin: Callable[[], nn.Module] | None = None,
) -> ProbeResult:
    """kNN, linear and few-shot probe of a frozen encoder on class folders, and the baselines beside it.

    ``random_twin`` makes the same architecture with fresh weights. Raises DataError where data or labels do not do.
    """
    assert config.data is not None
    store, labelled = open_labelled(config.data, config.seed)
    channels = EncoderInfo.of(encoder).channels
    size = image_side(encoder, config.image_size)

    def run(describe: Callable[[UInt8], Float32]) -> tuple[Row, Judged, Prepared]:
        prepared = prepare(store, labelled, size, channels, config.workers, describe)
        judged = judge(prepared, config.k, config.seed)
        return judged.row(prepared, config.k), judged, prepared

    row, judged, data = run(encoder_describer(encoder.to(device).eval(), device, config.pool))
    wanted = data.test_label
    result = ProbeResult(
        weights=weights,
        knn=row.knn,
        linear=row.linear,
        classes=len(labelled.classes),
        train=len(data.train),
        test=len(data.test),
        split=labelled.how,
        k=config.k,
        penalty=judged.penalty,
        unreadable=data.unreadable,
        unreadable_test=data.unreadable_test,
        fewest=int(np.bincount(data.train_label, minlength=len(labelled.classes)).min()),
        knn_interval=_interval(judged.knn[config.k], wanted),
        linear_interval=_interval(judged.linear, wanted),
        knn_by_k={k: accuracy(predicted, wanted) for k, predicted in judged.knn.items()},
        few_shot=row.few_shot,
        few_shot_deviation={shots: deviation for shots, (_, deviation) in judged.few_shot.items()},
    )
    if config.baselines:
        if random_twin is not None:
            twin = random_twin().to(device).eval()
            result.baselines["random weights"] = run(encoder_describer(twin, device, config.pool))[0]
        result.baselines["raw pixels"] = run(pixel_describer)[0]
        result.baselines["colour"] = run(colour_describer)[0]
    return result


def knn_accuracy(encoder: nn.Module, config: ProbeConfig, device: torch.device) -> float:
    """kNN accuracy alone, for a look during training."""
    assert config.data is not None
    store, labelled = open_labelled(config.data, config.seed)
    channels = EncoderInfo.of(encoder).channels
    describe = encoder_describer(encoder.to(device).eval(), device, config.pool)
    data = prepare(store, labelled, image_side(encoder, config.image_size), channels, config.workers, describe)
    return accuracy(knn_predict(data.train, data.train_label, data.test, config.k), data.test_label)
