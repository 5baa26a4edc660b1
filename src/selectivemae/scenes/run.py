"""From a scene to files: class maps, probabilities, polygons and boxes, each with a preview."""

import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from selectivemae.core.errors import ConfigError, DataError
from selectivemae.core.files import locked, prepare_parts
from selectivemae.core.progress import ProgressLine
from selectivemae.scenes import maps
from selectivemae.scenes.boxes import Found, Search, find_boxes
from selectivemae.scenes.canvas import Canvas, opened
from selectivemae.scenes.config import PredictConfig, SceneSettings
from selectivemae.scenes.preview import SIDE, box_preview, class_preview, preview_path
from selectivemae.scenes.seam import BoxPredictor, Field, ScorePredictor
from selectivemae.scenes.source import Scene, open_scene
from selectivemae.scenes.stream import Clock, Cut
from selectivemae.scenes.vectors import DRIVERS, Features, class_polygons, corner_polygons, write_features
from selectivemae.scenes.windows import Area

RASTERS = (".tif", ".tiff")
_LINES = 256  # of a scene at a time
Writer = Callable[[Path, Found, Scene, Sequence[str]], None]
"""Writes the boxes of a scene, of some classes, to a file of its own format."""


@dataclass
class SceneResult:
    """What was made of a scene, and what it cost."""

    out: list[Path]
    megapixels: float
    seconds: float
    windows: int
    outside_network: float  # share of the time in which no window was in the network
    range: tuple[tuple[float, ...], tuple[float, ...]] | None  # (low, high) of the stretch
    objects: int | None = None  # polygons or boxes
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Job:
    """A scene with the area that is wanted, and what is worth saying about it."""

    scene: Scene
    area: Area
    notes: list[str]


def open_job(settings: SceneSettings, channels: int, bands: Sequence[int] | None = None) -> Job:
    """Open the scene of some settings; ``bands`` are those of a model that are meant unless others are named.

    Raises ConfigError, DataError.
    """
    assert settings.image is not None
    scene = open_scene(
        settings.image, channels, bands=settings.bands or bands, range=settings.range, nodata=settings.nodata
    )
    area = Area(*settings.area) if settings.area else scene.whole
    if area.x + area.width > scene.width or area.y + area.height > scene.height:
        raise ConfigError(f"--area reaches beyond {scene.path}, which has {scene.width} x {scene.height} pixels")
    notes = []
    if not scene.placed:
        notes.append(f"{scene.path} has no place on the ground: coordinates are pixels, y downwards")
    elif scene.crs is None:
        notes.append(f"{scene.path} does not say its coordinate system: the result has none either")
    if scene.surplus:
        taken = " ".join(map(str, scene.bands))
        notes.append(f"the model gets bands {taken} of {len(scene.bands) + scene.surplus} (--bands names others)")
    if scene.limits is not None:
        low, high = (" ".join(f"{v:g}" for v in values) for values in scene.limits)
        notes.append(f"samples are stretched from {low} ... {high} to 0 ... 255 (--range sets it)")
    return Job(scene, area, notes)


def cut_for(size: int, overlap: int | None, batch: int, cell: int = 1) -> Cut:
    """How a scene is cut; by default windows share a quarter, in whole cells. ConfigError for overlaps that do not do:
    more than half a window, or no whole cells."""
    wanted = size // 4 // cell * cell if overlap is None else overlap
    if wanted > size // 2 or wanted % cell:
        steps = f", in steps of {cell}" if cell > 1 else ""
        raise ConfigError(f"--overlap must be from 0 to {size // 2}, half the window of {size} pixels{steps}")
    return Cut(size, wanted, batch)


def score_field(predictor: ScorePredictor, cut: Cut) -> Field:
    """The probabilities that a predictor gives each pixel, or each tile of ``cut.stride`` pixels."""
    if predictor.task != "classify":

        def pixels(images: Tensor) -> Tensor:
            return predictor.scores(images).float().softmax(dim=1)

        return Field(pixels, predictor.channels, predictor.size, len(predictor.classes))
    side = cut.size // cut.stride

    def tiles(images: Tensor) -> Tensor:
        return predictor.scores(images).float().softmax(dim=1)[:, :, None, None].expand(-1, -1, side, side)

    return Field(tiles, predictor.channels, predictor.size, len(predictor.classes), cut.stride)


