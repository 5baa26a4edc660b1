"""Settings of ``bench model``, apart from what needs torch."""

from typing import Literal

from pydantic import Field

from selectivemae.core.config import Settings

Method = Literal["selectivemae", "mae"]


class BenchModelConfig(Settings):
    """Settings of ``bench model``."""

    model: str = Field(default="vit_base_patch16", description="vit_tiny|small|base|large|huge_patchP")
    method: Method = Field(default="selectivemae", description="selectivemae, or mae")
    against: Method | None = Field(default=None, description="A second method, measured in turn with the first")
    image_size: int = Field(default=224, ge=1, description="Side of the images in pixels")
    batch_size: int = Field(default=64, ge=1, description="Images of a step")
    micro_batch: int | None = Field(default=None, description="Images at a time (all)")
    rounds: int = Field(default=5, ge=1, description="Steps of each that count; their median is printed")
    richness: Literal["uniform", "hog", "entropy"] = Field(
        default="hog", description="What makes a patch rich (SelectiveMAE)"
    )
    order: str = Field(default="near-far-random", description="Phases of expansion (SelectiveMAE)")
    precision: Literal["auto", "fp32", "bf16"] = Field(default="fp32", description="auto, fp32, bf16")
    device: str = Field(default="auto", description="auto, cpu, cuda, cuda:N")
    memory: bool = Field(default=True, description="Also measure peak memory, each in a process of its own")
