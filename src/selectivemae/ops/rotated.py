"""Rotated boxes (cx, cy, w, h, θ) in pixels and radians: geometry, exact IoU, suppression and the two coders.

Legend: N, M boxes; P pairs. Image axes: x to the right, y down, so a positive θ turns clockwise on the screen.
"le90" is the convention w > h, θ in [-π/2, π/2). Plain torch on any device; geometry is computed in float64.
"""

import math

import torch
from torch import Tensor

from selectivemae.ops import boxes as upright

MIDPOINT_STDS = (1.0, 1.0, 1.0, 1.0, 0.5, 0.5)
ROTATED_STDS = (0.1, 0.1, 0.2, 0.2, 0.1)
_TOUCH = 0.1  # pixels within which a corner counts as lying on the hull's edge (the published coder's tolerance)
_PAIRS = 1 << 16  # pairs of boxes intersected at a time: bounds memory, fits the cache


def wrap_angle(angle: Tensor) -> Tensor:
    """Angles modulo π, in [-π/2, π/2)."""
    half = math.pi / 2
    wrapped = torch.remainder(angle + half, math.pi) - half
    return torch.where(wrapped >= half, wrapped - math.pi, wrapped)  # a rounded remainder may equal π itself


def le90(boxes: Tensor) -> Tensor:
    """The same rectangles (..., 5) written with w > h and θ in [-π/2, π/2); a square is turned by π/2 as well."""
    centre, w, h, angle = boxes[..., :2], boxes[..., 2], boxes[..., 3], boxes[..., 4]
    swap = ~(w > h)
    long, short = torch.where(swap, h, w), torch.where(swap, w, h)
    angle = wrap_angle(torch.where(swap, angle + math.pi / 2, angle))
    return torch.cat((centre, torch.stack((long, short, angle), dim=-1)), dim=-1)


def corners(boxes: Tensor) -> Tensor:
    """Corners (..., 4, 2) of boxes (..., 5): c + u + v, c + u - v, c - u - v, c - u + v with u along w, v along h."""
    cos, sin = boxes[..., 4].cos(), boxes[..., 4].sin()
    u = torch.stack((cos, sin), dim=-1) * boxes[..., 2:3] / 2
    v = torch.stack((-sin, cos), dim=-1) * boxes[..., 3:4] / 2
    c = boxes[..., :2]
    return torch.stack((c + u + v, c + u - v, c - u - v, c - u + v), dim=-2)


def hull(boxes: Tensor) -> Tensor:
    """The smallest upright boxes (..., 4) around rotated boxes (..., 5)."""
    cos, sin = boxes[..., 4].cos().abs(), boxes[..., 4].sin().abs()
    half_w, half_h = boxes[..., 2] / 2, boxes[..., 3] / 2
    half = torch.stack((half_w * cos + half_h * sin, half_w * sin + half_h * cos), dim=-1)
    return torch.cat((boxes[..., :2] - half, boxes[..., :2] + half), dim=-1)


def from_upright(boxes: Tensor) -> Tensor:
    """Rotated boxes (..., 5) with θ = 0 of upright boxes (..., 4)."""
    centre, side = upright.centre_size(boxes)
    return torch.cat((centre, side, torch.zeros_like(side[..., :1])), dim=-1)


