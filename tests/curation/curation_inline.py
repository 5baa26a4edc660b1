"""An executor without processes, so that a whole curation of a small world takes a blink."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from selectivemae.core.errors import UserError
from selectivemae.curation.tasks import Done, Failed, Job, Outcome, Task


class Inline:
    """Does each task at once, in this process; takes the place of ``run.LocalPool``."""

    def __init__(self, *_: object) -> None:
        pass

    def run(self, job: Job, tasks: Sequence[Task], folder: Path) -> Iterator[tuple[Task, Outcome]]:
        for task in tasks:
            try:
                yield task, Done(job(task, folder, lambda member, seconds: None))
            except UserError as e:
                yield task, Failed(str(e), internal=False)

    def close(self) -> None:
        pass
