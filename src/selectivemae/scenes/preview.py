"""Small pictures of results: the scene with classes, boxes or values over it, and a legend."""

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from numpy.typing import NDArray

from selectivemae.core.files import atomic_write
from selectivemae.scenes.boxes import Found
from selectivemae.scenes.canvas import Colour
from selectivemae.scenes.maps import NOTHING, is_background, palette
from selectivemae.scenes.source import Scene
from selectivemae.scenes.windows import Area

SIDE = 1024  # of the longer side of the scene in the picture, in pixels
_DPI = 100
_SCORES = 200  # boxes that are drawn with their score: more would hide the scene
_LUMA = np.array([0.299, 0.587, 0.114])


def preview_path(out: Path) -> Path:
    """Where the picture of a result lies."""
    return out.with_name(out.stem + ".preview.png")


def class_preview(
    out: Path,
    scene: Scene,
    area: Area,
    labels: NDArray[np.uint8],
    classes: Sequence[str],
    shades: Sequence[Colour],
) -> None:
    """The scene tinted by a class map's values (h, w) of any size, background and no data left out; the legend says
    which share of the pixels with data each class has."""
    figure, axes = _scene_figure(scene, area)
    colours = np.array(shades, np.float64) / 255
    tinted = np.zeros((*labels.shape, 4))
    for number, name in enumerate(classes):
        if not is_background(name):
            tinted[labels == number] = [*colours[number], 0.5]
    axes.imshow(tinted, extent=_extent(area), interpolation="nearest")
    valid = max(int((labels != NOTHING).sum()), 1)
    shares = [100 * int((labels == number).sum()) / valid for number in range(len(classes))]
    entries = [
        Patch(color=tuple(colours[number]), label=f"{classes[number]} {shares[number]:.1f} %")
        for number in np.argsort(shares, kind="stable")[::-1]
        if shares[number] > 0
    ]
    _save(figure, axes, out, entries[:30])


def box_preview(out: Path, scene: Scene, area: Area, found: Found, classes: Sequence[str]) -> None:
    """The scene with boxes drawn in the colours of their classes, the scores of the best beside them; the legend
    counts them."""
    figure, axes = _scene_figure(scene, area)
    colours = np.array(palette(classes), np.float64) / 255
    if len(found.scores):
        width = 1.5 if len(found.scores) < 500 else 0.7
        axes.add_collection(
            PolyCollection(list(found.corners()), facecolors="none", edgecolors=colours[found.labels], linewidths=width)
        )
    _draw_scores(axes, area, found, colours)
    counts = np.bincount(found.labels, minlength=len(classes))
    entries = [
        Patch(color=tuple(colours[n]), label=f"{classes[n]}: {counts[n]}") for n in np.argsort(-counts) if counts[n]
    ]
    _save(figure, axes, out, entries[:30])


def _draw_scores(axes: Axes, area: Area, found: Found, colours: NDArray[np.float64]) -> None:
    """The scores of the best boxes beside their upper corners, within the picture."""
    for corners, score, label in list(zip(found.corners(), found.scores, found.labels, strict=True))[:_SCORES]:
        x, y = corners[corners[:, 1].argmin()] - (area.x, area.y)
        place = area.x + min(max(x, 0), area.width), area.y + min(max(y, 0), area.height)
        axes.text(
            *place,
            f"{score:.2f}",
            fontsize=5,
            color="black" if colours[label] @ _LUMA > 0.5 else "white",
            ha="right" if x > 0.94 * area.width else "left",
            va="top" if y < 0.03 * area.height else "bottom",
            bbox={"facecolor": colours[label], "edgecolor": "none", "pad": 0.6},
            clip_on=True,
        )


def value_preview(out: Path, scene: Scene, area: Area, values: NDArray[np.float32], title: str) -> None:
    """The scene in grey under values (h, w), NaN left out, with a colour bar."""
    figure, axes = _scene_figure(scene, area, grey=True)
    known = values[np.isfinite(values)]
    low, high = (float(known.min()), float(known.max())) if len(known) else (0.0, 1.0)
    shown = axes.imshow(values, extent=_extent(area), alpha=0.6, norm=Normalize(low, high), interpolation="nearest")
    figure.colorbar(shown, ax=axes, label=title, shrink=0.8)
    _save(figure, axes, out, [])


def _scene_figure(scene: Scene, area: Area, grey: bool = False) -> tuple[Figure, Axes]:
    """A figure with an area of the scene, axes in its pixels."""
    scale = min(1.0, SIDE / max(area.width, area.height))
    shape = max(1, round(area.height * scale)), max(1, round(area.width * scale))
    with scene.reader() as read:
        pixels, _ = read(area, shape)
    first = pixels[:3] if len(pixels) >= 3 and not grey else np.repeat(pixels.mean(axis=0)[None], 3, axis=0)
    figure = Figure(figsize=(max(shape[1], 200) / _DPI + 2.4, max(shape[0], 200) / _DPI + 0.4), layout="constrained")
    axes = figure.subplots()
    axes.imshow(np.moveaxis(first, 0, -1).astype(np.uint8), extent=_extent(area), interpolation="nearest")
    axes.set_axis_off()
    return figure, axes


def _extent(area: Area) -> tuple[float, float, float, float]:
    return area.x, area.x + area.width, area.y + area.height, area.y


def _save(figure: Figure, axes: Axes, out: Path, entries: Sequence[Patch]) -> None:
    if entries:
        axes.legend(handles=list(entries), loc="upper left", bbox_to_anchor=(1.0, 1.0), fontsize=8, frameon=False)
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=_DPI)
    atomic_write(out, file.getvalue())
