"""Boxes of a scene: found window by window, merged where windows overlap.

OUT.parts/row-PLACE.npz    boxes of a finished row of windows: boxes, scores, labels, origin
"""

import io
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from selectivemae.core.files import atomic_write
from selectivemae.core.progress import ProgressLine
from selectivemae.ops import rotated
from selectivemae.scenes.seam import Boxes, BoxPredictor
from selectivemae.scenes.source import Scene
from selectivemae.scenes.stream import Clock, Cut, ahead, in_turns, read_windows
from selectivemae.scenes.windows import Area, Int64

Row = tuple[Tensor, Tensor, Tensor, Tensor]
"""Boxes (N, 4 or 5) and scores (N,) float64 in the scene's pixels, classes (N,), windows (N,) they were seen in."""


@dataclass(frozen=True)
class Found:
    """Boxes of a scene in its pixels, best first: (N, 4) x1, y1, x2, y2 or (N, 5) cx, cy, w, h, angle; scores (N,) and
    classes (N,)."""

    boxes: NDArray[np.float64]
    scores: NDArray[np.float64]
    labels: Int64

    def corners(self) -> NDArray[np.float64]:
        """Corners (N, 4, 2) in pixels."""
        return rotated.corners(_turned(torch.from_numpy(self.boxes))).numpy()


@dataclass(frozen=True)
class Search:
    """What is searched: an area of a scene by windows; least score, IoU of boxes that are one object, and a folder in
    which finished rows of windows are kept."""

    scene: Scene
    area: Area
    cut: Cut
    least_score: float
    threshold: float
    parts: Path | None = None


def find_boxes(predictors: Sequence[BoxPredictor], task: Search, clock: Clock, line: ProgressLine) -> Found:
    """All boxes whose centre lies in an area of a scene, by a predictor for each device.

    Of a window's boxes those count whose centre is at least a quarter of the overlap from its edges (but for the
    scene's own): a neighbour sees the others better. Of two boxes of a class from different windows that overlap by
    more than the threshold the better stays. An object is surely seen whole if it is no longer than half the overlap.
    """
    around = _grown(task.area, task.cut.size, task.scene)
    rows, columns = task.cut.starts(task.scene, around)
    done = {row: found for row in rows.tolist() if (found := _read_row(task.parts, row)) is not None}
    rest = np.array([row for row in rows.tolist() if row not in done], np.int64)
    functions = [partial(_boxes_of, predictor) for predictor in predictors]
    pieces: list[Row] = []
    with closing(ahead(read_windows(task.scene, task.cut, rest, columns))) as windows:
        for batch, answers in in_turns(functions, windows, clock):
            for column, answer in zip(batch.columns.tolist(), answers, strict=True):
                pieces.append(_placed(answer, column, batch.row, task))
            if batch.empty is not None:
                done[batch.row] = _joined(pieces)
                _write_row(task.parts, batch.row, done[batch.row])
                pieces = []
                line.update(len(done) / len(rows), f"{clock.windows} windows")
    boxes, scores, labels, origin = _joined([done[row] for row in rows.tolist()])
    kept = merge(boxes, scores, labels, origin, task.threshold)
    x, y = _turned(boxes[kept])[:, :2].T
    area = task.area
    kept = kept[(x >= area.x) & (x < area.x + area.width) & (y >= area.y) & (y < area.y + area.height)]
    return Found(boxes[kept].numpy(), scores[kept].numpy(), labels[kept].numpy())


