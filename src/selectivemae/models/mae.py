"""MAE (arXiv 2111.06377), the baseline: random masking, a self-attention decoder over all places.

Shapes: B batch, L patches, V visible, R = L - V masked, E encoder width, D decoder width.
"""

import torch
from torch import Tensor, nn

from selectivemae.models.masked import Grid, MaskedAutoencoder, MaskedConfig, vit_block
from selectivemae.ops.patches import take
from selectivemae.ops.phases import phase_at
from selectivemae.ops.selection import among, draw_visible


class MAE(MaskedAutoencoder):
    """Masked autoencoder with random visible patches; all masked ones are rebuilt."""

    method = "mae"

    def __init__(self, config: MaskedConfig) -> None:
        super().__init__(config)
        arch = config.arch
        self.decoder_embed = nn.Linear(arch.width, arch.decoder_width)
        self.decoder_blocks = nn.ModuleList(
            vit_block(arch.decoder_width, arch.decoder_heads) for _ in range(config.decoder_depth)
        )

    @property
    def longest_sequence(self) -> int:
        """The decoder sees all places."""
        return 1 + self.number.patches

    def phase(self, progress: float, device: torch.device | str) -> Tensor:
        """Random throughout."""
        return phase_at(progress, "random").as_tensor(device)

    @torch.no_grad()
    def choose(self, images: Tensor, patches: Tensor, noise_key: Tensor, phase: Tensor) -> tuple[Tensor, Tensor]:
        """Random visible (B, V) ids; the targets (B, R) are all others."""
        number = self.numbers[self.grid_of(images)]
        visible = draw_visible(noise_key, number)
        hidden = ~among(visible, number.patches)
        # Places of the masked patches in ascending order, with a static shape: a stable sort puts them first.
        order = hidden.int().sort(dim=1, descending=True, stable=True).indices
        return visible, order[:, : number.targets]

    def reconstruct(self, latent: Tensor, targets: Tensor, visible: Tensor | None = None, grid: Grid = None) -> Tensor:
        """Latent (B, 1 + V, E), target ids (B, R) and visible ids (B, V) to predicted patches (B, R, p*p*C)."""
        if visible is None:
            raise ValueError("MAE's decoder needs the visible ids: reconstruct(latent, targets, visible)")
        x = self.decoder_embed(latent)
        positions = self.table("decoder_pos_embed", grid)
        places = self.mask_token.to(x.dtype).repeat(len(x), positions.shape[1] - 1, 1)
        places = places.scatter(1, visible.unsqueeze(-1).expand(-1, -1, x.shape[-1]), x[:, 1:])
        x = torch.cat([x[:, :1], places], dim=1) + positions
        for block in self.decoder_blocks:
            x = block(x)
        return self.decoder_pred(self.decoder_norm(take(x[:, 1:], targets)))
