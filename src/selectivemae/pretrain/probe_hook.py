"""Judges the encoder now and then while it trains."""

from collections.abc import Callable

from selectivemae.core.records import Metrics
from selectivemae.engine.state import BaseHook, RunState
from selectivemae.models.masked import MaskedAutoencoder

Probe = Callable[[MaskedAutoencoder], dict[str, float]]


class ProbeHook(BaseHook):
    """Calls a probe every ``every`` epochs and at the end, and writes its figures as a "probe" line."""

    name = "probe"

    def __init__(
        self,
        probe: Callable[[MaskedAutoencoder], dict[str, float]],
        model: MaskedAutoencoder,
        metrics: Metrics,
        every: int,
    ) -> None:
        self.probe, self.model, self.metrics, self.every = probe, model, metrics, every
        self._done = 0

    def after_step(self, state: RunState) -> None:
        """Probe when a multiple of ``every`` epochs has been reached."""
        due = int(state.epochs // self.every)
        if due > self._done or state.progress >= 1.0:
            self._done = due
            figures = self.probe(self.model)
            self.metrics.write("probe", state.step, **state.at(), **figures)

    def save(self) -> dict:
        """How many probes are done."""
        return {"done": self._done}

    def restore(self, saved: dict) -> None:
        """Take it back."""
        self._done = saved["done"]
