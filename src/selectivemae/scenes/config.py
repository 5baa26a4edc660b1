"""Settings of ``predict``, and of ``embed`` for scenes; without torch."""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from selectivemae.core.config import Settings

Count = Annotated[int, Field(ge=1)]
NotNegative = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]


class SceneSettings(Settings):
    """Which scene, and how it is read and cut."""

    image: Path | None = Field(default=None, description="GeoTIFF, PNG, JPEG ... of any size")
    area: tuple[int, int, int, int] | None = Field(
        default=None, description="Part of the scene: X Y WIDTH HEIGHT in pixels; parts fit together"
    )
    bands: list[Count] | None = Field(default=None, description="Bands that the model gets, numbered from 1")
    range: tuple[float, float] | None = Field(
        default=None, description="LOW HIGH that become 0 and 255 (8 bits: as they are; deeper: percentiles 2 and 98)"
    )
    nodata: float | None = Field(default=None, description="Value of pixels without data (the file's own)")
    overlap: Annotated[int, Field(ge=0)] | None = Field(
        default=None, description="Pixels that neighbouring windows share (a quarter of the window)"
    )

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.range is not None and not self.range[0] < self.range[1]:
            raise ValueError(f"--range must be two ascending values, got {self.range[0]:g} {self.range[1]:g}")
        if self.area is not None and (min(self.area) < 0 or min(self.area[2:]) < 1):
            raise ValueError(f"--area must be X Y WIDTH HEIGHT, got {' '.join(map(str, self.area))}")
        return self


class SceneEmbedSettings(SceneSettings):
    """Settings of ``embed`` for a scene."""

    query: str | None = Field(
        default=None, description="X,Y in the scene's coordinates, or an image: write how like it each place is"
    )


class PredictConfig(SceneSettings):
    """Settings of ``predict``."""

    image: Path | None = Field(default=None, description="GeoTIFF, PNG, JPEG ... of any size, or a folder of them")
    out: Path | None = Field(
        default=None, description="map.tif, or .gpkg .geojson .json .txt .csv; a folder for a folder of images"
    )
    probabilities: bool = Field(default=False, description="Also a raster with a band of probabilities for each class")
    only: list[str] | None = Field(
        default=None, description="Classes that become polygons (all but one called background)"
    )
    simplify: NotNegative = Field(default=0.0, description="Pixels by which the corners of polygons may move")
    min_pixels: NotNegative = Field(default=0.0, description="Polygons of fewer pixels are left out")
    min_score: Share = Field(default=0.3, description="Boxes of lower scores are left out")
    merge_iou: Share = Field(default=0.3, description="Overlap of two windows' boxes that are the same object")
    batch_size: Count = Field(default=8, description="Windows at a time")
    device: str = Field(default="auto", description="auto, cpu, cuda, cuda:N; several by commas share the work")
    precision: Literal["auto", "fp32", "bf16"] = Field(default="auto", description="Of matrix products")
