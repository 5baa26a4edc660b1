"""Evaluates what is trained now and then, and always at the end."""

from collections.abc import Callable

from selectivemae.core.records import Metrics
from selectivemae.engine.state import BaseHook, RunState


class EvaluateHook(BaseHook):
    """Calls ``evaluate`` every ``every`` epochs and after the last step, and writes its figures as an "eval" line."""

    name = "evaluate"

    def __init__(self, evaluate: Callable[[], dict[str, float]], metrics: Metrics, every: float) -> None:
        self.evaluate, self.metrics, self.every = evaluate, metrics, every
        self._done = 0

    def after_step(self, state: RunState) -> None:
        """Evaluate when a multiple of ``every`` epochs has been reached, or the end."""
        due = int(state.epochs / self.every + 1e-9)
        if due > self._done or state.progress >= 1.0:
            self._done = due
            figures = self.evaluate()
            self.metrics.write("eval", state.step, **state.at(), **figures)

    def save(self) -> dict:
        """How many evaluations are done."""
        return {"done": self._done}

    def restore(self, saved: dict) -> None:
        """Take it back."""
        self._done = saved["done"]
