"""How many images would fit into a device's memory, from what a step was seen to take."""

import torch

from selectivemae.core.errors import TrainingError

_USABLE = 0.92  # of the device's memory: the rest goes to fragments, kernels and libraries


def fitting(total: int, before: int, peak: int, images: int) -> int:
    """Images at a time that fit into ``total`` bytes, when ``before`` bytes are taken without any image and ``images``
    of them took it to ``peak`` bytes."""
    each = max((peak - before) / images, 1.0)
    return max(int((_USABLE * total - before) / each), 0)


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that the memory did not suffice; of a CPU's torch has no type for it."""
    return isinstance(error, torch.OutOfMemoryError) or "DefaultCPUAllocator: " in str(error)


def begin_again(device: torch.device) -> None:
    """Give back what a step that did not fit has left, and forget how much it took."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)


def would_fit(device: torch.device, images: int) -> str:
    """A remark on how many images would fit, after a step with ``images`` at a time; empty where nothing is known."""
    if device.type != "cuda":
        return ""
    total = torch.cuda.mem_get_info(device)[1]
    before, peak = torch.cuda.memory_allocated(device), torch.cuda.max_memory_allocated(device)
    return f" (by its measured memory --micro-batch {max(fitting(total, before, peak, images), images)} would fit)"


def no_memory(device: torch.device, images: int, who: str = "") -> TrainingError:
    """The error of a device without room for ``images`` at a time, where training cannot go on with fewer by itself:
    because others wait for the process ``who``, or because it is one image already."""
    begin = f"{who} ran out of memory" if who else "not enough memory"
    if images == 1:
        return TrainingError(f"{begin} on {device} for one image: use a smaller model or image size")
    return TrainingError(
        f"{begin} on {device} with {images} images at a time: go on with --resume --micro-batch {(images + 1) // 2}"
    )
