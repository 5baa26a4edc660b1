"""The curriculum of expansion: which tokens join the seeds, over training progress (method.md, section 3)."""

from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

import torch
from torch import Tensor

from selectivemae.core.errors import ConfigError

MODES = {"near": (1.0, 0.0), "far": (-1.0, 0.0), "random": (0.0, 1.0)}  # weights of (similarity, noise)
ORDERS: dict[str, tuple[str, ...]] = {
    "near-far-random": ("near", "far", "random"),
    "far-near-random": ("far", "near", "random"),
    "near-random": ("near", "random"),
    "far-random": ("far", "random"),
    "near": ("near",),
    "far": ("far",),
    "random": ("random",),
}
# Ends of the plain phases and of the ramps between them, in fractions of training: of three phases, as in the
# published 800 epochs (280 / 300 / 580 / 600); of two, the middle with a ramp as long.
BOUNDARIES: dict[int, tuple[float, ...]] = {1: (), 2: (0.4875, 0.5125), 3: (0.35, 0.375, 0.725, 0.75)}


@dataclass(frozen=True)
class Phase:
    """Where the curriculum stands: ``floor(share * n)`` of n tokens come by mode ``old``, the rest by ``new``."""

    old: str
    new: str
    share: float

    @property
    def name(self) -> str:
        """One word for people: a mode, or ``near>far`` in a ramp."""
        return self.old if self.share == 1.0 else f"{self.old}>{self.new}"

    def as_tensor(self, device: torch.device | str) -> Tensor:
        """(5,) float32: the score weights of the old and the new mode, and the share; data, not control flow,
        so that a compiled step is not compiled again when the phase changes. Made once a phase; in a ramp, where it
        changes with every step, copied without waiting for the device."""
        return _tensor(self, torch.device(device))


@lru_cache(maxsize=8)
def _tensor(phase: Phase, device: torch.device) -> Tensor:
    values = torch.tensor([*MODES[phase.old], *MODES[phase.new], phase.share])
    return values if device.type == "cpu" else values.pin_memory().to(device, non_blocking=True)


def check_boundaries(order: str, boundaries: tuple[float, ...]) -> None:
    """Raise ConfigError unless ``boundaries`` fit the named order: two per change of mode, ascending in [0, 1]."""
    wanted = 2 * (len(ORDERS[order]) - 1)
    if len(boundaries) != wanted:
        raise ConfigError(f"order {order} needs {wanted} phase boundaries, not {len(boundaries)}")
    if list(boundaries) != sorted(boundaries) or any(not 0 <= b <= 1 for b in boundaries):
        raise ConfigError(f"phase boundaries must ascend within 0..1, got {boundaries}")


def phase_at(progress: float, order: str, boundaries: tuple[float, ...] | None = None) -> Phase:
    """The phase at ``progress`` in [0, 1] of training for a named order (``ORDERS``).

    ``boundaries`` holds, for each change of mode, the begin and the end of its ramp in fractions of training.
    """
    modes = ORDERS[order]
    bounds = BOUNDARIES[len(modes)] if boundaries is None else boundaries
    for i, (old, new) in enumerate(pairwise(modes)):
        begin, end = bounds[2 * i], bounds[2 * i + 1]
        if progress < begin:
            return Phase(old, old, 1.0)
        if progress < end:
            return Phase(old, new, (end - progress) / (end - begin))
    return Phase(modes[-1], modes[-1], 1.0)
