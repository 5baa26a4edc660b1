"""Boxes of a scene: found window by window, merged where windows overlap."""

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from selectivemae.core.progress import ProgressLine
from selectivemae.ops import rotated
from selectivemae.scenes.seam import Boxes, BoxPredictor
from selectivemae.scenes.source import Scene
from selectivemae.scenes.stream import Clock, Cut, ahead, in_turns, read_windows
from selectivemae.scenes.windows import Area, Int64


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

    def __getitem__(self, chosen: NDArray) -> "Found":
        return Found(self.boxes[chosen], self.scores[chosen], self.labels[chosen])


def find_boxes(
    scene: Scene,
    predictors: Sequence[BoxPredictor],
    cut: Cut,
    area: Area,
    clock: Clock,
    line: ProgressLine,
    *,
    least_score: float,
    threshold: float,
) -> Found:
    """All boxes whose centre lies in an area of a scene.

    Of a window's boxes those count whose centre is at least a quarter of the overlap from its edges (but for the
    scene's own): a neighbour sees the others better. Of two boxes of a class from different windows that overlap by
    IoU > ``threshold`` the better stays. An object is found whole if it is no longer than half the overlap.
    """
    around = _grown(area, cut.size, scene)
    rows, columns = cut.starts(scene, around)
    parts: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []

    def run(predictor: BoxPredictor, images: Tensor) -> list[Boxes]:
        return predictor.boxes(images) if len(images) else []

    with closing(ahead(read_windows(scene, cut, rows, columns))) as windows:
        for batch, answers in in_turns([lambda x, p=p: run(p, x) for p in predictors], windows, clock):
            for column, (boxes, scores, labels) in zip(batch.columns.tolist(), answers, strict=True):
                moved = _moved(boxes.detach().cpu().double(), column, batch.row)
                keep = _well_inside(moved, column, batch.row, cut, scene) & (scores.cpu() >= least_score)
                origin = torch.full((int(keep.sum()),), batch.row * (1 << 32) + column)
                parts.append((moved[keep], scores.cpu().double()[keep], labels.cpu().long()[keep], origin))
            if batch.last:
                share = (batch.row + cut.size - around.y) / (around.height + cut.size)
                line.update(
                    min(max(share, 0.0), 1.0), f"{sum(len(p[1]) for p in parts)} boxes, {clock.windows} windows"
                )
    if not parts:
        return Found(np.zeros((0, 4)), np.zeros(0), np.zeros(0, np.int64))
    boxes, scores, labels, origin = (torch.cat(values) for values in zip(*parts, strict=True))
    kept = merge(boxes, scores, labels, origin, threshold)
    x, y = _turned(boxes[kept])[:, :2].T
    kept = kept[(x >= area.x) & (x < area.x + area.width) & (y >= area.y) & (y < area.y + area.height)]
    return Found(boxes[kept].numpy(), scores[kept].numpy(), labels[kept].numpy())


def merge(boxes: Tensor, scores: Tensor, labels: Tensor, origin: Tensor, threshold: float) -> Tensor:
    """Indices (M,) of the boxes (N, 4 or 5) that stay, best first.

    Greedy suppression by IoU > ``threshold`` among boxes of one class (N,) and different ``origin`` (N,); of equal
    scores the upper one, then the left one, is better, so the order of the boxes does not matter.
    """
    import shapely

    order = torch.from_numpy(np.lexsort((boxes[:, 0].numpy(), boxes[:, 1].numpy(), -scores.numpy())).copy())
    turned = _turned(boxes[order])
    hulls = shapely.box(*rotated.hull(turned).numpy().T)
    first, second = shapely.STRtree(hulls).query(hulls) if len(hulls) else np.zeros((2, 0), np.int64)
    group, window = labels[order].numpy(), origin[order].numpy()
    # Of each pair, and only once: the better one first.
    pairs = (first < second) & (group[first] == group[second]) & (window[first] != window[second])
    better, worse = torch.from_numpy(first[pairs]), torch.from_numpy(second[pairs])
    over = (rotated.iou_pairs(turned[better], turned[worse]) > threshold).numpy()
    stays = np.ones(len(order), bool)
    pairs_in_turn = sorted(zip(better.numpy()[over].tolist(), worse.numpy()[over].tolist(), strict=True))
    for best, other in pairs_in_turn:
        if stays[best]:
            stays[other] = False
    return order[torch.from_numpy(stays)]


def _moved(boxes: Tensor, column: int, row: int) -> Tensor:
    """Boxes of a window in the scene's pixels."""
    by = boxes.new_tensor([column, row])
    return torch.cat([boxes[:, :2] + by, boxes[:, 2:] + by if boxes.shape[1] == 4 else boxes[:, 2:]], dim=1)


def _well_inside(boxes: Tensor, column: int, row: int, cut: Cut, scene: Scene) -> Tensor:
    """Which boxes (N,) have their centre a quarter of the overlap from the window's edges, but for the scene's own."""
    inside = torch.ones(len(boxes), dtype=torch.bool)
    centres = _turned(boxes)[:, :2].T
    for centre, start, length in zip(centres, (column, row), (scene.width, scene.height), strict=True):
        low = -np.inf if start <= 0 else start + cut.overlap / 4
        high = np.inf if start + cut.size >= length else start + cut.size - cut.overlap / 4
        inside &= (centre >= low) & (centre < high)
    return inside


def _turned(boxes: Tensor) -> Tensor:
    """Boxes (N, 5), whichever kind they are."""
    return boxes if boxes.shape[1] == 5 else rotated.from_upright(boxes)


def _grown(area: Area, by: int, scene: Scene) -> Area:
    x, y = max(area.x - by, 0), max(area.y - by, 0)
    right, bottom = min(area.x + area.width + by, scene.width), min(area.y + area.height + by, scene.height)
    return Area(x, y, right - x, bottom - y)
