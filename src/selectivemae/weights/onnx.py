"""Vision transformers as ONNX, with dynamic batch and image size.

timm resamples positions with an operator that ONNX lacks for sizes known only at run time; here the same resampling is
two products with matrices made from plain arithmetic. B images, E width, h and w patches.
"""

from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from selectivemae.core.errors import ConfigError
from selectivemae.weights.info import EncoderInfo

INPUT, OUTPUTS = "images", ("tokens", "embedding")


class OnnxEncoder(nn.Module):
    """A timm ``VisionTransformer``: normalised images (B, C, H, W) to tokens (B, 1 + h*w, E) and embeddings (B, E)."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder: Any = encoder
        self.grid = self.encoder.patch_embed.grid_size

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens, normed, class token first; and what the encoder pools of them."""
        encoder = self.encoder
        image = encoder.patch_embed.proj(images)
        positions = self.positions(image.shape[2], image.shape[3])
        x = image.flatten(2).transpose(1, 2)
        x = torch.cat([encoder.cls_token.expand(x.shape[0], -1, -1), x], dim=1) + positions
        for block in encoder.blocks:
            x = block(x)
        tokens = encoder.norm(x)
        return tokens, encoder.forward_head(tokens, pre_logits=True)

    def positions(self, h: int, w: int) -> Tensor:
        """Positions (1, 1 + h*w, E) for a grid of patches."""
        table = self.encoder.pos_embed
        grid = table[0, 1:].reshape(*self.grid, -1)
        rows, columns = (resampling_matrix(old, new, table) for old, new in zip(self.grid, (h, w), strict=True))
        grid = torch.einsum("ij,jke->ike", rows, torch.einsum("lk,jke->jle", columns, grid))
        return torch.cat([table[:, :1], grid.reshape(1, h * w, -1)], dim=1)


def resampling_matrix(old: int, new: int, like: Tensor) -> Tensor:
    """(new, old) matrix of bicubic resampling with anti-aliasing (a = -0.5, edges renormalised), as Pillow's."""
    place = torch.arange(new, dtype=torch.float64)
    scale = old / (place[-1] + 1)  # a tensor: a symbolic size in fractions would stall the exporter
    stretch = torch.clamp(scale, min=1.0)
    centre = (place + 0.5) * scale
    support = 2.0 * stretch
    first = torch.clamp(torch.floor(centre - support + 0.5), min=0)
    last = torch.clamp(torch.floor(centre + support + 0.5), max=old)
    tap = torch.arange(old, dtype=torch.float64)[None]
    x = ((tap + 0.5 - centre[:, None]) / stretch).abs()
    near = (1.5 * x - 2.5) * x * x + 1
    far = ((-0.5 * x + 2.5) * x - 4) * x + 2
    weight = torch.where(x < 1, near, torch.where(x < 2, far, torch.zeros_like(x)))
    weight = weight * ((tap >= first[:, None]) & (tap < last[:, None]))
    return (weight / weight.sum(1, keepdim=True)).to(like.dtype)


def export_onnx(encoder: nn.Module, info: EncoderInfo, path: Path) -> None:
    """Write an encoder with batch, height and width free; raises ``ConfigError`` when onnxscript is not installed."""
    try:
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise ConfigError("ONNX export needs two more packages: pip install onnx onnxscript") from error
    patch = cast(Any, encoder).patch_embed.patch_size[0]
    height, width = (side + patch for side in info.image_size)  # not the native grid, which would be taken as fixed
    images = torch.zeros(2, info.channels, height, width + patch)
    rows, columns = torch.export.Dim("rows", min=1, max=4096), torch.export.Dim("columns", min=1, max=4096)
    free = {0: torch.export.Dim("batch", min=1, max=65536), 2: patch * rows, 3: patch * columns}
    program = torch.onnx.export(
        OnnxEncoder(encoder).eval(),
        (images,),
        dynamo=True,
        dynamic_shapes=(free,),
        input_names=[INPUT],
        output_names=list(OUTPUTS),
        verbose=False,
    )
    if program is None:
        raise ConfigError("this version of torch writes no ONNX program; use 2.6 or newer")
    partial = path.with_name(f".{path.name}.tmp")
    program.save(partial, external_data=False)
    partial.replace(path)


def run_onnx(path: Path, images: Tensor) -> list[Tensor]:
    """Tokens and embeddings of images by onnxruntime on the CPU; raises ``ConfigError`` when it is not installed."""
    try:
        import onnxruntime
    except ImportError as error:
        raise ConfigError("checking ONNX needs onnxruntime: pip install onnxruntime") from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return [torch.from_numpy(out) for out in session.run(list(OUTPUTS), {INPUT: images.numpy()})]
