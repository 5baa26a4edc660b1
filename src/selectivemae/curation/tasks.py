"""What an engine runs: named tasks, a job that does one, and how it can end."""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

Counts = dict[str, int]
Mark = Callable[[int, float], None]  # mark(member, seconds): this member is next and may take so long
Job = Callable[[Any, Path, Mark], Counts]  # at the top of a module: does a task into a folder, returns counts, no data


class Task(Protocol):
    """A piece of work; its outputs are files in the stage's folder whose names begin with ``name``."""

    @property
    def name(self) -> str: ...


@runtime_checkable
class Divisible(Protocol):
    """A task over members, of which some can be left out or done alone."""

    @property
    def name(self) -> str: ...

    @property
    def members(self) -> Sequence[int]: ...

    def only(self, members: Sequence[int]) -> "Divisible":
        """The same work on a run of the members, under another name."""
        ...

    def without(self, member: int, reason: str) -> "Divisible":
        """The same work, with a member noted as left out for ``reason``."""
        ...


@dataclass(frozen=True)
class Done:
    """The task ended well."""

    counts: Counts


@dataclass(frozen=True)
class Died:
    """The worker died: ``cause`` is ``worker_crash``, ``oom`` or ``timeout``; ``member`` was in work (-1 unknown)."""

    cause: str
    member: int
    stderr: str


@dataclass(frozen=True)
class Failed:
    """The task cannot be done, by no fault of a member; ``internal`` tells a bug from bad input or a full disk."""

    message: str
    internal: bool


Outcome = Done | Died | Failed


class Executor(Protocol):
    """Runs tasks side by side and gives their outcomes as they come."""

    def run(self, job: Job, tasks: Sequence[Task], folder: Path) -> Iterator[tuple[Task, Outcome]]: ...

    def close(self) -> None: ...


def digest(task: Task) -> str:
    """What a task consists of, in 16 hexadecimal digits: a changed task is not taken for done."""
    return hashlib.blake2b(repr(task).encode(), digest_size=8).hexdigest()
