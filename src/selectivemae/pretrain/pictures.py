"""Pictures of learning: what the model sees of a few fixed images, what it rebuilds, and what was chosen.

Shapes: B images, C channels, H and W sides, p patch side, L patches, V visible, R rebuilt.
"""

import io
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from selectivemae.core.order import epoch_order, sample_key
from selectivemae.data.augment import CentreCrop
from selectivemae.data.pixels import Task
from selectivemae.data.stores import Store
from selectivemae.data.workers import Inline
from selectivemae.models.masked import MaskedAutoencoder
from selectivemae.ops.patches import normalise_patches, patchify, take, unpatchify
from selectivemae.ops.richness import richness_logits

UInt8 = NDArray[np.uint8]
Colour = tuple[int, int, int]

NEVER = -1  # an epoch that training does not reach: order and noise of the fixed images are their own
UNSEEN = 160  # grey level of what the encoder does not see
MIN_WIDTH = 560  # pixels: heading and legend need them
TILE, GAP, LINE = 192, 6, 22  # least side of a tile, space between tiles, height of a line of text, in pixels
INK, PAPER = (32, 36, 42), (255, 255, 255)
# Colours of poor and of rich patches: neither seen nor rebuilt, seen, rebuilt.
RAMPS: tuple[tuple[Colour, Colour], ...] = (
    ((38, 38, 42), (222, 222, 226)),
    ((8, 48, 107), (120, 190, 255)),
    ((110, 44, 0), (255, 178, 92)),
)


@dataclass(frozen=True)
class Fixed:
    """A few images and their noise keys, the same throughout a run: (B, C, H, W) uint8 and (B,) int64."""

    images: Tensor
    key: Tensor


@dataclass(frozen=True)
class Looked:
    """What a model makes of images (B, C, H, W); pictures are uint8 of the same shape.

    ``seen`` is grey where the encoder looks not; ``rebuilt`` adds the targets; ``all_rebuilt`` every unseen patch,
    None where these are the targets. ``part`` (B, rows, columns) is 0 for patches in neither role, 1 seen, 2 target;
    ``richness`` (B, rows, columns) in [0, 1]; ``loss`` the mean over these images.
    """

    original: UInt8
    seen: UInt8
    rebuilt: UInt8
    all_rebuilt: UInt8 | None
    part: NDArray[np.int64]
    richness: NDArray[np.float32]
    loss: float


def fixed_images(store: Store, size: int, channels: int, seed: int, count: int = 6) -> Fixed | None:
    """Up to ``count`` readable samples of a store by lot from ``seed``, whole and without turns; None without any."""
    number = len(store)
    index = epoch_order(seed, NEVER, np.arange(min(number, 4 * count)), number)
    key = sample_key(seed, NEVER, index)
    source = Inline(Task(store, size, channels, CentreCrop()))
    source.submit(index, key)
    images, reasons = source.collect()
    good = np.flatnonzero(reasons == b"")[:count]
    if not len(good):
        return None
    return Fixed(images[good].permute(0, 3, 1, 2).contiguous(), torch.from_numpy(key[good]))


@torch.no_grad()
def look(model: MaskedAutoencoder, fixed: Fixed, progress: float) -> Looked:
    """Select, encode and rebuild fixed images at ``progress`` in [0, 1] of training, without leaving a trace in it.

    Draws from no generator, changes no mode and no gradient. One image at a time, so that it fits wherever training
    fits.
    """
    device = model.cls_token.device
    parts = [
        _look_at(model, image.to(device), key.to(device), progress)
        for image, key in zip(fixed.images.split(1), fixed.key.split(1), strict=True)
    ]
    pictures = [np.concatenate(arrays) for arrays in zip(*(p[0] for p in parts), strict=True)]
    part, richness, loss = (torch.cat(tensors).cpu().numpy() for tensors in zip(*(p[1:] for p in parts), strict=True))
    every = model.number.visible + model.number.targets == model.number.patches
    seen, rebuilt, all_rebuilt = pictures
    return Looked(
        fixed.images.numpy(), seen, rebuilt, None if every else all_rebuilt, part, richness, float(loss.mean())
    )


def _look_at(
    model: MaskedAutoencoder, image: Tensor, key: Tensor, progress: float
) -> tuple[list[UInt8], Tensor, Tensor, Tensor]:
    """([seen, rebuilt, all rebuilt], part, richness, loss) of one image (1, C, H, W) uint8."""
    x = model.normalise(image)
    patches = patchify(x, model.patch)
    visible, targets = model.select(x, key, progress)
    part = torch.zeros(patches.shape[:2], dtype=torch.int64, device=x.device)
    part = part.scatter(1, visible, 1).scatter(1, targets, 2)
    hidden = (part != 1).nonzero()[:, 1].unsqueeze(0)
    latent = model.encode(x, visible)
    prediction = model.reconstruct(latent, targets, visible)
    unseen = patchify(model.normalise(torch.full_like(image, UNSEEN)), model.patch)
    seen = _paste(unseen, visible, take(patches, visible))
    rebuilt = _paste(seen, targets, true_scale(model, patches, targets, prediction))
    whole = _paste(seen, hidden, true_scale(model, patches, hidden, model.reconstruct(latent, hidden, visible)))
    richness = torch.sigmoid(richness_logits(model.pixels(x), model.patch, "hog", 1.0))
    pictures = [to_uint8(model, canvas) for canvas in (seen, rebuilt, whole)]
    return pictures, part.reshape(1, *model.grid), richness.reshape(1, *model.grid), model.loss(x, prediction, targets)


