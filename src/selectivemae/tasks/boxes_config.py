"""Settings of ``finetune detect`` and ``finetune oriented``; each task sets its published defaults."""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from selectivemae.tasks.settings import Count, FinetuneSettings, NotNegative, Positive, PositiveShare

NotNegativeInt = Annotated[int, Field(ge=0)]


class BoxConfig(FinetuneSettings):
    """What both detectors can be told; the defaults are the published ones for DIOR."""

    data: Path | None = Field(default=None, description="Folder with images and labels: DIOR, COCO, VOC, DOTA ...")
    train_split: str | None = Field(default=None, description="Lists or folders to train on, as train+val (by layout)")
    test_split: str | None = Field(default=None, description="Lists or folders to judge by (test, else val)")
    tile: Count | None = Field(default=None, description="Cut images into tiles of this side in pixels (whole images)")
    overlap: NotNegativeInt = Field(default=200, description="Pixels that neighbouring tiles share")
    difficult: Literal["keep", "ignore"] = Field(
        default="keep", description="Objects marked difficult: judged like others, or neither asked for nor counted"
    )
    # model
    image_size: Count = Field(default=800, description="Side in pixels of the canvas that images are resized to fit")
    neck_width: Count = Field(default=256, description="Channels of the feature pyramid")
    head_width: Count = Field(default=1024, description="Width of the second stage's two layers")
    checkpointing: bool = Field(default=False, description="Compute blocks twice to save memory")
    # length and optimisation
    epochs: Positive = Field(default=12.0, description="Passes over the training part")
    batch_size: Count = Field(default=4, description="Images of an optimizer step, over all devices")
    lr: Positive = Field(default=1e-4, description="Learning rate")
    milestones: tuple[float, ...] = Field(default=(8.0, 11.0), description="Epochs after which the rate falls")
    lr_factor: PositiveShare = Field(default=0.1, description="Factor of the rate at each of them")
    warmup_steps: NotNegativeInt = Field(default=500, description="Steps of linear warm-up, from a millionth")
    layer_decay: PositiveShare = Field(default=0.9, description="Factor of the rate from each layer to the one below")
    # augmentation
    flips: Literal["none", "horizontal", "all"] = Field(
        default="horizontal", description="Half mirrored; or a quarter each mirrored, upside down, both"
    )
    rotation: NotNegative = Field(default=0.0, description="Random turns of up to so many degrees either way")
    photometric: bool = Field(default=False, description="Random brightness, contrast, saturation and hue")
    # records
    eval_every: Positive = Field(default=3.0, description="Epochs between evaluations (the last is always evaluated)")

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if list(self.milestones) != sorted(self.milestones) or any(m <= 0 for m in self.milestones):
            raise ValueError(f"--milestones must be rising epochs, got {self.milestones}")
        if self.tile is not None and self.overlap >= self.tile:
            raise ValueError(f"--overlap {self.overlap} must be below --tile {self.tile}")
        return self