def from_quads(quads: Tensor) -> Tensor:
    """Minimum-area rectangles (..., 5), le90, around quadrilaterals (..., 4, 2) with corners in any order.

    A minimum-area rectangle has a side on an edge of the convex hull (Freeman & Shapira 1975). Every hull edge is
    one of the six lines through two corners and no other line does better, so trying these six is exact.
    """
    points = quads.double()
    origin = points.mean(dim=-2, keepdim=True)
    points = points - origin
    first, second = [0, 1, 2, 3, 0, 1], [1, 2, 3, 0, 2, 3]
    line = points[..., second, :] - points[..., first, :]
    length = line.norm(dim=-1, keepdim=True)
    fallback = line.new_tensor([1.0, 0.0])
    u = torch.where(length > 0, line / length.clamp(min=1e-300), fallback)
    v = torch.stack((-u[..., 1], u[..., 0]), dim=-1)
    axes = torch.stack((u, v), dim=-2)  # (..., 6, 2, 2)
    along = torch.einsum("...lad,...pd->...lap", axes, points)
    low, high = along.amin(dim=-1), along.amax(dim=-1)  # (..., 6, 2)
    size = high - low
    cost = torch.where(length[..., 0] > 0, size.prod(dim=-1), math.inf)  # two equal corners span no line
    best = cost.argmin(dim=-1)
    pick = best[..., None, None].expand(*best.shape, 1, 2)
    side, middle = size.gather(-2, pick)[..., 0, :], ((low + high) / 2).gather(-2, pick)[..., 0, :]
    axis = axes.gather(-3, pick[..., None].expand(*best.shape, 1, 2, 2))[..., 0, :, :]
    centre = origin[..., 0, :] + (middle[..., None] * axis).sum(dim=-2)
    angle = torch.atan2(axis[..., 0, 1], axis[..., 0, 0])
    return le90(torch.cat((centre, side, angle[..., None]), dim=-1)).to(quads.dtype)


def resize(boxes: Tensor, scale_x: float, scale_y: float) -> Tensor:
    """Boxes (..., 5) in an image whose sides were multiplied by the two scales.

    The w-axis is followed exactly; with unequal scales the true shape is a parallelogram, and h is the length
    of its other side.
    """
    cos, sin = boxes[..., 4].cos(), boxes[..., 4].sin()
    x, y = boxes[..., 0] * scale_x, boxes[..., 1] * scale_y
    w = boxes[..., 2] * torch.hypot(scale_x * cos, scale_y * sin)
    h = boxes[..., 3] * torch.hypot(scale_x * sin, scale_y * cos)
    return torch.stack((x, y, w, h, torch.atan2(scale_y * sin, scale_x * cos)), dim=-1)


def intersection(a: Tensor, b: Tensor) -> Tensor:
    """Exact areas (P,) float64 of the intersections of rotated boxes (P, 5) and (P, 5), pair by pair.

    In b's own frame, b is [-W, W] x [-H, H]. Each vertical line cuts the convex a in [y0, y1], and the part inside b
    is as long as clamp(y1) - clamp(y0); so by Green's theorem the area is the integral of clamp(y, -H, H) dx
    around a, over the part of every edge with |x| <= W. It is a continuous function of its input: touching, nested,
    identical and empty boxes need no special case, nothing is sorted, and the error is of the order of rounding.
    """
    a, b = a.double(), b.double()
    W, H = b[:, 2, None].clamp(min=0) / 2, b[:, 3, None].clamp(min=0) / 2
    cos, sin = b[:, 4].cos(), b[:, 4].sin()
    dx, dy = a[:, 0] - b[:, 0], a[:, 1] - b[:, 1]
    local = torch.stack((dx * cos + dy * sin, dy * cos - dx * sin, *a[:, 2:4].unbind(1), a[:, 4] - b[:, 4]), dim=1)
    x, y = corners(local).unbind(-1)  # (P, 4)
    run, rise = x.roll(-1, 1) - x, y.roll(-1, 1) - y
    safe = torch.where(run == 0, 1.0, run)  # a vertical edge adds nothing, whatever its limits
    enter, leave = ((-W - x) / safe).clamp(0, 1), ((W - x) / safe).clamp(0, 1)
    enter, leave = torch.minimum(enter, leave), torch.maximum(enter, leave)
    y0, y1 = y + enter * rise, y + leave * rise
    c0, c1 = torch.minimum(torch.maximum(y0, -H), H), torch.minimum(torch.maximum(y1, -H), H)
    # Of the way from y0 to y1, a part runs outside b before the sloped middle (clamped to c0), a part after it (c1).
    span = torch.where(y1 == y0, 1.0, y1 - y0)
    before, after = ((c0 - y0) / span).clamp(0, 1), ((y1 - c1) / span).clamp(0, 1)
    mean = before * c0 + after * c1 + (1 - before - after) * (c0 + c1) / 2
    return (run * (leave - enter) * mean).sum(dim=1).abs()


