"""What a weight file holds, in words: for ``inspect``."""

from pathlib import Path

from selectivemae.core.errors import WeightsError
from selectivemae.weights.convert import some
from selectivemae.weights.files import read_metadata, read_state_dict
from selectivemae.weights.info import EncoderInfo
from selectivemae.weights.load import load_encoder

_LONGEST = 200  # characters of a value


def describe_weights(path: Path) -> list[tuple[str, str]]:
    """Name and value of what there is to say: tensors, layout and coverage, what the encoder expects, metadata.

    A file whose layout is not known is described by its keys. WeightsError for a file that cannot be read.
    """
    state = read_state_dict(path)
    numbers = sum(tensor.numel() for tensor in state.values())
    rows = [("tensors", f"{len(state)}, {numbers:,} numbers"), ("keys", some(state))]
    said: list[str] = []
    try:
        encoder = load_encoder(path, report=said.append)
    except WeightsError as e:
        rows.append(("as an encoder", f"no: {str(e).removeprefix(f'{path}: ')}"))
    else:
        rows += [("as an encoder", line.removeprefix(f"{path}: ")) for line in said]
        info = EncoderInfo.of(encoder)
        rows += [
            ("parameters", f"{sum(p.numel() for p in encoder.parameters()):,}"),
            ("images", " x ".join(map(str, (info.channels, *info.image_size)))),
            ("mean", ", ".join(f"{v:g}" for v in info.mean)),
            ("deviation", ", ".join(f"{v:g}" for v in info.std)),
        ]
    known = {"format", "mean", "std", "channels", "image_size"}
    return rows + [(k, _short(v)) for k, v in read_metadata(path).items() if k not in known]


def _short(value: str) -> str:
    return value if len(value) <= _LONGEST else f"{value[:_LONGEST]} ..."
