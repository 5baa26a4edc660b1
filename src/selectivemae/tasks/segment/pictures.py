"""Pictures of an evaluation: image | truth | prediction, and the confusion matrix."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from numpy.typing import NDArray

from selectivemae.tasks.common import png
from selectivemae.tasks.segment.augment import nearest, resize
from selectivemae.tasks.segment.classes import IGNORED, Colour
from selectivemae.tasks.segment.metrics import Figures

UInt8 = NDArray[np.uint8]

_SIDE = 320  # pixels of a drawn image's longer side
_NUMBERED = 20  # classes up to which the cells of the matrix carry their number
_UNKNOWN: Colour = (128, 128, 128)


@dataclass(frozen=True)
class Shown:
    """One image of a sheet: pixels (H, W, C), class numbers (H, W) of the labels and predicted."""

    name: str
    pixels: UInt8
    label: UInt8
    predicted: UInt8

    def small(self) -> "Shown":
        """The same, no larger than it is drawn."""
        height, width = self.label.shape
        share = min(1.0, _SIDE / max(height, width))
        size = max(1, round(height * share)), max(1, round(width * share))
        return Shown(self.name, resize(self.pixels, *size), nearest(self.label, *size), nearest(self.predicted, *size))


def coloured(numbers: UInt8, colours: Sequence[Colour]) -> UInt8:
    """Class numbers (H, W) as colours (H, W, 3); grey where nothing is known."""
    table = np.full((256, 3), _UNKNOWN, np.uint8)
    table[: len(colours)] = colours
    return table[numbers]


def sheet_picture(shown: Sequence[Shown], classes: Sequence[str], colours: Sequence[Colour]) -> bytes:
    """PNG with a row for each image: the image, its labels, the prediction; a legend below."""
    figure = Figure(figsize=(10, 3.3 * len(shown) + 0.6), layout="constrained")
    grid = figure.subplots(len(shown), 3, squeeze=False)
    for row, one in zip(grid, shown, strict=True):
        views = [_as_seen(one.pixels), coloured(one.label, colours), coloured(one.predicted, colours)]
        for axes, view, title in zip(row, views, (one.name, "labels", "prediction"), strict=True):
            axes.imshow(view)
            axes.set_title(title, fontsize=8)
            axes.axis("off")
    legend = [Patch(color=_hex(c), label=name) for name, c in zip(classes, colours, strict=True)]
    if any((one.label == IGNORED).any() for one in shown):
        legend.append(Patch(color=_hex(_UNKNOWN), label="not labelled"))
    figure.legend(handles=legend, loc="outside lower center", ncols=min(6, len(legend)), fontsize=8)
    return png(figure, dpi=100)


def confusion_picture(found: Figures) -> bytes:
    """PNG of the confusion matrix: rows are labels, columns predictions, cells percent of the row's pixels."""
    count = len(found.classes)
    share = 100.0 * found.confusion / np.maximum(found.confusion.sum(axis=1, keepdims=True), 1)
    side = max(4.0, 0.45 * count + 2.5)
    figure = Figure(figsize=(side + 1, side), layout="constrained")
    axes = figure.subplots()
    shown = axes.imshow(share, cmap="Blues", vmin=0, vmax=100)
    axes.set_xticks(range(count), found.classes, rotation=90, fontsize=8)
    axes.set_yticks(range(count), found.classes, fontsize=8)
    axes.set(xlabel="taken for", ylabel="is", title=f"mIoU {found.miou:.2f} %, {found.images} images")
    for row, column in np.argwhere(found.confusion > 0) if count <= _NUMBERED else ():
        value = share[row, column]
        axes.text(column, row, f"{value:.0f}", ha="center", va="center", color="white" if value > 60 else "black")
    figure.colorbar(shown, label="percent of the pixels of the class", shrink=0.8)
    return png(figure, dpi=100)


def _as_seen(pixels: UInt8) -> UInt8:
    return pixels[..., :3] if pixels.shape[-1] >= 3 else np.repeat(pixels[..., :1], 3, axis=-1)


def _hex(colour: Colour) -> str:
    return "#{:02x}{:02x}{:02x}".format(*colour)
