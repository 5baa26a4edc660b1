"""Settings of ``finetune segment`` and of ``evaluate`` for it."""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from selectivemae.core.config import Settings
from selectivemae.tasks.settings import Count, FinetuneSettings, MachineSettings, NotNegative, Positive, PositiveShare


class MaskSettings(Settings):
    """Which images have which mask, and which part they are in."""

    data: str | None = Field(default=None, description="images/ and masks/ of the same names; LoveDA, SpaceNet v1 ...")
    classes: str | None = Field(
        default=None, description="loveda, spacenet, isprs, or a class file (classes.txt, .yaml or .json of the data)"
    )
    images: str | None = Field(
        default=None, description="Name of the folders of images (images, images_png, 3band ...)"
    )
    masks: str | None = Field(default=None, description="Name of the folders of masks (masks, labels, geojson ...)")
    bands: tuple[Count, ...] | None = Field(default=None, description="Bands to read, from 1 on (the first ones)")
    split: Path | None = Field(
        default=None, description="CSV with columns file and split (split.csv, train.txt and val.txt, or folders)"
    )
    val_share: Annotated[float, Field(gt=0, lt=1)] = Field(
        default=0.2, description="Share drawn for val where the data have no parts"
    )
    split_seed: int = Field(default=0, description="Of that draw")


class SegmentConfig(MaskSettings, FinetuneSettings):
    """Everything that decides a fine-tuning for segmentation; the defaults are the published ones."""

    batch_size: Annotated[int, Field(ge=2)] = Field(default=8, description="Crops of a step, over all devices")
    layer_decay: PositiveShare = Field(default=0.9, description="Factor of the rate from each layer to the one below")
    precision: Literal["auto", "fp32", "bf16"] = Field(default="fp32", description="Of matrix products")
    eval_every: Positive = Field(default=50.0, description="Epochs between evaluations (the last is always evaluated)")
    # model
    crop: Count = Field(default=512, description="Side of crops in training and of windows in evaluation, in pixels")
    stride: Count | None = Field(default=None, description="Pixels from window to window (three quarters of the crop)")
    taps: tuple[int, int, int, int] | None = Field(default=None, description="Blocks whose outputs the head sees")
    head_width: Count = Field(default=512, description="Channels of the head")
    aux_weight: NotNegative = Field(default=0.0, description="Weight of an auxiliary head's loss (0: none)")
    checkpointing: bool = Field(default=False, description="Save memory by computing every block twice")
    # length and optimisation
    steps: Count = Field(default=80_000, description="Optimizer steps")
    train_on: Literal["train", "all"] = Field(default="train", description="The training part, or all with masks")
    lr: Positive = Field(default=6e-5, description="Learning rate")
    min_lr: NotNegative = Field(default=0.0, description="Learning rate at the end")
    warmup_steps: Annotated[int, Field(ge=0)] = Field(default=1500, description="Steps of linear warm-up")
    class_weights: tuple[NotNegative, ...] | None = Field(
        default=None, description="Weight of each class in the loss, in the order of the classes (all 1)"
    )
    # augmentation
    scale: tuple[float, float] = Field(default=(0.5, 2.0), description="Range of the random factor of resizing")
    resize: Literal["crop", "image"] = Field(
        default="crop", description="That factor is of the longer side: of the crop's, or of the image's own"
    )
    most: PositiveShare = Field(default=0.75, description="Largest share of one class in a crop (else ten new draws)")
    turns: Literal["none", "horizontal", "all"] = Field(
        default="horizontal", description="Random turns: mirrored, or all 8 symmetries of the square"
    )
    photometric: bool = Field(default=True, description="Other brightness, contrast, saturation and hue")

    @property
    def window_stride(self) -> int:
        """Pixels from window to window."""
        return self.stride or max(1, self.crop * 3 // 4)

    @model_validator(mode="after")
    def _fits(self) -> Self:
        low, high = self.scale
        if not 0 < low <= high:
            raise ValueError(f"--scale must be two ascending factors above 0, got {low} {high}")
        if self.warmup_steps >= self.steps:
            raise ValueError(f"--warmup-steps {self.warmup_steps} leaves nothing of --steps {self.steps}")
        if self.window_stride > self.crop:
            raise ValueError(f"--stride {self.stride} leaves gaps between windows of --crop {self.crop}")
        return self


class EvaluateConfig(MaskSettings, MachineSettings):
    """Settings of ``evaluate`` for a model of segmentation."""

    part: Literal["val", "test", "train", "all"] = Field(default="val", description="Which images are judged")
    batch_size: Count = Field(default=8, description="Windows at a time")
    submission: Path | None = Field(
        default=None, description="Zip of PNGs of class numbers for the test images without masks (LoveDA's server)"
    )
