"""Rasters of a scene: class maps, probabilities, features; made by rows of windows, continued where they stopped.

OUT.parts/
  about.json     what the map is made of
  done.json      finished rows of cells in each column of work
  NAME.raw ...   samples (``canvas``)
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from selectivemae.core.errors import ConfigError
from selectivemae.core.files import atomic_write
from selectivemae.core.progress import ProgressLine
from selectivemae.scenes.blend import unit_of
from selectivemae.scenes.canvas import BLOCK, Canvas, Colour, Grid, Layer
from selectivemae.scenes.seam import Field
from selectivemae.scenes.source import Scene, Transform
from selectivemae.scenes.stream import Clock, Cut, Rows, blended_rows
from selectivemae.scenes.windows import Area, panels

NOTHING = 255  # of class maps and probabilities
_STEPS = 254  # of a probability
_SUMS_BYTES = 120_000_000  # of a row of windows; wider scenes are worked on in columns
_DONE = "done.json"

Pixels = Callable[[Rows], NDArray[Any]]
"""What of finished rows goes into a raster: (bands, h, w)."""


def grid_of(scene: Scene, area: Area, cell: int = 1) -> Grid:
    """The grid of an area's cells in the scene's coordinates."""
    a, b, c, d, e, f = scene.transform
    x, y = area.x, area.y
    transform: Transform = (a * cell, b * cell, a * x + b * y + c, d * cell, e * cell, d * x + e * y + f)
    return Grid(-(-area.width // cell), -(-area.height // cell), scene.crs, transform)


def class_layer(classes: Sequence[str], colours: Sequence[Colour]) -> Layer:
    """The number of a class for each pixel, with colours; 255 is no data. ConfigError for more than 255 classes."""
    if len(classes) > NOTHING:
        raise ConfigError(f"maps of {len(classes)} classes cannot be written: a pixel is one byte, 255 means no data")
    tags = {"CLASSES": json.dumps(dict(enumerate(classes)), ensure_ascii=False)}
    return Layer(
        "classes", "uint8", ("class",), NOTHING, "MODE" if len(classes) > 2 else "NEAREST", colours, None, tags
    )


def probability_layer(classes: Sequence[str]) -> Layer:
    """A band for each class with its probability in steps of 1/254; 255 is no data."""
    return Layer("probabilities", "uint8", tuple(classes), NOTHING, "AVERAGE", scale=1 / _STEPS)


def value_layer(name: str, bands: Sequence[str], tags: dict[str, str]) -> Layer:
    """Bands of float32; NaN is no data."""
    return Layer(name, "float32", tuple(bands), float("nan"), "AVERAGE", tags=tags)


def class_pixels(rows: Rows) -> NDArray[np.uint8]:
    """The class of the largest blended value; of equal ones the first."""
    best = rows.sums.argmax(dim=0).to(torch.uint8).cpu().numpy()
    return np.where(rows.empty, np.uint8(NOTHING), best)[None]


def probability_pixels(which: Field) -> Pixels:
    """The blended probabilities of a field in steps of 1/254."""

    def pixels(rows: Rows) -> NDArray[np.uint8]:
        steps = np.rint(means(rows, which) * _STEPS).astype(np.uint8)
        return np.where(rows.empty, np.uint8(NOTHING), steps)

    return pixels


def value_pixels(which: Field) -> Pixels:
    """The blended values of a field, as they are."""

    def pixels(rows: Rows) -> NDArray[np.float32]:
        return np.where(rows.empty, np.float32(np.nan), means(rows, which))

    return pixels


def means(rows: Rows, which: Field) -> NDArray[np.float32]:
    """Weighted means (K, h, w) of the windows' values."""
    unit = unit_of(which.bound, wide=which.cell > 1)
    total = (rows.down[:, None] * rows.across[None, :]) * unit
    return (rows.sums.cpu().numpy() / total).astype(np.float32)


@dataclass(frozen=True)
class Work:
    """A scene's map that is to be made: its area by windows of a field on each device, in a folder of parts."""

    scene: Scene
    area: Area
    fields: Sequence[Field]
    cut: Cut
    parts: Path


def fill(work: Work, canvases: Sequence[tuple[Canvas, Pixels]], clock: Clock, line: ProgressLine) -> None:
    """Fill rasters with what blended rows say, going on from the rows that are done. Memory is bounded, whatever the
    scene's size."""
    cell, area = work.fields[0].cell, work.area
    columns = panels(area, _panel_width(work.fields[0]), _whole(BLOCK, cell))
    done = _read_done(work.parts, len(columns))
    height = canvases[0][0].grid.height
    megapixels = area.width * area.height / 1e6
    finished = sum(rows * panel.width for rows, panel in zip(done, columns, strict=True)) / (height * area.width)
    for number, panel in enumerate(columns):
        top = min(done[number] * cell, area.height)
        rest = Area(panel.x, area.y + top, panel.width, area.height - top)
        if not rest.height:
            continue
        for rows in blended_rows(work.scene, work.fields, work.cut, rest, clock):
            for canvas, pixels in canvases:
                canvas.write(rows.row - area.y // cell, (panel.x - area.x) // cell, pixels(rows))
            count = len(rows.down)
            done[number] += count
            atomic_write(work.parts / _DONE, json.dumps(done))
            finished += count * panel.width / (height * area.width)
            line.update(min(finished, 1.0), f"{megapixels:.4g} Mpx, {clock.windows} windows")


def _panel_width(which: Field) -> int:
    """Pixels of a row of windows whose sums fit into the memory they may take (held twice while rows are taken)."""
    cells = which.size // which.cell
    bytes_of_column = which.bands * cells * (4 if which.cell == 1 else 8)
    return max(_SUMS_BYTES // bytes_of_column, 1) * which.cell


def _whole(block: int, cell: int) -> int:
    """A multiple of the cell that is about a block."""
    return -(-block // cell) * cell


def _read_done(parts: Path, count: int) -> list[int]:
    file = parts / _DONE
    done = json.loads(file.read_text()) if file.is_file() else []
    return done if len(done) == count else [0] * count


def palette(classes: Sequence[str]) -> tuple[Colour, ...]:
    """A colour for each class: the first ones far from each other, background grey."""
    import matplotlib

    table = [matplotlib.colormaps[name](i)[:3] for name, n in (("tab10", 10), ("tab20b", 20)) for i in range(n)]
    colours = [table[i % len(table)] for i in range(len(classes))]
    rounded = [(round(255 * r), round(255 * g), round(255 * b)) for r, g, b in colours]
    return tuple((200, 200, 200) if is_background(name) else c for name, c in zip(classes, rounded, strict=True))


def is_background(name: str) -> bool:
    """Whether a class is what is left when all things are named."""
    return name.lower() in ("background", "other", "nothing")
