"""RVSA: a plain vision transformer whose attention windows move, scale and turn (Wang et al., TGRS 2022).

Most blocks attend within windows of s x s queries, each to s*s keys sampled from a moved, resized and rotated copy of
its window; every ``interval``-th block attends to all tokens. Both add a decomposed relative position term.

B batch, N = H*W tokens, C width, h heads, d = C/h, s window side (7), windows: nh rows times nw columns.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import grid_sample, interpolate, pad, scaled_dot_product_attention
from torch.utils.checkpoint import checkpoint

from selectivemae.models._torchvision import ensure_torchvision
from selectivemae.models.vit import Architecture, LayerNorm, check_image_size

ensure_torchvision()

from timm.layers.drop import DropPath  # noqa: E402
from timm.layers.mlp import Mlp  # noqa: E402
from timm.layers.patch_embed import PatchEmbed  # noqa: E402

WINDOW = 7


class SampledWindowAttention(nn.Module):
    """Attention of s x s windows of queries to keys and values sampled from rotated windows of varied size.

    ``separate`` gives keys and values windows of their own (the variant marked with a diamond); ``zero_init`` starts
    from windows that are neither moved, scaled nor turned, while the published models start from random ones.
    """

    relative_position_index: Tensor

    def __init__(
        self,
        width: int,
        heads: int,
        window: int = WINDOW,
        *,
        qkv_bias: bool = True,
        separate: bool = False,
        zero_init: bool = False,
    ) -> None:
        super().__init__()
        self.heads, self.window, self.separate = heads, window, separate
        self.qkv = nn.Linear(width, 3 * width, bias=qkv_bias)
        self.proj = nn.Linear(width, width)
        self.rel_pos_h = nn.Parameter(torch.zeros(2 * window - 1, width // heads))
        self.rel_pos_w = nn.Parameter(torch.zeros(2 * window - 1, width // heads))
        self.relative_position_bias_table = nn.Parameter(torch.zeros((2 * window - 1) ** 2, heads))
        nn.init.trunc_normal_(self.relative_position_bias_table, std=0.02)
        self.register_buffer("relative_position_index", relative_index(window), persistent=False)
        for suffix in ("_k", "_v") if separate else ("",):
            for name, channels in (("offsets", 2), ("scales", 2), ("angles", 1)):
                predictor = nn.Sequential(nn.AvgPool2d(window), nn.LeakyReLU(), nn.Conv2d(width, channels * heads, 1))
                if zero_init:
                    nn.init.zeros_(predictor[2].weight)  # pyright: ignore[reportArgumentType]
                    nn.init.zeros_(predictor[2].bias)  # pyright: ignore[reportArgumentType]
                self.add_module(f"sampling_{name}{suffix}", predictor)

    def forward(self, x: Tensor, H: int, W: int) -> Tensor:
        """Tokens (B, H*W, C) to the same shape."""
        B, _, C = x.shape
        h, s, d = self.heads, self.window, C // self.heads
        border = _border(H, W, s)
        image = pad(x.transpose(1, 2).reshape(B, C, H, W), border)
        nh, nw = image.shape[2] // s, image.shape[3] // s
        qkv = self.qkv(x).reshape(B, H, W, 3, h, d).permute(3, 0, 4, 5, 1, 2).reshape(3, B * h, d, H, W)
        q, k, v = (pad(part, border) for part in qkv)
        points = self._points(image, H, W, "_k" if self.separate else "")
        k = grid_sample(k, points, mode="bilinear", padding_mode="zeros", align_corners=True)
        points = self._points(image, H, W, "_v") if self.separate else points
        v = grid_sample(v, points, mode="bilinear", padding_mode="zeros", align_corners=True)
        q, k, v = (_windows(part, s).reshape(B, h, nh * nw, s * s, d) for part in (q, k, v))
        bias = decomposed_bias(q, self.rel_pos_h, self.rel_pos_w, s, s)
        table = self.relative_position_bias_table[self.relative_position_index]  # (s*s, s*s, h)
        out = scaled_dot_product_attention(q, k, v, attn_mask=bias + table.permute(2, 0, 1)[:, None])
        out = out.reshape(B, h, nh, nw, s, s, d).permute(0, 2, 4, 3, 5, 1, 6).reshape(B, nh * s, nw * s, C)
        out = out[:, border[2] : border[2] + H, border[0] : border[0] + W]
        return self.proj(out.reshape(B, H * W, C))

    def _points(self, image: Tensor, H: int, W: int, suffix: str) -> Tensor:
        """Where the keys of each window lie: (B*h, nh*s, nw*s, 2) as (x, y) in [-1, 1], corners aligned."""
        B, h, s = image.shape[0], self.heads, self.window
        predicted = (getattr(self, f"sampling_{name}{suffix}")(image) for name in ("offsets", "scales", "angles"))
        offsets, scales, angles = (part.reshape(B * h, -1, 1, 1, *part.shape[2:]) for part in predicted)
        # The published code divides x by the count of windows down, y by the count across: equal on square images.
        count = image.new_tensor([max(H // s, 1), max(W // s, 1)]).reshape(1, 2, 1, 1, 1, 1)
        bx, by, centre = window_grid(image, s)
        bx, by = bx.reshape(1, 1, s, 1, 1) * (scales[:, 0] + 1), by.reshape(1, s, 1, 1, 1) * (scales[:, 1] + 1)
        cosine, sine = angles[:, 0].cos(), angles[:, 0].sin()
        moved = torch.stack([bx * cosine - by * sine, by * cosine + bx * sine], 1)
        points = moved + centre[None, :, None, None] + offsets / count  # (B*h, 2, s, s, nh, nw)
        return points.permute(0, 4, 2, 5, 3, 1).reshape(B * h, image.shape[2], image.shape[3], 2)


class FullAttention(nn.Module):
    """Attention of all tokens with a decomposed relative position term, whose tables are resized for other grids."""

    def __init__(self, width: int, heads: int, grid: tuple[int, int], *, qkv_bias: bool = True) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width, bias=qkv_bias)
        self.proj = nn.Linear(width, width)
        self.rel_pos_h = nn.Parameter(torch.zeros(2 * grid[0] - 1, width // heads))
        self.rel_pos_w = nn.Parameter(torch.zeros(2 * grid[1] - 1, width // heads))

    def forward(self, x: Tensor, H: int, W: int) -> Tensor:
        """Tokens (B, H*W, C) to the same shape."""
        B, N, C = x.shape
        q, k, v = self.qkv(x).reshape(B, N, 3, self.heads, C // self.heads).permute(2, 0, 3, 1, 4)
        rows, columns = resize_table(self.rel_pos_h, 2 * H - 1), resize_table(self.rel_pos_w, 2 * W - 1)
        bias = decomposed_bias(q * (C // self.heads) ** -0.5, rows, columns, H, W)
        out = scaled_dot_product_attention(q, k, v, attn_mask=bias)
        return self.proj(out.transpose(1, 2).reshape(B, N, C))


class RVSABlock(nn.Module):
    """A pre-norm transformer block around either attention."""

    def __init__(self, width: int, attention: nn.Module, drop_path: float) -> None:
        super().__init__()
        self.norm1 = LayerNorm(width)
        self.attn = attention
        self.norm2 = LayerNorm(width)
        self.mlp = Mlp(width, 4 * width)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor, H: int, W: int) -> Tensor:
        """Tokens (B, H*W, C) to the same shape."""
        x = x + self.drop_path(self.attn(self.norm1(x), H, W))
        return x + self.drop_path(self.mlp(self.norm2(x)))


class RVSA(nn.Module):
    """The backbone: patches, positions, blocks; no class token.

    Block i attends to all tokens iff i + 1 is a multiple of ``interval`` (depth / 4: 3 for B, 6 for L).
    ``drop_path`` grows linearly from 0 to its value at the last block. Images of any size the patch divides.
    """

    def __init__(
        self,
        arch: Architecture,
        image_size: tuple[int, int] = (224, 224),
        in_chans: int = 3,
        *,
        interval: int | None = None,
        qkv_bias: bool = True,
        separate: bool = False,
        zero_init: bool = False,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        check_image_size(arch, *image_size)
        self.patch, self.num_features, self.embed_dim = arch.patch, arch.width, arch.width
        self.num_prefix_tokens, self.dynamic_img_size, self.grad_checkpointing = 0, True, False
        self.grid = (image_size[0] // arch.patch, image_size[1] // arch.patch)
        self.patch_embed = PatchEmbed(None, arch.patch, in_chans, arch.width)
        self.pos_embed = nn.Parameter(torch.zeros(1, self.grid[0] * self.grid[1], arch.width))
        interval = interval or arch.depth // 4
        self.blocks = nn.ModuleList()
        for i in range(arch.depth):
            attention = (
                FullAttention(arch.width, arch.heads, self.grid, qkv_bias=qkv_bias)
                if (i + 1) % interval == 0
                else SampledWindowAttention(
                    arch.width, arch.heads, qkv_bias=qkv_bias, separate=separate, zero_init=zero_init
                )
            )
            self.blocks.append(RVSABlock(arch.width, attention, drop_path * i / max(arch.depth - 1, 1)))
        self.norm = LayerNorm(arch.width)
        self.apply(_initialise)
        nn.init.trunc_normal_(self.pos_embed, std=0.02)

    def forward_intermediates(
        self,
        x: Tensor,
        indices: Sequence[int] | int | None = None,
        norm: bool = False,
        stop_early: bool = False,
        intermediates_only: bool = False,
    ) -> Any:
        """Outputs of blocks ``indices`` (0-based; a number: the last so many; None: all) as maps (B, C, H, W).

        timm's interface: ``norm`` applies the final norm to them, ``stop_early`` leaves out later blocks. Images ``x``
        are (B, channels, height, width). Gives the maps alone, or normed tokens (B, N, C) and the maps.
        """
        depth = len(self.blocks)
        indices = depth if indices is None else indices
        wanted = range(depth - indices, depth) if isinstance(indices, int) else indices
        H, W = x.shape[2] // self.patch, x.shape[3] // self.patch
        x = self.patch_embed(x) + self._positions(H, W)
        maps = []
        for i, block in enumerate(self.blocks[: max(wanted) + 1] if stop_early else self.blocks):
            x = checkpoint(block, x, H, W, use_reentrant=False) if self.grad_checkpointing else block(x, H, W)
            if i in wanted:
                maps.append((self.norm(x) if norm else x).transpose(1, 2).reshape(x.shape[0], -1, H, W))
        return maps if intermediates_only else (self.norm(x), maps)

    def forward_features(self, images: Tensor) -> Tensor:
        """Images (B, channels, height, width) to normed tokens (B, N, C)."""
        return self.forward_intermediates(images, 1)[0]

    def forward(self, images: Tensor) -> Tensor:
        """Images to one vector each (B, C): the mean of the tokens, then the norm, as the published classifier."""
        return self.norm(self.forward_intermediates(images, 1, intermediates_only=True)[0].mean((2, 3)))

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Save memory in training by computing every block twice."""
        self.grad_checkpointing = enable

    def _positions(self, H: int, W: int) -> Tensor:
        if self.grid == (H, W):
            return self.pos_embed
        image = self.pos_embed.reshape(1, *self.grid, -1).permute(0, 3, 1, 2)
        return interpolate(image, size=(H, W), mode="bicubic", align_corners=False).flatten(2).transpose(1, 2)


