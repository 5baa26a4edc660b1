"""SelectiveMAE (arXiv 2406.11933): encode a few chosen patches, rebuild a few others by cross-attention.

Shapes: B batch, L patches, V visible, R rebuilt, E encoder width, D decoder width, h heads.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from selectivemae.models._torchvision import ensure_torchvision
from selectivemae.models.masked import Grid, MaskedAutoencoder, MaskedConfig
from selectivemae.models.vit import LayerNorm
from selectivemae.ops.phases import phase_at
from selectivemae.ops.richness import richness_logits
from selectivemae.ops.selection import draw_targets, draw_visible, select_visible


@dataclass(frozen=True)
class SelectionConfig:
    """How patches are chosen: by what measure, how, and in which order of phases."""

    richness: str = "uniform"
    target_richness: str | None = None  # None: as ``richness``
    mode: str = "sample"
    temperature: float = 0.5
    order: str = "random"
    boundaries: tuple[float, ...] | None = None  # None: the published fractions

    @property
    def for_targets(self) -> str:
        """The measure by which targets are drawn."""
        return self.target_richness or self.richness

    @property
    def visible_is_uniform(self) -> bool:
        """Whether the visible patches are a plain uniform draw, for which no token needs to be looked at."""
        return self.richness == "uniform" and self.order == "random"


class CrossAttention(nn.Module):
    """Queries (B, R, D) look at the latent (B, 1 + V, E); no query sees another."""

    def __init__(self, width: int, latent_width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q = nn.Linear(width, width)
        self.kv = nn.Linear(latent_width, 2 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor, latent: Tensor) -> Tensor:
        """(B, R, D) and (B, 1 + V, E) to (B, R, D)."""
        b, r, d = x.shape
        q = self.q(x).reshape(b, r, self.heads, d // self.heads).transpose(1, 2)
        kv = self.kv(latent).reshape(b, latent.shape[1], 2, self.heads, d // self.heads)
        k, v = kv.permute(2, 0, 3, 1, 4).unbind(0)
        out = nn.functional.scaled_dot_product_attention(q, k, v)
        return self.proj(out.transpose(1, 2).reshape(b, r, d))


class CrossBlock(nn.Module):
    """``x += CrossAttention(LN(x), y); x += MLP(LN(x))``, after self-attention among the queries where asked for."""

    def __init__(self, width: int, latent_width: int, heads: int, self_attention: bool) -> None:
        super().__init__()
        ensure_torchvision()
        from timm.layers.attention import Attention
        from timm.layers.mlp import Mlp

        if self_attention:
            self.norm0 = LayerNorm(width)
            self.self_attn = Attention(width, heads, qkv_bias=True)
        self.self_attention = self_attention
        self.norm1 = LayerNorm(width)
        self.cross_attn = CrossAttention(width, latent_width, heads)
        self.norm2 = LayerNorm(width)
        self.mlp = Mlp(width, 4 * width)

    def forward(self, x: Tensor, latent: Tensor) -> Tensor:
        """(B, R, D) and (B, 1 + V, E) to (B, R, D)."""
        if self.self_attention:
            x = x + self.self_attn(self.norm0(x))
        x = x + self.cross_attn(self.norm1(x), latent)
        return x + self.mlp(self.norm2(x))


class SelectiveMAE(MaskedAutoencoder):
    """Masked autoencoder with chosen patches and a cross-attention decoder."""

    method = "selectivemae"

    def __init__(self, config: MaskedConfig, selection: SelectionConfig, self_attention: bool = False) -> None:
        super().__init__(config)
        self.selection = selection
        arch = config.arch
        self.decoder_blocks = nn.ModuleList(
            CrossBlock(arch.decoder_width, arch.width, arch.decoder_heads, self_attention)
            for _ in range(config.decoder_depth)
        )

    def phase(self, progress: float, device: torch.device | str) -> Tensor:
        """The curriculum's phase at ``progress`` as a (5,) tensor."""
        return phase_at(progress, self.selection.order, self.selection.boundaries).as_tensor(device)

    @torch.no_grad()
    def choose(self, images: Tensor, patches: Tensor, noise_key: Tensor, phase: Tensor) -> tuple[Tensor, Tensor]:
        """Visible (B, V) and target (B, R) ids by progressive semantic token selection."""
        how, grid = self.selection, self.grid_of(images)
        number = self.numbers[grid]
        targets_by = self.richness(images, how.for_targets)
        if how.visible_is_uniform:
            visible = draw_visible(noise_key, number)
            return visible, draw_targets(targets_by, noise_key, visible, number, how.mode)
        by = targets_by if how.for_targets == how.richness else self.richness(images, how.richness)
        with torch.autocast(images.device.type, enabled=False):  # the same choice in every precision of training
            tokens = self.patch_embed(patches.float()).add_(self.table("pos_embed", grid)[:, 1:])
        visible = select_visible(tokens, by, noise_key, phase, number, how.mode)
        return visible, draw_targets(targets_by, noise_key, visible, number, how.mode)

    @property
    def uses_hog(self) -> bool:
        """Whether HOG is part of a step."""
        return "hog" in (self.selection.richness, self.selection.for_targets)

    def richness(self, images: Tensor, measure: str) -> Tensor:
        """Richness logits (B, L) of normalised images by a named measure."""
        return richness_logits(self.pixels(images), self.patch, measure, self.selection.temperature)

    def reconstruct(self, latent: Tensor, targets: Tensor, visible: Tensor | None = None, grid: Grid = None) -> Tensor:
        """Latent (B, 1 + V, E) and target ids (B, R) to predicted patches (B, R, p*p*C); ``visible`` is not needed."""
        x = self.mask_token + self.table("decoder_pos_embed", grid)[0, 1:][targets]
        for block in self.decoder_blocks:
            x = block(x, latent)
        return self.decoder_pred(self.decoder_norm(x))
