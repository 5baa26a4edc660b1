"""Which arithmetic a device is fast at."""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from selectivemae.core.errors import ConfigError


def choose_device(name: str, local_rank: int | None = None) -> torch.device:
    """``auto`` is the first GPU where there is one, else the CPU; of several processes (``local_rank`` on this machine)
    each gets the GPU of its number. ConfigError for a device that is not there."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if local_rank is not None:
        if name.startswith("cuda:"):
            raise ConfigError(f"--device {name} is one GPU for several processes: use cuda, and each gets its own")
        # Slurm may show each process its own GPU only, as the first.
        shown = torch.cuda.device_count() if name == "cuda" else 0
        name = f"cuda:{0 if shown == 1 and local_rank else local_rank}" if name == "cuda" else name
    try:
        device = torch.device(name)
    except RuntimeError as e:
        raise ConfigError(f"unknown device {name!r}: use auto, cpu, cuda or cuda:N") from e
    if device.type not in ("cpu", "cuda"):
        raise ConfigError(f"unknown device {name!r}: use auto, cpu, cuda or cuda:N")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ConfigError(f"device {name} is not there: torch sees {torch.cuda.device_count()} GPUs")
    return device


def fast_bf16(device: torch.device) -> bool:
    """Whether bf16 matrix products are fast on the device: GPUs from Ampere on, CPUs with AVX512-BF16 or AMX."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    if device.type == "cpu":
        return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return False


def resolve_precision(precision: str, device: torch.device) -> str:
    """``auto`` to ``bf16`` or ``fp32``, by what the device is fast at."""
    if precision == "auto":
        return "bf16" if fast_bf16(device) else "fp32"
    return precision


def autocast(precision: str, device: torch.device) -> AbstractContextManager:
    """Mixed precision of a forward pass: bf16 matrix products, or none."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bf16")


def attention_kernel(tokens: int, device: torch.device) -> AbstractContextManager:
    """Which attention is fast for sequences of ``tokens``: on a CPU the plain form for short ones (its fused form
    works in blocks that a few dozen tokens do not fill: measured 1.4 times the time of a whole training step)."""
    if device.type == "cpu" and tokens <= 64:
        return sdpa_kernel(SDPBackend.MATH)
    return nullcontext()
