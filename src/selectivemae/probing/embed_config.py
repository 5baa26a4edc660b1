"""Settings of ``embed``, apart from what needs torch."""

from pathlib import Path
from typing import Literal

from pydantic import Field

from selectivemae.core.config import Settings


class EmbedConfig(Settings):
    """Settings of ``embed``."""

    data: list[str] = Field(default=[], description="Folders, archives or shards of images; several may be given")
    out: Path | None = Field(default=None, description="Parquet file to write")
    image_size: int | None = Field(default=None, ge=1, description="Side of the images in pixels (the encoder's own)")
    pool: Literal["mean", "token"] = Field(default="mean", description="Mean of the patch tokens, or the class token")
    batch_size: int = Field(default=64, ge=1, description="Images at a time")
    part_size: int = Field(default=4096, ge=1, description="Images between two savings")
    workers: int = Field(default=0, ge=0, description="Processes that decode images")
    device: str = Field(default="auto", description="auto, cpu, cuda, cuda:N")