def relative_index(side: int) -> Tensor:
    """(side^2, side^2) int64: which row of a (2*side - 1)^2 table belongs to each pair of places in a window."""
    place = torch.stack(torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")).flatten(1)
    apart = place[:, :, None] - place[:, None] + side - 1
    return apart[0] * (2 * side - 1) + apart[1]


def decomposed_bias(q: Tensor, rows: Tensor, columns: Tensor, H: int, W: int) -> Tensor:
    """q.rows[y - y' + H-1] + q.columns[x - x' + W-1] for all pairs of N = H*W places: (..., N, N).

    ``q`` is (..., N, d), the tables are (2H-1, d) and (2W-1, d).
    """
    down = torch.arange(H, device=q.device)[:, None] - torch.arange(H, device=q.device) + H - 1
    across = torch.arange(W, device=q.device)[:, None] - torch.arange(W, device=q.device) + W - 1
    grid = q.unflatten(-2, (H, W))
    by_row = torch.einsum("...yxd,ypd->...yxp", grid, rows[down])
    by_column = torch.einsum("...yxd,xpd->...yxp", grid, columns[across])
    return (by_row[..., :, None] + by_column[..., None, :]).flatten(-2).flatten(-3, -2)


def resize_table(table: Tensor, rows: int) -> Tensor:
    """A table of relative positions (R, d) at another count of rows, bicubic along the first dimension."""
    if table.shape[0] == rows:
        return table
    return interpolate(table[None, None], size=(rows, table.shape[1]), mode="bicubic", align_corners=False)[0, 0]


def window_grid(image: Tensor, side: int) -> tuple[Tensor, Tensor, Tensor]:
    """Offsets of a window's places from its centre, x and y, (side,) each, and the centres (2, nh, nw) as (x, y).

    Coordinates run from -1 to 1 over the padded map ``image`` (..., Hp, Wp), corners aligned.
    """
    (height, width), kind = image.shape[-2:], {"dtype": image.dtype, "device": image.device}
    steps = torch.arange(side, **kind) - (side - 1) / 2
    centre_y = torch.linspace(-1, 1, height, **kind).reshape(-1, side).mean(1)
    centre_x = torch.linspace(-1, 1, width, **kind).reshape(-1, side).mean(1)
    y, x = torch.meshgrid(centre_y, centre_x, indexing="ij")
    return steps * 2 / (width - 1), steps * 2 / (height - 1), torch.stack([x, y])


def _border(H: int, W: int, side: int) -> tuple[int, int, int, int]:
    """Zeros to add left, right, above and below, so that windows fill the map: the smaller half first."""
    down, across = -H % side, -W % side
    return across // 2, across - across // 2, down // 2, down - down // 2


def _windows(x: Tensor, side: int) -> Tensor:
    """(M, d, nh*s, nw*s) to (M, nh*nw, s*s, d)."""
    M, d, height, width = x.shape
    x = x.reshape(M, d, height // side, side, width // side, side)
    return x.permute(0, 2, 4, 3, 5, 1).reshape(M, -1, side * side, d)


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
