"""What a training step costs here: ``bench model``."""

import multiprocessing
import time
from dataclasses import asdict, dataclass
from typing import Any

import torch

from selectivemae.data.batch import Batch
from selectivemae.engine.loop import FitConfig, Trainer
from selectivemae.engine.measure import (
    flops_per_image,
    interleaved,
    matrix_peak,
    median,
    most_resident,
    step_memory,
    synchronise,
    synthetic_batch,
    timed_steps,
)
from selectivemae.engine.optim import Budget, Schedule, adamw
from selectivemae.engine.precision import autocast, choose_device, resolve_precision
from selectivemae.engine.state import RunState
from selectivemae.models.create import Method, create_model
from selectivemae.models.masked import MaskedAutoencoder
from selectivemae.models.selective_mae import SelectiveMAE
from selectivemae.ops.patches import patchify
from selectivemae.ops.richness import hog
from selectivemae.pretrain.bench_config import BenchModelConfig
from selectivemae.pretrain.objective import PretrainObjective


@dataclass(frozen=True)
class MethodCost:
    """A method's figures; medians."""

    method: str
    micro_batch: int  # images at a time: less than asked for where the memory did not suffice
    images_per_s: float
    step_s: float
    gflop_per_image: float
    share_of_peak: float
    peak_memory_gb: float | None
    selection_share: float
    richness_share: float


@dataclass(frozen=True)
class ModelCost:
    """What ``bench model`` found; ratios are of the second method to the first."""

    model: str
    device: str
    precision: str
    batch_size: int
    threads: int
    peak_tflops: float
    methods: list[MethodCost]
    time_ratio: float | None
    flop_ratio: float | None
    memory_ratio: float | None


def bench_model(config: BenchModelConfig) -> ModelCost:
    """Time forward, backward and optimizer step on images that lie on the device, the methods in turn."""
    device = choose_device(config.device)
    precision = resolve_precision(config.precision, device)
    names: list[Method] = [config.method, config.against] if config.against else [config.method]
    batch = synthetic_batch(config.batch_size, 3, config.image_size, config.image_size, device)
    peak = matrix_peak(device, precision)
    trainers: dict[Method, Trainer] = {name: make_trainer(config, name, device, precision) for name in names}
    # A GPU works behind the host, as in training; its first steps choose kernels and record graphs.
    steps, warmup = (4, 3) if device.type == "cuda" else (1, 1)
    calls = {str(n): timed_steps(t, batch, device, steps) for n, t in trainers.items()}
    times = interleaved(calls, config.rounds, warmup)
    costs = []
    for name, trainer in trainers.items():
        step = median(times[name])
        objective = trainer.objective
        assert isinstance(objective, PretrainObjective)
        flops = counted_flops(config, name, device)
        choosing, rich = selection_seconds(objective.model, batch, precision, config.rounds)
        costs.append(
            MethodCost(
                method=name,
                micro_batch=trainer.micro_batch,
                images_per_s=config.batch_size / step,
                step_s=step,
                gflop_per_image=flops / 1e9,
                share_of_peak=flops * config.batch_size / step / peak,
                peak_memory_gb=_memory(config, name, trainer, batch) if config.memory else None,
                selection_share=choosing / step,
                richness_share=rich / step,
            )
        )
    first, second = costs[0], costs[-1] if len(costs) > 1 else None
    memory = None
    if second and first.peak_memory_gb and second.peak_memory_gb:
        memory = second.peak_memory_gb / first.peak_memory_gb
    return ModelCost(
        model=config.model,
        device=str(device),
        precision=precision,
        batch_size=config.batch_size,
        threads=torch.get_num_threads(),
        peak_tflops=peak / 1e12,
        methods=costs,
        time_ratio=second.step_s / first.step_s if second else None,
        flop_ratio=second.gflop_per_image / first.gflop_per_image if second else None,
        memory_ratio=memory,
    )


def _model(config: BenchModelConfig, method: Method) -> MaskedAutoencoder:
    selection: dict[str, Any] = {"richness": config.richness, "order": config.order} if method != "mae" else {}
    return create_model(config.model, method, config.image_size, decoder_depth=config.decoder_depth, **selection)


def make_trainer(config: BenchModelConfig, method: Method, device: torch.device, precision: str) -> Trainer:
    """A method's model with its optimizer, as ``pretrain`` would train it."""
    objective = PretrainObjective(_model(config, method).to(device), 0.05, compiled=config.compile)
    optimizer = adamw(objective.parameter_groups(), (0.9, 0.95))
    micro = config.micro_batch or config.batch_size
    fit = FitConfig(Budget(epochs=1), Schedule(1e-4), config.batch_size, micro, device, precision)
    return Trainer(objective, optimizer, fit)


