"""Region proposals (Ren et al. 2015): anchors, their targets, the head, its loss, and the proposals themselves.

Legend: B images, N anchors of an image over all levels, G objects, K numbers of a delta. Boxes are upright here; the
oriented detector overrides what a target, a delta and a proposal is.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from selectivemae.ops import boxes as ops
from selectivemae.ops import noise

NEGATIVE, UNUSED = -1, -2
_RATIOS = (0.5, 1.0, 2.0)  # height / width
_SCALE = 8  # an anchor's side in strides
_OBJECTS = 64  # objects held against all anchors at a time: bounds memory in crowded scenes
_PURPOSE = 0x52504E  # tells the noise of this sampling from any other


@dataclass(frozen=True)
class ProposalRules:
    """Settings of the proposal stage; the defaults are the published ones of upright detection."""

    beta: float = 0.0  # where smooth-L1 turns linear; 0 is L1
    inside_only: bool = False  # train only anchors that lie wholly in the image
    before: int = 2000  # proposals a level before suppression, in training
    before_test: int = 1000
    after: int = 1000  # proposals an image after suppression
    nms: float = 0.7
    positive: float = 0.7
    negative: float = 0.3
    low_quality: float = 0.3  # an object's best anchors are positive from this IoU on
    sampled: int = 256
    share: float = 0.5  # at most this part of the sampled anchors is positive


class RPN(nn.Module):
    """Scores and deltas of three anchors at every pixel of every map, and what follows from them."""

    numbers = 4  # K

    def __init__(self, width: int, strides: list[int], rules: ProposalRules) -> None:
        super().__init__()
        self.strides, self.rules = strides, rules
        self.conv = nn.Conv2d(width, width, kernel_size=3, padding=1)
        self.score = nn.Conv2d(width, len(_RATIOS), kernel_size=1)
        self.delta = nn.Conv2d(width, len(_RATIOS) * self.numbers, kernel_size=1)
        for parameter in self.parameters():
            nn.init.normal_(parameter, std=0.01) if parameter.ndim > 1 else nn.init.zeros_(parameter)

    def forward(self, maps: list[Tensor]) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        """By level: logits (B, n) and deltas (B, n, K) in float32, anchors (n, 4); places row-major, ratio fastest."""
        logits, deltas, anchors = [], [], []
        for x, stride in zip(maps, self.strides, strict=True):
            hidden = F.relu(self.conv(x))
            logits.append(self.score(hidden).permute(0, 2, 3, 1).flatten(1).float())
            delta = self.delta(hidden).permute(0, 2, 3, 1)
            deltas.append(delta.reshape(len(x), -1, self.numbers).float())
            anchors.append(level_anchors(x.shape[-2], x.shape[-1], stride, x.device))
        return logits, deltas, anchors

    def hulls(self, boxes: Tensor) -> Tensor:
        """Upright boxes (..., 4) that anchors and suppression are judged by."""
        return boxes

    def encode(self, anchors: Tensor, boxes: Tensor) -> Tensor:
        """Target deltas (N, K)."""
        return ops.encode(anchors, boxes)

    def decode(self, anchors: Tensor, deltas: Tensor, size: tuple[int, int]) -> Tensor:
        """Proposals from anchors (N, 4) and deltas (N, K) in an image of (height, width)."""
        return ops.clip(ops.decode(anchors, deltas), *size)

    def usable(self, boxes: Tensor, size: tuple[int, int]) -> Tensor:
        """Which proposals (N,) in an image of (height, width) have positive sides."""
        return (boxes[:, 2:] > boxes[:, :2]).all(dim=1)

    @torch.no_grad()
    def proposals(
        self, logits: list[Tensor], deltas: list[Tensor], anchors: list[Tensor], sizes: list[tuple[int, int]]
    ) -> list[Tensor]:
        """Boxes of every image, best first: the best of each level, suppressed within it, then the best of all."""
        limit = self.rules.before if self.training else self.rules.before_test
        out = []
        for i, size in enumerate(sizes):
            scores, boxes, levels = [], [], []
            for level, (logit, delta, anchor) in enumerate(zip(logits, deltas, anchors, strict=True)):
                score, best = logit[i].topk(min(limit, logit.shape[1]))
                box = self.decode(anchor[best], delta[i, best], size)
                good = self.usable(box, size)
                scores.append(score[good])
                boxes.append(box[good])
                levels.append(torch.full_like(score[good], level, dtype=torch.int64))
            box = torch.cat(boxes)
            keep = ops.nms(self.hulls(box), torch.cat(scores), self.rules.nms, torch.cat(levels))
            out.append(box[keep[: self.rules.after]])
        return out

    def losses(
        self,
        logits: list[Tensor],
        deltas: list[Tensor],
        anchors: list[Tensor],
        boxes: list[Tensor],
        sizes: list[tuple[int, int]],
        keys: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Score and box loss (B,) each: the sums over an image's sampled anchors / their number.

        boxes: objects (G, ·) of every image; keys (B,) int64 choose the sampled anchors. The published divisor is the
        number sampled on a device, and a device has one image there; so a loss is no matter of the rest of the batch.
        """
        all_logits, all_deltas, all_anchors = torch.cat(logits, 1), torch.cat(deltas, 1), torch.cat(anchors)
        score_loss, box_loss = [], []
        for i, objects in enumerate(boxes):
            matched = self._match(all_anchors, objects, sizes[i])
            positive, negative = sample(matched, self.rules.sampled, self.rules.share, keys[i : i + 1], _PURPOSE)
            chosen = torch.cat((positive, negative))
            count = max(len(chosen), 1)
            wanted = torch.zeros(len(chosen), device=chosen.device)
            wanted[: len(positive)] = 1
            score = F.binary_cross_entropy_with_logits(all_logits[i, chosen], wanted, reduction="sum")
            score_loss.append(score / count)
            target = self.encode(all_anchors[positive], objects[matched[positive]])
            box_loss.append(smooth_l1(all_deltas[i, positive], target, self.rules.beta).sum() / count)
        return torch.stack(score_loss), torch.stack(box_loss)

    @torch.no_grad()
    def _match(self, anchors: Tensor, objects: Tensor, size: tuple[int, int]) -> Tensor:
        rules = self.rules
        usable = torch.ones(len(anchors), dtype=torch.bool, device=anchors.device)
        if rules.inside_only:
            usable = (anchors[:, :2] >= 0).all(dim=1) & (anchors[:, 2] < size[1]) & (anchors[:, 3] < size[0])
        matched = torch.full((len(anchors),), UNUSED, dtype=torch.int64, device=anchors.device)
        hulls = self.hulls(objects)
        matched[usable] = assign(ops.iou, anchors[usable], hulls, rules.positive, rules.negative, rules.low_quality)
        return matched


