"""The stream of batches: order -> bytes -> decode and crop -> uint8 batch -> device.

The stream is the endless concatenation of the epochs' orders, cut into global batches; rank k of W takes the places
k, k + W, k + 2W … of each. So the samples of a global step, their crops and the position after it depend on neither
the number of workers nor that of processes, and a run can go on from any :class:`Position` with other numbers.
"""

import os
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from selectivemae.core.errors import ConfigError, DataError
from selectivemae.core.memory import available_memory
from selectivemae.core.order import Int64, epoch_order, sample_key
from selectivemae.data.batch import Batch, Position
from selectivemae.data.gpu import OnDevice, nvjpeg
from selectivemae.data.pixels import Pixels, Reasons, Task
from selectivemae.data.workers import Inline, Pool

Source = Inline | Pool | OnDevice

_TOO_MANY = 256  # unusable samples in a row that end the run; fewer in a small store, where it is all of them, twice


class Order(Protocol):
    """Which samples an epoch has, in which order, with which weights: pure functions of the epoch.

    ``barrier`` says that an epoch's order is known only when the steps before it are done (pruning by losses): then
    the loader asks for an epoch only at the moment when the consumer comes for the first batch that needs it.
    """

    @property
    def barrier(self) -> bool:
        """Whether an epoch's order depends on the steps before it."""
        ...

    def count(self, epoch: int) -> int:
        """Number of samples that the epoch keeps."""
        ...

    def samples(self, epoch: int, positions: Int64) -> Int64:
        """Sample numbers (B,) at positions (B,) of the epoch's kept order."""
        ...

    def weights(self, epoch: int, indices: Int64) -> NDArray[np.float32]:
        """Loss weights (B,) of samples (B,) in the epoch."""
        ...


@dataclass(frozen=True)
class EverySample:
    """All ``n`` samples in every epoch, freshly shuffled, with weight 1."""

    seed: int
    n: int
    barrier: bool = False

    def count(self, epoch: int) -> int:
        """All of them."""
        return self.n

    def samples(self, epoch: int, positions: Int64) -> Int64:
        """A permutation for every (seed, epoch)."""
        return epoch_order(self.seed, epoch, positions, self.n)

    def weights(self, epoch: int, indices: Int64) -> NDArray[np.float32]:
        """Ones."""
        return np.ones(len(indices), np.float32)


@dataclass(frozen=True)
class Cut:
    """Samples of one global batch, or one process's part of it: (B,) each, and the position after the batch."""

    index: Int64
    key: Int64
    weight: NDArray[np.float32]
    after: Position


def cut(order: Order, seed: int, start: Position, size: int) -> Cut:
    """The global batch of ``size`` samples at a position; at the end of an epoch it is filled from the next.

    Raises DataError when an epoch keeps no sample.
    """
    parts: list[tuple[Int64, Int64, NDArray[np.float32]]] = []
    epoch, consumed, missing = start.epoch, start.consumed, size
    while missing:
        count = order.count(epoch)
        if count == 0:
            raise DataError(f"epoch {epoch} has no samples; look at the data folder and its filters")
        take = min(missing, max(count - consumed, 0))
        index = order.samples(epoch, np.arange(consumed, consumed + take))
        parts.append((index, sample_key(seed, epoch, index), order.weights(epoch, index)))
        consumed, missing = consumed + take, missing - take
        if consumed >= count:
            epoch, consumed = epoch + 1, 0
    index, key, weight = (np.concatenate(part) for part in zip(*parts, strict=True))
    return Cut(index, key, weight, Position(epoch, consumed))


