"""JPEGs decoded, cropped and resized on the device: for machines whose cores cannot feed it.

Bytes are read and headers judged by threads ahead of the device; other kinds than JPEG, and files that nvJPEG refuses,
are decoded by the CPU. nvJPEG's colours differ from libjpeg's in the last bits, and the resize is in float here: the
same crops, not the same pixels to the bit as those of workers.
"""

from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from importlib import import_module

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from selectivemae.core.errors import ConfigError, DecodeError
from selectivemae.core.order import Int64
from selectivemae.data.decode import decode, judge_content
from selectivemae.data.pixels import Reasons, Task

Jpegs = Callable[[Sequence[bytes]], list[Tensor]]
"""Files to pixels (3, H, W) uint8 on the device; RuntimeError when one of them cannot be decoded."""

_LATTICE = 32  # samples a side that the quality rule looks at


def nvjpeg(device: torch.device) -> Jpegs:
    """torchvision's decoder on a CUDA device; ConfigError where there is none."""
    if device.type != "cuda":
        raise ConfigError(f"--gpu-decode needs a CUDA device, not {device}: leave it out")
    try:
        io = import_module("torchvision.io")
    except (ImportError, RuntimeError) as error:
        raise ConfigError(f"--gpu-decode needs torchvision built for CUDA ({error}): leave it out") from error

    def decoded(files: Sequence[bytes]) -> list[Tensor]:
        data = [torch.frombuffer(bytearray(file), dtype=torch.uint8) for file in files]
        return io.decode_jpeg(data, mode=io.ImageReadMode.RGB, device=device)

    return decoded


class OnDevice:
    """Batches of a task's samples as pixels on a device: what a pool of workers does, with ``jpegs`` as decoder."""

    def __init__(self, task: Task, device: torch.device, jpegs: Jpegs, slots: int = 2, threads: int = 4) -> None:
        self.task, self.device, self.jpegs, self.slots = task, device, jpegs, slots
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="read")
        self._queue: deque[tuple[Int64, list[Future[tuple[list[bytes], Int64, np.ndarray, Reasons]]]]] = deque()

    def submit(self, index: Int64, key: Int64) -> None:
        """Note the next batch, samples and noise keys (B,), and begin to read it."""
        parts = np.array_split(index, min(len(index), 8))
        self._queue.append((key, [self._threads.submit(self._read, part) for part in parts]))

    def collect(self) -> tuple[Tensor, Reasons]:
        """Pixels (B, S, S, 3) uint8 on the device and reasons (B,) of the oldest batch noted."""
        key, futures = self._queue.popleft()
        parts = [future.result() for future in futures]
        files = [file for part in parts for file in part[0]]
        sizes, is_jpeg, reasons = (np.concatenate([part[i] for part in parts]) for i in (1, 2, 3))
        boxes, turns = self.task.augment(key, sizes[:, 0], sizes[:, 1])
        images = torch.zeros(len(files), self.task.image_size, self.task.image_size, 3, dtype=torch.uint8)
        images = images.to(self.device)
        for place, pixels in self._decoded(files, is_jpeg & (reasons == b""), reasons).items():
            if self.task.judged:
                reasons[place] = (self._judged(pixels) or "").encode()
            if not reasons[place]:
                images[place] = cropped(pixels, boxes[place], self.task.image_size, int(turns[place]))
        return images, reasons

    def close(self) -> None:
        """End the reading threads."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _read(self, index: Int64) -> tuple[list[bytes], Int64, np.ndarray, Reasons]:
        reasons = np.zeros(len(index), "S24")
        return *self.task.read(index, reasons), reasons

    def _decoded(self, files: list[bytes], on_device: np.ndarray, reasons: Reasons) -> dict[int, Tensor]:
        """Pixels (3, H, W) on the device by place; what cannot be decoded gets its reason."""
        found: dict[int, Tensor] = {}
        places = np.flatnonzero(on_device).tolist()
        try:
            found |= dict(zip(places, self.jpegs([files[i] for i in places]), strict=True)) if places else {}
        except RuntimeError:  # one of them is broken: the CPU says which, and why
            found.clear()
        for place, data in enumerate(files):
            if place not in found and not reasons[place]:
                try:
                    pixels = torch.from_numpy(decode(data, 3)).permute(2, 0, 1)
                    found[place] = pixels.to(self.device)
                except DecodeError as error:
                    reasons[place] = error.reason.encode()
        return found

    def _judged(self, pixels: Tensor) -> str | None:
        _, height, width = pixels.shape
        lattice = pixels[:, :: -(-height // _LATTICE), :: -(-width // _LATTICE)]
        return judge_content(np.ascontiguousarray(lattice.permute(1, 2, 0).cpu().numpy()))


def cropped(pixels: Tensor, box: Int64, size: int, turn: int) -> Tensor:
    """A box (x, y, w, h) of pixels (3, H, W) as (size, size, 3) uint8, turned (bits as in ``data.augment.Augment``)."""
    x, y, w, h = (int(edge) for edge in box)
    cut = pixels[None, :, y : y + h, x : x + w].float()
    out = F.interpolate(cut, (size, size), mode="bicubic", antialias=True)[0].round_().clamp_(0, 255).to(torch.uint8)
    if turn & 4:
        out = out.transpose(1, 2)
    flips = [dim for bit, dim in ((2, 1), (1, 2)) if turn & bit]
    return (out.flip(flips) if flips else out).permute(1, 2, 0)