def level_anchors(height: int, width: int, stride: int, device: torch.device) -> Tensor:
    """Anchors (height * width * 3, 4) of a map, centred on multiples of the stride, not rounded; ratio fastest."""
    ratio = torch.tensor(_RATIOS, device=device)
    half = torch.stack((ratio.rsqrt(), ratio.sqrt()), dim=1) * (_SCALE * stride / 2)
    x, y = torch.arange(width, device=device) * stride, torch.arange(height, device=device) * stride
    centre = torch.stack((x.expand(height, width), y[:, None].expand(height, width)), dim=-1)[:, :, None].float()
    return torch.cat((centre - half, centre + half), dim=-1).view(-1, 4)


def assign(
    overlap: Callable[[Tensor, Tensor], Tensor],
    candidates: Tensor,
    objects: Tensor,
    positive: float,
    negative: float,
    low_quality: float | None = None,
) -> Tensor:
    """The object of each candidate (N,) int64: its index, NEGATIVE, or UNUSED between the thresholds.

    A candidate takes the object it overlaps most from IoU ``positive`` on. With ``low_quality``, the candidates that
    overlap an object most of all, at least by this IoU, become that object's own; of several objects the last wins.
    """
    best = candidates.new_zeros(len(candidates))
    matched = torch.zeros(len(candidates), dtype=torch.int64, device=candidates.device)
    claims = []
    for start in range(0, len(objects), _OBJECTS):
        iou = overlap(objects[start : start + _OBJECTS], candidates)  # (objects of the chunk, N)
        value, index = iou.max(dim=0)
        matched = torch.where(value > best, index + start, matched)
        best = torch.maximum(best, value)
        if low_quality is not None and len(candidates):
            top = iou.amax(dim=1, keepdim=True)
            claims.append(((iou == top) & (top >= low_quality)).nonzero() + torch.tensor([start, 0], device=iou.device))
    matched = torch.where(best >= positive, matched, torch.where(best < negative, NEGATIVE, UNUSED))
    for claim in claims:
        # An index that occurs twice must take its last object, which plain assignment does not promise.
        last = torch.full_like(matched, -1).scatter_reduce(0, claim[:, 1], claim[:, 0], reduce="amax")
        matched = torch.where(last >= 0, last, matched)
    return matched


def sample(matched: Tensor, count: int, share: float, key: Tensor, purpose: int) -> tuple[Tensor, Tensor]:
    """Indices of at most ``count`` candidates, drawn by the noise of ``key`` (1,): positives (at most ``share`` of
    the count), then negatives filling up."""
    draw = noise.uniform(key, purpose, len(matched))[0]

    def pick(candidates: Tensor, limit: int) -> Tensor:
        index = candidates.nonzero()[:, 0]
        return index[draw[index].argsort(stable=True)[:limit]]

    positive = pick(matched >= 0, int(count * share))
    return positive, pick(matched == NEGATIVE, count - len(positive))


def smooth_l1(value: Tensor, target: Tensor, beta: float) -> Tensor:
    """Elementwise smooth-L1 (quadratic under ``beta``, minus beta / 2 above); L1 for beta 0."""
    return F.smooth_l1_loss(value, target, reduction="none", beta=beta) if beta else (value - target).abs()
