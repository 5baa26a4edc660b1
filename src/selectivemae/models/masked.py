"""What both masked autoencoders share: embedding, encoder, target and loss (method.md, section 1).

Shapes: B batch, C channels, H and W image sides, p patch side, L patches, V visible, R rebuilt, E encoder width,
D decoder width. Parameter names are those of the public MAE-family checkpoints, so their files load as they are.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn

from selectivemae.models._torchvision import ensure_torchvision
from selectivemae.models.vit import Architecture, LayerNorm, check_image_size
from selectivemae.ops.patches import normalise_patches, patchify, take
from selectivemae.ops.positions import sincos_positions
from selectivemae.ops.selection import Counts, counts

if TYPE_CHECKING:
    from timm.models.vision_transformer import Block

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


ResidualInit = Literal["xavier", "zero"]
Grid = tuple[int, int] | None  # (rows, columns) of patches; None: the model's own


@dataclass(frozen=True)
class MaskedConfig:
    """Everything that decides the shape of a pre-training model and what it selects."""

    arch: Architecture
    height: int
    width: int
    in_chans: int
    decoder_depth: int
    mask_ratio: float
    reconstruction_ratio: float | None  # None: all masked patches
    norm_pix: bool
    mean: tuple[float, ...]
    std: tuple[float, ...]


def vit_block(width: int, heads: int) -> "Block":
    """timm's pre-norm transformer block: qkv bias, MLP ratio 4, GELU."""
    ensure_torchvision()
    from timm.models.vision_transformer import Block

    return Block(width, heads, mlp_ratio=4, qkv_bias=True, norm_layer=LayerNorm)  # pyright: ignore[reportArgumentType]


