"""What an encoder's weight file says about itself, and writing such a file."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from safetensors.torch import save
from torch import Tensor

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

    def to_metadata(self) -> dict[str, str]:
        """As safetensors metadata: text stays as it is, other values as JSON."""
        return {key: value if isinstance(value, str) else json.dumps(value) for key, value in asdict(self).items()}

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, str], where: str = "weights") -> "EncoderInfo | None":
        """Read back what ``to_metadata`` wrote; None where no architecture is named.

        Raises ``WeightsError`` naming the field that cannot be read.
        """
        if "architecture" not in metadata:
            return None
        values: dict[str, object] = {
            key: metadata[key] for key in ("architecture", "method", "version") if key in metadata
        }
        for key in ("image_size", "channels", "mean", "std", "samples_seen"):
            if key in metadata:
                try:
                    value = json.loads(metadata[key])
                except ValueError as error:
                    raise WeightsError(f"{where}: metadata {key} is {metadata[key]!r}, not a number or list") from error
                values[key] = tuple(value) if isinstance(value, list) else value
        if isinstance(size := values.get("image_size"), int):
            values["image_size"] = (size, size)
        return cls(**values)  # pyright: ignore[reportArgumentType]


def write_encoder(path: Path, state: Mapping[str, Tensor], info: EncoderInfo) -> None:
    """Write an encoder's tensors (timm names) and its metadata as one safetensors file, whole or not at all."""
    tensors = {key: value.detach().cpu().contiguous() for key, value in state.items()}
    atomic_write(path, save(tensors, info.to_metadata()))
