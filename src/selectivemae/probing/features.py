"""Frozen features of images: what an encoder sees, and simple numbers to compare it with."""

from collections.abc import Callable
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from selectivemae.core.errors import ConfigError, DataError
from selectivemae.core.order import Int64
from selectivemae.data.reading import UInt8, read_images
from selectivemae.data.stores import Store
from selectivemae.probing.knn import Float32
from selectivemae.weights.info import EncoderInfo


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


def image_side(encoder: nn.Module, wanted: int | None) -> int:
    """Side of the images that an encoder is shown, in pixels: the wanted one, or its own.

    ConfigError when its patches do not divide it.
    """
    model = cast(Any, encoder)
    side = wanted or EncoderInfo.of(encoder).image_size[0]
    patch = getattr(getattr(model, "patch_embed", None), "patch_size", (1, 1))[0]
    if side % patch:
        raise ConfigError(f"--image-size {side} is not a multiple of the patch size {patch} of these weights")
    return side


def encoder_describer(encoder: nn.Module, device: torch.device, pool: str = "mean") -> Callable[[UInt8], Float32]:
    """Images (B, C, H, W) uint8 to features (B, E) fp32 of a frozen encoder.

    ``mean`` is the mean of the patch tokens (or of the last map's places), ``token`` the class token.
    """
    model = cast(Any, encoder)
    info = EncoderInfo.of(encoder)
    prefix = getattr(model, "num_prefix_tokens", 0)

    @torch.inference_mode()
    def describe(images: UInt8) -> Float32:
        out: Tensor = model.forward_features(info.normalise(torch.from_numpy(images).to(device)))
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
