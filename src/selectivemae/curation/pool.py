"""The local engine: spawned worker processes, one task each at a time, watched for death and for time."""

import ctypes
import faulthandler
import multiprocessing as mp
import os
import resource
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from selectivemae.core.errors import UserError
from selectivemae.curation.tasks import Died, Done, Failed, Job, Outcome, Task

_TAIL = 2000  # characters of a dead worker's stderr that are kept
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h
_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
_UNBORN, _IDLE = -2.0, -1.0  # in place of the member in work
_BIRTHS = 5  # workers in a row that may be killed before they live
_SPARE_SECONDS = 600.0  # for what a task does before its first and after its last member


@dataclass
class _Worker:
    process: Any
    pipe: Connection
    state: Any  # (member in work, time by which it must be over)
    log: Path
    task: Task | None = None
    late: bool = False


class LocalPool:
    """``workers`` processes on this machine; with ``memory`` (bytes) each may not map more than that."""

    def __init__(self, workers: int, memory: int | None = None) -> None:
        self.size = workers
        self.memory = memory
        self._context = mp.get_context("spawn")
        self._logs = tempfile.TemporaryDirectory(prefix="selectivemae-curate-")
        self._workers: list[_Worker] = []
        self._started = 0
        self._stillborn = 0  # in a row

    def run(self, job: Job, tasks: Sequence[Task], folder: Path) -> Iterator[tuple[Task, Outcome]]:
        """Do ``tasks`` in their order on all workers, and give outcomes as they come. Closing it stops the workers."""
        queue = list(reversed(tasks))
        try:
            while queue or any(worker.task for worker in self._workers):
                self._hand_out(job, queue, folder)
                yield from self._collect(queue)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """End all workers at once; what they had in work is undone by nature."""
        for worker in self._workers:
            worker.process.kill()
            worker.process.join()
            worker.pipe.close()
        self._workers.clear()
        self._logs.cleanup()
        self._logs = tempfile.TemporaryDirectory(prefix="selectivemae-curate-")

    def _hand_out(self, job: Job, queue: list[Task], folder: Path) -> None:
        while queue:
            idle = next((worker for worker in self._workers if worker.task is None), None)
            if idle is None:
                if len(self._workers) >= self.size:
                    return
                idle = self._start()
            idle.task = queue.pop()
            if idle.state[0] != _UNBORN:  # the worker itself says when it lives
                idle.state[0] = _IDLE
            idle.state[1] = time.monotonic() + _SPARE_SECONDS
            with suppress(BrokenPipeError, ConnectionResetError):  # dead already: the sentinel tells
                idle.pipe.send((job, idle.task, folder))

    def _collect(self, queue: list[Task]) -> Iterator[tuple[Task, Outcome]]:
        busy = [worker for worker in self._workers if worker.task is not None]
        ready = wait([handle for w in busy for handle in (w.pipe, w.process.sentinel)], timeout=0.5)
        now = time.monotonic()
        for worker in busy:
            task = worker.task
            assert task is not None
            if worker.pipe in ready and (outcome := _received(worker.pipe)) is not None:
                worker.task, self._stillborn = None, 0
                yield task, outcome
            elif worker.process.sentinel in ready or worker.pipe in ready:
                self._workers.remove(worker)
                worker.process.join()
                if self._born(worker):
                    yield task, _autopsy(worker)
                else:
                    queue.append(task)
            elif now > worker.state[1] and not worker.late:
                worker.late = True
                worker.process.kill()

    def _born(self, worker: _Worker) -> bool:
        """Whether a dead worker had lived, so that its task counts as tried. One that was killed from outside while it
        started tried nothing; but where that goes on, something is wrong with starting."""
        killed = worker.state[0] == _UNBORN and not worker.late and (worker.process.exitcode or 0) < 0
        self._stillborn = self._stillborn + 1 if killed else 0
        if not killed or self._stillborn > _BIRTHS:
            return True
        worker.pipe.close()
        return False

    def _start(self) -> _Worker:
        ours, theirs = self._context.Pipe()
        state = self._context.RawArray("d", [_UNBORN, 0.0])
        self._started += 1
        log = Path(self._logs.name) / f"worker-{self._started}.log"
        arguments = (theirs, state, str(log), self.memory, os.getpid())
        process = self._context.Process(target=_work, args=arguments, daemon=True, name="selectivemae-curate")
        with _one_thread_each():
            process.start()
        theirs.close()
        worker = _Worker(process, ours, state, log)
        self._workers.append(worker)
        return worker


@contextmanager
def _one_thread_each() -> Iterator[None]:
    """Processes started here compute with one thread: libraries read how many when they are loaded, and several workers
    with a thread for each core would wait for each other longer than they work."""
    before = {name: os.environ.get(name) for name in _THREADS}
    os.environ.update(dict.fromkeys(_THREADS, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


def _received(pipe: Connection) -> Outcome | None:
    try:
        return pipe.recv()
    except (EOFError, ConnectionResetError):
        return None


def _autopsy(worker: _Worker) -> Died | Failed:
    worker.pipe.close()
    if worker.state[0] == _UNBORN and not worker.late:
        why = "a worker process cannot start; in a script, call this under: if __name__ == '__main__':"
        return Failed(f"{why} (exit code {worker.process.exitcode})", internal=False)
    cause = "worker_crash"
    if worker.late:
        cause = "timeout"
    elif worker.process.exitcode == -signal.SIGKILL:  # nobody else kills: the kernel does when memory ends
        cause = "oom"
    text = worker.log.read_text(errors="replace")[-_TAIL:] if worker.log.exists() else ""
    return Died(cause, int(worker.state[0]), text)


def _work(pipe: Connection, state: Any, log: str, memory: int | None, parent: int) -> None:
    """The life of a worker process: tasks in, outcomes out, until the pipe closes or the parent is gone."""
    state[0] = _IDLE
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    stderr = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(stderr, 2)
    faulthandler.enable(sys.stderr)
    keep_freed_memory()
    if memory is not None:
        resource.setrlimit(resource.RLIMIT_AS, (memory, memory))

    def mark(member: int, seconds: float) -> None:
        if os.getppid() != parent:
            os._exit(1)
        state[:] = [float(member), time.monotonic() + seconds]

    while True:
        try:
            job, task, folder = pipe.recv()
        except EOFError:
            return
        pipe.send(outcome_of(job, task, folder, mark))


def keep_freed_memory() -> None:
    """Let this process keep memory that it freed, where the C library can (glibc): the arrays of the next picture fit
    in those of the last, and taking pages anew for each would cost as much as the statistics."""
    with suppress(OSError, AttributeError):
        library = ctypes.CDLL(None)
        library.mallopt(_M_MMAP_THRESHOLD, 32 << 20)
        library.mallopt(_M_TRIM_THRESHOLD, 256 << 20)


def outcome_of(job: Job, task: Task, folder: Path, mark: Any) -> Outcome:
    """Run a job and put its end into words that travel between processes."""
    try:
        return Done(job(task, folder, mark))
    except UserError as e:
        return Failed(str(e), internal=False)
    except Exception:  # a bug must stop the run with its traceback, not look like a dead worker
        return Failed(traceback.format_exc(), internal=True)
