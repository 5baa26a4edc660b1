"""The two detectors: their second stage against loops, odd batches, precision, and learning a few pictures by heart."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from selectivemae.core.errors import ConfigError
from selectivemae.models.heads.faster_rcnn import FasterRCNN
from selectivemae.models.heads.oriented_rcnn import OrientedRCNN, OrientedRoIHead
from selectivemae.models.heads.roi_head import RegionRules, RoIHead
from selectivemae.ops import boxes as ops
from selectivemae.ops import rotated


class SmallNet(nn.Module):
    """Four stages of strides 4 to 32."""

    channels = [16, 24, 32, 32]  # noqa: RUF012
    strides = [4, 8, 16, 32]  # noqa: RUF012

    def __init__(self) -> None:
        super().__init__()
        widths = [3, *self.channels]

        def stage(i: int) -> nn.Module:
            a, b, step = widths[i], widths[i + 1], 4 if i == 0 else 2
            return nn.Sequential(
                nn.Conv2d(a, b, step, step), nn.GroupNorm(8, b), nn.ReLU(), nn.Conv2d(b, b, 3, padding=1),
                nn.GroupNorm(8, b), nn.ReLU(),
            )  # fmt: skip

        self.stages = nn.ModuleList(stage(i) for i in range(4))

    def forward(self, images: torch.Tensor) -> list[torch.Tensor]:
        maps = []
        for stage in self.stages:
            images = stage(images)
            maps.append(images)
        return maps


class SmallFaster(FasterRCNN):
    proposal_rules = replace(FasterRCNN.proposal_rules, before=200, before_test=200, after=60)
    region_rules = replace(FasterRCNN.region_rules, sampled=48)


class SmallOriented(OrientedRCNN):
    proposal_rules = replace(OrientedRCNN.proposal_rules, before=200, before_test=200, after=60)
    region_rules = replace(OrientedRCNN.region_rules, sampled=48)


def detector(kind: type[FasterRCNN], classes: int = 2) -> FasterRCNN:
    torch.manual_seed(0)
    return kind(SmallNet(), classes, width=32, hidden=64)


def scenes(n: int, oriented: bool, side: int = 96) -> tuple[torch.Tensor, list[torch.Tensor], list[torch.Tensor]]:
    """Noise with two bright bars each, red (class 0) or green (class 1)."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:side, :side] + 0.5
    images, boxes, labels = rng.normal(0, 0.2, (n, 3, side, side)), [], []
    for image in images:
        rows, kinds = [], rng.integers(0, 2, 2)
        for place, kind in zip(((27, 30), (66, 64)), kinds, strict=True):
            cx, cy = place + rng.uniform(-4, 4, 2)
            w, angle = rng.uniform(30, 40), rng.uniform(-1.5, 1.5) if oriented else 0.0
            h = w * rng.uniform(0.4, 0.7)
            u, v = (x - cx) * math.cos(angle) + (y - cy) * math.sin(angle), (y - cy) * math.cos(angle)
            v -= (x - cx) * math.sin(angle)
            image[kind][(abs(u) < w / 2) & (abs(v) < h / 2)] += 2
            rows.append([cx, cy, w, h, angle] if oriented else [cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2])
        boxes.append(torch.tensor(rows, dtype=torch.float32))
        labels.append(torch.from_numpy(kinds))
    return torch.from_numpy(images).float(), boxes, labels


def test_published_settings():
    upright, oriented = FasterRCNN(SmallNet(), 20), OrientedRCNN(SmallNet(), 20)
    assert upright.roi_head.delta.out_features == 80
    assert oriented.roi_head.delta.out_features == 5
    assert upright.roi_head.score.out_features == oriented.roi_head.score.out_features == 21
    assert (upright.rpn.delta.out_channels, oriented.rpn.delta.out_channels) == (12, 18)
    assert upright.rpn.strides == [4, 8, 16, 32, 64]
    with pytest.raises(ConfigError):
        FasterRCNN(SmallNet(), 0)


