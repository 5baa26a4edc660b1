"""Features of a scene on the grid of an encoder's patches, and how much each place is like another."""

import json
import shutil
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from selectivemae.core.errors import ConfigError, DataError
from selectivemae.core.files import locked, prepare_parts, put_in_place, writing
from selectivemae.core.progress import ProgressLine
from selectivemae.data.augment import centre_box, resample
from selectivemae.scenes import maps
from selectivemae.scenes.canvas import Canvas, Grid, opened
from selectivemae.scenes.config import SceneEmbedSettings
from selectivemae.scenes.preview import preview_path, value_preview
from selectivemae.scenes.run import (
    RASTERS,
    SceneResult,
    about_work,
    cut_for,
    open_job,
    refuse_empty,
    refuse_parts_of_cells,
    refuse_source,
    result_of,
    small,
    threads,
)
from selectivemae.scenes.seam import Field
from selectivemae.scenes.source import Scene, open_scene
from selectivemae.scenes.stream import Clock, Cut, Rows, blended_rows
from selectivemae.scenes.windows import Area
from selectivemae.weights.info import EncoderInfo

BOUND = 1024.0  # features beyond are cut off
_ROWS = 65536  # of a group in a Parquet file


def encoder_field(encoder: nn.Module, device: torch.device) -> Field:
    """The patch features of an encoder of ``load_encoder``, after its last norm: a cell is a patch (or a place of a
    convolutional network's last map). ConfigError for encoders whose features lie on no square grid."""
    model = cast(Any, encoder.to(device).eval())
    info = EncoderInfo.of(encoder)
    channels, (size, width) = info.channels, info.image_size
    prefix = getattr(model, "num_prefix_tokens", 0)

    def features(images: Tensor) -> Tensor:
        out: Tensor = model.forward_features(info.normalise(images.to(device)))
        if out.ndim == 3:
            patches = out[:, prefix:].transpose(1, 2)
            side = round(patches.shape[2] ** 0.5)
            return patches.reshape(len(out), -1, side, side).float()
        return (out.movedim(-1, 1) if out.shape[-1] == model.num_features else out).float()

    with torch.inference_mode():
        probe = features(torch.zeros((1, channels, size, width), dtype=torch.uint8))
    if size != width or probe.shape[2] != probe.shape[3] or size % probe.shape[2]:
        raise ConfigError(f"features of images of {size} x {width} pixels lie on no grid of squares: --image-size")
    return Field(features, channels, size, probe.shape[1], size // probe.shape[2], BOUND)


def embed_scene(
    field: Field,
    settings: SceneEmbedSettings,
    out: Path | None,
    batch: int,
    model: str,
    *,
    resume: bool = False,
    overwrite: bool = False,
    quiet: bool = False,
) -> SceneResult:
    """Write the features of a scene: ``.tif`` a band for each, ``.parquet`` a row for each patch with its square as
    GeoParquet geometry. With ``settings.query`` a raster of the cosine similarity to the patch at x,y, or to an image.

    ``model`` tells one encoder from another. Raises UserError subclasses.
    """
    endings = RASTERS if settings.query else (*RASTERS, ".parquet")
    if out is None or out.suffix.lower() not in endings:
        raise ConfigError(f"--out must be a file that ends in {' '.join(endings)}, got {out}")
    clock, job = Clock(), open_job(settings, field.channels)
    cut = cut_for(field.size, settings.overlap, batch, field.cell)
    area = job.area
    refuse_parts_of_cells(area, field.cell)
    refuse_empty(job.scene, area)
    about = about_work(job, cut, model) | {"query": settings.query or ""}
    refuse_source(job.scene, [out, preview_path(out)])
    parts = prepare_parts(out, about, resume=resume, overwrite=overwrite)
    with locked(parts), ProgressLine("embedding", quiet=quiet) as line:
        if settings.query:
            wanted = _query(settings.query, job.scene, field, cut)
            names, pixels, title = ["similarity"], _similarity(field, wanted), "cosine similarity"
        else:
            names, title = [f"feature {i}" for i in range(field.bands)], "first principal component"
            pixels = maps.value_pixels(field)
        grid = maps.grid_of(job.scene, area, field.cell)
        canvas = Canvas(parts, maps.value_layer("values", names, {"MODEL": model}), grid)
        maps.fill(maps.Work(job.scene, area, [field], cut, parts), [(canvas, pixels)], clock, line)
        if out.suffix.lower() == ".parquet":
            _write_parquet(canvas, out, model)
        else:
            canvas.finish(out, threads())
        shown = small(canvas) if settings.query else first_component(canvas)
        value_preview(preview_path(out), job.scene, area, shown, title)
    shutil.rmtree(parts)
    return result_of(job, clock, [out, preview_path(out)], None)


def _query(query: str, scene: Scene, field: Field, cut: Cut) -> NDArray[np.float32]:
    """The features (E,) of the patch at ``x,y`` (coordinates of the scene), or the mean of an image's patches."""
    if Path(query).is_file():
        return _image_features(open_scene(Path(query), field.channels), field)
    try:
        x, y = (float(part) for part in query.split(","))
    except ValueError:
        raise ConfigError(f"--query must be X,Y in the scene's coordinates or an image file, got {query!r}") from None
    a, b, c, d, e, f = scene.transform
    column, row = (int(v) for v in np.floor(np.linalg.solve([[a, b], [d, e]], [x - c, y - f])))
    if not (0 <= column < scene.width and 0 <= row < scene.height):
        raise ConfigError(f"--query {query} lies outside {scene.path} (pixel {column}, {row})")
    place = Area(column // field.cell * field.cell, row // field.cell * field.cell, 1, 1)
    (rows,) = blended_rows(scene, [field], cut, place, Clock())
    if rows.empty.all():
        raise DataError(f"--query {query}: the scene has no data there")
    return maps.means(rows, field)[:, 0, 0]


def _image_features(image: Scene, field: Field) -> NDArray[np.float32]:
    """The mean patch (E,) of an image's middle square, resized to a window."""
    with image.reader() as read:
        pixels, _ = read(image.whole, None)
    box = centre_box(image.width, image.height)[0]
    window = resample(np.ascontiguousarray(pixels.transpose(1, 2, 0)), box, field.size)
    with torch.inference_mode():
        return field.run(window[None].contiguous())[0].mean(dim=(1, 2)).cpu().numpy()


def _similarity(field: Field, wanted: NDArray[np.float32]) -> maps.Pixels:
    """Cosine of the blended features to those wanted (E,)."""
    goal = wanted / max(float(np.linalg.norm(wanted)), 1e-12)

    def pixels(rows: Rows) -> NDArray[np.float32]:
        values = maps.means(rows, field)
        length = np.maximum(np.linalg.norm(values, axis=0), 1e-12)
        cosine = np.tensordot(goal, values, axes=(0, 0)) / length
        return np.where(rows.empty, np.float32(np.nan), cosine)[None]

    return pixels


def first_component(canvas: Canvas) -> NDArray[np.float32]:
    """The first principal component of a raster's bands, (h, w) at the size of a preview, NaN where there is no data.

    Its sign is such that its largest weight is positive.
    """
    shape = small(canvas).shape
    with opened(canvas.vrt) as raster:
        values = raster.read(out_shape=(raster.count, *shape)).reshape(raster.count, -1).T
    known = np.isfinite(values).all(axis=1)
    centred = values[known] - values[known].mean(axis=0)
    weights = np.linalg.eigh(centred.T @ centred)[1][:, -1]
    out = np.full(len(values), np.nan, np.float32)
    out[known] = centred @ (weights * np.sign(weights[np.abs(weights).argmax()]))
    return out.reshape(shape)


def _write_parquet(canvas: Canvas, out: Path, model: str) -> None:
    """A row for each patch with data: column, row (of patches), geometry (its square, WKB), vector."""
    import shapely

    grid = canvas.grid
    kind = pa.list_(pa.float32(), len(canvas.layer.bands))
    fields = [("column", pa.int32()), ("row", pa.int32()), ("geometry", pa.binary()), ("vector", kind)]
    schema = pa.schema(fields, metadata={"geo": _geo(grid), "model": model})
    a, b, c, d, e, f = grid.transform
    lines = max(1, _ROWS // grid.width)
    temporary = canvas.raw.with_suffix(".parquet")
    with writing(out), opened(canvas.vrt) as raster, pq.ParquetWriter(temporary, schema) as writer:
        for top in range(0, grid.height, lines):
            height = min(lines, grid.height - top)
            values = raster.read(window=((top, top + height), (0, grid.width))).reshape(raster.count, -1).T
            known = np.isfinite(values).all(axis=1)
            row, column = (v.ravel()[known] for v in np.mgrid[top : top + height, 0 : grid.width])
            x, y = column[:, None] + np.array([0, 1, 1, 0]), row[:, None] + np.array([0, 0, 1, 1])
            squares = shapely.polygons(np.stack([a * x + b * y + c, d * x + e * y + f], axis=-1))
            vectors = pa.FixedSizeListArray.from_arrays(pa.array(values[known].ravel()), raster.count)
            columns = [pa.array(column, pa.int32()), pa.array(row, pa.int32())]
            geometry = pa.array(list(np.atleast_1d(np.asarray(shapely.to_wkb(squares), dtype=object))), pa.binary())
            writer.write_table(pa.table([*columns, geometry, vectors], schema=schema))
    put_in_place(temporary, out)


def _geo(grid: Grid) -> str:
    """GeoParquet's description of the geometry column (version 1.1)."""
    column: dict[str, Any] = {"encoding": "WKB", "geometry_types": ["Polygon"], "crs": None}
    if grid.crs:
        from pyproj import CRS

        column["crs"] = CRS.from_wkt(grid.crs).to_json_dict()
    return json.dumps({"version": "1.1.0", "primary_column": "geometry", "columns": {"geometry": column}})
