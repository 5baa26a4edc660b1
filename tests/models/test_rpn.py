"""The proposal stage against loops over its rules."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from selectivemae.models.heads import rpn
from selectivemae.models.heads.oriented_rcnn import OrientedRCNN, OrientedRPN
from selectivemae.ops import boxes as ops


def some_boxes(rng: np.random.Generator, n: int, side: float = 100.0) -> torch.Tensor:
    low = rng.uniform(0, side, (n, 2))
    return torch.from_numpy(np.concatenate((low, low + rng.uniform(4, side / 2, (n, 2))), axis=1)).float()


def test_anchors_are_centred_on_the_stride_with_ratio_fastest():
    anchors = rpn.level_anchors(2, 3, 4, torch.device("cpu")).view(2, 3, 3, 4)
    for row in range(2):
        for column in range(3):
            for k, ratio in enumerate((0.5, 1, 2)):
                w, h = 32 / ratio**0.5, 32 * ratio**0.5
                expected = [column * 4 - w / 2, row * 4 - h / 2, column * 4 + w / 2, row * 4 + h / 2]
                assert anchors[row, column, k].tolist() == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("objects", [0, 1, 9, 150])
def test_assignment_equals_loops(objects: int):
    rng = np.random.default_rng(objects)
    anchors, gts = some_boxes(rng, 200), some_boxes(rng, objects)
    if objects > 4:
        anchors[7], gts[4] = gts[3], gts[3]  # two objects claim one anchor: the later wins
    iou = ops.iou(gts, anchors).numpy()
    expected = []
    for a in range(200):
        best = iou[:, a].max(initial=0)
        expected.append(int(iou[:, a].argmax()) if best >= 0.7 else -1 if best < 0.3 else -2)
    for g in range(objects):
        if iou[g].max() >= 0.3:
            for a in np.flatnonzero(iou[g] == iou[g].max()):
                expected[a] = g
    assert rpn.assign(ops.iou, anchors, gts, 0.7, 0.3, 0.3).tolist() == expected


def test_samples_are_bounded_disjoint_and_drawn_by_the_key_alone():
    matched = torch.full((500,), rpn.NEGATIVE)
    matched[:100] = torch.arange(100)
    matched[100:200] = rpn.UNUSED
    draws = [rpn.sample(matched, 64, 0.5, torch.tensor([key]), 5) for key in range(300)]
    for positive, negative in draws:
        assert (len(positive), len(negative)) == (32, 32)
        assert (matched[positive] >= 0).all()
        assert (matched[negative] == rpn.NEGATIVE).all()
    again = rpn.sample(matched, 64, 0.5, torch.tensor([3]), 5)
    assert torch.equal(again[0], draws[3][0])
    assert not torch.equal(draws[3][0], draws[4][0])
    counts = np.bincount(torch.cat([d[0] for d in draws]).numpy(), minlength=100)
    assert (
        abs(counts - 96).max() < 5 * (300 * 0.32 * 0.68) ** 0.5
    )  # each positive is drawn 96 times of 300, give or take
    few = torch.tensor([0, rpn.NEGATIVE, rpn.UNUSED])
    positive, negative = rpn.sample(few, 64, 0.5, torch.tensor([0]), 5)
    assert (positive.tolist(), negative.tolist()) == ([0], [1])


def test_smooth_l1_has_the_published_forms():
    value, target = torch.tensor([0.05, 0.5, -2.0]), torch.zeros(3)
    assert rpn.smooth_l1(value, target, 0).tolist() == pytest.approx([0.05, 0.5, 2])
    assert rpn.smooth_l1(value, target, 1 / 9).tolist() == pytest.approx([0.05**2 * 4.5, 0.5 - 1 / 18, 2 - 1 / 18])


def made(rules: rpn.ProposalRules) -> tuple[rpn.RPN, list, list, list]:
    torch.manual_seed(0)
    head = rpn.RPN(8, [4, 8], rules)
    for p in head.parameters():
        torch.nn.init.normal_(p, std=0.2)
    return head, *head([torch.randn(2, 8, 12, 16), torch.randn(2, 8, 6, 8)])


@pytest.mark.parametrize("inside", [False, True])
def test_losses_equal_the_published_sums_of_every_image_alone(inside: bool):
    rules = rpn.ProposalRules(sampled=10**6, share=1.0, inside_only=inside, beta=1 / 9)  # everything is sampled
    head, logits, deltas, anchors = made(rules)
    objects = [torch.tensor([[4.0, 6, 34, 30], [10, 10, 50, 40]]), torch.zeros(0, 4)]
    size = (48, 64)
    score, box = head.losses(logits, deltas, anchors, objects, [size] * 2, torch.tensor([1, 2]))
    all_anchors = torch.cat(anchors)
    for i in range(2):
        count, score_sum, box_sum = 0, 0.0, 0.0
        x1, y1, x2, y2 = all_anchors.T
        usable = (x1 >= 0) & (y1 >= 0) & (x2 < 64) & (y2 < 48) if inside else torch.ones_like(x1).bool()
        index = usable.nonzero()[:, 0]
        matched = rpn.assign(ops.iou, all_anchors[index], objects[i], 0.7, 0.3, 0.3)
        logit, delta = torch.cat(logits, 1)[i][index], torch.cat(deltas, 1)[i][index]
        for k in range(len(index)):
            if matched[k] == rpn.UNUSED:
                continue
            count += 1
            hit = float(matched[k] >= 0)
            score_sum += F.binary_cross_entropy_with_logits(logit[k], torch.tensor(hit)).item()
            if hit:
                target = ops.encode(all_anchors[index[k]][None], objects[i][matched[k]][None])[0]
                box_sum += F.smooth_l1_loss(delta[k], target, beta=1 / 9, reduction="sum").item()
        assert score[i].item() == pytest.approx(score_sum / count, rel=1e-4)
        assert box[i].item() == pytest.approx(box_sum / count, rel=1e-4)
    assert box[1] == 0


def test_proposals_equal_loops():
    head, logits, deltas, anchors = made(rpn.ProposalRules(before=40, before_test=25, after=30))
    for training in (True, False):
        head.train(training)
        found = head.proposals(logits, deltas, anchors, [(48, 64), (40, 60)])
        for i, size in enumerate([(48, 64), (40, 60)]):
            kept = []
            for logit, delta, anchor in zip(logits, deltas, anchors, strict=True):
                order = logit[i].argsort(descending=True)[: 40 if training else 25]
                decoded = ops.clip(ops.decode(anchor[order], delta[i, order]), *size)
                of_level = []
                for k, box in zip(order.tolist(), decoded, strict=True):
                    if box[2] > box[0] and box[3] > box[1]:
                        others = torch.stack([b for _, b in of_level]) if of_level else torch.zeros(0, 4)
                        if not (ops.iou(box[None], others) > 0.7).any():
                            of_level.append((logit[i, k].item(), box))
                kept += of_level
            kept = sorted(kept, key=lambda row: -row[0])[:30]
            assert torch.allclose(found[i], torch.stack([b for _, b in kept]))


def test_rotated_proposals_beyond_the_border_are_for_training_alone():
    """Midpoint deltas (dx, dy in units of the anchor) that move anchors off the image: asked, none of these is left."""
    head = OrientedRPN(8, [8], OrientedRCNN.proposal_rules)
    anchors = [rpn.level_anchors(8, 8, 8, torch.device("cpu"))]
    generator = torch.Generator().manual_seed(0)
    logits, deltas = [torch.randn(1, 192, generator=generator)], [torch.randn(1, 192, 6, generator=generator)]
    size = (50, 60)

    def outside(training: bool) -> tuple[int, int]:
        (found,) = head.train(training).proposals(logits, deltas, anchors, [size])
        x, y = found[:, 0], found[:, 1]
        return int(((x < 0) | (x > size[1]) | (y < 0) | (y > size[0])).sum()), len(found)

    assert outside(True)[0] > 20
    assert outside(False)[0] == 0 < outside(False)[1]
