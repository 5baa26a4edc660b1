"""Pictures of detection: boxes drawn on images, a sheet of examples, precision-recall curves."""

from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from selectivemae.core.errors import DataError, DecodeError
from selectivemae.data.decode import decode
from selectivemae.ops import rotated
from selectivemae.tasks.average_precision import Curve
from selectivemae.tasks.boxes_common import Array, BoxSet, Detections, Labelled, no_detections
from selectivemae.tasks.common import png

UInt8 = NDArray[np.uint8]

SHOWN = 0.3  # score from which detections are drawn on the sheet of examples
_SIDE, _EXAMPLES = 480, 6  # pixels of a picture on the sheet, and how many rows it has
_LUMA = (0.299, 0.587, 0.114)
_SCORED = 60  # boxes of a picture up to which their scores are written: more would hide it
_LEGEND = 24  # classes up to which a sheet or plot names them


def class_colour(label: int) -> tuple[int, int, int]:
    """The colour of a class, the same in every picture."""
    r, g, b, _ = matplotlib.colormaps["tab20"]((label * 2) % 20 + (label // 10) % 2)
    return round(255 * r), round(255 * g), round(255 * b)


def _shade(label: int) -> tuple[float, float, float]:
    r, g, b = class_colour(label)
    return r / 255, g / 255, b / 255


def draw_boxes(
    pixels: UInt8, boxes: Array, labels: Sequence[int], scores: Sequence[float] | None = None, scale: float = 1.0
) -> UInt8:
    """Pixels (H, W, 3) with the outlines of boxes (N, 4) or (N, 5), times ``scale``, in the colours of their classes;
    with ``scores`` each has its score beside its upper corner."""
    image = Image.fromarray(pixels)
    pen = ImageDraw.Draw(image)
    table = torch.from_numpy(np.asarray(boxes, np.float64))
    quads = rotated.corners(rotated.from_upright(table) if table.shape[-1] == 4 else table).numpy() * scale
    for number, (quad, label) in enumerate(zip(quads, labels, strict=True)):
        colour = class_colour(int(label))
        points = [(float(x), float(y)) for x, y in quad]
        pen.line([*points, points[0]], fill=colour, width=2)
        if scores is not None:
            x, y = min(points, key=lambda p: p[1])
            text, place = f"{scores[number]:.2f}", (min(max(x, 0), image.width - 24), max(y - 11, 0))
            pen.rectangle(pen.textbbox(place, text), fill=colour)
            pen.text(place, text, fill="black" if np.dot(colour, _LUMA) > 128 else "white")
    return np.asarray(image)


def examples_picture(data: BoxSet, predictions: Mapping[str, Detections]) -> bytes:
    """PNG sheet of some images that have objects: on the left what is there, on the right what was found with a score
    of at least ``SHOWN``. Images that cannot be read are passed over."""
    filled = [item for item in data if len(item.boxes)]
    chosen = [filled[i] for i in np.unique(np.linspace(0, len(filled) - 1, min(len(filled), _EXAMPLES)).astype(int))]
    rows = []
    for item in chosen:
        found = predictions.get(item.id, no_detections(item.boxes.shape[1]))
        sure = found.scores >= SHOWN
        try:
            pixels, scale = _thumbnail(item)
        except (DecodeError, OSError):
            continue
        truth = draw_boxes(pixels, item.boxes, item.labels.tolist(), scale=scale)
        scores = found.scores[sure].tolist() if sure.sum() <= _SCORED else None
        said = draw_boxes(pixels, found.boxes[sure], found.labels[sure].tolist(), scores, scale)
        rows.append((item.id, truth, said))
    figure = Figure(figsize=(10, 5.2 * max(len(rows), 1)), layout="constrained")
    grid = figure.subplots(max(len(rows), 1), 2, squeeze=False)
    for axes in grid.ravel():
        axes.axis("off")
    for (left, right), (id, truth, said) in zip(grid, rows, strict=False):
        left.imshow(truth)
        right.imshow(said)
        left.set_title(f"{id}: labels", fontsize=8)
        right.set_title(f"found, score at least {SHOWN}", fontsize=8)
    entries = [Patch(color=_shade(label), label=name) for label, name in enumerate(data.classes[:_LEGEND])]
    figure.legend(handles=entries, loc="outside upper center", ncols=5, fontsize=8, frameon=False)
    return png(figure)


def _thumbnail(item: Labelled) -> tuple[UInt8, float]:
    """The image (or its window) as RGB with its longer side at most ``_SIDE``, and the factor."""
    if item.image is None:
        raise DataError(f"{item.id}: only its labels were read")
    pixels = decode(item.image.read_bytes(), 3)
    if item.window:
        x, y, width, height = item.window
        pixels = pixels[y : y + height, x : x + width]
    scale = min(1.0, _SIDE / max(pixels.shape[:2]))
    size = max(1, round(pixels.shape[1] * scale)), max(1, round(pixels.shape[0] * scale))
    return np.asarray(Image.fromarray(pixels).resize(size)), scale


def curves_picture(curves: Mapping[str, Curve], definition: str) -> bytes:
    """PNG of precision against recall of every class that has objects, at the IoU that ``definition`` names."""
    figure = Figure(figsize=(7, 5), layout="constrained")
    axes = figure.subplots()
    drawn = 0
    for label, (name, curve) in enumerate(curves.items()):
        if curve.positives:
            area = f"{name} ({100 * curve.ap_area:.1f} %, {curve.positives})"
            axes.plot(curve.recall, curve.precision, label=area, color=_shade(label), linewidth=1.2)
            drawn += 1
    axes.set(xlabel="recall", ylabel="precision", xlim=(0, 1.01), ylim=(0, 1.01), title=definition)
    axes.grid(alpha=0.3)
    if 0 < drawn <= _LEGEND:
        axes.legend(fontsize=7, loc="lower left", title="class (AP by area, objects)", title_fontsize=7)
    return png(figure)
