"""What a run would do and cost, without doing it: ``pretrain --dry-run``."""

import time
from dataclasses import dataclass

import torch

from selectivemae.core.progress import duration
from selectivemae.data.augment import RandomCrop
from selectivemae.data.batch import Batch, Position
from selectivemae.data.catalogue import resolve_all
from selectivemae.data.loader import Loader
from selectivemae.data.pixels import Task
from selectivemae.data.stores import Store, open_stores
from selectivemae.engine.folder import default_micro_batch
from selectivemae.engine.loop import FitConfig, Trainer
from selectivemae.engine.measure import (
    flops_per_image,
    free_memory,
    saved_bytes,
    synchronise,
    synthetic_batch,
)
from selectivemae.engine.optim import adamw
from selectivemae.engine.precision import choose_device, resolve_precision
from selectivemae.engine.state import RunState
from selectivemae.models.create import create_model
from selectivemae.pretrain.config import PretrainConfig
from selectivemae.pretrain.objective import PretrainObjective
from selectivemae.pretrain.settle import budget_of, early_of, model_arguments, schedule_of, settle

# An H100 or H200: dense bf16 matrix products measured at about 790 TFLOP/s, of which such a training reaches 40 %.
GPU_FLOPS = 0.4 * 790e12
GPU_MEMORY = 80e9
GPUS = 8
STEP_SECONDS = 0.015  # a step launches some 3,000 kernels at about 5 us each, however small the model


@dataclass(frozen=True)
class Plan:
    """Figures of a run that has not been done; bytes, seconds and operations."""

    model: str
    method: str
    device: str
    precision: str
    images: int
    patches: int
    visible: int
    seeds: int
    targets: int
    parameters: int
    encoder_parameters: int
    flops_per_image: float  # at full image size
    early_sizes: list[int]
    batch_size: int
    micro_batch: int
    learning_rate: float
    bytes_for_weights: int
    bytes_per_image: int
    largest_micro_batch: int
    checkpoint_bytes: int
    disk_bytes: int
    images_per_s: float
    measured_s: float
    total_samples: int
    steps: int
    seconds: float
    node_seconds: float
    node_images_per_s: float
    node_micro_batch: int
    bounded: bool  # by --minutes: another machine sees more images, in the same time

    def text(self) -> str:
        """The plan for people."""
        gb = 1e9
        early = f"; less with images of {', '.join(map(str, self.early_sizes))} at first" if self.early_sizes else ""
        return "\n".join(
            [
                f"model        {self.model} ({self.method}), {self.parameters / 1e6:.1f} M parameters, "
                f"{self.encoder_parameters / 1e6:.1f} M of them the encoder's",
                f"patches      {self.patches} an image: {self.visible} seen ({self.seeds} of them seeds), "
                f"{self.targets} rebuilt",
                f"data         {self.images} images; {self.total_samples} to be seen "
                f"({self.total_samples / self.images:.1f} epochs, {self.steps} steps)",
                f"step         {self.batch_size} images, {self.micro_batch} at a time, "
                f"learning rate {self.learning_rate:.2e}, {self.precision} on {self.device}",
                f"operations   {self.flops_per_image / 1e9:.2f} GFLOP an image, forward and backward{early}",
                f"memory       {self.bytes_for_weights / gb:.2f} GB for weights and optimizer, "
                f"{self.bytes_per_image / 1e6:.1f} MB an image: {self.largest_micro_batch} images at a time fit here",
                f"disk         {self.disk_bytes / gb:.2f} GB ({self.checkpoint_bytes / gb:.2f} GB a checkpoint)",
                f"time here    {about(self.seconds)} at {self.images_per_s:.3g} images/s "
                f"(measured for {self.measured_s:.0f} s, loader included)",
                f"on {GPUS} GPUs    {self._node()}",
            ]
        )

    def _node(self) -> str:
        """What a node of GPUs would do, reckoned, not measured."""
        if self.batch_size % GPUS:
            return f"the batch of {self.batch_size} cannot be divided by {GPUS}: choose a multiple"
        if not self.node_micro_batch:
            return f"no image fits beside {self.bytes_for_weights / 1e9:.0f} GB of weights and optimizer: use --shard"
        length = about(self.node_seconds)
        if self.bounded:
            images = self.node_images_per_s * self.node_seconds
            length = f"{images:.3g} images in the same {length}"
        return (
            f"{length}, {self.node_micro_batch} images at a time on each (reckoned, not measured: "
            f"{GPU_FLOPS / 1e12:.0f} TFLOP/s each, bf16, H100 class, {GPU_MEMORY / 1e9:.0f} GB; no step under "
            f"{1000 * STEP_SECONDS:.0f} ms; the data must come at {self.node_images_per_s:.3g} images/s)"
        )


