"""Settings of ``probe``, apart from what needs torch."""

from typing import Literal

from pydantic import Field

from selectivemae.core.config import Settings


class ProbeConfig(Settings):
    """Settings of ``probe``."""

    data: str | None = Field(default=None, description="Class folders: CLASS/image.jpg, with split.csv or train/test")
    image_size: int | None = Field(default=None, ge=1, description="Side of the images in pixels (the encoder's own)")
    pool: Literal["mean", "token"] = Field(default="mean", description="Mean of the patch tokens, or the class token")
    k: int = Field(default=20, ge=1, description="Neighbours of kNN (1, 5, 10 and 50 are reported beside it)")
    seed: int = Field(default=0, description="Of drawn splits and of the random baseline")
    baselines: bool = Field(default=True, description="Also print random weights, raw pixels and colour numbers")
    workers: int = Field(default=0, ge=0, description="Processes that decode images")
    device: str = Field(default="auto", description="auto, cpu, cuda, cuda:N")
