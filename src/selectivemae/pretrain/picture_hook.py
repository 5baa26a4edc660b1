"""Shows now and then what has been learned.

RUN/
  pictures/reconstruction-00001234.png   fixed images after step 1234 (pretrain.pictures)
  pictures/selection-00001234.png        which of their patches were seen and which rebuilt
"""

import logging
from collections.abc import Callable
from pathlib import Path

from selectivemae.core.errors import UserError
from selectivemae.core.files import atomic_write
from selectivemae.engine.state import BaseHook, RunState
from selectivemae.models.masked import MaskedAutoencoder
from selectivemae.pretrain.pictures import Fixed, draw_grid, draw_selection, look

log = logging.getLogger("selectivemae")

Report = Callable[[Path], object]
"""Brings the plots and the page of a run folder up to date with the records in it."""


class PictureHook(BaseHook):
    """Draws a grid of ``fixed`` images every ``every`` epochs (0: never) and when training ends, however it comes, and
    has the run's ``report`` refreshed after it.

    Training is left as it is, to the bit. What cannot be written is logged and does not stop it.
    ``epochs`` is how far the run is at the beginning; ``phase`` names the phase of the curriculum.
    """

    def __init__(
        self,
        out: Path,
        model: MaskedAutoencoder,
        fixed: Fixed | None,
        *,
        every: float,
        epochs: float,
        phase: Callable[[RunState], str],
        report: Report | None,
    ) -> None:
        self.out, self.model, self.fixed = out, model, fixed
        self.folder = out / "pictures"
        self.folder.mkdir(exist_ok=True)
        self.every, self.phase, self.report = every, phase, report
        self._done = self._due(epochs)

    def _due(self, epochs: float) -> int:
        return int(epochs // self.every) if self.every else 0

    def after_step(self, state: RunState) -> None:
        """Draw when a multiple of ``every`` epochs has been reached; the last one is left to ``close``."""
        due = self._due(state.epochs)
        if due > self._done and state.progress < 1.0:
            self._done = due
            self.draw(state)

    def close(self, state: RunState) -> None:
        """Draw the end."""
        if state.step > 0:
            self.draw(state)

    def draw(self, state: RunState) -> None:
        """Write the grid as it is now, and refresh the report."""
        try:
            if self.fixed is not None and state.whole:
                self._grid(state, self.fixed)
            if self.report is not None:
                self.report(self.out)
        except UserError as e:
            log.warning("no picture after step %d: %s", state.step, e)

    def _grid(self, state: RunState, fixed: Fixed) -> None:
        looked = look(self.model, fixed, state.progress)
        heading = (
            f"step {state.step} · epoch {state.epochs:.2f} · phase {self.phase(state)} · "
            f"loss of these images {looked.loss:.3f}"
        )
        atomic_write(self.folder / f"reconstruction-{state.step:08d}.png", draw_grid(looked, heading))
        atomic_write(self.folder / f"selection-{state.step:08d}.png", draw_selection(looked, heading))
