"""Less memory for more work: activations that are computed again instead of kept."""

from contextlib import AbstractContextManager, nullcontext
from functools import partial

from torch import nn
from torch.backends import cuda
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.checkpoint import checkpoint


def blocks_of(model: nn.Module) -> list[nn.Module]:
    """The repeated parts of a model: what lies in its lists of modules."""
    return [block for part in model.children() if isinstance(part, nn.ModuleList) for block in part]


def recompute_activations(model: nn.Module) -> None:
    """Let every block keep its input alone and compute the rest again in the backward pass: about a third more
    operations, and the memory of one block instead of all."""
    for block in blocks_of(model):
        block.forward = partial(checkpoint, block.forward, use_reentrant=False, context_fn=_same_attention)


def _same_attention() -> tuple[AbstractContextManager, AbstractContextManager]:
    """Contexts of the first computation and of the second: the kernels of attention that are allowed at the first one,
    since the second comes when whoever chose them (``precision.attention_kernel``) has left."""
    allowed = {
        SDPBackend.FLASH_ATTENTION: cuda.flash_sdp_enabled(),
        SDPBackend.EFFICIENT_ATTENTION: cuda.mem_efficient_sdp_enabled(),
        SDPBackend.CUDNN_ATTENTION: cuda.cudnn_sdp_enabled(),
        SDPBackend.MATH: cuda.math_sdp_enabled(),
    }
    return nullcontext(), sdpa_kernel([kernel for kernel, enabled in allowed.items() if enabled])
