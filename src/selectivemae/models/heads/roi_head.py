"""The second stage: pooling regions from the pyramid, classifying and refining them.

Legend: B images, R regions, C classes (background is index C), K numbers of a delta. Boxes are upright here; the
oriented detector overrides what IoU, a delta, pooling and suppression are.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from selectivemae.models.heads.rpn import assign, sample, smooth_l1
from selectivemae.ops import boxes as ops
from selectivemae.ops.roi_align import roi_align

_STDS = (0.1, 0.1, 0.2, 0.2)
_FINEST = 56  # pixels: a region of this side is the smallest that the second map pools, halved for the first
_SIDE = 7  # pooled features are 7 x 7
_PURPOSE = 0x524F49  # tells the noise of this sampling from any other


class Detected(NamedTuple):
    """Objects found in one image, best first: boxes (K, 4) or (K, 5), scores (K,), labels (K,) int64."""

    boxes: Tensor
    scores: Tensor
    labels: Tensor


@dataclass(frozen=True)
class RegionRules:
    """Settings of the second stage; the defaults are the published ones of upright detection."""

    beta: float = 0.0  # where smooth-L1 turns linear; 0 is L1
    by_class: bool = True  # one delta for each class, or one for all
    overlap: float = 0.5  # regions from this IoU on are positive, others negative
    sampled: int = 512
    share: float = 0.25  # at most this part of the sampled regions is positive
    score: float = 0.05
    nms: float = 0.5
    limit: int = 100  # objects an image


class RoIHead(nn.Module):
    """Two shared layers of 1024, then scores of C + 1 classes and deltas."""

    numbers = 4  # K

    def __init__(self, width: int, strides: list[int], classes: int, rules: RegionRules, hidden: int) -> None:
        super().__init__()
        self.strides, self.classes, self.rules = strides, classes, rules
        self.shared = nn.Sequential(
            nn.Linear(width * _SIDE * _SIDE, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU()
        )
        self.score = nn.Linear(hidden, classes + 1)
        self.delta = nn.Linear(hidden, self.numbers * (classes if rules.by_class else 1))
        for parameter in self.parameters():
            nn.init.xavier_uniform_(parameter) if parameter.ndim > 1 else nn.init.zeros_(parameter)
        nn.init.normal_(self.score.weight, std=0.01)
        nn.init.normal_(self.delta.weight, std=0.001)

    def iou(self, a: Tensor, b: Tensor) -> Tensor:
        """IoU (N, M) of boxes."""
        return ops.iou(a, b)

    def encode(self, rois: Tensor, boxes: Tensor) -> Tensor:
        """Target deltas (R, K)."""
        return ops.encode(rois, boxes, _STDS)

    def decode(self, rois: Tensor, deltas: Tensor, size: tuple[int, int]) -> Tensor:
        """Boxes (R, D, ·) from regions (R, ·) and deltas (R, D, K), D of each, in an image of (height, width)."""
        return ops.clip(ops.decode(rois[:, None], deltas, _STDS), *size)

    def nms(self, boxes: Tensor, scores: Tensor, labels: Tensor) -> Tensor:
        """Indices that survive suppression within each class, best first."""
        return ops.nms(boxes, scores, self.rules.nms, labels)

    def sides(self, rois: Tensor) -> Tensor:
        """Width and height (R, 2) of regions."""
        return rois[:, 2:] - rois[:, :2]

    def pool(self, features: Tensor, rois: Tensor, image_index: Tensor, stride: int) -> Tensor:
        """Features (R, channels, 7, 7) of regions on one map."""
        return roi_align(features, rois, image_index, stride, _SIDE)

    def forward(self, maps: list[Tensor], rois: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Logits (R, C + 1) and deltas (R, D, K), float32, of the regions of all images, one after the other.

        A region is pooled from the map whose stride suits its size: floor(log2(sqrt(w h) / 56)), within the maps.
        """
        boxes = torch.cat(rois)
        image_index = torch.cat([torch.full((len(r),), i, device=r.device) for i, r in enumerate(rois)])
        scale = self.sides(boxes).clamp(min=0).prod(dim=1).sqrt()
        level = (scale / _FINEST + 1e-6).log2().floor().clamp(0, len(maps) - 1)
        order = [(level == i).nonzero()[:, 0] for i in range(len(maps))]
        levels = zip(maps, order, self.strides, strict=True)
        pooled = torch.cat([self.pool(x, boxes[own], image_index[own], stride) for x, own, stride in levels])
        pooled = pooled[torch.cat(order).argsort()]  # back into the order of the regions
        hidden = self.shared(pooled.flatten(1))
        shape = (len(boxes), self.delta.out_features // self.numbers, self.numbers)  # there may be no region at all
        return self.score(hidden).float(), self.delta(hidden).float().view(shape)

    def losses(
        self, maps: list[Tensor], proposals: list[Tensor], boxes: list[Tensor], labels: list[Tensor], keys: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Score and box loss (B,) each: the sums over an image's sampled regions / their number (see ``RPN.losses``).

        Objects are added to the proposals, so that there are positives from the first step on.
        """
        rois, matches, positives = [], [], []
        for i, (found, objects) in enumerate(zip(proposals, boxes, strict=True)):
            candidates = torch.cat((objects, found))
            with torch.no_grad():
                matched = assign(self.iou, candidates, objects, self.rules.overlap, self.rules.overlap)
            positive, negative = sample(matched, self.rules.sampled, self.rules.share, keys[i : i + 1], _PURPOSE)
            rois.append(candidates[torch.cat((positive, negative))])
            matches.append(matched[positive])
            positives.append(len(positive))
        logits, deltas = self.forward(maps, rois)
        score_loss, box_loss, start = [], [], 0
        for i, found in enumerate(rois):
            stop, n, count = start + len(found), positives[i], max(len(found), 1)
            wanted = torch.full((len(found),), self.classes, device=logits.device)
            wanted[:n] = labels[i][matches[i]]
            score_loss.append(F.cross_entropy(logits[start:stop], wanted, reduction="sum") / count)
            own = wanted[:n] if self.rules.by_class else torch.zeros_like(wanted[:n])
            delta = deltas[start : start + n].gather(1, own[:, None, None].expand(-1, 1, self.numbers))[:, 0]
            target = self.encode(found[:n], boxes[i][matches[i]])
            box_loss.append(smooth_l1(delta, target, self.rules.beta).sum() / count)
            start = stop
        return torch.stack(score_loss), torch.stack(box_loss)

    @torch.no_grad()
    def predict(self, maps: list[Tensor], proposals: list[Tensor], sizes: list[tuple[int, int]]) -> list[Detected]:
        """What is in every image: scores over the threshold, suppressed within each class, the best ``limit``."""
        logits, deltas = self.forward(maps, proposals)
        scores = logits.softmax(dim=1)[:, : self.classes]
        counts = [len(p) for p in proposals]
        out = []
        for rois, score, delta, size in zip(proposals, scores.split(counts), deltas.split(counts), sizes, strict=True):
            boxes = self.decode(rois, delta, size).expand(-1, self.classes, -1)
            roi, label = (score > self.rules.score).nonzero(as_tuple=True)
            box, value = boxes[roi, label], score[roi, label]
            keep = self.nms(box, value, label)[: self.rules.limit]
            out.append(Detected(box[keep], value[keep], label[keep]))
        return out