class PatchProjection(nn.Module):
    """One linear map of each patch, held as the weights of a p x p convolution of stride p."""

    def __init__(self, patch: int, in_chans: int, width: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(in_chans, width, patch, stride=patch)

    def forward(self, patches: Tensor) -> Tensor:
        """Patches (..., p*p*C) in (row, column, channel) order to tokens (..., E)."""
        weight = self.proj.weight.permute(0, 2, 3, 1).flatten(1)
        return nn.functional.linear(patches, weight, self.proj.bias)


class MaskedAutoencoder(nn.Module, ABC):
    """Encoder, target and loss of a masked autoencoder; a subclass adds how it selects and how it rebuilds."""

    method: str
    decoder_width: int

    def __init__(self, config: MaskedConfig) -> None:
        super().__init__()
        arch = config.arch
        check_image_size(arch, config.height, config.width)
        self.config = config
        self.patch = arch.patch
        self.grid = (config.height // arch.patch, config.width // arch.patch)
        self.numbers = {self.grid: self._counts(self.grid)}
        self.patch_embed = PatchProjection(arch.patch, config.in_chans, arch.width)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, arch.width))
        self.blocks = nn.ModuleList(vit_block(arch.width, arch.heads) for _ in range(arch.depth))
        self.norm = LayerNorm(arch.width)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, arch.decoder_width))
        self.decoder_norm = LayerNorm(arch.decoder_width)
        self.decoder_pred = nn.Linear(arch.decoder_width, arch.patch**2 * config.in_chans)
        self.register_buffer("pos_embed", sincos_positions(arch.width, *self.grid))
        self.register_buffer("decoder_pos_embed", sincos_positions(arch.decoder_width, *self.grid))
        for name in ("mean", "std"):
            values = torch.tensor(getattr(config, name)).reshape(1, -1, 1, 1)
            self.register_buffer(name, values, persistent=False)

    def also_at(self, height: int, width: int) -> None:
        """Take training steps on images of another size as well: the same share of patches is seen, and positions
        span the same extent. The patch must divide both sides (ConfigError), and must leave enough patches."""
        check_image_size(self.config.arch, height, width)
        grid = (height // self.patch, width // self.patch)
        if grid not in self.numbers:
            self.numbers[grid] = self._counts(grid)
            for name, table in (("pos_embed", self.pos_embed), ("decoder_pos_embed", self.decoder_pos_embed)):
                positions = sincos_positions(table.shape[-1], *grid, extent=self.grid)  # pyright: ignore
                self.register_buffer(_at(name, grid), positions.to(self.cls_token.device), persistent=False)

    @property
    def number(self) -> Counts:
        """How many patches play which part in images of the model's own size."""
        return self.numbers[self.grid]

    # The four verbs of the Python surface (interface.md) -------------------------------------------------

    def select(self, images: Tensor, noise_key: Tensor, progress: float) -> tuple[Tensor, Tensor]:
        """Visible (B, V) and target (B, R) ids, int64, disjoint, each ascending.

        ``images`` (B, C, H, W) are normalised with the model's mean and std; ``noise_key`` (B,) int64 comes
        from (seed, epoch, sample); ``progress`` in [0, 1] is the share of training done.
        """
        return self.choose(images, patchify(images, self.patch), noise_key, self.phase(progress, images.device))

    def encode(self, images: Tensor, visible: Tensor) -> Tensor:
        """Normalised images (B, C, H, W) and visible ids (B, V) to the latent (B, 1 + V, E), class token first."""
        return self.encode_tokens(self.embed(patchify(images, self.patch), visible, self.grid_of(images)))

    @abstractmethod
    def reconstruct(self, latent: Tensor, targets: Tensor, visible: Tensor | None = None, grid: Grid = None) -> Tensor:
        """Latent (B, 1 + V, E) and target ids (B, R) to predicted patches (B, R, p*p*C); ``grid`` (rows, columns) of
        patches where the images have another size than the model's own (``also_at``)."""

    def loss(self, images: Tensor, prediction: Tensor, targets: Tensor) -> Tensor:
        """Mean squared error per image (B,) fp32 of predicted patches (B, R, p*p*C) at ``targets`` (B, R)."""
        return self.patch_loss(patchify(images, self.patch), prediction, targets)

    # What they are made of ------------------------------------------------------------------------------

    @abstractmethod
    def choose(self, images: Tensor, patches: Tensor, noise_key: Tensor, phase: Tensor) -> tuple[Tensor, Tensor]:
        """``select`` with the patches cut and the phase as a tensor."""

    @abstractmethod
    def phase(self, progress: float, device: torch.device | str) -> Tensor:
        """Where the curriculum stands, as a tensor on ``device`` (``Phase.as_tensor``)."""

    def embed(self, patches: Tensor, ids: Tensor | None = None, grid: Grid = None) -> Tensor:
        """Patches (B, L, p*p*C) to tokens with positions: all (B, L, E), or those at ids (B, V) only."""
        positions = self.table("pos_embed", grid)[:, 1:]
        if ids is None:
            return self.patch_embed(patches) + positions
        return self.patch_embed(take(patches, ids)) + positions[0][ids]

    def grid_of(self, images: Tensor) -> tuple[int, int]:
        """(rows, columns) of patches in images (B, C, H, W)."""
        return images.shape[-2] // self.patch, images.shape[-1] // self.patch

    def table(self, name: str, grid: Grid = None) -> Tensor:
        """(1, 1 + L, width): ``pos_embed`` or ``decoder_pos_embed`` of a grid, the model's own by default."""
        return getattr(self, name if grid in (None, self.grid) else _at(name, grid))

    @property
    def longest_sequence(self) -> int:
        """The most tokens that any attention of a training step looks at."""
        return 1 + self.number.visible

    def _counts(self, grid: tuple[int, int]) -> Counts:
        return counts(grid[0] * grid[1], self.config.mask_ratio, self.config.reconstruction_ratio)

    def encode_tokens(self, tokens: Tensor) -> Tensor:
        """Tokens (B, V, E) to the normalised latent (B, 1 + V, E)."""
        x = torch.cat([self.cls_token.expand(len(tokens), -1, -1).to(tokens.dtype), tokens], dim=1)
        for block in self.blocks:
            x = block(x)
        return self.norm(x)

    def patch_loss(self, patches: Tensor, prediction: Tensor, targets: Tensor) -> Tensor:
        """``loss`` with the patches (B, L, p*p*C) cut already."""
        with torch.autocast(patches.device.type, enabled=False):
            wanted = take(patches.float(), targets)
            if self.config.norm_pix:
                wanted = normalise_patches(wanted)[0]
            return (prediction.float() - wanted).square().mean(dim=(1, 2))

    def forward(self, images: Tensor, noise_key: Tensor, phase: Tensor) -> Tensor:
        """One training step's loss per image (B,) fp32: select, encode, reconstruct, compare.

        ``images`` are uint8, or normalised already. Patches are cut once; those that are seen are embedded with
        gradient, and all others only where the choice looks at them.
        """
        if images.dtype == torch.uint8:
            images = self.normalise(images)
        patches, grid = patchify(images, self.patch), self.grid_of(images)
        visible, targets = self.choose(images, patches, noise_key, phase)
        latent = self.encode_tokens(self.embed(patches, visible, grid))
        return self.patch_loss(patches, self.reconstruct(latent, targets, visible, grid), targets)

    def pixels(self, images: Tensor) -> Tensor:
        """Normalised images (B, C, H, W) back to [0, 1]."""
        return images * self.std + self.mean  # pyright: ignore[reportOperatorIssue]

    def normalise(self, images: Tensor) -> Tensor:
        """uint8 images (B, C, H, W) to float32, normalised with the model's mean and std."""
        return (images.float() / 255.0 - self.mean) / self.std  # pyright: ignore[reportOperatorIssue]

    def encoder_state(self) -> dict[str, Tensor]:
        """The encoder's weights under timm's key names."""
        mine = ("cls_token", "pos_embed", "patch_embed.", "blocks.", "norm.")
        return {k: v for k, v in self.state_dict().items() if k.startswith(mine)}


def _at(name: str, grid: Grid) -> str:
    assert grid is not None
    return f"{name}_{grid[0]}x{grid[1]}"


@torch.no_grad()
def initialise(model: nn.Module, seed: int, residual_init: ResidualInit = "xavier") -> None:
    """Fill a model's parameters from ``seed`` alone: xavier-uniform for linear maps and the patch embedding (as a
    matrix), zeros for biases, ones for norms, N(0, 0.02) for tokens (method.md, section 1).

    ``residual_init`` "zero" sets the last map of every residual branch to zero, so that each block begins as the
    identity (Goyal et al., arXiv 1706.02677, section 5.1, of residual networks)."""
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            weight = torch.empty(module.weight.shape[0], module.weight[0].numel())
            nn.init.xavier_uniform_(weight, generator=generator)
            module.weight.copy_(weight.reshape(module.weight.shape))
            if module.bias is not None:
                module.bias.zero_()
        elif isinstance(module, nn.LayerNorm):
            module.weight.fill_(1.0)
            module.bias.zero_()
    for name, parameter in model.named_parameters():
        if name.endswith(("cls_token", "mask_token")):
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.02)
        elif residual_init == "zero" and name.endswith(("attn.proj.weight", "mlp.fc2.weight")):
            parameter.zero_()
