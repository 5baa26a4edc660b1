"""An image larger than a window: windows side by side, their logits added and divided by how many there are
(downstream.md, D)."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

Scores = Callable[[Tensor], Tensor]
"""Windows (B, C, h, w) uint8 to logits (B, K, h, w) float32; none is larger than the model's window."""


def starts(length: int, crop: int, stride: int) -> list[int]:
    """Where windows begin along a side: ``stride`` apart, the last one moved back to end with the side."""
    count = max(-(-(length - crop) // stride), 0) + 1
    return [max(0, min(i * stride, length - crop)) for i in range(count)]


def slide(scores: Scores, image: Tensor, crop: int, stride: int, batch: int) -> Tensor:
    """Logits (K, H, W) float32 of an image (C, H, W) uint8, by windows of ``crop``, at most ``batch`` at a time."""
    height, width = image.shape[-2:]
    places = [(y, x) for y in starts(height, crop, stride) for x in starts(width, crop, stride)]
    total: Tensor | None = None
    count = torch.zeros(height, width, device=image.device)
    for part in _batches(places, batch):
        windows = torch.stack([image[:, y : y + crop, x : x + crop] for y, x in part])
        for (y, x), logits in zip(part, scores(windows), strict=True):
            if total is None:
                total = logits.new_zeros(len(logits), height, width)
            total[:, y : y + crop, x : x + crop] += logits
            count[y : y + crop, x : x + crop] += 1
    assert total is not None
    return total.div_(count)


def _batches(places: list[tuple[int, int]], size: int) -> Iterator[list[tuple[int, int]]]:
    for i in range(0, len(places), size):
        yield places[i : i + size]
