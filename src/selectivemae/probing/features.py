"""Frozen features of images: what an encoder sees, and simple numbers to compare it with."""

from collections.abc import Callable, Iterator
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from selectivemae.core.errors import DataError
from selectivemae.core.order import Int64
from selectivemae.data.augment import CentreCrop
from selectivemae.data.stores import Store
from selectivemae.data.workers import Inline, Pool, Task
from selectivemae.probing.knn import Float32

UInt8 = NDArray[np.uint8]


def read_images(
    store: Store, index: Int64, size: int, channels: int = 3, workers: int = 0, batch: int = 64
) -> Iterator[tuple[UInt8, Int64, list[tuple[str, str]]]]:
    """Centre squares of a store's images, resized to ``size``, in batches.

    Yields (images (B, C, size, size) uint8, their places in ``index``, [(id, reason)] of those that cannot be read,
    which are left out).
    """
    task = Task(store, size, channels, CentreCrop())
    source = Pool(task, workers, batch, 2, 300.0) if workers else Inline(task)
    chunks = [np.arange(i, min(i + batch, len(index))) for i in range(0, len(index), batch)]
    pending = iter(chunks)
    waiting: list[Int64] = []
    try:
        for _ in chunks:
            while len(waiting) < source.slots and (chunk := next(pending, None)) is not None:
                source.submit(index[chunk], np.zeros(len(chunk), np.int64))
                waiting.append(chunk)
            images, reasons = source.collect()
            chunk = waiting.pop(0)
            good = reasons == b""
            bad = [(store.id(int(index[chunk[i]])), reasons[i].decode()) for i in np.flatnonzero(~good)]
            yield images.permute(0, 3, 1, 2).numpy()[good], chunk[good], bad
    finally:
        source.close()


def collect(
    store: Store, index: Int64, size: int, channels: int, workers: int, describe: Callable[[UInt8], Float32]
) -> tuple[Float32, Int64, list[tuple[str, str]]]:
    """Features (N, E) of a store's images by ``describe`` (images (B, C, H, W) uint8 -> (B, E)).

    Also gives the places in ``index`` that they belong to, and what could not be read. DataError when nothing could.
    """
    features, places, bad = [], [], []
    for images, chunk, unread in read_images(store, index, size, channels, workers):
        bad += unread
        if len(chunk):
            features.append(describe(images))
            places.append(chunk)
    if not features:
        raise DataError(f"none of {len(index)} images could be read, the first ({bad[0][0]}) because: {bad[0][1]}")
    return np.concatenate(features), np.concatenate(places), bad


def encoder_describer(encoder: nn.Module, device: torch.device, pool: str = "mean") -> Callable[[UInt8], Float32]:
    """Images (B, C, H, W) uint8 to features (B, E) fp32 of a frozen encoder.

    ``mean`` is the mean of the patch tokens (or of the last map's places), ``token`` the class token.
    """
    model = cast(Any, encoder)
    described = model.pretrained_cfg
    mean = torch.tensor(described["mean"], device=device).reshape(1, -1, 1, 1)
    std = torch.tensor(described["std"], device=device).reshape(1, -1, 1, 1)
    prefix = getattr(model, "num_prefix_tokens", 0)

    @torch.inference_mode()
    def describe(images: UInt8) -> Float32:
        x = (torch.from_numpy(images).to(device).float() / 255 - mean) / std
        out: Tensor = model.forward_features(x)
        if out.ndim == 3:
            out = out[:, 0] if pool == "token" and prefix else out[:, prefix:].mean(dim=1)
        elif out.ndim == 4:
            channel_last = out.shape[-1] == model.num_features
            out = out.mean(dim=(1, 2) if channel_last else (2, 3))
        return out.float().cpu().numpy()

    return describe


def colour_describer(images: UInt8) -> Float32:
    """Mean and deviation of each channel: (B, 2C). What colour alone tells."""
    x = images.astype(np.float32) / 255
    return np.concatenate([x.mean(axis=(2, 3)), x.std(axis=(2, 3))], axis=1)


def pixel_describer(images: UInt8) -> Float32:
    """The pixels of 24 x 24 thumbnails (area means): (B, C * 576)."""
    x = torch.from_numpy(images).float() / 255
    return torch.nn.functional.interpolate(x, (24, 24), mode="area").flatten(1).numpy()
