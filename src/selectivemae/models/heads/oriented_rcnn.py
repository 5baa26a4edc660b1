"""Oriented R-CNN (Xie et al. 2021, arXiv 2108.05699) with the published settings for DIOR-R.

Faster R-CNN with rotated boxes (cx, cy, w, h, θ): midpoint-offset proposals, rotated pooling, rotated IoU.
"""

from torch import Tensor

from selectivemae.models.heads.faster_rcnn import FasterRCNN
from selectivemae.models.heads.roi_head import RegionRules, RoIHead
from selectivemae.models.heads.rpn import RPN, ProposalRules
from selectivemae.ops import rotated
from selectivemae.ops.roi_align import roi_align_rotated


class OrientedRPN(RPN):
    """Proposals (N, 5) as parallelograms in upright hulls; anchors and suppression look at the hulls."""

    numbers = 6

    def hulls(self, boxes: Tensor) -> Tensor:
        """Upright boxes (..., 4) around rotated ones (..., 5)."""
        return rotated.hull(boxes)

    def encode(self, anchors: Tensor, boxes: Tensor) -> Tensor:
        """Target deltas (N, 6)."""
        return rotated.encode_midpoint(anchors, rotated.le90(boxes))

    def decode(self, anchors: Tensor, deltas: Tensor, size: tuple[int, int]) -> Tensor:
        """Proposals (N, 5), not clipped: what crosses the border keeps its shape."""
        return rotated.decode_midpoint(anchors, deltas)

    def usable(self, boxes: Tensor, size: tuple[int, int]) -> Tensor:
        """Which proposals (N,) have positive sides, and outside training a centre inside the image: beyond it there is
        nothing to pool, and the head would move what it makes of nothing to the border."""
        good = (boxes[:, 2:4] > 0).all(dim=1)
        if self.training:
            return good
        x, y = boxes[:, 0], boxes[:, 1]
        return good & (x >= 0) & (x <= size[1]) & (y >= 0) & (y <= size[0])


class OrientedRoIHead(RoIHead):
    """Rotated regions: pooled in their own frame, refined by five numbers that all classes share."""

    numbers = 5

    def iou(self, a: Tensor, b: Tensor) -> Tensor:
        """Exact IoU (N, M) of rotated boxes."""
        return rotated.iou(a, b)

    def encode(self, rois: Tensor, boxes: Tensor) -> Tensor:
        """Target deltas (R, 5)."""
        return rotated.encode_rotated(rois, boxes)

    def decode(self, rois: Tensor, deltas: Tensor, size: tuple[int, int]) -> Tensor:
        """Boxes (R, 1, 5), le90, with centres inside the image."""
        return rotated.decode_rotated(rois, deltas[:, 0], size)[:, None]

    def nms(self, boxes: Tensor, scores: Tensor, labels: Tensor) -> Tensor:
        """Indices that survive rotated suppression within each class, best first."""
        return rotated.nms(boxes, scores, self.rules.nms, labels)

    def sides(self, rois: Tensor) -> Tensor:
        """w and h (R, 2) of regions."""
        return rois[:, 2:4]

    def pool(self, features: Tensor, rois: Tensor, image_index: Tensor, stride: int) -> Tensor:
        """Features (R, channels, 7, 7) of regions on one map, rows along h, columns along w."""
        return roi_align_rotated(features, rois, image_index, stride)


class OrientedRCNN(FasterRCNN):
    """Images to rotated boxes (cx, cy, w, h, θ); everything not said here is as in ``FasterRCNN``."""

    box_numbers = 5
    proposal_rules = ProposalRules(beta=1 / 9, inside_only=True, before_test=2000, after=2000, nms=0.8)
    region_rules = RegionRules(beta=1.0, by_class=False, nms=0.1, limit=2000)
    rpn_class, roi_head_class = OrientedRPN, OrientedRoIHead
