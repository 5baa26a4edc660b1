"""Settings of ``bench model`` and ``bench train``, apart from what needs torch."""

from pathlib import Path
from typing import Literal

from pydantic import Field

from selectivemae.core.config import Settings
from selectivemae.pretrain.config import Compile

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
    decoder_depth: int | None = Field(default=None, ge=1, description="Blocks of the decoder (selectivemae 12, mae 8)")
    precision: Literal["auto", "fp32", "bf16"] = Field(default="fp32", description="auto, fp32, bf16")
    compile: Compile = Field(default="off", description="Fused kernels of the whole step, as in pretrain")
    device: str = Field(default="auto", description="auto, cpu, cuda, cuda:N")
    memory: bool = Field(default=True, description="Also measure peak memory, each in a process of its own")


class BenchTrainConfig(BenchModelConfig):
    """Settings of ``bench train``."""

    data: list[str] = Field(default=[], description="Folders, archives or shards of images; several may be given")
    data_root: Path | None = Field(default=None, description="Folder of known data sets that --data names (data list)")
    against: Method | None = Field(default="mae", description="A second method, measured in turn with the first")
    precision: Literal["auto", "fp32", "bf16"] = Field(default="auto", description="auto, fp32, bf16")
    workers: int | Literal["auto"] = Field(default="auto", description="Processes that decode images")
    steps: int = Field(default=10, ge=1, description="Steps of a method in each round")
    trace: Path | None = Field(default=None, description="Write a profiler trace of a few steps (Chrome, Perfetto)")
