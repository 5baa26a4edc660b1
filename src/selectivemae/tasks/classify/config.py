"""Settings of ``finetune classify`` and of ``evaluate`` for it."""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from selectivemae.core.config import Settings
from selectivemae.tasks.settings import (
    Count,
    FinetuneSettings,
    MachineSettings,
    NotNegative,
    OpenShare,
    Positive,
    PositiveShare,
    Share,
)


class LabelSettings(Settings):
    """Which images have which label, and which part they are in."""

    data: str | None = Field(default=None, description="Class folders: CLASS/image.jpg, with split.csv or train/test")
    split: str | None = Field(
        default=None, description="Published split instead: 28 reads train_labels_28_0.txt and valid_labels_28_0.txt"
    )
    lists: Path | None = Field(default=None, description="Folder of those lists (the data folder)")
    test_share: Annotated[float, Field(gt=0, lt=1)] = Field(
        default=0.3, description="Share of each class drawn for the test where the data have no parts"
    )
    split_seed: int = Field(default=0, description="Of that draw")


class ClassifyConfig(LabelSettings, FinetuneSettings):
    """Everything that decides a fine-tuning for scene classification; the defaults are the published recipe's, with
    100 epochs of batches of 64."""

    # model
    image_size: Count | None = Field(default=None, description="Side of the images in pixels (the encoder's own)")
    pool: Literal["cls", "mean"] = Field(
        default="cls", description="Head on the class token, or on the patches' mean with a norm of its own"
    )
    # length and optimisation
    epochs: Positive = Field(default=100.0, description="Passes over the training part")
    drop_last: bool = Field(default=True, description="Leave the incomplete last batch of an epoch out")
    base_lr: Positive = Field(default=1e-3, description="Learning rate per 256 images of a batch")
    lr: Positive | None = Field(default=None, description="Learning rate, instead of the base rate")
    min_lr: NotNegative = Field(default=1e-6, description="Learning rate at the end")
    warmup_epochs: NotNegative = Field(default=5.0, description="Epochs of linear warm-up")
    # augmentation
    crop_scale: tuple[float, float] = Field(default=(0.08, 1.0), description="Area of the random crops")
    turns: Literal["none", "horizontal", "all"] = Field(
        default="horizontal", description="Random turns: mirrored, or all 8 symmetries of the square"
    )
    rand_augment: str = Field(
        default="rand-m9-mstd0.5-inc1",
        pattern=r"^(none|rand(-(m|n|p|mstd|mmax|inc)\d+(\.\d+)?)*)$",
        description="timm's RandAugment, or none",
    )
    erasing: Share = Field(default=0.25, description="Probability of an erased rectangle in an image")
    mixup: NotNegative = Field(default=0.8, description="Mixup's alpha (0: none)")
    cutmix: NotNegative = Field(default=1.0, description="CutMix's alpha (0: none)")
    mix_share: Share = Field(default=1.0, description="Share of the batches that are mixed")
    smoothing: OpenShare = Field(default=0.1, description="Label smoothing")
    crop_share: PositiveShare = Field(
        default=0.875, description="Share of the shorter side that evaluation sees, from the centre"
    )

    @model_validator(mode="after")
    def _fits(self) -> Self:
        low, high = self.crop_scale
        if not 0 < low <= high <= 1:
            raise ValueError(f"--crop-scale must be two ascending shares of the area, got {low} {high}")
        if self.warmup_epochs >= self.epochs:
            raise ValueError(f"--warmup-epochs {self.warmup_epochs:g} leaves nothing of --epochs {self.epochs:g}")
        return self


class EvaluateConfig(LabelSettings, MachineSettings):
    """Settings of ``evaluate`` for all tasks; those of segmentation alone have "masks:" before their description."""

    part: Literal["test", "train", "all"] = Field(
        default="test", description="Which images are judged (classify: of other data without parts all)"
    )
    batch_size: Count = Field(default=64, description="Images at a time")
    workers: Annotated[int, Field(ge=0)] = Field(default=0, description="Processes that decode images")
    classes: str | None = Field(default=None, description="masks: loveda, spacenet, isprs, or a class file (the run's)")
    images: str | None = Field(default=None, description="masks: name of the folders of images (the usual ones)")
    masks: str | None = Field(default=None, description="masks: name of the folders of masks (the usual ones)")
    submission: Path | None = Field(
        default=None, description="masks: zip of class numbers for the test images without masks (LoveDA's server)"
    )
