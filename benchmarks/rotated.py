"""What the operators of oriented detection cost on a CPU.

    python benchmarks/rotated.py [--rounds 5]

Rotated IoU of 2,000 x 2,000 boxes, rotated NMS of 2,000 boxes, and RoIAlign of 512 regions x 256 channels forward and
backward, rotated against horizontal in turn in every round. Boxes are drawn at random in an image of 800 x 800.
Figures are CPU time of one thread, so that they hold on a machine with other work.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor

from _table import markdown, write
from selectivemae.ops import boxes as upright
from selectivemae.ops import rotated
from selectivemae.ops.roi_align import roi_align, roi_align_rotated

SEED, SIDE, STRIDE = 0, 800, 4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    boxes, others = random_boxes(2000, 8, 100, SEED), random_boxes(2000, 8, 100, SEED + 1)
    scores = torch.rand(2000, generator=torch.Generator().manual_seed(SEED))
    rois = random_boxes(512, 16, 112, SEED + 2)
    straight = torch.cat((rois[:, :2] - rois[:, 2:4] / 2, rois[:, :2] + rois[:, 2:4] / 2), dim=1)
    image = torch.zeros(512, dtype=torch.int64)
    side = SIDE // STRIDE
    features = torch.randn(1, 256, side, side, generator=torch.Generator().manual_seed(SEED)).requires_grad_()

    def pooled(pool: Callable[..., Tensor], regions: Tensor) -> Callable[[], object]:
        return lambda: torch.autograd.grad(pool(features, regions, image, STRIDE).sum(), features)

    tasks: dict[str, tuple[Callable[[], object], str]] = {
        "IoU, rotated, 2,000 x 2,000": (lambda: rotated.iou(boxes, others), "2 s"),
        "NMS, rotated, 2,000 boxes, IoU 0.1": (lambda: rotated.nms(boxes, scores, 0.1), "0.15 s"),
        "NMS, their upright hulls, IoU 0.5": (lambda: upright.nms(rotated.hull(boxes), scores, 0.5), ""),
        "RoIAlign, horizontal, adaptive samples": (pooled(roi_align, straight), ""),
        "RoIAlign, horizontal, 2 x 2 samples": (pooled(lambda *a: roi_align(*a, sampling=2), straight), ""),
        "RoIAlign, rotated, 2 x 2 samples": (pooled(roi_align_rotated, rois), "3x horizontal"),
    }
    seconds: dict[str, list[float]] = {name: [] for name in tasks}
    for turn in range(rounds + 1):
        for name, (work, _) in tasks.items():
            start = time.process_time()
            work()
            if turn:  # the first round warms up
                seconds[name].append(time.process_time() - start)
    rows = [(name, f"{statistics.median(seconds[name]):.3f}", goal) for name, (_, goal) in tasks.items()]
    horizontal, turned = (seconds[f"RoIAlign, {kind} samples"] for kind in ("horizontal, adaptive", "rotated, 2 x 2"))
    ratio = statistics.median(t / h for t, h in zip(turned, horizontal, strict=True))
    write(
        "rotated",
        "Operators of oriented detection",
        "python benchmarks/rotated.py",
        f"Seconds of CPU time of one thread, median of {rounds} interleaved rounds, seeds {SEED} to {SEED + 2}. "
        f"RoIAlign: 512 regions x 256 channels, 7 x 7, forward and backward, on a {side} x {side} map.",
        markdown(("operator", "seconds", "goal"), rows),
        f"Rotated RoIAlign takes {ratio:.2f} times the CPU time of the horizontal one.",
    )


def random_boxes(n: int, low: float, high: float, seed: int) -> Tensor:
    """Boxes (n, 5) anywhere in the image, with sides between two lengths and any angle."""
    generator = torch.Generator().manual_seed(seed)
    uniform = torch.rand(n, 5, generator=generator)
    return uniform * torch.tensor([SIDE, SIDE, high - low, high - low, torch.pi]) + torch.tensor(
        [0, 0, low, low, -1.57]
    )


if __name__ == "__main__":
    main()
