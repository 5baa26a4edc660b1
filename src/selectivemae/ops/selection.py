"""PSTS, progressive semantic token selection (method.md, section 3): which patches are seen, which are rebuilt.

Shapes: B batch, L patches, S seeds, V visible, R rebuilt, E token width. All functions are per sample: an image's
result does not depend on what else is in the batch.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from selectivemae.core.errors import ConfigError
from selectivemae.ops.noise import gumbel, uniform
from selectivemae.ops.patches import take

SEEDS, EXPANSION, TARGETS = 1, 2, 3  # purposes of noise
TIE = 1e-5  # similarities closer than this count as equal: matrix products differ in the last bits by batch size
_NEVER = float("-inf")


@dataclass(frozen=True)
class Counts:
    """How many patches play which part at a given number of patches L."""

    patches: int
    visible: int
    seeds: int
    rounds: tuple[int, ...]
    targets: int


def counts(patches: int, mask_ratio: float, reconstruction_ratio: float | None) -> Counts:
    """Numbers of visible, seed and rebuilt patches of L ``patches`` (method.md, head).

    ``reconstruction_ratio`` None means all masked patches. ConfigError unless S >= 1, R >= 1 and R <= L - V.
    """
    visible = int(patches * (1 - mask_ratio) + 1e-6)
    seeds = visible // 2
    hidden = patches - visible
    targets = hidden if reconstruction_ratio is None else int(patches * reconstruction_ratio + 1e-6)
    if seeds < 1:
        raise ConfigError(
            f"mask ratio {mask_ratio} leaves {visible} of {patches} patches visible; at least 2 are needed: "
            "lower the mask ratio or use more patches (larger image size, smaller patch size)"
        )
    if targets < 1:
        raise ConfigError(
            f"reconstruction ratio {reconstruction_ratio} leaves none of {patches} patches to rebuild: raise it"
        )
    if targets > hidden:
        raise ConfigError(
            f"reconstruction ratio {reconstruction_ratio} asks for {targets} of {patches} patches, but mask ratio "
            f"{mask_ratio} hides only {hidden}: lower one of them"
        )
    first = (visible - seeds) // 2
    return Counts(patches, visible, seeds, (first, visible - seeds - first), targets)


def _top(score: Tensor, k: int) -> Tensor:
    """Ids (B, k) of the highest scores (B, N), ties to the lower id on every device."""
    return score.sort(dim=1, descending=True, stable=True).indices[:, :k]


def draw(logits: Tensor, key: Tensor, purpose: int, k: int, mode: str, taken: Tensor | None = None) -> Tensor:
    """Choose k of L patches (B, k) by richness logits (B, L), never one that is ``taken`` (B, L) bool.

    ``sample``: without replacement with softmax probabilities; ``topk``: the k highest, equal ones by lot.
    """
    noise = gumbel(key, purpose, logits.shape[1])
    score = logits + noise if mode == "sample" else logits
    if taken is not None:
        score = score.masked_fill(taken, _NEVER)
    if mode == "sample":
        return _top(score, k)
    lot = noise.argsort(dim=1)  # a stable sort of what lies in random order leaves equal ones in that order
    return lot.gather(1, _top(score.gather(1, lot), k))


def among(ids: Tensor, n: int) -> Tensor:
    """(B, n) bool: whether each of the numbers 0..n-1 is among ids (B, N).

    By comparison, not by ``scatter_``: torch.compile (2.13, on a CPU) may read what is scattered into before it is.
    """
    return (ids.unsqueeze(-1) == torch.arange(n, device=ids.device)).any(dim=1)


def _expand(similarity: Tensor, noise: Tensor, taken: Tensor, n: int, phase: Tensor) -> Tensor:
    """Choose n (B, n) tokens not ``taken`` by the phase's two score rules, ``floor(share * n)`` by the old one."""
    a_old, b_old, a_new, b_new, share = phase.unbind()
    old = (a_old * similarity + b_old * noise).masked_fill(taken, _NEVER)
    new = (a_new * similarity + b_new * noise).masked_fill(taken, _NEVER)
    rank = old.sort(dim=1, descending=True, stable=True).indices.argsort(dim=1)  # an inverse permutation
    by_old = rank < torch.floor(share * n + 1e-4)
    # What the old rule took comes before everything the new rule ranks (scores of both lie within [-1, 1]).
    return _top(torch.where(by_old, 2.0, new), n)


@torch.no_grad()
def select(
    tokens: Tensor, logits: Tensor, key: Tensor, phase: Tensor, number: Counts, mode: str
) -> tuple[Tensor, Tensor]:
    """Visible ids (B, V) and target ids (B, R), int64, disjoint, each ascending.

    Seeds are drawn by richness ``logits`` (B, L); in two rounds, tokens (B, L, E) join by their highest cosine
    similarity to any chosen one (near: the most similar, far: the least, random: any; ``phase`` is
    ``Phase.as_tensor``); targets are drawn by richness among the rest. No gradient flows through the choice.
    """
    seen = select_visible(tokens, logits, key, phase, number, mode)
    return seen, draw_targets(logits, key, seen, number, mode)


@torch.no_grad()
def select_visible(tokens: Tensor, logits: Tensor, key: Tensor, phase: Tensor, number: Counts, mode: str) -> Tensor:
    """The visible ids (B, V) of ``select`` alone."""
    with torch.autocast(tokens.device.type, enabled=False):
        tokens = tokens.float()
        inverse = torch.linalg.vector_norm(tokens, dim=-1).clamp_min(1e-12).reciprocal()
        chosen = draw(logits, key, SEEDS, number.seeds, mode)
        taken = among(chosen, number.patches)
        noise = uniform(key, EXPANSION, number.patches)
        highest = torch.full_like(logits, -1.0)
        fresh, parts = chosen, [chosen]
        for n in number.rounds:
            if n == 0:
                continue
            # Cosines without a normalised copy of all tokens: unit anchors first, a token's own length last.
            anchors = take(tokens, fresh) * inverse.gather(1, fresh).unsqueeze(-1)
            to_fresh = torch.bmm(tokens, anchors.transpose(1, 2)).amax(dim=2) * inverse
            highest = torch.maximum(highest, torch.round(to_fresh / TIE) * TIE)
            fresh = _expand(highest, noise, taken, n, phase)
            taken = taken | among(fresh, number.patches)
            parts.append(fresh)
        return torch.cat(parts, dim=1).sort(dim=1).values


@torch.no_grad()
def draw_targets(logits: Tensor, key: Tensor, visible: Tensor, number: Counts, mode: str) -> Tensor:
    """Target ids (B, R) int64, ascending, drawn by richness ``logits`` (B, L) among the patches not visible."""
    return draw(logits, key, TARGETS, number.targets, mode, among(visible, number.patches)).sort(dim=1).values


@torch.no_grad()
def draw_visible(key: Tensor, number: Counts) -> Tensor:
    """Visible ids (B, V) int64, ascending, drawn uniformly: MAE's random masking."""
    return _top(uniform(key, SEEDS, number.patches), number.visible).sort(dim=1).values
