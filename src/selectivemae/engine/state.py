"""The seams of the engine: what it trains, what it tells its hooks."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from torch import Tensor, nn

from selectivemae.data.batch import Batch, Position
from selectivemae.data.ledger import Ledger


@dataclass
class StepOutput:
    """What an objective returns for a batch: the loss of each sample (B,) fp32, and named 0-dim scalars."""

    loss: Tensor
    scalars: Mapping[str, Tensor] = field(default_factory=dict)


class Objective(Protocol):
    """What the engine trains: pre-training and every task give it one."""

    @property
    def model(self) -> nn.Module:
        """The module that is trained."""
        ...

    def parameter_groups(self) -> list[dict]:
        """Groups for the optimizer; each may carry ``lr_scale`` and ``weight_decay``."""
        ...

    def step(self, batch: Batch, progress: float) -> StepOutput:
        """Loss of each sample of a batch at ``progress`` in [0, 1] of training."""
        ...


@dataclass
class RunState:
    """Where a run stands. All of it that outlives a step is in ``saved``; the rest describes the last step."""

    step: int = 0
    position: Position = field(default_factory=Position)
    samples: int = 0
    elapsed: float = 0.0  # seconds of training, all sessions together
    epochs: float = 0.0  # epochs done, with the fraction of the running one
    progress: float = 0.0  # share of training done, in [0, 1]
    ledger: Ledger = field(default_factory=Ledger)  # running digest of the samples of every step
    # of the last step, B samples of all processes in the order of the global batch
    index: Tensor | None = None  # (B,) int64 places of the samples
    loss: Tensor | None = None  # (B,) per sample, on the device
    weight: Tensor | None = None  # (B,) of the samples' losses, on the device
    grad_norm: Tensor | None = None  # 0-dim, on the device
    finite: Tensor | None = None  # 0-dim bool, on the device
    lr: float = 0.0
    scalars: Mapping[str, Tensor] = field(default_factory=dict)
    whole: bool = True  # False while a step is under way: not a state to save
    finished: bool = False
    together: bool = True  # whether all processes have come to the end alike; False while any may have failed alone

    def at(self) -> dict:
        """Where the run stands, as every line of metrics.jsonl says it."""
        return {"epoch": round(self.epochs, 6), "samples": self.samples, "time_s": round(self.elapsed, 3)}

    def saved(self) -> dict:
        """What a checkpoint keeps."""
        return {
            "step": self.step,
            "epoch": self.position.epoch,
            "consumed": self.position.consumed,
            "samples": self.samples,
            "elapsed_s": round(self.elapsed, 3),
            "epochs": self.epochs,
            "progress": self.progress,
            "ledger": f"{self.ledger.digest:016x}",
        }

    @classmethod
    def restored(cls, saved: Mapping) -> "RunState":
        """The state that ``saved`` describes."""
        return cls(
            step=saved["step"],
            position=Position(saved["epoch"], saved["consumed"]),
            samples=saved["samples"],
            elapsed=saved["elapsed_s"],
            epochs=saved["epochs"],
            progress=saved["progress"],
            ledger=Ledger(int(saved["ledger"], 16)),
        )


class Hook(Protocol):
    """Something that happens beside training: progress, records, pictures, probe, guard, checkpoint."""

    def after_step(self, state: RunState) -> None:
        """Called after every optimizer step."""
        ...

    def save(self) -> dict:
        """What this hook must find again after a resume (plain JSON data)."""
        ...

    def restore(self, saved: dict) -> None:
        """Take back what ``save`` returned."""
        ...

    def close(self, state: RunState) -> None:
        """Called once when training ends, however it ends."""
        ...


class BaseHook:
    """A hook that does nothing, to be overridden in part. ``name`` is its key in a checkpoint."""

    name = ""

    def after_step(self, state: RunState) -> None:
        """Nothing."""

    def save(self) -> dict:
        """Nothing to keep."""
        return {}

    def restore(self, saved: dict) -> None:
        """Nothing to take back."""

    def close(self, state: RunState) -> None:
        """Nothing."""
