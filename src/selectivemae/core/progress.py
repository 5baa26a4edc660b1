"""Progress with rate and time left: a bar on a terminal, plain lines otherwise; always on stderr."""

import sys
import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn


def duration(seconds: float) -> str:
    """``1 h 05 min``, ``3 min 20 s`` or ``12 s``."""
    seconds = int(seconds + 0.5)
    if seconds >= 3600:
        return f"{seconds // 3600} h {seconds % 3600 // 60:02d} min"
    if seconds >= 60:
        return f"{seconds // 60} min {seconds % 60:02d} s"
    return f"{seconds} s"


class ProgressLine:
    """Shows the share of some work done.

    ``update(share, text)`` is cheap and may be called at every step. Off a terminal, a line is printed every
    ``every`` seconds; ``quiet`` shows nothing.
    """

    def __init__(self, title: str, *, quiet: bool = False, every: float = 30.0) -> None:
        self.title = title
        self.quiet = quiet
        self.every = every
        self._console = Console(stderr=True)
        self._bar: Progress | None = None
        self._task: TaskID | None = None
        self._began = self._shown = time.monotonic()
        self._from: float | None = None
        self._first = True

    def __enter__(self) -> Self:
        if not self.quiet and self._console.is_terminal:
            columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:>3.0f} %"))
            self._bar = Progress(*columns, TextColumn("{task.fields[text]}"), console=self._console, transient=True)
            self._task = self._bar.add_task(self.title, total=1.0, text="")
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def left(self, share: float) -> float | None:
        """Seconds left, by the rate since the first update; None while unknown."""
        if self._from is None:
            self._from, self._began = share, time.monotonic()
        done = share - self._from
        if done <= 0:
            return None
        return (time.monotonic() - self._began) / done * (1 - share)

    def update(self, share: float, text: str) -> None:
        """Show that ``share`` in [0, 1] is done, with a short text beside it."""
        left = self.left(share)
        if self.quiet:
            return
        if left is not None:
            text = f"{text} · {duration(left)} left"
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=share, text=text)
            return
        now = time.monotonic()
        if self._first or now - self._shown >= self.every or share >= 1:
            self._first = False
            self._shown = now
            print(f"{self.title}: {100 * share:5.1f} % · {text}", file=sys.stderr, flush=True)
