"""Settings of ``data pack``; apart from what does it, so that ``--help`` needs no torch."""

from pydantic import Field

from selectivemae.core.config import Settings


class PackConfig(Settings):
    """Settings of ``data pack``."""

    size: int = Field(default=256, ge=32, description="Shorter side in pixels; smaller images stay as they are")
    channels: int = Field(default=3, description="3, or 1 for grey")
    workers: int | None = Field(default=None, ge=0, description="Processes (one a core)")
