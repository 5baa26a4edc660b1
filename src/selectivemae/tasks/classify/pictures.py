"""Pictures of an evaluation: the confusion matrix, and a sheet of the most confident mistakes."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from selectivemae.core.order import Int64
from selectivemae.data.reading import read_images
from selectivemae.data.stores import Store
from selectivemae.tasks.classify.metrics import Figures
from selectivemae.tasks.common import png

_THUMBNAIL = 160  # pixels
_COLUMNS = 6
_NUMBERED = 30  # classes up to which the cells of the matrix carry their number


def confusion_picture(found: Figures) -> bytes:
    """PNG of the confusion matrix: rows are labels, columns predictions, cells percent of the row."""
    count = len(found.classes)
    total = np.maximum(found.confusion.sum(axis=1, keepdims=True), 1)
    share = 100.0 * found.confusion / total
    side = max(4.0, 0.32 * count + 2.5)
    figure = Figure(figsize=(side + 1, side), layout="constrained")
    axes = figure.subplots()
    shown = axes.imshow(share, cmap="Blues", vmin=0, vmax=100)
    axes.set_xticks(range(count), found.classes, rotation=90, fontsize=7)
    axes.set_yticks(range(count), found.classes, fontsize=7)
    axes.set(xlabel="taken for", ylabel="is", title=f"OA {found.oa:.2f} %, AA {found.aa:.2f} %, {found.images} images")
    for row, column in np.argwhere(found.confusion > 0) if count <= _NUMBERED else ():
        value = share[row, column]
        colour = "white" if value > 60 else "black"
        axes.text(column, row, f"{value:.0f}", ha="center", va="center", fontsize=6, color=colour)
    figure.colorbar(shown, label="percent of the images of the class", shrink=0.8)
    return png(figure)


def mistakes_picture(
    store: Store,
    index: Int64,
    scores: NDArray[np.float32],
    label: Int64,
    classes: Sequence[str],
    channels: int,
) -> bytes:
    """PNG of images (N,) of a store with their scores (N, K) and true labels (N,), in the order given."""
    rows = -(-len(index) // _COLUMNS)
    figure = Figure(figsize=(2.1 * _COLUMNS, 2.5 * rows), layout="constrained")
    grid: list[Axes] = list(figure.subplots(rows, _COLUMNS, squeeze=False).ravel())
    for axes in grid:
        axes.axis("off")
    for images, places, _ in read_images(store, index, _THUMBNAIL, channels):
        for image, place in zip(images, places, strict=True):
            score = scores[place]
            said = int(score.argmax())
            grid[place].imshow(image[:3].transpose(1, 2, 0) if channels >= 3 else image[0], cmap="gray")
            title = f"{classes[said]} {100 * score[said]:.0f} %\nis {classes[int(label[place])]}"
            grid[place].set_title(title, fontsize=8)
    return png(figure)
