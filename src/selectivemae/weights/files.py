"""Reading and writing weight files, safely: tensors come out, no code runs.

safetensors are read as they are. Files of ``torch.save`` are read with ``weights_only=True`` and without fallback;
the settings that projects store beside their tensors (``argparse.Namespace``, a yacs or Lightning configuration)
are read into inert stand-ins, so that neither those packages nor their classes are needed or called.
"""

import argparse
import json
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from selectivemae.core.errors import WeightsError

State = dict[str, Tensor]

WRAPPERS = ("model", "state_dict", "teacher", "model_ema", "model_state_dict", "module", "encoder", "backbone")
"""Keys under which projects wrap their tensors, in the order in which they are preferred."""

FOLDER_NAMES = (
    "encoder.safetensors",
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
"""What a weight file is called in a run's folder or a hub folder, in the order in which it is preferred."""

# What other packages' classes in published checkpoints are read as: mappings as plain ones, the rest as ``_Inert``.
_MAPPINGS = (
    "yacs.config.CfgNode",
    "pytorch_lightning.utilities.parsing.AttributeDict",
    "lightning_fabric.utilities.data.AttributeDict",
)
_OBJECTS = (
    "pathlib.PosixPath",
    "pathlib._local.PosixPath",
    "pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint",
    "numpy.core.multiarray.scalar",
    "numpy._core.multiarray.scalar",
    "numpy.dtype",
)


class _Inert:
    """Stands for an object of another package inside a pickle: takes anything, does nothing."""

    def __init__(self, *_: Any) -> None:
        return

    def __setstate__(self, _: Any) -> None:
        return


def read_state_dict(path: str | Path) -> State:
    """Read the tensors of a weight file, unwrapped, on the CPU, floating point as float32.

    ``path`` is a ``.safetensors`` file, a file of ``torch.save`` (any suffix), a ``*.index.json`` of a sharded one,
    or a folder that holds one of ``FOLDER_NAMES``. Which of them it is, the first bytes tell, not the suffix.
    Raises ``WeightsError`` for a file that is missing, empty, truncated, without tensors, or holds code.
    """
    path = find_file(path)
    if path.name.endswith(".index.json"):
        raw = _read_sharded(path)
    elif _is_safetensors(path):
        raw = _read_safetensors(path)
    else:
        raw = _read_pickle(path)
    return {key: _to_float32(value) for key, value in unwrap(raw, path).items()}


def read_metadata(path: str | Path) -> dict[str, str]:
    """The text metadata of a safetensors file; empty for files of other kinds."""
    path = find_file(path)
    if path.name.endswith(".index.json") or not _is_safetensors(path):
        return {}
    try:
        with safe_open(path, framework="pt") as file:
            return dict(file.metadata() or {})
    except SafetensorError as error:
        raise _damaged(path, error) from error


def find_file(path: str | Path) -> Path:
    """The weight file meant by ``path``: itself, or the one in the folder. Raises ``WeightsError`` if there is none."""
    path = Path(path)
    if path.is_dir():
        for name in FOLDER_NAMES:
            if (path / name).is_file():
                return path / name
        raise WeightsError(f"{path}: no weights in this folder; expected one of {', '.join(FOLDER_NAMES)}")
    if not path.is_file():
        raise WeightsError(f"{path}: no such weight file; give a file, a run folder, timm:NAME, hf:OWNER/NAME")
    if path.stat().st_size == 0:
        raise WeightsError(f"{path}: the file is empty (0 bytes); fetch it again")
    return path


def unwrap(raw: Mapping[str, Any], path: str | Path) -> State:
    """The tensors of a checkpoint: those under the first of ``WRAPPERS`` that holds any, else its own.

    A wrapper in a wrapper is opened as well. Raises ``WeightsError`` when there are no tensors at all.
    """
    for wrapper in WRAPPERS:
        inner = raw.get(wrapper)
        if isinstance(inner, Mapping) and _holds_tensors(inner):
            return unwrap(inner, path)
    state = {str(key): value for key, value in raw.items() if isinstance(value, Tensor)}
    if not state:
        keys = ", ".join(map(str, list(raw)[:8])) or "nothing"
        raise WeightsError(f"{path}: holds no tensors (empty state dict); found {keys}")
    return state


def _holds_tensors(value: Mapping[str, Any]) -> bool:
    """Whether a mapping holds a tensor, itself or inside a wrapper."""
    inner = (value[wrapper] for wrapper in WRAPPERS if isinstance(value.get(wrapper), Mapping))
    return any(isinstance(item, Tensor) for item in value.values()) or any(map(_holds_tensors, inner))


def _to_float32(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.is_floating_point() else tensor


def _is_safetensors(path: Path) -> bool:
    """Whether the file starts as safetensors do: the length of a header (8 bytes), then a JSON object."""
    with path.open("rb") as file:
        head = file.read(9)
    return path.suffix == ".safetensors" or (len(head) == 9 and head[8:] == b"{")


def _read_safetensors(path: Path) -> State:
    try:
        with safe_open(path, framework="pt") as file:
            return {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except (SafetensorError, struct.error, OSError) as error:
        raise _damaged(path, error) from error


def _read_pickle(path: Path) -> Mapping[str, Any]:
    """``torch.load`` without code; the zip form is mapped, so that only tensors that are used get read."""
    allowed: list[Any] = [argparse.Namespace]
    allowed += [(OrderedDict, name) for name in _MAPPINGS] + [(_Inert, name) for name in _OBJECTS]
    try:
        with torch.serialization.safe_globals(allowed):
            raw = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except UnpicklingError as error:
        raise WeightsError(f"{path}: {_refusal(str(error))}") from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
        # the ways in which a damaged archive or pickle stream shows itself
        raise _damaged(path, error) from error
    if isinstance(raw, torch.nn.Module) or not isinstance(raw, Mapping):
        raise WeightsError(f"{path}: holds a {type(raw).__name__}, not a state dict; save model.state_dict()")
    return raw


def _refusal(message: str) -> str:
    """One line for the refusal of a pickle: which global was met, or that the file is no checkpoint at all."""
    for start in ("GLOBAL ", "class "):
        if start in message:
            name = message.split(start, 1)[1].split(" ", 1)[0].strip("'\"<>,")
            return f"refused, it holds code or objects beside tensors ({name}); re-save its state dict as safetensors"
    lines = [line.strip() for line in message.splitlines() if "WeightsUnpickler error" in line]
    detail = lines[0].split("error:", 1)[1].strip() if lines else message.splitlines()[0]
    return f"no readable checkpoint: {detail}; fetch it again, or re-save its state dict as safetensors"


def _read_sharded(path: Path) -> State:
    """Read the shards that an index names; they must lie beside it."""
    try:
        weight_map = json.loads(path.read_text())["weight_map"]
        shards = sorted(set(weight_map.values()))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise WeightsError(f"{path}: no index of weight shards (a JSON object with weight_map); {error}") from error
    state: State = {}
    for shard in shards:
        if Path(shard).name != shard:
            raise WeightsError(f"{path}: the shard {shard!r} would lie outside the folder; refused")
        if not (path.parent / shard).is_file():
            raise WeightsError(f"{path.parent / shard}: a shard named by {path.name} is missing; fetch it as well")
        state.update(read_state_dict(path.parent / shard))
    if absent := sorted(set(weight_map) - set(state)):
        raise WeightsError(f"{path}: {len(absent)} tensors of the index are in no shard, first {absent[0]}")
    return state


def _damaged(path: Path, error: Exception) -> WeightsError:
    text = str(error).strip()
    detail = text.splitlines()[0] if text else type(error).__name__
    return WeightsError(f"{path}: damaged or truncated ({detail}); fetch it again")
