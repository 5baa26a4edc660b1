"""Upright boxes (x1, y1, x2, y2) in pixels: IoU, non-maximum suppression, the delta coder, clipping.

Legend: N, M boxes; G groups. Image axes: x to the right, y down. Plain torch, any device, no gradients needed
except through ``decode``. Everything here is exact in the precision of its input.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

MAX_LOG_RATIO = abs(math.log(16 / 1000))  # decoded sides stay within 16/1000 and 1000/16 of the anchor's
_BLOCK = 256  # boxes settled at a time by suppression: bounds memory (block x kept) and the rounds within a block


def area(boxes: Tensor) -> Tensor:
    """Areas (...) of boxes (..., 4); an inverted box has area 0."""
    sides = (boxes[..., 2:] - boxes[..., :2]).clamp(min=0)
    return sides[..., 0] * sides[..., 1]


def iou(a: Tensor, b: Tensor) -> Tensor:
    """Intersection over union (N, M) of boxes (N, 4) and (M, 4); 0 where both areas are 0."""
    low = torch.maximum(a[:, None, :2], b[None, :, :2])
    high = torch.minimum(a[:, None, 2:], b[None, :, 2:])
    sides = (high - low).clamp(min=0)
    inter = sides[..., 0] * sides[..., 1]
    union = area(a)[:, None] + area(b)[None, :] - inter
    return torch.where(union > 0, inter / union, torch.zeros_like(inter))


def clip(boxes: Tensor, height: int, width: int) -> Tensor:
    """Boxes (..., 4) cut to the image [0, width] x [0, height]."""
    x = boxes[..., 0::2].clamp(0, width)
    y = boxes[..., 1::2].clamp(0, height)
    return torch.stack((x[..., 0], y[..., 0], x[..., 1], y[..., 1]), dim=-1)


def centre_size(boxes: Tensor) -> tuple[Tensor, Tensor]:
    """Centres (..., 2) and sides (..., 2), both x before y, of boxes (..., 4)."""
    return (boxes[..., :2] + boxes[..., 2:]) / 2, boxes[..., 2:] - boxes[..., :2]


def encode(anchors: Tensor, boxes: Tensor, stds: tuple[float, ...] = (1.0, 1.0, 1.0, 1.0)) -> Tensor:
    """Deltas (N, 4) = ((Δx/w, Δy/h, ln w'/w, ln h'/h) / stds) that turn anchors (N, 4) into boxes (N, 4).

    Both must have positive sides. Source: Faster R-CNN (Ren et al. 2015), equation 2.
    """
    anchor_centre, anchor_side = centre_size(anchors)
    centre, side = centre_size(boxes)
    deltas = torch.cat(((centre - anchor_centre) / anchor_side, (side / anchor_side).log()), dim=-1)
    return deltas / deltas.new_tensor(stds)


def decode(anchors: Tensor, deltas: Tensor, stds: tuple[float, ...] = (1.0, 1.0, 1.0, 1.0)) -> Tensor:
    """Inverse of ``encode``: boxes (..., 4) from anchors (..., 4) that broadcast against deltas (..., 4).

    The logarithms of the side ratios are clamped to ±``MAX_LOG_RATIO``. The result is not clipped to the image.
    """
    anchor_centre, anchor_side = centre_size(anchors)
    deltas = deltas * deltas.new_tensor(stds)
    centre = anchor_centre + anchor_side * deltas[..., :2]
    half = anchor_side * deltas[..., 2:].clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).exp() / 2
    return torch.cat((centre - half, centre + half), dim=-1)


def nms(boxes: Tensor, scores: Tensor, threshold: float, groups: Tensor | None = None) -> Tensor:
    """Greedy non-maximum suppression: indices (K,) int64 of the boxes that stay, best score first.

    A box (N, 4) goes when it overlaps an earlier kept one by IoU > ``threshold``; of equal scores (N,) the lower
    index counts as better. With ``groups`` (N,) int64, only boxes of one group suppress each other.
    """
    return suppress(lambda i, j: iou(boxes[i], boxes[j]) > threshold, scores, groups)


def suppress(overlaps: Callable[[Tensor, Tensor], Tensor], scores: Tensor, groups: Tensor | None = None) -> Tensor:
    """Greedy suppression under any overlap rule; the part that ``nms`` and rotated NMS share.

    ``overlaps`` takes indices (A,) and (B,) and says (A, B) bool which pairs exclude each other.
    """
    order = scores.argsort(descending=True, stable=True)
    if groups is None:
        return _suppress_in_order(overlaps, order)
    member = groups[order]
    kept = [_suppress_in_order(overlaps, order[member == group]) for group in member.unique().tolist()]
    chosen = torch.cat(kept) if kept else order
    rank = torch.empty_like(order)
    rank[order] = torch.arange(len(order), device=order.device)
    return chosen[rank[chosen].argsort()]


def _suppress_in_order(overlaps: Callable[[Tensor, Tensor], Tensor], order: Tensor) -> Tensor:
    """The indices of ``order`` (N,), best first, that no kept predecessor overlaps.

    Blocks of boxes are first held against all kept so far, then settled among themselves by iterating
    keep[j] = no kept i < j overlaps j. That system is triangular, so its fixed point is unique and is the greedy
    answer; it is reached after as many rounds as the longest chain of overlaps, without a loop over boxes.
    """
    kept = order[:0]
    for block in order.split(_BLOCK):
        if len(kept):
            block = block[~overlaps(kept, block).any(dim=0)]
        earlier = overlaps(block, block).triu(diagonal=1)
        keep = torch.ones(len(block), dtype=torch.bool, device=block.device)
        while True:
            settled = ~(earlier & keep[:, None]).any(dim=0)
            if torch.equal(settled, keep):
                break
            keep = settled
        kept = torch.cat((kept, block[keep]))
    return kept
