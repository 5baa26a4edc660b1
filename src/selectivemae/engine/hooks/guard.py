"""Watches for losses and gradients that are no numbers."""

import logging
from collections.abc import Callable

from torch import Tensor

from selectivemae.core.errors import TrainingError
from selectivemae.core.records import Metrics
from selectivemae.engine.state import BaseHook, RunState

log = logging.getLogger("selectivemae")

Report = Callable[[int, list[int]], None]
"""What is told of a step that was not finite: its number, and the places of its samples in the store."""


def bad_step_report(metrics: Metrics, name: Callable[[int], str], state: RunState, most: int = 16) -> Report:
    """A report that logs samples by ``name`` (``most`` at most) and writes an "event" line, where ``state`` stands."""

    def report(step: int, samples: list[int]) -> None:
        ids = [name(i) for i in samples[:most]]
        log.warning("step %d: loss or gradient not finite, update skipped; samples: %s", step, ", ".join(ids))
        metrics.write("event", step, **state.at(), event="not_finite", ids=ids, of=len(samples))

    return report


class GuardHook(BaseHook):
    """Reports every step whose loss or gradient was not finite (its update was skipped on the device), with the ids
    of its samples, and stops training after ``limit`` of them in a row.

    The flags are read every ``every`` steps, so that the device is not waited for at each, and when state is saved.
    """

    name = "guard"

    def __init__(self, report: Report, every: int, limit: int = 3) -> None:
        self.report = report
        self.every = every
        self.limit = limit
        self._pending: list[tuple[int, Tensor, Tensor, Tensor]] = []
        self._in_a_row = 0
        self._too_many: int | None = None  # the step that was one too many

    def after_step(self, state: RunState) -> None:
        """Keep the step's flag; look at the flags when it is time. Raises TrainingError."""
        assert state.finite is not None
        assert state.loss is not None
        assert state.index is not None
        self._pending.append((state.step, state.finite, state.loss, state.index))
        if len(self._pending) >= self.every:
            self._look()
        if self._too_many is not None:
            raise TrainingError(
                f"loss or gradient was not finite {self.limit} steps in a row (last step {self._too_many}): training "
                "stopped and its state is saved; look at the samples named in metrics.jsonl, or lower the learning rate"
            )

    def save(self) -> dict:
        """How many of the last steps were not finite."""
        self._look()
        return {"in_a_row": self._in_a_row}

    def restore(self, saved: dict) -> None:
        """Take it back; a run that was stopped for it gets its ``limit`` of steps again."""
        self._in_a_row = saved["in_a_row"] if saved["in_a_row"] < self.limit else 0

    def _look(self) -> None:
        pending, self._pending = self._pending, []
        for step, finite, loss, index in pending:
            if finite.item():
                self._in_a_row = 0
                continue
            self._in_a_row += 1
            index = index.cpu()
            culprits = index[~loss.isfinite().cpu()]
            # Finite losses with a gradient that is not: any of the batch may be the cause.
            self.report(step, (culprits if len(culprits) else index).tolist())
            if self._in_a_row >= self.limit and self._too_many is None:
                self._too_many = step
