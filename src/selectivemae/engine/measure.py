"""What a training step costs: operations, memory, and the speed of the device, measured."""

import re
import resource
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from selectivemae.core.memory import available_memory
from selectivemae.data.batch import Batch
from selectivemae.engine.loop import Trainer, split
from selectivemae.engine.precision import autocast
from selectivemae.engine.state import Objective, RunState


def synthetic_batch(size: int, channels: int, height: int, width: int, device: torch.device, seed: int = 0) -> Batch:
    """A batch of noise images on the device, for measurements."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (size, channels, height, width), dtype=torch.uint8, generator=generator)
    index = torch.arange(size)
    return Batch(images.to(device), index, index.to(device), torch.ones(size, device=device))


def flops_per_image(objective: Objective, batch: Batch, progress: float = 0.0) -> float:
    """Floating-point operations of forward and backward for one image, attention included.

    A multiplication and an addition count as two. Counted by torch's FlopCounterMode; attention runs in its plain form
    meanwhile, since the counter does not see the fused one on a CPU.
    """
    counter = FlopCounterMode(display=False)
    with sdpa_kernel(SDPBackend.MATH), counter:
        objective.step(batch, progress).loss.mean().backward()
    objective.model.zero_grad(set_to_none=True)
    return counter.get_total_flops() / len(batch.index)


def saved_bytes(objective: Objective, batch: Batch, precision: str, progress: float = 0.0) -> tuple[float, float]:
    """Bytes that a forward pass keeps for its backward pass, for each image and whatever the batch (copies of the
    weights in lower precision, tables); the weights themselves left out.

    Counted on the batch and on its half: of four images at least, since a batch of one is kept in other ways.
    """
    n = len(batch.index)
    assert n >= 4, n
    half, whole = (_kept(objective, part, precision, progress) for part in (split(batch, n // 2)[0], batch))
    each = (whole - half) / (n - n // 2)
    return each, whole - n * each


def _kept(objective: Objective, batch: Batch, precision: str, progress: float) -> int:
    """Bytes kept between the passes for a batch (every storage once)."""
    weights = {p.untyped_storage().data_ptr() for p in objective.model.parameters()}
    seen: dict[int, int] = {}

    def pack(x: Tensor) -> Tensor:
        storage = x.untyped_storage()
        if storage.data_ptr() not in weights:
            seen[storage.data_ptr()] = storage.nbytes()
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x), autocast(precision, batch.images.device):
        loss = objective.step(batch, progress).loss.mean()
    total = sum(seen.values())
    del loss
    return total


def synchronise(device: torch.device) -> None:
    """Wait until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def matrix_peak(device: torch.device, precision: str, side: int | None = None, seconds: float = 1.0) -> float:
    """Operations a second of the device's matrix product at its best, measured on square matrices; on a GPU on large
    ones, which alone fill it."""
    side = side or (2048 if device.type == "cpu" else 8192)
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    a = torch.randn(side, side, device=device, dtype=dtype)
    b = torch.randn(side, side, device=device, dtype=dtype)
    c = torch.empty_like(a)
    best, end = float("inf"), time.perf_counter() + seconds
    while time.perf_counter() < end:
        synchronise(device)
        began = time.perf_counter()
        torch.mm(a, b, out=c)
        synchronise(device)
        best = min(best, time.perf_counter() - began)
    return 2 * side**3 / best


def timed_steps(trainer: Trainer, batch: Batch, device: torch.device, steps: int = 1) -> Callable[[], float]:
    """A call that makes ``steps`` optimizer steps on ``batch``, between which nothing waits for the device, and returns
    the seconds of one."""
    state = RunState()

    def once() -> float:
        synchronise(device)
        began = time.perf_counter()
        for _ in range(steps):
            trainer.step(batch, state)
        synchronise(device)
        return (time.perf_counter() - began) / steps

    return once


def step_memory(trainer: Trainer, batch: Batch, device: torch.device) -> int:
    """The most bytes that tensors on a CUDA device take in a step of a trainer that has made some: with its weights,
    optimizer state and gradients and with the batch, without what others have on the device."""
    state = [v for s in trainer.optimizer.state.values() for v in s.values() if isinstance(v, Tensor)]
    own = [*trainer.parameters, *state, *(p.grad for p in trainer.parameters if p.grad is not None), batch.images]
    synchronise(device)
    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    trainer.step(batch, RunState())
    synchronise(device)
    return torch.cuda.max_memory_allocated(device) - before + sum(t.nbytes for t in own)


def interleaved(calls: dict[str, Callable[[], float]], rounds: int, warmup: int = 1) -> dict[str, list[float]]:
    """Seconds of each named call in ``rounds`` rounds, in turn, after ``warmup`` rounds that do not count."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for r in range(warmup + rounds):
        for name, call in calls.items():
            seconds = call()
            if r >= warmup:
                times[name].append(seconds)
    return times


def median(values: list[float]) -> float:
    """The middle one."""
    return statistics.median(values)


def free_memory(device: torch.device) -> int:
    """Bytes of memory that a process can still take on the device."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return available_memory()


def most_resident() -> int:
    """The most bytes that this program has had in memory.

    Linux hands the figure of getrusage on to a child, through exec too; that in /proc is the program's own.
    """
    status = Path("/proc/self/status")
    if status.exists():
        return 1024 * int(re.search(r"VmHWM:\s+(\d+)", status.read_text())[1])  # pyright: ignore[reportOptionalSubscript]
    unit = 1 if sys.platform == "darwin" else 1024
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
