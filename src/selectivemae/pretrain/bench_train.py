"""What training costs here from the files to the weights: ``bench train``."""

import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from selectivemae.core.errors import ConfigError
from selectivemae.data.augment import RandomCrop
from selectivemae.data.batch import Batch, Position
from selectivemae.data.catalogue import resolve_all
from selectivemae.data.loader import Loader
from selectivemae.data.pixels import Task
from selectivemae.data.stores import open_stores
from selectivemae.engine.loop import Trainer
from selectivemae.engine.measure import matrix_peak, median, synchronise
from selectivemae.engine.precision import choose_device, resolve_precision
from selectivemae.engine.state import RunState
from selectivemae.models.create import Method
from selectivemae.pretrain.bench import counted_flops, make_trainer, peak_memory
from selectivemae.pretrain.bench_config import BenchTrainConfig


@dataclass(frozen=True)
class MethodRate:
    """A method's figures; medians over rounds."""

    method: str
    images_per_s: float
    gflop_per_image: float
    share_of_peak: float  # model FLOP utilisation, of the device's measured matrix products
    data_wait_share: float
    peak_memory_gb: float | None


@dataclass(frozen=True)
class TrainCost:
    """What ``bench train`` found; ``ratio`` is the first method's images a second over the second's."""

    model: str
    device: str
    precision: str
    batch_size: int
    workers: int
    samples: int
    peak_tflops: float
    methods: list[MethodRate]
    ratio: float | None


def bench_train(config: BenchTrainConfig) -> TrainCost:
    """Train on real data through the loader, the methods in turn, and time rounds of ``steps`` steps.

    The first step after a turn does not count: it finds the batches that were decoded meanwhile. Raises ConfigError
    without data, StoreError and DataError for data that cannot be used.
    """
    if not config.data:
        raise ConfigError("no data given: --data FOLDER (or archive) with images")
    if config.trace is not None and not config.trace.absolute().parent.is_dir():
        raise ConfigError(f"--trace {config.trace}: there is no folder {config.trace.absolute().parent}")
    device = choose_device(config.device)
    precision = resolve_precision(config.precision, device)
    store = open_stores(resolve_all(config.data, config.data_root))
    names: list[Method] = [config.method, config.against] if config.against else [config.method]
    peak = matrix_peak(device, precision)
    memory = {name: peak_memory(config, name) if config.memory else None for name in names}
    flops = {name: counted_flops(config, name, device) for name in names}
    trainers = {name: make_trainer(config, name, device, precision) for name in names}
    task = Task(store, config.image_size, 3, RandomCrop())
    with Loader(task, config.batch_size, 0, workers=config.workers, device=device) as loader:
        batches = loader.batches(Position())
        rounds: dict[str, list[tuple[float, float]]] = {name: [] for name in names}
        for number in range(1 + config.rounds):  # the first does not count
            for name, trainer in trainers.items():
                window = _window(trainer, loader, batches, config.steps if number else 1, device)
                if number:
                    rounds[name].append(window)
        if config.trace is not None:
            _trace(config.trace, trainers[config.method], loader, batches, device)
        workers = loader.workers
    rates = []
    for name in names:
        seconds = median([s for s, _ in rounds[name]])
        speed = config.steps * config.batch_size / seconds
        wait = median([w / s for s, w in rounds[name]])
        rates.append(MethodRate(name, speed, flops[name] / 1e9, flops[name] * speed / peak, wait, memory[name]))
    return TrainCost(
        model=config.model,
        device=str(device),
        precision=precision,
        batch_size=config.batch_size,
        workers=workers,
        samples=len(store),
        peak_tflops=peak / 1e12,
        methods=rates,
        ratio=rates[0].images_per_s / rates[1].images_per_s if len(rates) > 1 else None,
    )


def _window(
    trainer: Trainer, loader: Loader, batches: Iterator[tuple[Batch, Position]], steps: int, device: torch.device
) -> tuple[float, float]:
    """Seconds of ``steps`` steps after one that does not count, and those of them that waited for data."""
    state = RunState()
    trainer.step(next(batches)[0], state)
    synchronise(device)
    began, waited = time.perf_counter(), loader.wait_seconds
    for _ in range(steps):
        trainer.step(next(batches)[0], state)
    synchronise(device)
    return time.perf_counter() - began, loader.wait_seconds - waited


def _trace(
    path: Path, trainer: Trainer, loader: Loader, batches: Iterator[tuple[Batch, Position]], device: torch.device
) -> None:
    """Write a trace of three steps, for chrome://tracing or ui.perfetto.dev."""
    activities = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if device.type == "cuda" else [])
    with profile(activities=activities) as profiler:
        _window(trainer, loader, batches, 2, device)
    profiler.export_chrome_trace(str(path))


def as_text(cost: TrainCost) -> str:
    """The figures for people."""
    lines = [
        f"{cost.model}, {cost.precision} on {cost.device}, batch {cost.batch_size}, {cost.workers} workers, "
        f"{cost.samples} images; matrix peak {cost.peak_tflops:.3f} TFLOP/s",
        f"{'method':14}{'images/s':>10}{'GFLOP':>8}{'of peak':>9}{'data wait':>11}{'memory GB':>11}",
    ]
    for m in cost.methods:
        memory = f"{m.peak_memory_gb:.2f}" if m.peak_memory_gb is not None else "-"
        lines.append(
            f"{m.method:14}{m.images_per_s:10.1f}{m.gflop_per_image:8.2f}{100 * m.share_of_peak:8.0f}%"
            f"{100 * m.data_wait_share:10.0f}%{memory:>11}"
        )
    if cost.ratio is not None:
        lines.append(f"first / second: {cost.ratio:.2f} times the images a second")
    return "\n".join(lines)


def as_dict(cost: TrainCost) -> dict[str, Any]:
    """The figures as plain data."""
    return asdict(cost)