def about(seconds: float) -> str:
    """A length that is only reckoned."""
    return "under a minute" if seconds < 60 else f"about {duration(seconds)}"


def plan(config: PretrainConfig, seconds: float = 20.0) -> Plan:
    """Measure for ``seconds`` on the real data and reckon the rest; writes nothing. Raises what ``pretrain`` would."""
    config = settle(config)
    device = choose_device(config.device)
    precision = resolve_precision(config.precision, device)
    model = create_model(**model_arguments(config)).to(device)
    store = open_stores(resolve_all(config.data, config.data_root))
    early = early_of(config)
    objective = PretrainObjective(model, config.weight_decay, early=early)
    batch = synthetic_batch(4, config.channels, config.image_size, config.image_size, device)
    flops, (activations, copies) = flops_per_image(objective, batch, 1.0), saved_bytes(objective, batch, precision, 1.0)
    mean_flops = _mean_flops(objective, batch, flops)
    micro = config.micro_batch or default_micro_batch(config.batch_size, device)
    trained = PretrainObjective(model, config.weight_decay, compiled=config.compile)
    rate = _measure(config, trained, store, device, precision, micro, seconds)
    parameters = sum(p.numel() for p in model.parameters())
    encoder = sum(v.numel() for v in model.encoder_state().values())
    weights = int(16 * parameters + copies)  # weights, gradients and two moments in fp32; what a step keeps beside
    checkpoint = 12 * parameters
    total = _total_samples(config, len(store), rate * flops / mean_flops)
    bounded, here = config.minutes is not None, total / rate * mean_flops / flops
    on_node = max(mean_flops / (GPUS * GPU_FLOPS), STEP_SECONDS / config.batch_size)  # seconds an image
    room = int((0.9 * GPU_MEMORY - weights) / activations)
    number = model.number
    return Plan(
        model=model.config.arch.name,
        method=config.method,
        device=str(device),
        precision=precision,
        images=len(store),
        patches=number.patches,
        visible=number.visible,
        seeds=number.seeds,
        targets=number.targets,
        parameters=parameters,
        encoder_parameters=encoder,
        flops_per_image=flops,
        early_sizes=list(early.sizes),
        batch_size=config.batch_size,
        micro_batch=micro,
        learning_rate=schedule_of(config, len(store)).lr,
        bytes_for_weights=weights,
        bytes_per_image=int(activations),
        largest_micro_batch=max(int((0.9 * free_memory(device) - weights) / activations), 0),
        checkpoint_bytes=checkpoint,
        disk_bytes=checkpoint * (config.keep + 1) + 4 * encoder,
        images_per_s=rate,
        measured_s=seconds,
        total_samples=total,
        steps=-(-total // config.batch_size),
        seconds=here,
        node_seconds=here if bounded else total * on_node,
        node_images_per_s=1 / on_node,
        node_micro_batch=max(min(config.batch_size // GPUS, room), 0),
        bounded=bounded,
    )


def _mean_flops(objective: PretrainObjective, batch: Batch, full: float) -> float:
    """Operations an image over all of training, of which ``full`` at full size; early sizes are counted in turn."""
    early = objective.early
    if not early.sizes:
        return full
    share = early.share / len(early.sizes)  # of each, counted in its middle
    small = [flops_per_image(objective, batch, (i + 0.5) * share) for i in range(len(early.sizes))]
    return (1.0 - early.share) * full + share * sum(small)


def _total_samples(config: PretrainConfig, count: int, rate: float) -> int:
    budget = budget_of(config)
    if budget.minutes is not None:
        return int(60 * budget.minutes * rate)
    return int((budget.total_epochs(count) or 0) * count)


def _measure(
    config: PretrainConfig,
    objective: PretrainObjective,
    store: Store,
    device: torch.device,
    precision: str,
    micro: int,
    seconds: float,
) -> float:
    """Images a second of real training steps on the real data, loader included; the first step does not count."""
    schedule = schedule_of(config, len(store))
    optimizer = adamw(objective.parameter_groups(), config.betas)
    fit_config = FitConfig(budget_of(config), schedule, config.batch_size, micro, device, precision, config.clip_grad)
    trainer, state = Trainer(objective, optimizer, fit_config), RunState(progress=1.0)  # images of full size
    augment = RandomCrop(scale=config.crop_scale, turns=config.turns)
    task = Task(store, config.image_size, config.channels, augment, config.dct_scaling)
    with Loader(
        task, config.batch_size, config.seed, workers=config.workers, device=device, gpu_decode=config.gpu_decode
    ) as loader:
        batches = loader.batches(Position())
        trainer.step(next(batches)[0], state)
        synchronise(device)
        began, steps = time.perf_counter(), 0
        while time.perf_counter() - began < seconds:
            trainer.step(next(batches)[0], state)
            synchronise(device)
            steps += 1
        return steps * config.batch_size / (time.perf_counter() - began)
