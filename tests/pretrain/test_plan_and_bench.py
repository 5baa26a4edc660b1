"""The plan of a run and the figures of ``bench train``, against what can be said without them."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from selectivemae.core.errors import ConfigError
from selectivemae.models.vit import SIZES
from selectivemae.pretrain.bench_config import BenchTrainConfig
from selectivemae.pretrain.bench_train import as_text, bench_train
from selectivemae.pretrain.config import PretrainConfig
from selectivemae.pretrain.plan import GPU_FLOPS, GPUS, STEP_SECONDS, Plan, plan

TINY = {
    "model": "vit_tiny_patch8", "image_size": 32, "decoder_depth": 1, "batch_size": 8, "device": "cpu", "workers": 0,
    "precision": "fp32",
}  # fmt: skip


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SIZES, "tiny", (2, 64, 2, 32, 2))


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    for i in range(12):
        pixels = np.random.default_rng(i).integers(0, 256, (40, 40, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{i}.png")
    return folder


def planned(images: Path, **settings: object) -> Plan:
    config = PretrainConfig.build(TINY, {"data": [str(images)], "out": "nowhere", "mask_ratio": 0.5}, settings)
    return plan(config, seconds=0.1)


def test_a_small_run_takes_no_zero_seconds(images: Path) -> None:
    got = planned(images, epochs=4.0)
    assert (got.images, got.total_samples, got.steps) == (12, 48, 6)
    assert got.node_seconds == pytest.approx(6 * STEP_SECONDS)
    text = got.text()
    assert "about 0 s" not in text
    assert "on 8 GPUs    under a minute, 1 images at a time" in text
    assert "(4.0 epochs, 6 steps)" in text


def test_a_long_run_is_bounded_by_arithmetic(images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("selectivemae.pretrain.plan.STEP_SECONDS", 0.0)
    got = planned(images, samples_seen=10**12)
    assert got.node_seconds == pytest.approx(10**12 * got.flops_per_image / (GPUS * GPU_FLOPS))
    assert got.node_seconds > 60


def test_minutes_are_as_long_on_every_machine(images: Path) -> None:
    got = planned(images, minutes=5.0)
    assert got.seconds == pytest.approx(300, rel=0.01)
    assert got.node_seconds == got.seconds
    assert "images in the same about 5 min" in got.text()


def test_a_batch_that_does_not_divide_is_said(images: Path) -> None:
    assert "cannot be divided by 8" in planned(images, batch_size=6).text()


def test_small_images_at_first_save_time(images: Path) -> None:
    whole, early = (planned(images, epochs=4.0, **how) for how in ({}, {"early_sizes": (16,), "early_share": 0.5}))
    assert early.flops_per_image == whole.flops_per_image
    # A quarter of the patches for half of the time.
    share = early.seconds / (early.total_samples / early.images_per_s)
    assert share == pytest.approx(0.5 + 0.5 / 4, abs=0.05)


def test_bench_train_tells_rates_that_fit_together(images: Path, tmp_path: Path) -> None:
    config = BenchTrainConfig.build(
        TINY, {"data": [str(images)], "rounds": 2, "steps": 2, "memory": False, "trace": tmp_path / "trace.json"}
    )
    cost = bench_train(config)
    first, second = cost.methods
    assert (first.method, second.method) == ("selectivemae", "mae")
    assert cost.ratio == pytest.approx(first.images_per_s / second.images_per_s)
    assert 0 < first.data_wait_share < 1
    expected = first.gflop_per_image * first.images_per_s / (1000 * cost.peak_tflops)
    assert first.share_of_peak == pytest.approx(expected)
    assert "data wait" in as_text(cost)
    events = json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    assert any(e.get("name") == "aten::addmm" for e in events)


@pytest.mark.slow
def test_bench_train_measures_memory_in_processes_of_their_own(images: Path) -> None:
    config = BenchTrainConfig.build(TINY, {"data": [str(images)], "rounds": 1, "steps": 1, "against": None})
    (cost,) = bench_train(config).methods
    assert cost.peak_memory_gb is not None
    # Weights, gradients and two moments of the real tiny model (its size is not patched there) at the least.
    assert 16 * 6e6 < 1e9 * cost.peak_memory_gb < 4e9


@pytest.mark.parametrize(("how", "word"), [({}, "no data given"), ({"trace": "no/folder.json"}, "there is no folder")])
def test_bench_train_refuses(images: Path, how: dict, word: str) -> None:
    with pytest.raises(ConfigError, match=word):
        bench_train(BenchTrainConfig.build(TINY, {"data": [str(images)] if how else []}, how))