def merge(boxes: Tensor, scores: Tensor, labels: Tensor, origin: Tensor, threshold: float) -> Tensor:
    """Indices (M,) of the boxes (N, 4 or 5) that stay, best first.

    Greedy suppression by IoU > ``threshold`` among boxes of one class (N,) and different ``origin`` (N,); of equal
    scores the upper one, then the left one, is better, so the order of the boxes does not matter.
    """
    import shapely

    if not len(scores):
        return torch.zeros(0, dtype=torch.int64)
    order = torch.from_numpy(np.lexsort((boxes[:, 0].numpy(), boxes[:, 1].numpy(), -scores.numpy())).copy())
    turned = _turned(boxes[order])
    hulls = np.asarray(shapely.box(*rotated.hull(turned).numpy().T))
    first, second = shapely.STRtree(hulls).query(hulls)
    group, window = labels[order].numpy(), origin[order].numpy()
    # Of each pair, and only once: the better one first.
    pairs = (first < second) & (group[first] == group[second]) & (window[first] != window[second])
    better, worse = torch.from_numpy(first[pairs]), torch.from_numpy(second[pairs])
    over = rotated.iou_pairs(turned[better], turned[worse]) > threshold
    stays = np.ones(len(order), bool)
    for best, other in sorted(zip(better[over].tolist(), worse[over].tolist(), strict=True)):
        if stays[best]:
            stays[other] = False
    return order[torch.from_numpy(stays)]


def _boxes_of(predictor: BoxPredictor, images: Tensor) -> list[Boxes]:
    return predictor.boxes(images) if len(images) else []


def _placed(answer: Boxes, column: int, row: int, task: Search) -> Row:
    """Those of a window's boxes that count, in the scene's pixels."""
    boxes, scores, labels = (part.detach().cpu() for part in answer)
    by = torch.tensor([column, row], dtype=torch.float64)
    boxes = boxes.double()
    boxes = torch.cat([boxes[:, :2] + by, boxes[:, 2:] + by if boxes.shape[1] == 4 else boxes[:, 2:]], dim=1)
    counts = scores >= task.least_score
    centres = _turned(boxes)[:, :2].T
    for centre, start, length in zip(centres, (column, row), (task.scene.width, task.scene.height), strict=True):
        low = -np.inf if start <= 0 else start + task.cut.overlap / 4
        high = np.inf if start + task.cut.size >= length else start + task.cut.size - task.cut.overlap / 4
        counts &= (centre >= low) & (centre < high)
    origin = torch.full((int(counts.sum()),), (row << 32) + column)
    return boxes[counts], scores[counts].double(), labels[counts].long(), origin


def _joined(pieces: Sequence[Row]) -> Row:
    """Several as one; empty ones may not know how many numbers a box has."""
    filled = [piece for piece in pieces if len(piece[1])] or list(pieces[:1])
    if not filled:
        nothing = torch.zeros(0, dtype=torch.int64)
        return torch.zeros((0, 4), dtype=torch.float64), nothing.double(), nothing, nothing
    boxes, scores, labels, origin = (torch.cat(values) for values in zip(*filled, strict=True))
    return boxes, scores, labels, origin


def _row_path(parts: Path, row: int) -> Path:
    return parts / f"row-{row:+010d}.npz"


def _write_row(parts: Path | None, row: int, found: Row) -> None:
    if parts is not None:
        file = io.BytesIO()
        boxes, scores, labels, origin = (value.numpy() for value in found)
        np.savez(file, boxes=boxes, scores=scores, labels=labels, origin=origin)
        atomic_write(_row_path(parts, row), file.getvalue())


def _read_row(parts: Path | None, row: int) -> Row | None:
    if parts is None or not _row_path(parts, row).is_file():
        return None
    with np.load(_row_path(parts, row)) as stored:
        boxes, scores, labels, origin = (
            torch.from_numpy(stored[name]) for name in ("boxes", "scores", "labels", "origin")
        )
    return boxes, scores, labels, origin


def _turned(boxes: Tensor) -> Tensor:
    """Boxes (N, 5), whichever kind they are."""
    return boxes if boxes.shape[1] == 5 else rotated.from_upright(boxes)


def _grown(area: Area, by: int, scene: Scene) -> Area:
    x, y = max(area.x - by, 0), max(area.y - by, 0)
    right, bottom = min(area.x + area.width + by, scene.width), min(area.y + area.height + by, scene.height)
    return Area(x, y, right - x, bottom - y)