def counted_flops(config: BenchModelConfig, method: Method, device: torch.device) -> float:
    """Operations for an image, forward and backward; those of the uncompiled step, where torch can count them."""
    objective = PretrainObjective(_model(config, method).to(device), 0.05)
    return flops_per_image(objective, synthetic_batch(2, 3, config.image_size, config.image_size, device))


def selection_seconds(model: MaskedAutoencoder, batch: Batch, precision: str, rounds: int) -> tuple[float, float]:
    """Seconds of the whole choice of patches, and of HOG alone (0 for a method that does not use it)."""
    device = batch.images.device
    images = model.normalise(batch.images)
    phase = model.phase(0.0, device)
    pixels, patches = model.pixels(images), patchify(images, model.patch)

    def choose() -> float:
        synchronise(device)
        began = time.perf_counter()
        with torch.no_grad(), autocast(precision, device):
            model.choose(images, patches, batch.key, phase)
        synchronise(device)
        return time.perf_counter() - began

    def rich() -> float:
        synchronise(device)
        began = time.perf_counter()
        hog(pixels, model.patch)
        synchronise(device)
        return time.perf_counter() - began

    calls = {"choose": choose} | ({"hog": rich} if isinstance(model, SelectiveMAE) and model.uses_hog else {})
    times = interleaved(calls, rounds)
    return median(times["choose"]), median(times["hog"]) if "hog" in times else 0.0


def _memory(config: BenchModelConfig, method: Method, trainer: Trainer, batch: Batch) -> float:
    """Peak memory of a step in GB: on a GPU of the trainer that there is, which may have taken minutes to compile."""
    device = batch.images.device
    return step_memory(trainer, batch, device) / 1e9 if device.type == "cuda" else peak_memory(config, method)


def peak_memory(config: BenchModelConfig, method: Method) -> float:
    """Peak memory of three training steps in GB: on a CPU that of a fresh process, less what it had before."""
    device = choose_device(config.device)
    if device.type == "cuda":
        trainer = make_trainer(config, method, device, resolve_precision(config.precision, device))
        batch = synthetic_batch(config.batch_size, 3, config.image_size, config.image_size, device)
        for _ in range(2):
            trainer.step(batch, RunState())
        return step_memory(trainer, batch, device) / 1e9
    context = multiprocessing.get_context("spawn")
    with context.Pool(1) as pool:
        settings = config.model_dump(include={*BenchModelConfig.model_fields})  # of a bench train there are more
        return pool.apply(_memory_of_a_process, (settings, method))


def _memory_of_a_process(settings: dict[str, Any], method: Method) -> float:
    config, device = BenchModelConfig(**settings), torch.device("cpu")
    before = most_resident()
    trainer = make_trainer(config, method, device, resolve_precision(config.precision, device))
    batch = synthetic_batch(config.batch_size, 3, config.image_size, config.image_size, device)
    for _ in range(3):
        trainer.step(batch, RunState())
    return (most_resident() - before) / 1e9


def as_text(cost: ModelCost) -> str:
    """The figures for people."""
    lines = [
        f"{cost.model}, {cost.precision} on {cost.device} ({cost.threads} threads), batch {cost.batch_size}; "
        f"matrix peak {cost.peak_tflops:.3f} TFLOP/s",
        f"{'method':14}{'images/s':>10}{'step s':>9}{'GFLOP':>8}{'of peak':>9}{'memory GB':>11}"
        f"{'selection':>11}{'HOG':>7}",
    ]
    for m in cost.methods:
        memory = f"{m.peak_memory_gb:.2f}" if m.peak_memory_gb is not None else "-"
        lines.append(
            f"{m.method:14}{m.images_per_s:10.1f}{m.step_s:9.2f}{m.gflop_per_image:8.2f}{100 * m.share_of_peak:8.0f}%"
            f"{memory:>11}{100 * m.selection_share:10.1f}%{100 * m.richness_share:6.1f}%"
        )
    if cost.time_ratio is not None:
        memory = f", memory {cost.memory_ratio:.2f}" if cost.memory_ratio else ""
        lines.append(f"second / first: time {cost.time_ratio:.2f}, operations {cost.flop_ratio:.2f}{memory}")
    return "\n".join(lines)


def as_dict(cost: ModelCost) -> dict[str, Any]:
    """The figures as plain data."""
    return asdict(cost)
