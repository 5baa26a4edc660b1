"""Processes that turn sample numbers into pixels, and the same without processes.

A ring of a few batches lies in shared memory that has no name, so nothing can be left behind. The parent writes the
numbers and keys of a batch's samples into a slot of the ring and raises a semaphore once for each chunk of samples;
workers take the chunks in order (a shared counter), write pixels into the slot, and report each chunk through a pipe
of their own. As the chunks of a batch are few samples each, all workers end a batch together.

The parent notices a worker that died (its sentinel) or hangs (no chunk reported for ``timeout`` seconds) and names it
with the samples it held. Workers ignore Ctrl-C and SIGTERM, which are the parent's to answer, and end with the parent.

Why not threads: the native decoders release the interpreter's lock, so threads decode about as fast
(``benchmarks/results/data.md``), but they would compete with the training loop for it, and a decoder that crashes
would take the run along.
"""

import mmap
import multiprocessing
import os
import signal
import tempfile
import time
import traceback
from collections import deque
from multiprocessing import connection, reduction, util
from multiprocessing.synchronize import Lock, Semaphore
from typing import Any, NoReturn

import numpy as np
import torch
from torch import Tensor

from selectivemae.core.errors import TrainingError
from selectivemae.core.order import Int64
from selectivemae.data.pixels import Pixels, Reasons

CHUNK = 16  # samples a task: enough to share the cost of hashing, few enough to balance
_POLL = 1.0  # seconds after which an idle worker looks whether its parent lives
_STOP, _NEXT = 0, 1  # places in the control words; from _HELD on, one word a worker: the task it works on
_HELD = 2
_DONE, _FAILED = b"d", b"f"  # first byte of a worker's report; the task's number or a traceback follows


class Inline:
    """Decoding in the calling process: what a pool does, without one."""

    slots = 1

    def __init__(self, task: Pixels) -> None:
        self.task = task
        self._queue: deque[tuple[Int64, Int64]] = deque()

    def submit(self, index: Int64, key: Int64) -> None:
        """Note the next batch: samples and noise keys (B,)."""
        self._queue.append((index, key))

    def collect(self) -> tuple[Tensor, Reasons]:
        """Pixels (B, S, S, C) uint8 and reasons (B,) of the oldest batch noted."""
        index, key = self._queue.popleft()
        task = self.task
        images = np.empty((len(index), task.image_size, task.image_size, task.channels), np.uint8)
        reasons = np.zeros(len(index), "S24")
        for start in range(0, len(index), CHUNK):
            part = slice(start, start + CHUNK)
            task.fill(index[part], key[part], images[part], reasons[part])
        return torch.from_numpy(images), reasons

    def close(self) -> None:
        """Nothing to end."""


