"""Settings of ``bench data``, apart from what needs torch."""

from pathlib import Path
from typing import Literal

from pydantic import Field

from selectivemae.core.config import Settings


class BenchDataConfig(Settings):
    """Settings of ``bench data``."""

    data: list[str] = Field(default=[], description="Folders, archives or shards of images, or known names")
    data_root: Path | None = Field(default=None, description="Folder of known data sets given by name")
    image_size: int = Field(default=224, ge=1, description="Side of the square crops in pixels")
    batch_size: int = Field(default=256, ge=1, description="Images of a batch")
    workers: int | Literal["auto"] = Field(default="auto", description="Processes that decode images")
    rounds: int = Field(default=5, ge=1, description="Rounds of 64 images in this process; medians are printed")
    seconds: float = Field(default=10.0, gt=0, description="How long the workers are measured")
    device: str = Field(default="auto", description="auto, cpu, cuda, cuda:N: where the batches go")
    seed: int = Field(default=0, description="Of order and crops")
    needs: float | None = Field(default=None, gt=0, description="Images/s that training takes (see bench model)")