def true_scale(model: MaskedAutoencoder, patches: Tensor, ids: Tensor, prediction: Tensor) -> Tensor:
    """Predicted patches (B, R, p*p*C) at ``ids`` (B, R) with the mean and deviation of the true ``patches``
    (B, L, p*p*C) put back, where the model predicts them normalised."""
    if not model.config.norm_pix:
        return prediction
    _, mean, deviation = normalise_patches(take(patches, ids))
    return prediction * deviation + mean


def to_uint8(model: MaskedAutoencoder, patches: Tensor) -> UInt8:
    """Normalised patches (B, L, p*p*C) as images (B, C, H, W) uint8."""
    images = unpatchify(patches, model.patch, model.config.height, model.config.width)
    return (model.pixels(images) * 255).round().clamp(0, 255).to(torch.uint8).cpu().numpy()


def _paste(canvas: Tensor, ids: Tensor, patches: Tensor) -> Tensor:
    """A copy of canvas (B, L, E) with ``patches`` (B, N, E) at ``ids`` (B, N)."""
    return canvas.scatter(1, ids.unsqueeze(-1).expand_as(patches), patches.to(canvas.dtype))


def draw_grid(looked: Looked, heading: str) -> bytes:
    """A PNG with one row an image: the image | seen | rebuilt | all unseen rebuilt | choice over richness."""
    share = [np.mean(looked.part == k) for k in (1, 2)]
    columns = [
        ("image", rgb(looked.original)),
        (f"seen, {share[0]:.0%}", rgb(looked.seen)),
        (f"rebuilt, {share[1]:.0%}", rgb(looked.rebuilt)),
    ]
    if looked.all_rebuilt is not None:
        columns.append(("all unseen rebuilt", rgb(looked.all_rebuilt)))
    return _sheet([*columns, _choice(looked)], heading)


def draw_selection(looked: Looked, heading: str) -> bytes:
    """A PNG with one row an image: the image | choice over richness."""
    return _sheet([("image", rgb(looked.original)), _choice(looked)], heading)


def _choice(looked: Looked) -> tuple[str, UInt8]:
    return "choice", choice_map(looked.part, looked.richness, *looked.original.shape[2:])


def _sheet(columns: list[tuple[str, UInt8]], heading: str) -> bytes:
    """A PNG of titled columns of pictures (B, H, W, 3), with the legend of the choice below."""
    count, height, width, _ = columns[0][1].shape
    factor = max(1, round(TILE / width))
    high, wide = height * factor, width * factor
    top = 2 * LINE + GAP
    canvas = Image.new(
        "RGB", (max(GAP + len(columns) * (wide + GAP), MIN_WIDTH), top + count * (high + GAP) + LINE + GAP), PAPER
    )
    draw = ImageDraw.Draw(canvas)
    font = ImageFont.load_default(14)
    draw.text((GAP, 5), heading, INK, font)
    for column, (title, tiles) in enumerate(columns):
        x = GAP + column * (wide + GAP)
        draw.text((x, LINE + 7), title, INK, font)
        for row, tile in enumerate(tiles):
            scaled = Image.fromarray(tile).resize((wide, high), Image.Resampling.NEAREST)
            canvas.paste(scaled, (x, top + row * (high + GAP)))
    _legend(draw, font, GAP, top + count * (high + GAP))
    out = io.BytesIO()
    canvas.save(out, "PNG", optimize=True)
    return out.getvalue()


def _legend(draw: ImageDraw.ImageDraw, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, x: float, y: float) -> None:
    """What the colours of the choice mean."""
    for (poor, rich), text in zip(RAMPS, ("neither", "seen", "rebuilt"), strict=True):
        for step in range(3):
            shade = tuple(a + (b - a) * step // 2 for a, b in zip(poor, rich, strict=True))
            draw.rectangle((x, y + 5, x + 12, y + 17), shade)
            x += 13
        draw.text((x + 5, y + 3), text, INK, font)
        x += 5 + font.getlength(text) + 18
    draw.text((x, y + 3), "light: rich in gradients", INK, font)


def choice_map(part: NDArray[np.int64], richness: NDArray[np.float32], height: int, width: int) -> UInt8:
    """Pictures (B, H, W, 3) of patches (B, rows, columns): hue tells the part (``RAMPS``), lightness richness."""
    ramps = np.asarray(RAMPS, np.float32)[part]
    colour = ramps[..., 0, :] + (ramps[..., 1, :] - ramps[..., 0, :]) * richness[..., None]
    rows, columns = part.shape[1:]
    return colour.round().astype(np.uint8).repeat(height // rows, axis=1).repeat(width // columns, axis=2)


def rgb(images: UInt8) -> UInt8:
    """Images (B, C, H, W) to (B, H, W, 3): the first three channels, or the first as grey."""
    shown = images[:, :3] if images.shape[1] >= 3 else images[:, :1].repeat(3, axis=1)
    return np.ascontiguousarray(shown.transpose(0, 2, 3, 1))
