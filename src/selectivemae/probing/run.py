"""Probe: how much a frozen encoder tells about classes, beside what simple numbers tell."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, cast

import torch
from pydantic import Field
from torch import nn

from selectivemae.core.config import Settings
from selectivemae.core.order import Int64
from selectivemae.data.labels import TEST, TRAIN, Labelled, read_labels
from selectivemae.data.stores import Store, open_store
from selectivemae.probing.features import (
    UInt8,
    collect,
    colour_describer,
    encoder_describer,
    pixel_describer,
)
from selectivemae.probing.knn import Float32, accuracy, knn_predict, standardise
from selectivemae.probing.linear import linear_predict


class ProbeConfig(Settings):
    """Settings of ``probe``."""

    data: str | None = Field(default=None, description="Class folders: CLASS/image.jpg, with split.csv or train/test")
    image_size: int | None = Field(default=None, description="Side of the images in pixels (the encoder's own)")
    pool: Literal["mean", "token"] = Field(default="mean", description="Mean of the patch tokens, or the class token")
    k: int = Field(default=20, ge=1, description="Neighbours of kNN")
    seed: int = Field(default=0, description="Of drawn splits and of the random baseline")
    baselines: bool = Field(default=True, description="Also print random weights, raw pixels and colour numbers")
    workers: int = Field(default=0, ge=0, description="Processes that decode images")
    device: str = Field(default="auto", description="auto, cpu, cuda, cuda:N")


@dataclass
class Row:
    """Accuracies on the test part, percent."""

    knn: float
    linear: float


@dataclass
class ProbeResult:
    """What a probe found."""

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
    return Prepared(train, train_label, test, test_label, bad_train + bad_test)


def judge(data: Prepared, k: int, seed: int) -> tuple[Row, float]:
    """kNN and linear accuracy of prepared features, and the penalty that the linear probe chose."""
    knn = accuracy(knn_predict(data.train, data.train_label, data.test, k), data.test_label)
    predicted, penalty = linear_predict(data.train, data.train_label, data.test, seed)
    return Row(round(knn, 2), round(accuracy(predicted, data.test_label), 2)), penalty


def probe_encoder(
    encoder: nn.Module,
    config: ProbeConfig,
    device: torch.device,
    weights: str,
    random_twin: Callable[[], nn.Module] | None = None,
    say: Callable[[str, Row], None] | None = None,
) -> ProbeResult:
    """kNN and linear probe of a frozen encoder on class folders, and the baselines beside it.

    ``random_twin`` makes the same architecture with fresh weights. Raises DataError where data or labels do not do.
    """
    assert config.data is not None
    store, labelled = open_labelled(config.data, config.seed)
    channels, height, _ = cast(Any, encoder).pretrained_cfg["input_size"]
    size = config.image_size or height

    def run(name: str, describe: Callable[[UInt8], Float32]) -> tuple[Row, float, Prepared]:
        prepared = prepare(store, labelled, size, channels, config.workers, describe)
        row, penalty = judge(prepared, config.k, config.seed)
        if say:
            say(name, row)
        return row, penalty, prepared

    row, penalty, data = run(weights, encoder_describer(encoder.to(device).eval(), device, config.pool))
    result = ProbeResult(
        weights, row.knn, row.linear, len(labelled.classes), len(data.train), len(data.test), labelled.how,
        config.k, penalty, data.unreadable,
    )  # fmt: skip
    if config.baselines:
        if random_twin is not None:
            twin = random_twin().to(device).eval()
            result.baselines["random weights"] = run("random weights", encoder_describer(twin, device, config.pool))[0]
        result.baselines["raw pixels"] = run("raw pixels", pixel_describer)[0]
        result.baselines["colour"] = run("colour", colour_describer)[0]
    return result


def knn_accuracy(encoder: nn.Module, config: ProbeConfig, device: torch.device) -> float:
    """kNN accuracy alone, for a look during training."""
    assert config.data is not None
    store, labelled = open_labelled(config.data, config.seed)
    channels, height, _ = cast(Any, encoder).pretrained_cfg["input_size"]
    describe = encoder_describer(encoder.to(device).eval(), device, config.pool)
    data = prepare(store, labelled, config.image_size or height, channels, config.workers, describe)
    return accuracy(knn_predict(data.train, data.train_label, data.test, config.k), data.test_label)
