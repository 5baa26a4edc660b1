"""Settings of ``finetune oriented``."""

from typing import Literal

from pydantic import Field

from selectivemae.tasks.boxes_config import BoxConfig


class OrientedConfig(BoxConfig):
    """Everything that decides a fine-tuning for oriented boxes; the defaults are the published ones for DIOR-R."""

    flips: Literal["none", "horizontal", "all"] = Field(
        default="all", description="Half mirrored; or a quarter each mirrored, upside down, both"
    )
