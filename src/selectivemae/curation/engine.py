"""Stages of a run: tasks are done once, survive kills, and get past members that kill their worker.

A task is done iff its record ``NAME.done`` lies in the stage's folder; finished tasks are never repeated and
unfinished ones leave nothing that counts. When a worker dies, its task is tried again alone after the others; when it
dies again, the member to blame is found by bisection, left out with its reason, and the rest goes on
(curation.md, section 7).
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from selectivemae.core.errors import OutputError, UserError
from selectivemae.core.files import atomic_write, remove_temporaries
from selectivemae.curation.tasks import Counts, Died, Divisible, Done, Executor, Failed, Job, Outcome, Task, digest

_FRUITLESS = 3  # searches for a deadly member that find none: then it is not the members


class InternalError(RuntimeError):
    """A bug in a worker; the message holds its traceback."""


@dataclass(frozen=True)
class Quarantined:
    """A member that killed its worker twice."""

    task: str
    member: int
    reason: str
    stderr: str


@dataclass
class Stage:
    """What a stage did: counts summed over tasks, attempts that were repeated, members left out."""

    counts: Counts
    retries: int
    quarantined: list[Quarantined]


def run_stage(
    executor: Executor,
    job: Job,
    tasks: Sequence[Task],
    folder: Path,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Stage:
    """Do all tasks not yet done, in any order; ``progress`` is told (done, total).

    UserError for bad input or a full disk (what is done stays), InternalError for a bug.
    """
    folder.mkdir(parents=True, exist_ok=True)
    remove_temporaries(folder)
    stage = Stage({}, 0, [])
    waiting: list[Task] = []
    for task in tasks:
        record = _record(folder, task)
        if record is None:
            waiting.append(task)
        else:
            _add(stage, record)
    dead: list[Task] = []
    finished = len(tasks) - len(waiting)
    progress(finished, len(tasks))
    for task, outcome in executor.run(job, waiting, folder):
        if isinstance(_checked(outcome), Died):
            dead.append(task)
            continue
        _finish(stage, folder, task, outcome, [])
        finished += 1
        progress(finished, len(tasks))
    for task in sorted(dead, key=lambda t: t.name):
        _retry(executor, job, task, folder, stage)
        finished += 1
        progress(finished, len(tasks))
    return stage


def _retry(executor: Executor, job: Job, task: Task, folder: Path, stage: Stage) -> None:
    """Repeat a task whose worker died; leave out members until it ends well."""
    blamed: list[Quarantined] = []
    current = task
    fruitless = 0
    while True:
        stage.retries += 1
        outcome = _one(executor, job, current, folder)
        if not isinstance(outcome, Died):
            return _finish(stage, folder, task, outcome, blamed)
        if not isinstance(current, Divisible):
            raise OutputError(f"{task.name}: its worker died twice ({outcome.cause}); give it more memory and resume")
        found = _bisect(executor, job, current, folder, outcome)
        if found is None:
            fruitless += 1
            if fruitless == _FRUITLESS:
                raise OutputError(
                    f"{task.name}: its worker died again and again ({outcome.cause}), yet no half of its files does it "
                    "alone: allow the workers more memory and continue with --resume"
                )
            continue
        member, cause = found
        blamed.append(Quarantined(task.name, member, cause.cause, cause.stderr))
        current = current.without(member, cause.cause)


def _bisect(executor: Executor, job: Job, task: Divisible, folder: Path, death: Died) -> tuple[int, Died] | None:
    """The member that kills its worker also when it is done alone, and how; None where no part does it again."""
    scratch = folder / "bisect"
    scratch.mkdir(exist_ok=True)
    members = task.members
    if death.member in members:  # the one in work when it happened is the likely one
        outcome = _one(executor, job, task.only([death.member]), scratch)
        if isinstance(outcome, Died):
            return death.member, outcome
    while len(members) > 1:
        for half in (members[: len(members) // 2], members[len(members) // 2 :]):
            outcome = _one(executor, job, task.only(half), scratch)
            if isinstance(outcome, Died):
                members, death = half, outcome
                break
        else:
            return None
    return members[0], death


def _one(executor: Executor, job: Job, task: Task, folder: Path) -> Outcome:
    ((_, outcome),) = executor.run(job, [task], folder)
    return _checked(outcome)


def _checked(outcome: Outcome) -> Outcome:
    if isinstance(outcome, Failed):
        raise InternalError(outcome.message) if outcome.internal else UserError(outcome.message)
    return outcome


def _finish(stage: Stage, folder: Path, task: Task, outcome: Outcome, blamed: list[Quarantined]) -> None:
    assert isinstance(outcome, Done)
    record = {
        "task": digest(task),
        "counts": outcome.counts,
        "quarantined": [[q.member, q.reason, q.stderr] for q in blamed],
    }
    atomic_write(folder / f"{task.name}.done", json.dumps(record))
    _add(stage, record | {"name": task.name})


def _record(folder: Path, task: Task) -> dict[str, Any] | None:
    path = folder / f"{task.name}.done"
    if not path.exists():
        return None
    record = json.loads(path.read_text())
    return record | {"name": task.name} if record["task"] == digest(task) else None


def _add(stage: Stage, record: dict[str, Any]) -> None:
    for key, value in record["counts"].items():
        stage.counts[key] = stage.counts.get(key, 0) + value
    stage.quarantined += [Quarantined(record["name"], *entry) for entry in record["quarantined"]]
