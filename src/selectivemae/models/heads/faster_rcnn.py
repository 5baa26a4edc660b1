"""Faster R-CNN (Ren et al. 2015) on any backbone, with the published settings for DIOR; base of the oriented one."""

import torch
from torch import Tensor, nn

from selectivemae.core.errors import ConfigError
from selectivemae.models.heads.fpn import FPN
from selectivemae.models.heads.roi_head import Detected, RegionRules, RoIHead
from selectivemae.models.heads.rpn import RPN, ProposalRules
from selectivemae.models.pyramid import Backbone, pad_to_multiple


class FasterRCNN(nn.Module):
    """Images to upright boxes (x1 y1 x2 y2) of some classes.

    ``backbone`` is a ``Backbone`` that is also a module. Images may have any size; they are padded with zeros to
    multiples of the coarsest stride. Under autocast the convolutions run in low precision, while pooling, box
    arithmetic and losses stay in float32. ``width`` and ``hidden`` are the published 256 and 1024 unless given.
    """

    box_numbers = 4
    proposal_rules, region_rules = ProposalRules(), RegionRules()
    rpn_class, roi_head_class = RPN, RoIHead

    def __init__(self, backbone: Backbone, classes: int, width: int = 256, hidden: int = 1024) -> None:
        super().__init__()
        if not isinstance(backbone, nn.Module):
            raise ConfigError("the backbone of a detector must be a torch module")
        if classes < 1:
            raise ConfigError(f"a detector needs at least one class, not {classes}")
        self.backbone, self.width, self.hidden = backbone, width, hidden
        strides = list(backbone.strides)
        self.fpn = FPN(backbone.channels, width)
        self.rpn = self.rpn_class(width, [*strides, strides[-1] * 2], self.proposal_rules)
        self.roi_head = self.roi_head_class(width, strides, classes, self.region_rules, hidden)

    def losses(
        self,
        images: Tensor,
        boxes: list[Tensor],
        labels: list[Tensor],
        keys: Tensor,
        sizes: list[tuple[int, int]] | None = None,
    ) -> dict[str, Tensor]:
        """Four losses, each (B,) float32, of every image alone; the published loss is the mean of their sum.

        images (B, C, H, W) normalised; boxes float (G, 4) and labels int64 (G,) of every image, G may be 0;
        keys (B,) int64 choose what is sampled; ``sizes`` are (height, width) inside a padded batch, by default all of
        it. Boxes must have positive sides.
        """
        sizes = sizes or [(images.shape[-2], images.shape[-1])] * len(images)
        self._check(images, boxes, labels)
        boxes = [b.float() for b in boxes]
        maps = self._maps(images)
        logits, deltas, anchors = self.rpn(maps)
        with torch.autocast(images.device.type, enabled=False):
            rpn_score, rpn_box = self.rpn.losses(logits, deltas, anchors, boxes, sizes, keys)
            proposals = self.rpn.proposals(logits, deltas, anchors, sizes)
        roi_score, roi_box = self.roi_head.losses(maps[:-1], proposals, boxes, labels, keys)
        return {"rpn_score": rpn_score, "rpn_box": rpn_box, "roi_score": roi_score, "roi_box": roi_box}

    @torch.no_grad()
    def predict(self, images: Tensor, sizes: list[tuple[int, int]] | None = None) -> list[Detected]:
        """Objects of every image (B, C, H, W), in its own pixels. Call in evaluation mode."""
        sizes = sizes or [(images.shape[-2], images.shape[-1])] * len(images)
        maps = self._maps(images)
        logits, deltas, anchors = self.rpn(maps)
        with torch.autocast(images.device.type, enabled=False):
            proposals = self.rpn.proposals(logits, deltas, anchors, sizes)
        return self.roi_head.predict(maps[:-1], proposals, sizes)

    def _maps(self, images: Tensor) -> list[Tensor]:
        return self.fpn(self.backbone(pad_to_multiple(images, self.rpn.strides[-2])))

    def _check(self, images: Tensor, boxes: list[Tensor], labels: list[Tensor]) -> None:
        """Wrong targets are a mistake of the program, and would otherwise train in silence."""
        assert len(images) == len(boxes) == len(labels), "one list entry an image"
        for b, c in zip(boxes, labels, strict=True):
            assert b.shape == (len(c), self.box_numbers), f"boxes {tuple(b.shape)} for {len(c)} labels"
            assert not len(c) or 0 <= int(c.min()) <= int(c.max()) < self.roi_head.classes, "label out of range"
