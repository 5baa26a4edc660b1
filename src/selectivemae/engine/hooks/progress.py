"""Shows how far training is."""

from selectivemae.core.progress import ProgressLine
from selectivemae.engine.hooks.records import RecordHook
from selectivemae.engine.state import BaseHook, RunState


class ProgressHook(BaseHook):
    """Keeps a progress line: epoch, loss, rate, time left."""

    name = "progress"

    def __init__(self, line: ProgressLine, records: RecordHook) -> None:
        self.line = line
        self.records = records

    def after_step(self, state: RunState) -> None:
        """Update the line with the last recorded figures."""
        last = self.records.last
        text = f"step {state.step} · epoch {state.epochs:.2f}"
        if last:
            rate = last["images_per_s"]
            text += f" · loss {float(last['loss']):.4f}" + (f" · {rate:.0f} images/s" if rate else "")
        self.line.update(state.progress, text)
