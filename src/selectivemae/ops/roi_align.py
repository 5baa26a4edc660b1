"""RoIAlign: features of upright or rotated boxes, pooled to a fixed grid by bilinear samples.

Legend: B images, C channels, H x W feature map, R regions, P output side. Plain torch with autograd to the features,
in float32 (float64 stays): every output bin is a weighted sum of feature vectors, so the whole is one ``embedding_bag``
over the map's pixels, which never stores the gathered samples. Boxes get no gradient, as is usual in two-stage
detectors.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from selectivemae.ops import rotated


def roi_align(
    features: Tensor, rois: Tensor, image_index: Tensor, stride: float, output_size: int = 7, sampling: int = 0
) -> Tensor:
    """Pool upright boxes from a feature map, "aligned" (pixel centres at half-integers).

    features (B, C, H, W); rois (R, 4) x1 y1 x2 y2 in image pixels; image_index (R,) int64 says which image;
    ``stride`` is image pixels per feature pixel. Returns (R, C, P, P).
    ``sampling`` is the number of samples a bin and axis; 0 takes ceil(side of the bin in feature pixels).
    A sample beyond -1 or H (W) counts 0, nearer ones are clamped to the edge. A region without area gives 0.
    Source: Mask R-CNN (He et al. 2017) with the half-pixel correction of its later implementations.
    """
    return roi_align_rotated(features, rotated.from_upright(rois), image_index, stride, output_size, sampling)


def roi_align_rotated(
    features: Tensor, rois: Tensor, image_index: Tensor, stride: float, output_size: int = 7, sampling: int = 2
) -> Tensor:
    """Pool rotated boxes (R, 5) cx cy w h θ (θ clockwise on the screen); everything else as in ``roi_align``.

    Output rows run along the box's h, columns along its w: the box as seen in its own frame.
    """
    B, C, H, W = features.shape
    R, P = len(rois), output_size
    with torch.autocast(features.device.type, enabled=False), torch.no_grad():
        boxes = rois.to(torch.promote_types(rois.dtype, torch.float32))
        x, y, bag, count = _sample_points(boxes, stride, P, sampling)
        index, weight = _taps(x, y, H, W)
        index += (image_index[bag // (P * P)] * (H * W))[:, None]
        weight /= count[bag, None]
        offsets = (count.cumsum(0) - count) * 4
    with torch.autocast(features.device.type, enabled=False):
        pixels = features.to(torch.promote_types(features.dtype, torch.float32))
        pixels = pixels.permute(0, 2, 3, 1).reshape(B * H * W, C)
        weight = weight.to(pixels.dtype).flatten()
        pooled = F.embedding_bag(index.flatten(), pixels, offsets, mode="sum", per_sample_weights=weight)
    return pooled.view(R, P, P, C).permute(0, 3, 1, 2)


def _sample_points(rois: Tensor, stride: float, P: int, sampling: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Positions x, y (S,) in feature pixels of all samples, the bin (S,) of each, and the samples of each bin.

    Bins are numbered region by region, row by row; samples are in the order of their bins.
    """
    cx, cy = rois[:, 0] / stride - 0.5, rois[:, 1] / stride - 0.5
    w, h = rois[:, 2] / stride, rois[:, 3] / stride
    cos, sin = rois[:, 4].cos(), rois[:, 4].sin()
    if sampling:
        columns = rows = torch.full_like(w, sampling, dtype=torch.int64)
    else:
        columns, rows = (w / P).ceil().clamp(min=0).long(), (h / P).ceil().clamp(min=0).long()
    count = (rows * columns).repeat_interleave(P * P)
    bag = torch.arange(len(count), device=rois.device).repeat_interleave(count)
    place = torch.arange(len(bag), device=rois.device) - (count.cumsum(0) - count)[bag]
    roi = bag // (P * P)
    i, j = (bag // P % P).to(w.dtype), (bag % P).to(w.dtype)
    across, down = columns[roi], rows[roi]
    a, b = (place // across).to(w.dtype), (place % across).to(w.dtype)
    yy = h[roi] * ((i + (a + 0.5) / down) / P - 0.5)
    xx = w[roi] * ((j + (b + 0.5) / across) / P - 0.5)
    x = xx * cos[roi] - yy * sin[roi] + cx[roi]
    y = xx * sin[roi] + yy * cos[roi] + cy[roi]
    return x, y, bag, count


def _taps(x: Tensor, y: Tensor, H: int, W: int) -> tuple[Tensor, Tensor]:
    """The four pixels (S, 4) int64 around each point, as places in a row-major H x W map, and their weights (S, 4)."""
    inside = (x >= -1) & (x <= W) & (y >= -1) & (y <= H)
    x, y = x.clamp(0, W - 1), y.clamp(0, H - 1)
    left, top = x.floor().clamp(max=max(W - 2, 0)), y.floor().clamp(max=max(H - 2, 0))
    fx, fy = x - left, y - top
    first = top.long() * W + left.long()
    right, down = int(W > 1), W * int(H > 1)
    index = torch.stack((first, first + right, first + down, first + right + down), dim=1)
    weight = torch.stack(((1 - fx) * (1 - fy), fx * (1 - fy), (1 - fx) * fy, fx * fy), dim=1)
    return index, weight * inside[:, None]
