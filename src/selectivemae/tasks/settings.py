"""Settings that all fine-tunings share; a task's own model adds what it needs and sets its published defaults."""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from selectivemae.core.config import Settings

Share = Annotated[float, Field(ge=0, le=1)]
PositiveShare = Annotated[float, Field(gt=0, le=1)]
OpenShare = Annotated[float, Field(ge=0, lt=1)]
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=1)]


class MachineSettings(Settings):
    """Where it runs."""

    device: str = Field(default="auto", description="auto, cpu, cuda, cuda:N")
    precision: Literal["auto", "fp32", "bf16"] = Field(default="auto", description="Of matrix products")


class FinetuneSettings(MachineSettings):
    """What every fine-tuning can be told."""

    out: Path | None = Field(default=None, description="Folder of the run")
    weights: str | None = Field(default=None, description="Run folder, weight file, random:NAME, timm:NAME ...")
    layout: str | None = Field(default=None, description="Layout of the weight file, where its keys do not tell")
    # optimisation
    batch_size: Count = Field(default=64, description="Images of an optimizer step, over all devices")
    micro_batch: Count | None = Field(default=None, description="Images at a time on a device (as many as fit)")
    weight_decay: NotNegative = Field(default=0.05, description="Of matrices, not of 1-D parameters and positions")
    layer_decay: PositiveShare = Field(default=0.75, description="Factor of the rate from each layer to the one below")
    betas: tuple[float, float] = Field(default=(0.9, 0.999), description="Of AdamW")
    clip_grad: Positive | None = Field(default=None, description="Limit of the gradient's norm (none)")
    drop_path: OpenShare = Field(default=0.1, description="Stochastic depth of the last block, rising from 0")
    # machine
    workers: int | Literal["auto"] = Field(default="auto", description="Processes that decode images")
    seed: int = Field(default=0, description="Of head, order and augmentation")
    seeds: Count = Field(default=1, description="Runs with seeds from --seed on, in folders seed-N; mean and deviation")
    # records
    eval_every: Positive = Field(default=10.0, description="Epochs between evaluations (the last is always evaluated)")
    log_every: Count | None = Field(default=None, description="Steps between lines of metrics (CPU 1, GPU 20)")
    checkpoint_minutes: Positive = Field(default=10.0, description="Minutes between checkpoints")
    checkpoint_steps: Count | None = Field(default=None, description="Steps between checkpoints, beside the minutes")
    keep: Count = Field(default=1, description="How many of the last checkpoints are kept")

    @model_validator(mode="after")
    def _workers_fit(self) -> Self:
        if isinstance(self.workers, int) and self.workers < 0:
            raise ValueError("--workers must be 0 or more, or auto")
        return self
