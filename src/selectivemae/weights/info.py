"""What an encoder's weight file says about itself, and writing such a file."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from safetensors.torch import save
from torch import Tensor, nn

from selectivemae.core.errors import WeightsError
from selectivemae.core.files import atomic_write
from selectivemae.core.version import __version__
from selectivemae.models.masked import IMAGENET_MEAN, IMAGENET_STD


@dataclass(frozen=True)
class EncoderInfo:
    """Metadata of ``encoder.safetensors``: enough to rebuild the model and to feed it.

    ``architecture`` is a timm name (``vit_base_patch16_224``), ``image_size`` (height, width) in pixels, ``mean`` and
    ``std`` one value a channel for pixels in [0, 1].
    """

    architecture: str
    image_size: tuple[int, int] = (224, 224)
    channels: int = 3
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    method: str = ""
    samples_seen: int = 0
    version: str = __version__

    @classmethod
    def of(cls, encoder: nn.Module) -> "EncoderInfo":
        """What an encoder of ``load_encoder`` says about itself (``pretrained_cfg``, where timm keeps it)."""
        described = cast(Any, encoder).pretrained_cfg
        channels, height, width = described["input_size"]
        name = str(described.get("architecture", ""))
        return cls(name, (height, width), channels, tuple(described["mean"]), tuple(described["std"]))

    def normalise(self, images: Tensor) -> Tensor:
        """Images (B, C, H, W) uint8 to float32, less the mean and over the deviation of each channel."""
        mean, std = (torch.tensor(v, device=images.device).reshape(1, -1, 1, 1) for v in (self.mean, self.std))
        return (images.float() / 255 - mean) / std

    def to_metadata(self) -> dict[str, str]:
        """As safetensors metadata: text stays as it is, sizes are ``224`` or ``192x256``, lists are JSON."""
        height, width = self.image_size
        return {
            "format": "pt",
            "architecture": self.architecture,
            "image_size": str(height) if height == width else f"{height}x{width}",
            "channels": str(self.channels),
            "mean": json.dumps(self.mean),
            "std": json.dumps(self.std),
            "method": self.method,
            "samples_seen": str(self.samples_seen),
            "version": self.version,
        }

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, str], where: str = "weights") -> "EncoderInfo | None":
        """Read back what ``to_metadata`` wrote; None where no architecture is named.

        Raises ``WeightsError`` naming the field that cannot be read.
        """
        if "architecture" not in metadata:
            return None
        values: dict[str, Any] = {}
        for key, read in _READERS.items():
            if key in metadata:
                try:
                    values[key] = read(metadata[key])
                except (ValueError, TypeError) as error:
                    raise WeightsError(f"{where}: its metadata say {key} is {metadata[key]!r}, not readable") from error
        return cls(**values)


def _size(text: str) -> tuple[int, int]:
    height, _, width = text.partition("x")
    return int(height), int(width or height)


def _numbers(text: str) -> tuple[float, ...]:
    return tuple(float(value) for value in json.loads(text))


_READERS: dict[str, Callable[[str], Any]] = {
    "architecture": str,
    "image_size": _size,
    "channels": int,
    "mean": _numbers,
    "std": _numbers,
    "method": str,
    "samples_seen": int,
    "version": str,
}


def write_encoder(
    path: Path, state: Mapping[str, Tensor], info: EncoderInfo, metadata: Mapping[str, str] | None = None
) -> None:
    """Write an encoder's tensors (timm names) and its metadata as one safetensors file, whole or not at all.

    ``metadata`` are further entries, of a model with a head.
    """
    tensors = {key: value.detach().cpu().contiguous() for key, value in state.items()}
    atomic_write(path, _in_order(save(tensors, info.to_metadata() | dict(metadata or {}))))


def _in_order(file: bytes) -> bytes:
    """A safetensors file with its metadata in alphabetical order: the library leaves it to chance, and what holds the
    same should be the same to the byte."""
    begin = 8 + int.from_bytes(file[:8], "little")
    header = json.loads(file[8:begin])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)  # tensors begin at a multiple of 8
    return b"".join((len(text).to_bytes(8, "little"), text, memoryview(file)[begin:]))