class Pool:
    """Worker processes with a ring of ``slots`` batches of ``batch`` samples each; close it in the end.

    Raises TrainingError, naming process and samples, when a worker fails, dies, or reports nothing for ``timeout``
    seconds.
    """

    def __init__(self, task: Pixels, workers: int, batch: int, slots: int = 2, timeout: float = 300.0) -> None:
        self.task, self.slots, self.timeout = task, slots, timeout
        self.ring = _Ring(slots, batch, task.channels, task.image_size, workers, min(CHUNK, -(-batch // (2 * workers))))
        self.ring.control[_HELD:] = -1
        self._submitted = self._collected = 0
        self._open: dict[int, int] = {}  # batch -> chunks that are not reported yet
        context = multiprocessing.get_context("spawn")
        self._gate, self._lock = context.Semaphore(0), context.Lock()
        self._pipes: list[Any] = []
        self._processes: list[Any] = []
        self._end = util.Finalize(
            self, _shut_down, (self.ring, self._gate, self._processes, self._pipes), exitpriority=10
        )
        # A child inherits the mask: no traceback when Ctrl-C falls into its start.
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
        try:
            for worker in range(workers):
                receive, send = context.Pipe(duplex=False)
                arguments = (worker, task, self.ring, self._gate, self._lock, send)
                process = context.Process(target=_work, args=arguments, name=f"data worker {worker}", daemon=True)
                process.start()
                send.close()
                self._pipes.append(receive)
                self._processes.append(process)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)

    def submit(self, index: Int64, key: Int64) -> None:
        """Hand the next batch, samples and noise keys (B,), to the workers; a slot must be free."""
        assert self._submitted - self._collected < self.slots, "no slot is free"
        slot = self._submitted % self.slots
        self.ring.index[slot], self.ring.key[slot] = index, key
        self._open[self._submitted] = self.ring.chunks
        self._submitted += 1
        for _ in range(self.ring.chunks):
            self._gate.release()

    def collect(self) -> tuple[Tensor, Reasons]:
        """Pixels (B, S, S, C) uint8 and reasons (B,) of the oldest batch submitted, waiting for them.

        Both lie in the ring and are valid until the next ``submit``.
        """
        while self._open[self._collected]:
            self._listen()
        del self._open[self._collected]
        slot = self._collected % self.slots
        self._collected += 1
        return torch.from_numpy(self.ring.images[slot]), self.ring.reasons[slot]

    def close(self) -> None:
        """End the workers and give back the shared memory; may be called again."""
        self._end()

    def _listen(self) -> None:
        """Take in at least one report."""
        sentinels = {process.sentinel: worker for worker, process in enumerate(self._processes)}
        ready = connection.wait([*self._pipes, *sentinels], self.timeout)
        if not ready:
            stuck = [worker for worker in range(len(self._processes)) if len(self._samples_of(worker))]
            names = "; ".join(self._name(worker) for worker in stuck) or "none of the workers has started"
            raise TrainingError(f"no image came for {self.timeout:.0f} s: {names}. Is the storage slow or gone?")
        for worker, pipe in enumerate(self._pipes):
            if pipe in ready:
                try:
                    report = pipe.recv_bytes()
                except (EOFError, ConnectionResetError):
                    self._fail_dead(worker)
                if report[:1] == _FAILED:
                    text = report[1:].decode()
                    last = text.rstrip().rpartition("\n")[2]
                    raise TrainingError(f"{self._name(worker)} failed: {last}") from RuntimeError(text)
                self._open[int.from_bytes(report[1:], "little") // self.ring.chunks] -= 1
        for sentinel in ready:
            if isinstance(sentinel, int):
                self._fail_dead(sentinels[sentinel])

    def _fail_dead(self, worker: int) -> NoReturn:
        process = self._processes[worker]
        process.join(1)
        code = process.exitcode or 0
        how = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
        if self.ring.control[_HELD + worker] < 0:
            hint = "before its first sample. Does the calling script lack `if __name__ == '__main__'`?"
        else:
            hint = "Out of memory? Use fewer workers; the last sample may also crash its decoder."
        raise TrainingError(f"{self._name(worker)} {how}. {hint}")

    def _samples_of(self, worker: int) -> Int64:
        """Samples of the chunk that a worker took last, none if that is done."""
        held = int(self.ring.control[_HELD + worker])
        if held < 0 or not self._open.get(held // self.ring.chunks):
            return np.empty(0, np.int64)
        slot, part = self.ring.place(held)
        return self.ring.index[slot, part]

    def _name(self, worker: int) -> str:
        samples = self._samples_of(worker)
        ids = ", ".join(self.task.store.id(int(number)) for number in samples[:CHUNK])
        return f"data worker {worker} (pid {self._processes[worker].pid})" + (f", which held {ids}," if ids else "")


class _Ring:
    """The shared memory of a pool as arrays; pickled to a worker it becomes a view of the same memory."""

    def __init__(self, slots: int, batch: int, channels: int, size: int, workers: int, chunk: int) -> None:
        self.shape = slots, batch, channels, size, workers, chunk
        self.file = _nameless_file(self._layout()[1])
        self._map()

    def __reduce__(self) -> tuple[Any, ...]:
        return _attach_ring, (self.shape, reduction.DupFd(self.file))

    @property
    def chunks(self) -> int:
        """Tasks of a batch."""
        return -(-self.shape[1] // self.shape[5])

    def place(self, task: int) -> tuple[int, slice]:
        """Slot of a task and its part of the batch."""
        slots, batch, _, _, _, chunk = self.shape
        start = task % self.chunks * chunk
        return task // self.chunks % slots, slice(start, min(start + chunk, batch))

    def _layout(self) -> tuple[list[tuple[str, str, tuple[int, ...], int]], int]:
        """(name, type, shape, offset) of the arrays, and the bytes they take together."""
        slots, batch, channels, size, workers, _ = self.shape
        arrays, offset = [], 0
        for name, kind, shape in (
            ("control", "i8", (_HELD + workers,)),
            ("index", "i8", (slots, batch)),
            ("key", "i8", (slots, batch)),
            ("reasons", "S24", (slots, batch)),
            ("images", "u1", (slots, batch, size, size, channels)),
        ):
            arrays.append((name, kind, shape, offset))
            offset += -(-np.dtype(kind).itemsize * int(np.prod(shape)) // 4096) * 4096
        return arrays, offset

    def _map(self) -> None:
        arrays, total = self._layout()
        memory = mmap.mmap(self.file, total)
        views = {name: np.ndarray(shape, kind, buffer=memory, offset=offset) for name, kind, shape, offset in arrays}
        self.control, self.index, self.key = views["control"], views["index"], views["key"]
        self.reasons, self.images = views["reasons"], views["images"]


def _attach_ring(shape: tuple[int, ...], handle: Any) -> _Ring:
    ring = _Ring.__new__(_Ring)
    ring.shape = shape  # type: ignore[assignment]
    ring.file = handle.detach()
    ring._map()
    return ring


def _nameless_file(size: int) -> int:
    """Descriptor of ``size`` zero bytes that vanish with the last process that has them open."""
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("selectivemae-batches")
    else:
        with tempfile.TemporaryFile() as file:
            descriptor = os.dup(file.fileno())
    os.truncate(descriptor, size)
    return descriptor


def _work(worker: int, task: Pixels, ring: _Ring, gate: Semaphore, lock: Lock, pipe: Any) -> None:
    """What a worker process runs until it is told to stop or its parent is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    torch.set_num_threads(1)
    control = ring.control
    try:
        while _acquire(gate) and not control[_STOP] and _acquire(lock):
            number = control[_HELD + worker] = control[_NEXT]
            control[_NEXT] += 1
            lock.release()
            slot, part = ring.place(int(number))
            task.fill(ring.index[slot, part], ring.key[slot, part], ring.images[slot, part], ring.reasons[slot, part])
            pipe.send_bytes(_DONE + int(number).to_bytes(8, "little"))
    except BrokenPipeError:
        pass  # the parent is gone
    except Exception:  # whatever it is, it must cross to the parent, which raises it
        pipe.send_bytes(_FAILED + traceback.format_exc().encode())


def _acquire(primitive: Semaphore | Lock) -> bool:
    """Wait for a semaphore or lock; False when the parent is gone."""
    parent = multiprocessing.parent_process()
    while not primitive.acquire(timeout=_POLL):
        if parent is not None and not parent.is_alive():
            return False
    return True


def _shut_down(ring: _Ring, gate: Semaphore, processes: list[Any], pipes: list[Any]) -> None:
    ring.control[_STOP] = 1
    for _ in processes:
        gate.release()
    deadline = time.monotonic() + 2.0
    for process in processes:
        process.join(max(0.0, deadline - time.monotonic()))
        if process.is_alive():  # in the middle of a big image, still starting, or stuck
            process.kill()
            process.join()
        process.close()
    for pipe in pipes:
        pipe.close()
    os.close(ring.file)