def auto_workers(processes: int | None = None) -> int:
    """Worker processes for each of ``processes`` training processes on this machine: the cores left over, at most 16.

    By default the number of training processes is what torchrun says (``LOCAL_WORLD_SIZE``), else 1. With one core a
    process there is no worker: decoding beside the training would only take turns with it.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(0, min(16, cores // (processes or int(os.environ.get("LOCAL_WORLD_SIZE", "1"))) - 1))


def check_room(batch_size: int, world: int, image_size: int, channels: int, slots: int) -> None:
    """ConfigError when the machine's memory has no room for a process's part of ``slots`` global batches of pixels."""
    each, free = image_size**2 * channels * slots, available_memory()
    if batch_size // world * each > free:
        raise ConfigError(
            f"not enough memory for {batch_size // world} images of {image_size} px at a time: they take "
            f"{batch_size // world * each / 1e9:.1f} GB, where {free / 1e9:.1f} GB are free; use --batch-size "
            f"{max(free // (2 * each), 1) * world} or fewer"
        )


class Loader:
    """Batches of pixels of a task's store, on the device, from any position and for ever.

    ``task`` says how samples become pixels (:class:`~selectivemae.data.pixels.Task`, or a fine-tuning's own);
    ``batch_size`` is the global one; ``seed`` gives order and noise keys; ``order`` defaults to all samples, shuffled.
    With ``workers`` 0 images are decoded in this process; else ``prefetch`` batches are decoded ahead; with
    ``gpu_decode`` JPEGs are decoded on the device (:mod:`selectivemae.data.gpu`), without workers. A sample that cannot
    be used is black with
    weight 0 and is reported to ``on_bad(id, reason)`` when its batch is handed out. ``wait_seconds`` is the time that
    consumers have waited for batches. Raises ConfigError for settings that do not fit, DataError when the store is
    empty or nothing in it is usable, TrainingError when workers die or hang for ``timeout`` seconds.
    """

    def __init__(
        self,
        task: Pixels,
        batch_size: int,
        seed: int,
        *,
        workers: int | str = 0,
        rank: int = 0,
        world: int = 1,
        device: str | torch.device = "cpu",
        order: Order | None = None,
        on_bad: Callable[[str, str], None] | None = None,
        prefetch: int = 2,
        timeout: float = 300.0,
        gpu_decode: bool = False,
    ) -> None:
        if not len(task.store):
            raise DataError("the data source has no samples; point to a folder or archive with images")
        if batch_size < 1 or batch_size % world:
            raise ConfigError(f"batch size {batch_size} is not a positive multiple of the {world} processes")
        if not 0 <= rank < world:
            raise ConfigError(f"rank {rank} is outside 0..{world - 1}")
        if workers != "auto" if isinstance(workers, str) else workers < 0:
            raise ConfigError(f"workers {workers!r} is neither a number nor auto")
        if gpu_decode and (not isinstance(task, Task) or task.finish or task.channels != 3):
            raise ConfigError("decoding on the GPU is for plain crops of 3 channels: leave --gpu-decode out")
        self.task = task
        self.gpu_decode = gpu_decode
        self.batch_size, self.seed, self.rank, self.world = batch_size, seed, rank, world
        self.workers = auto_workers() if isinstance(workers, str) else workers
        check_room(batch_size, world, task.image_size, task.channels, prefetch if self.workers else 1)
        self.device = torch.device(device)
        self.order: Order = order or EverySample(seed, len(task.store))
        self.on_bad = on_bad
        self.prefetch, self.timeout = prefetch, timeout
        self.wait_seconds = 0.0
        self._source: Source | None = None
        self._unusable_run, self._usable_seen = 0, False
        self._upload = _Upload(self.device)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """End the workers of the running stream, if any."""
        if self._source is not None:
            self._source.close()
            self._source = None

    def batches(self, start: Position) -> Iterator[tuple[Batch, Position]]:
        """Yield (this process's part of a global batch, position after the batch) for ever; one stream at a time."""
        self.close()
        local = self.batch_size // self.world
        source = self._new_source(local)
        self._source = source
        pending: deque[Cut] = deque()
        position, opened = start, -1  # ``opened``: the last epoch whose order the consumer came for
        try:
            while True:
                began = time.perf_counter()
                if not pending:
                    position = self._submit(source, pending, position)
                    opened = max(opened, position.epoch if position.consumed else position.epoch - 1)
                position = self._go_ahead(source, pending, position, opened)
                images, reasons = source.collect()
                ready = pending.popleft()
                batch = self._assemble(ready, images, reasons)
                position = self._go_ahead(source, pending, position, opened)
                self.wait_seconds += time.perf_counter() - began
                yield batch, ready.after
        finally:
            source.close()
            if self._source is source:
                self._source = None

    def _new_source(self, local: int) -> Source:
        if self.gpu_decode:
            assert isinstance(self.task, Task)
            return OnDevice(self.task, self.device, nvjpeg(self.device), self.prefetch)
        if self.workers:
            return Pool(self.task, self.workers, local, self.prefetch, self.timeout)
        return Inline(self.task)

    def _submit(self, source: Source, pending: deque[Cut], position: Position) -> Position:
        whole = cut(self.order, self.seed, position, self.batch_size)
        mine = slice(self.rank, None, self.world)
        part = Cut(whole.index[mine], whole.key[mine], whole.weight[mine], whole.after)
        source.submit(part.index, part.key)
        pending.append(part)
        return whole.after

    def _go_ahead(self, source: Source, pending: deque[Cut], position: Position, opened: int) -> Position:
        """Fill the free slots; behind a barrier only with batches that need no epoch after ``opened``."""
        while len(pending) < source.slots:
            if self.order.barrier and (
                position.epoch > opened or position.consumed + self.batch_size > self.order.count(position.epoch)
            ):
                break
            position = self._submit(source, pending, position)
        return position

    def _assemble(self, part: Cut, images: Tensor, reasons: Reasons) -> Batch:
        weight = np.where(reasons == b"", part.weight, 0).astype(np.float32)
        for place, reason in enumerate(reasons.tolist()):
            self._unusable_run = self._unusable_run + 1 if reason else 0
            self._usable_seen |= not reason
            if reason and self.on_bad:
                self.on_bad(self.task.store.id(int(part.index[place])), reason.decode())
            if self._unusable_run >= min(_TOO_MANY, len(self.task.store) * (1 + self._usable_seen)):
                number = int(part.index[place])
                raise DataError(
                    f"{self._unusable_run} samples in a row are unusable; the last one is"
                    f" {self.task.store.id(number)}: {self.task.explain(number)}"
                )
        images, key, weights = self._upload(images, torch.from_numpy(part.key), torch.from_numpy(weight))
        return Batch(images, torch.from_numpy(part.index), key, weights)


def _own(images: Tensor) -> Tensor:
    """(B, S, S, C) as (B, C, S, S) in memory of its own.

    With one channel the permuted view counts as contiguous, and would go on lying in a slot that workers fill again.
    """
    return images.permute(0, 3, 1, 2).clone(memory_format=torch.contiguous_format)


class _Upload:
    """Copies images (B, S, S, C) to the device as (B, C, S, S), contiguous, and other tensors as they are.

    On CUDA all come from pinned memory on a stream of their own, beside the computation: nothing waits for the device.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    def __call__(self, images: Tensor, *others: Tensor) -> tuple[Tensor, ...]:
        if self.stream is None:
            return tuple(t.to(self.device) for t in (_own(images), *others))
        with torch.cuda.stream(self.stream):
            images, *others_there = (self._copied(t) for t in (images, *others))
            there = (_own(images), *others_there)
        current = torch.cuda.current_stream(self.device)
        current.wait_stream(self.stream)
        for tensor in there:
            tensor.record_stream(current)  # its memory is reused only after the step that reads it
        return there

    def _copied(self, tensor: Tensor) -> Tensor:
        return tensor if tensor.is_cuda else tensor.pin_memory().to(self.device, non_blocking=True)
