"""The engine for many machines: the tasks of a stage as Ray Core tasks (extra ``[ray]``).

A Ray task hands its task to a child process of the local engine (pool.py) and returns the outcome, a few bytes: so
limits of time and memory hold, and the cause of a death and the member in work are told, as on one machine. Ray itself
repeats nothing; run_stage counts attempts and finds the member to blame (curation.md, section 7). Data go through
files, so every node must see the sources and the corpus under the same paths.
"""

import os
import socket
import uuid
from collections.abc import Iterator, Sequence
from functools import lru_cache, partial
from pathlib import Path
from types import ModuleType
from typing import Any

from selectivemae.core.errors import ConfigError, UserError
from selectivemae.curation.pool import LocalPool
from selectivemae.curation.tasks import Counts, Died, Failed, Job, Mark, Outcome, Task

_TAIL = 2000  # characters of what Ray says about a dead worker that are kept


class RayPool:
    """The cores of a running Ray cluster, at most ``workers`` tasks at a time (None: one a core of the cluster); with
    ``memory`` (bytes) each may not map more than that.

    The cluster is that of ``RAY_ADDRESS``, or the one that runs on this machine. ConfigError when there is none or Ray
    is not installed.
    """

    def __init__(self, workers: int | None = None, memory: int | None = None) -> None:
        self._ray = _ray()
        self._ours = not self._ray.is_initialized()
        if self._ours:
            _connect(self._ray)
        self.size = workers or max(1, int(self._ray.cluster_resources().get("CPU", 1)))
        self.memory = memory
        self._flying: dict[Any, Task] = {}
        # max_retries=0: a repeated writer is ours to order; one child process lives as long as its Ray worker
        self._remote = self._ray.remote(num_cpus=1, max_retries=0, retry_exceptions=False)(_run_in_child)

    def run(self, job: Job, tasks: Sequence[Task], folder: Path) -> Iterator[tuple[Task, Outcome]]:
        """Do ``tasks`` on the cluster, and give outcomes as they come. Closing it cancels what is under way."""
        queue = list(reversed(tasks))
        here = partial(_at, Path.cwd(), job)
        try:
            while queue or self._flying:
                while queue and len(self._flying) < self.size:
                    task = queue.pop()
                    self._flying[self._remote.remote(here, task, folder, self.memory)] = task
                ready, _ = self._ray.wait(list(self._flying), num_returns=1)
                for reference in ready:
                    yield self._flying.pop(reference), self._outcome(reference)
        except BaseException:
            self.close()
            raise

    def _outcome(self, reference: Any) -> Outcome:
        errors = self._ray.exceptions
        try:
            return self._ray.get(reference)
        except errors.RayTaskError as e:
            return Failed(str(e), internal=True)
        except errors.OutOfMemoryError as e:
            return Died("oom", -1, str(e)[-_TAIL:])
        except errors.RayError as e:  # the worker or its node is gone
            return Died("worker_crash", -1, str(e)[-_TAIL:])

    def check_shared(self, paths: Sequence[str], out: Path) -> None:
        """Ask every node whether it sees ``paths`` and what is written to ``out`` now. ConfigError naming the node."""
        token = out / f".shared-{uuid.uuid4().hex}"
        token.touch()
        try:
            wanted = [str(token.absolute()), *(os.path.abspath(path) for path in paths)]
            look = self._ray.remote(num_cpus=0, max_retries=3)(_missing)
            affinity = self._ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy
            nodes = {node["NodeID"]: node["NodeManagerAddress"] for node in self._ray.nodes() if node["Alive"]}
            asked = {
                name: look.options(scheduling_strategy=affinity(node, soft=False)).remote(wanted)
                for node, name in nodes.items()
            }
            for name, answer in asked.items():
                if missing := self._ray.get(answer):
                    what = str(out) if missing[0] == str(token.absolute()) else missing[0]
                    raise ConfigError(f"node {name} of the Ray cluster does not see {what}; put it on shared storage")
        finally:
            token.unlink()

    def close(self) -> None:
        """Cancel what is under way (it is undone by nature) and leave the cluster, if this pool joined it."""
        for reference in self._flying:
            self._ray.cancel(reference, force=True)
        self._flying.clear()
        if self._ours:
            self._ours = False  # a second call must not end what joined since
            self._ray.shutdown()


def _ray() -> ModuleType:
    try:
        import ray
        import ray.exceptions
        import ray.util.scheduling_strategies
    except ImportError:
        raise ConfigError("--engine ray needs Ray: pip install 'selectivemae[ray]'") from None
    return ray


def _connect(ray: ModuleType) -> None:
    address = os.environ.get("RAY_ADDRESS", "auto")
    host, _, port = address.rpartition(":")
    try:
        if host and "://" not in address:  # Ray itself would try for minutes
            socket.create_connection((host, int(port)), timeout=10).close()
        ray.init(address=address, log_to_driver=False)
    except (OSError, ValueError):
        where = "on this machine" if address == "auto" else f"at {address} (RAY_ADDRESS)"
        raise ConfigError(f"no Ray cluster runs {where}; start one with: ray start --head") from None


def _run_in_child(job: Job, task: Task, folder: Path, memory: int | None) -> Outcome:
    """What Ray runs: the task in the child process of this Ray worker."""
    ((_, outcome),) = _child(memory).run(job, [task], folder)
    return outcome


@lru_cache(maxsize=1)
def _child(memory: int | None) -> LocalPool:
    """One child for all tasks of a Ray worker: starting it costs as much as reading hundreds of pictures."""
    return LocalPool(1, memory)


def _at(place: Path, job: Job, task: Task, folder: Path, mark: Mark) -> Counts:
    """Do a job in the folder that the driver was started in, so that relative paths mean the same everywhere."""
    try:
        os.chdir(place)
    except OSError as e:
        raise UserError(f"a node of the Ray cluster cannot enter {place}: {e.strerror}; use shared storage") from e
    return job(task, folder, mark)


def _missing(paths: list[str]) -> list[str]:
    return [path for path in paths if not os.path.exists(path)]