def classify_cut(size: int, overlap: int | None, batch: int) -> Cut:
    """Tiles side by side, or overlapping ones that begin at every tile of a map that is finer. ConfigError."""
    stride = size - (overlap or 0)
    if stride < 1 or size % stride:
        fitting = [size - size // n for n in (1, 2, 3, 4, 8) if size % n == 0]
        raise ConfigError(f"--overlap of tiles of {size} pixels may be {', '.join(map(str, fitting))}")
    return Cut(size, size - stride, batch)


def map_classes(
    predictors: Sequence[ScorePredictor],
    config: PredictConfig,
    model: str,
    *,
    resume: bool = False,
    overwrite: bool = False,
    quiet: bool = False,
) -> SceneResult:
    """Write the class map of a scene, or its polygons, to ``config.out``; probabilities beside it on demand.

    One predictor for each device. ``model`` tells one model from another, so that maps of two are not mixed when work
    is resumed. Raises UserError subclasses.
    """
    clock, out, first = Clock(), _out(config, RASTERS + tuple(DRIVERS)), predictors[0]
    job = open_job(config, first.channels, getattr(first, "bands", None))
    scene, area = job.scene, job.area
    cut = (classify_cut if first.task == "classify" else cut_for)(first.size, config.overlap, config.batch_size)
    wanted = _wanted(first.classes, config.only)
    fields = [score_field(p, cut) for p in predictors]
    colours = getattr(first, "colours", None) or maps.palette(first.classes)  # some models carry those of their data
    refuse_parts_of_cells(area, fields[0].cell)
    refuse_empty(scene, area)
    about = about_work(job, cut, model) | {"probabilities": str(config.probabilities)}
    more = [out.with_name(f"{out.stem}.probabilities.tif")] if config.probabilities else []
    refuse_source(scene, [out, *more, preview_path(out)])
    parts = prepare_parts(out, about, resume=resume, overwrite=overwrite)
    with locked(parts), ProgressLine("mapping", quiet=quiet) as line:
        grid = maps.grid_of(scene, area, fields[0].cell)
        classes = Canvas(parts, maps.class_layer(first.classes, colours), grid)
        canvases: list[tuple[Canvas, maps.Pixels]] = [(classes, maps.class_pixels)]
        if config.probabilities:
            layer = maps.probability_layer(first.classes)
            canvases.append((Canvas(parts, layer, grid), maps.probability_pixels(fields[0])))
        maps.fill(maps.Work(scene, area, fields, cut, parts), canvases, clock, line)
        labels = small(classes)
        objects = None
        if out.suffix.lower() in DRIVERS:
            features = class_polygons(
                classes.vrt, first.classes, wanted, simplify=config.simplify, least=config.min_pixels
            )
            objects = len(features.polygons)
            write_features(out, parts, out.stem, features, scene.crs if scene.placed else None)
        else:
            classes.finish(out, threads())
        for (canvas, _), path in zip(canvases[1:], more, strict=True):
            canvas.finish(path, threads())
        class_preview(preview_path(out), scene, area, labels, first.classes, colours)
    shutil.rmtree(parts)
    return result_of(job, clock, [out, *more, preview_path(out)], objects)


def search(
    predictors: Sequence[BoxPredictor], config: PredictConfig, *, parts: Path | None = None, quiet: bool = False
) -> tuple[Job, Found, Clock]:
    """The boxes of a scene; with ``parts``, finished rows of windows are kept there and not searched again."""
    clock, first = Clock(), predictors[0]
    job = open_job(config, first.channels, getattr(first, "bands", None))
    cut = cut_for(first.size, config.overlap, config.batch_size)
    refuse_empty(job.scene, job.area)
    task = Search(job.scene, job.area, cut, config.min_score, config.merge_iou, parts)
    with ProgressLine("searching", quiet=quiet) as line:
        found = find_boxes(predictors, task, clock, line)
    return job, found, clock


def map_boxes(
    predictors: Sequence[BoxPredictor],
    config: PredictConfig,
    model: str,
    writers: Mapping[str, Writer],
    *,
    resume: bool = False,
    overwrite: bool = False,
    quiet: bool = False,
) -> SceneResult:
    """Write the boxes of a scene as polygons with class and score, or as ``writers`` do for other endings; see
    ``map_classes``."""
    first = predictors[0]
    out = _out(config, (*DRIVERS, *writers))
    job = open_job(config, first.channels, getattr(first, "bands", None))
    cut = cut_for(first.size, config.overlap, config.batch_size)
    about = about_work(job, cut, model) | {"min_score": str(config.min_score)}
    refuse_source(job.scene, [out, preview_path(out)])
    parts = prepare_parts(out, about, resume=resume, overwrite=overwrite)
    with locked(parts):
        job, found, clock = search(predictors, config, parts=parts, quiet=quiet)
        suffix = out.suffix.lower()
        if suffix in writers:
            writers[suffix](out, found, job.scene, first.classes)
        else:
            names = np.array([*first.classes], dtype=object)[found.labels]
            polygons = corner_polygons(found.corners(), job.scene.transform)
            features = Features(polygons, {"class": names, "score": found.scores})
            write_features(out, parts, out.stem, features, job.scene.crs if job.scene.placed else None)
        box_preview(preview_path(out), job.scene, job.area, found, first.classes)
    shutil.rmtree(parts)
    return result_of(job, clock, [out, preview_path(out)], len(found.scores))


def result_of(job: Job, clock: Clock, made: list[Path], objects: int | None) -> SceneResult:
    """What is told of finished work."""
    seconds = clock.seconds
    outside = max(0.0, 1 - clock.network / seconds) if seconds else 0.0
    megapixels = job.area.width * job.area.height / 1e6
    return SceneResult(made, megapixels, seconds, clock.windows, outside, job.scene.limits, objects, job.notes)


def small(canvas: Canvas) -> NDArray:
    """The first band of a raster, shrunk to the size of a preview by the nearest pixel."""
    scale = min(1.0, SIDE / max(canvas.grid.width, canvas.grid.height))
    shape = max(1, round(canvas.grid.height * scale)), max(1, round(canvas.grid.width * scale))
    with opened(canvas.vrt) as raster:
        return raster.read(1, out_shape=shape)


def threads() -> int:
    """Threads that may compress a file."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def about_work(job: Job, cut: Cut, model: str) -> dict[str, str]:
    """What decides a result, beside its file: work that was stopped goes on only with the same."""
    stat = job.scene.path.stat()
    return {
        "image": f"{job.scene.path.resolve()} {stat.st_size} {stat.st_mtime_ns}",
        "area": " ".join(map(str, job.area)),
        "bands": " ".join(map(str, job.scene.bands)),
        "range": str(job.scene.limits),
        "nodata": str(job.scene.nodata),
        "overlap": str(cut.overlap),
        "model": model,
    }


def refuse_source(scene: Scene, made: Sequence[Path]) -> None:
    """ConfigError where one of the files that will be written is the scene itself."""
    for path in made:
        if path.exists() and path.samefile(scene.path):
            raise ConfigError(f"{path} is the scene itself, which would be lost: name another --out")


def refuse_parts_of_cells(area: Area, cell: int) -> None:
    """ConfigError for an area that begins within a patch or tile."""
    if area.x % cell or area.y % cell:
        raise ConfigError(f"--area must begin at multiples of {cell} pixels, the side of a value of the result")


def refuse_empty(scene: Scene, area: Area) -> None:
    """DataError where no pixel of an area has data."""
    with scene.reader() as read:
        for y in range(area.y, area.y + area.height, _LINES):
            lines = min(_LINES, area.y + area.height - y)
            if not read(Area(area.x, y, area.width, lines), None)[1].all():
                return
    raise DataError(f"{scene.path}: no pixel of it has data; if that is not so, set --nodata")


def _out(config: PredictConfig, endings: Sequence[str]) -> Path:
    """The file to write. ConfigError for an ending that this task does not write."""
    if config.out is None or config.out.suffix.lower() not in endings:
        raise ConfigError(f"--out must be a file that ends in {' '.join(endings)}, got {config.out}")
    return config.out


def _wanted(classes: Sequence[str], only: Sequence[str] | None) -> list[int]:
    """Numbers of the classes that become polygons. ConfigError for a name that is none."""
    if only is None:
        return [number for number, name in enumerate(classes) if not maps.is_background(name)]
    unknown = [name for name in only if name not in classes]
    if unknown:
        raise ConfigError(f"--only {unknown[0]}: the model knows {', '.join(classes)}")
    return [number for number, name in enumerate(classes) if name in only]