def iou_pairs(a: Tensor, b: Tensor) -> Tensor:
    """Exact IoU (P,) of rotated boxes (P, 5) and (P, 5), pair by pair; 0 where a box has no area."""
    parts = [intersection(i, j) for i, j in zip(a.split(_PAIRS), b.split(_PAIRS), strict=True)]
    inter = torch.cat(parts) if parts else a.new_zeros(0, dtype=torch.float64)
    areas = a[:, 2:4].double().clamp(min=0).prod(dim=1), b[:, 2:4].double().clamp(min=0).prod(dim=1)
    inter = torch.minimum(inter, torch.minimum(*areas))
    union = areas[0] + areas[1] - inter
    return torch.where(union > 0, inter / union, 0.0).to(a.dtype)


def iou(a: Tensor, b: Tensor) -> Tensor:
    """Exact IoU (N, M) of rotated boxes (N, 5) and (M, 5); only pairs whose upright hulls meet are worked out."""
    return _iou_where(a, b, _hulls_meet(a, b))


def nms(boxes: Tensor, scores: Tensor, threshold: float, groups: Tensor | None = None) -> Tensor:
    """Greedy suppression of rotated boxes (N, 5) by exact IoU > ``threshold``; see ``ops.boxes.nms``."""
    size = boxes[:, 2:4].double().clamp(min=0).prod(dim=1)

    def overlaps(i: Tensor, j: Tensor) -> Tensor:
        first, second = size[i, None], size[None, j]
        # IoU is at most the ratio of the areas, which spares pairs of very unequal boxes.
        possible = torch.minimum(first, second) > threshold * torch.maximum(first, second)
        return _iou_where(boxes[i], boxes[j], possible & _hulls_meet(boxes[i], boxes[j])) > threshold

    return upright.suppress(overlaps, scores, groups)


def encode_midpoint(anchors: Tensor, boxes: Tensor, stds: tuple[float, ...] = MIDPOINT_STDS) -> Tensor:
    """Deltas (N, 6) that turn upright anchors (N, 4) into rotated boxes (N, 5): the hull's four, then where the top
    and the right corner lie on the hull's edges, as offsets from the middle in units of the edge.

    Of two corners on an edge (an upright box), the one with larger x, respectively y, is meant.
    Source: Oriented R-CNN (Xie et al. 2021), section 3.1.
    """
    around = hull(boxes)
    centre, side = upright.centre_size(around)
    x, y = corners(boxes).unbind(-1)
    low = torch.finfo(boxes.dtype).min
    top = torch.where(y - around[:, 1:2] <= _TOUCH, x, low).amax(dim=1)
    right = torch.where(around[:, 2:3] - x <= _TOUCH, y, low).amax(dim=1)
    offsets = (torch.stack((top, right), dim=1) - centre) / side
    return torch.cat((upright.encode(anchors, around), offsets), dim=1) / boxes.new_tensor(stds)