def test_regions_are_pooled_from_the_level_of_their_size_in_their_own_order():
    torch.manual_seed(0)
    head = RoIHead(4, [4, 8, 16, 32], 2, RegionRules(), hidden=8)
    maps = [torch.full((2, 4, 256 // s, 256 // s), float(level)) for level, s in enumerate((4, 8, 16, 32))]
    sides = [20, 111.9, 112.1, 223, 225, 447, 250, 60]
    expected = [0, 0, 1, 1, 2, 2, 2, 0]
    rois = torch.tensor([[0.0, 0, s, s] for s in sides]).clamp(max=500)
    seen = {}
    head.shared.register_forward_hook(lambda _m, inputs, _out: seen.__setitem__("x", inputs[0]))
    head(maps, [rois[:5], rois[5:]])
    level = seen["x"].view(8, 4, 7, 7)[:, 0, 0, 0]
    assert level.tolist() == pytest.approx(expected)


@pytest.mark.parametrize("oriented", [False, True])
def test_region_losses_equal_the_published_sums_of_every_image_alone(oriented: bool):
    torch.manual_seed(0)
    rules = RegionRules(sampled=10**6, share=1.0, by_class=not oriented, beta=1.0 if oriented else 0.0)
    head = (OrientedRoIHead if oriented else RoIHead)(4, [4, 8, 16, 32], 3, rules, hidden=8)
    for p in head.parameters():
        nn.init.normal_(p, std=0.3)
    maps = [torch.randn(2, 4, 64 // s, 64 // s) for s in (4, 8, 16, 32)]
    centre = torch.rand(2, 20, 2) * 60
    side = torch.rand(2, 20, 2) * 20 + 6
    objects = torch.cat((centre[:, :3], side[:, :3]), dim=2)
    found = torch.cat((centre, side), dim=2)
    found[:, :6] = objects.repeat(1, 2, 1) + 1.0  # near the objects
    turn = torch.rand(2, 20, 1)
    if oriented:
        objects, found = torch.cat((objects, turn[:, :3]), 2), torch.cat((found, turn), 2)
        found[:, :6, 4] = objects[..., 4].repeat(1, 2) + 0.05
    else:
        objects, found = rotated.hull(F.pad(objects, (0, 1))), rotated.hull(F.pad(found, (0, 1)))
    boxes, labels = [objects[0], objects[1, :0]], [torch.tensor([2, 0, 1]), torch.zeros(0, dtype=torch.int64)]
    score, box = head.losses(maps, list(found), boxes, labels, torch.tensor([1, 2]))
    overlap, encode = (rotated.iou, rotated.encode_rotated) if oriented else (ops.iou, head.encode)
    for i in range(2):
        score_sum, box_sum, count = 0.0, 0.0, 0
        regions = torch.cat((boxes[i], found[i]))
        logits, deltas = head([m[i : i + 1] for m in maps], [regions])
        iou = overlap(regions, boxes[i])
        for k in range(len(regions)):
            count += 1
            hit = len(boxes[i]) > 0 and iou[k].max() >= 0.5
            label = labels[i][iou[k].argmax()] if hit else torch.tensor(3)
            score_sum += F.cross_entropy(logits[k], label).item()
            if hit:
                target = encode(regions[k][None], boxes[i][iou[k].argmax()][None])[0]
                difference = deltas[k, 0 if oriented else int(label)] - target
                box_sum += (F.huber_loss if oriented else F.l1_loss)(
                    difference, torch.zeros_like(target), reduction="sum"
                ).item()
        assert score[i].item() == pytest.approx(score_sum / count, rel=1e-4)
        assert box[i].item() == pytest.approx(box_sum / count, rel=1e-4)


@pytest.mark.parametrize("kind", [SmallFaster, SmallOriented])
def test_a_batch_without_any_object_trains(kind: type[FasterRCNN]):
    model = detector(kind)
    none = [torch.zeros(0, kind.box_numbers)] * 2, [torch.zeros(0, dtype=torch.int64)] * 2
    losses = model.losses(torch.randn(2, 3, 70, 90), *none, torch.tensor([1, 2]))
    assert all(v.shape == (2,) and torch.isfinite(v).all() for v in losses.values())
    assert losses["rpn_box"].sum() == losses["roi_box"].sum() == 0
    torch.stack(list(losses.values())).sum().backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in model.parameters())


@pytest.mark.parametrize("kind", [SmallFaster, SmallOriented])
def test_images_without_any_proposal_have_nothing_in_them(kind: type[FasterRCNN]):
    """As of a training that has diverged: no delta is finite."""
    model, images = detector(kind).eval(), torch.zeros(2, 3, 64, 64)
    nn.init.constant_(model.rpn.delta.bias, math.nan)
    for found in model.predict(images):
        assert found.boxes.shape == (0, model.box_numbers)
        assert len(found.scores) == len(found.labels) == 0
    none = [torch.zeros(0, model.box_numbers)] * 2
    losses = model.losses(images, none, [torch.zeros(0, dtype=torch.int64)] * 2, torch.tensor([5, 6]))
    assert losses["roi_score"].tolist() == losses["roi_box"].tolist() == [0, 0]


@pytest.mark.parametrize("kind", [SmallFaster, SmallOriented])
def test_the_same_keys_give_the_same_losses_and_low_precision_stays_close(kind: type[FasterRCNN]):
    model = detector(kind)
    images, boxes, labels = scenes(2, kind is SmallOriented)
    first, again = (model.losses(images, boxes, labels, torch.tensor([1, 2])) for _ in range(2))
    assert all(torch.equal(first[k], again[k]) for k in first)
    other = model.losses(images, boxes, labels, torch.tensor([3, 4]))
    assert not torch.equal(first["rpn_score"], other["rpn_score"])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        low = model.losses(images, boxes, labels, torch.tensor([1, 2]))
        found = model.eval().predict(images)
    assert all(v.dtype == torch.float32 for v in low.values())
    assert all(torch.isfinite(v).all() for v in low.values())
    assert low["rpn_score"].mean().item() == pytest.approx(first["rpn_score"].mean().item(), rel=0.05)
    assert all(torch.isfinite(f.boxes).all() for f in found)


@pytest.mark.parametrize("kind", [SmallFaster, SmallOriented])
def test_an_image_has_the_same_losses_alone_and_in_any_batch(kind: type[FasterRCNN]):
    """So neither micro-batches, processes nor an unreadable neighbour change what is trained."""
    model = detector(kind)
    images, boxes, labels = scenes(3, kind is SmallOriented)
    keys = torch.tensor([1, 2, 3])
    together = model.losses(images, boxes, labels, keys)
    for i in range(3):
        alone = model.losses(images[i : i + 1], boxes[i : i + 1], labels[i : i + 1], keys[i : i + 1])
        for name, value in alone.items():
            assert value.item() == pytest.approx(together[name][i].item(), rel=1e-4), name


def test_predictions_stay_in_the_image_and_padding_is_no_part_of_it():
    model = detector(SmallFaster).eval()
    nn.init.normal_(model.roi_head.delta.weight, std=0.3)
    for size, found in zip(
        [(70, 90), (50, 40)], model.predict(torch.randn(2, 3, 70, 90), [(70, 90), (50, 40)]), strict=True
    ):
        assert len(found.boxes) > 0
        assert found.boxes.amin() >= 0
        assert found.boxes[:, 2].amax() <= size[1]
        assert found.boxes[:, 3].amax() <= size[0]
        assert len(found.scores) <= 100
        assert (found.scores.diff() <= 0).all()


def by_heart(kind: type[FasterRCNN], steps: int) -> tuple[list, list[torch.Tensor], list[torch.Tensor]]:
    """Detections after training on three pictures."""
    model = detector(kind)
    images, boxes, labels = scenes(3, kind is SmallOriented)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    for step in range(steps):
        losses = model.losses(images, boxes, labels, torch.arange(3) + 3 * step)
        optimizer.zero_grad()
        torch.stack(list(losses.values())).sum(dim=0).mean().backward()
        optimizer.step()
    return model.eval().predict(images), boxes, labels


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "overlap"), [(SmallFaster, ops.iou), (SmallOriented, rotated.iou)])
def test_learns_a_few_pictures_by_heart(kind: type[FasterRCNN], overlap):
    found, boxes, labels = by_heart(kind, 120)
    for detected, box, label in zip(found, boxes, labels, strict=True):
        sure = detected.scores > 0.5
        assert sure.sum() == len(box)
        iou = overlap(detected.boxes[sure], box)
        best = iou.argmax(dim=1)
        assert sorted(best.tolist()) == list(range(len(box)))
        assert iou.amax(dim=1).min() > 0.6
        assert torch.equal(detected.labels[sure], label[best])