def decode_midpoint(anchors: Tensor, deltas: Tensor, stds: tuple[float, ...] = MIDPOINT_STDS) -> Tensor:
    """Inverse of ``encode_midpoint``: rotated boxes (N, 5), le90, from anchors (N, 4) and deltas (N, 6).

    The four points are a parallelogram; each is moved out from the centre to the longer half-diagonal, which makes
    a rectangle. Not clipped to the image.
    """
    deltas = deltas * deltas.new_tensor(stds)
    centre, side = upright.centre_size(upright.decode(anchors, deltas[:, :4]))
    a, b = deltas[:, 4:].clamp(-0.5, 0.5).unbind(1)
    half = torch.full_like(a, 0.5)
    top, right = torch.stack((a, -half), dim=1) * side, torch.stack((half, b), dim=1) * side
    reach = torch.maximum(top.norm(dim=1), right.norm(dim=1))[:, None]
    tiny = torch.finfo(deltas.dtype).tiny
    top = top * (reach / top.norm(dim=1, keepdim=True).clamp(min=tiny))
    right = right * (reach / right.norm(dim=1, keepdim=True).clamp(min=tiny))
    first, second = right - top, -top - right  # edges top -> right and right -> bottom
    angle = torch.atan2(first[:, 1], first[:, 0])
    return le90(torch.stack((*centre.unbind(1), first.norm(dim=1), second.norm(dim=1), angle), dim=1))


def encode_rotated(rois: Tensor, boxes: Tensor, stds: tuple[float, ...] = ROTATED_STDS) -> Tensor:
    """Deltas (N, 5) that turn rotated RoIs (N, 5) into rotated boxes (N, 5), in the RoI's own frame.

    Of the two ways to write a box (angle, or angle + π/2 with swapped sides) the one that turns less is aimed at.
    """
    boxes = le90(boxes)
    cos, sin = rois[:, 4].cos(), rois[:, 4].sin()
    gap = boxes[:, :2] - rois[:, :2]
    dx = (cos * gap[:, 0] + sin * gap[:, 1]) / rois[:, 2]
    dy = (cos * gap[:, 1] - sin * gap[:, 0]) / rois[:, 3]
    straight, turned = wrap_angle(boxes[:, 4] - rois[:, 4]), wrap_angle(boxes[:, 4] - rois[:, 4] + math.pi / 2)
    keep = straight.abs() < turned.abs()
    w, h = torch.where(keep, boxes[:, 2], boxes[:, 3]), torch.where(keep, boxes[:, 3], boxes[:, 2])
    angle = torch.where(keep, straight, turned)
    deltas = torch.stack((dx, dy, (w / rois[:, 2]).log(), (h / rois[:, 3]).log(), angle), dim=1)
    return deltas / deltas.new_tensor(stds)


def decode_rotated(
    rois: Tensor, deltas: Tensor, image_size: tuple[int, int] | None = None, stds: tuple[float, ...] = ROTATED_STDS
) -> Tensor:
    """Inverse of ``encode_rotated``: boxes (N, 5), le90; centres are kept inside an image of (height, width)."""
    dx, dy, dw, dh, turn = (deltas * deltas.new_tensor(stds)).unbind(1)
    cx, cy, w, h, angle = rois.unbind(1)
    cos, sin = angle.cos(), angle.sin()
    x = cx + dx * w * cos - dy * h * sin
    y = cy + dx * w * sin + dy * h * cos
    if image_size is not None:
        x, y = x.clamp(0, image_size[1] - 1), y.clamp(0, image_size[0] - 1)
    limit = upright.MAX_LOG_RATIO
    w, h = w * dw.clamp(-limit, limit).exp(), h * dh.clamp(-limit, limit).exp()
    return le90(torch.stack((x, y, w, h, wrap_angle(angle + turn)), dim=1))


def _hulls_meet(a: Tensor, b: Tensor) -> Tensor:
    """Which pairs (N, M) bool have overlapping upright hulls."""
    first, second = hull(a), hull(b)
    low = torch.maximum(first[:, None, :2], second[None, :, :2])
    high = torch.minimum(first[:, None, 2:], second[None, :, 2:])
    return (low < high).all(dim=-1)


def _iou_where(a: Tensor, b: Tensor, wanted: Tensor) -> Tensor:
    """IoU (N, M), worked out where ``wanted`` (N, M) is true and 0 elsewhere."""
    i, j = wanted.nonzero(as_tuple=True)
    out = torch.zeros(len(a), len(b), dtype=a.dtype, device=a.device)
    out[i, j] = iou_pairs(a[i], b[j])
    return out
