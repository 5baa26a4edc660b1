"""Checkpoints: whole or not at all, checksummed, the last few kept.

checkpoints/
  step-00001234/
    model.safetensors       weights, under the names that others read
    optimizer.safetensors   (or shards/, of a sharded run: engine.sharded) exp_avg.NAME, exp_avg_sq.NAME, step.NAME
    stream.safetensors      losses of pruning (empty where there is none)
    state.json              step, epoch, consumed, samples, ledger, hooks, identity of the run
    SHA256SUMS
  latest                    name of the newest whole checkpoint
"""

import json
import logging
import os
import re
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from selectivemae.core.errors import CheckpointError
from selectivemae.core.files import atomic_folder, atomic_write, check_sums, remove_temporaries
from selectivemae.distributed.gather import broadcast_data, broadcast_tensors
from selectivemae.distributed.group import Group
from selectivemae.engine.state import BaseHook, RunState

log = logging.getLogger("selectivemae")

OPTIMIZER, SHARDS = "optimizer.safetensors", "shards"

Tensors = dict[str, Tensor]


@dataclass
class Checkpoint:
    """What lies in one checkpoint folder, read back."""

    folder: Path
    model: Tensors
    optimizer: Tensors
    stream: Tensors
    state: dict


def optimizer_tensors(optimizer: torch.optim.Optimizer, model: nn.Module) -> Tensors:
    """An optimizer's state as named tensors: ``exp_avg.NAME``, ``exp_avg_sq.NAME``, ``step.NAME``."""
    names: dict[Tensor, str] = {p: n for n, p in model.named_parameters()}
    return {
        f"{kind}.{names[parameter]}": value.detach().cpu().contiguous()
        for parameter, state in optimizer.state.items()
        for kind, value in state.items()
    }


def optimizer_shards(optimizer: torch.optim.Optimizer, model: nn.Module) -> Tensors:
    """``optimizer_tensors`` of a sharded model: as they are, each process its part."""
    names: dict[Tensor, str] = {p: n for n, p in model.named_parameters()}
    return {f"{kind}.{names[p]}": value for p, state in optimizer.state.items() for kind, value in state.items()}


def as_shard(value: Tensor, parameter: nn.Parameter) -> Tensor:
    """This process's part of a whole tensor, divided as a sharded parameter is."""
    from torch.distributed.tensor import distribute_tensor

    like: Any = parameter
    return distribute_tensor(value, like.device_mesh, like.placements)


def restore_optimizer(optimizer: torch.optim.Optimizer, model: nn.Module, tensors: Tensors) -> None:
    """Put named tensors back into an optimizer's state."""
    parameters = dict(model.named_parameters())
    for key, value in tensors.items():
        kind, _, name = key.partition(".")
        parameter = parameters[name]
        # A fused optimizer keeps the step on the parameter's device, in float32.
        value = value.to(parameter.device)
        if hasattr(parameter, "device_mesh") and value.shape == parameter.shape:
            value = as_shard(value, parameter)
        optimizer.state[parameter][kind] = value


def save_checkpoint(
    root: Path, step: int, model: Tensors, optimizer: Tensors, stream: Tensors, state: dict, metadata: dict[str, str]
) -> Path:
    """Write ``root/step-XXXXXXXX`` as a whole, then point ``latest`` at it. OutputError on a full disk."""
    return _save(root, step, model, lambda to: _write_tensors(to / OPTIMIZER, optimizer), stream, state, metadata)


def save_sharded(
    root: Path, step: int, model: Tensors, shards: Path, stream: Tensors, state: dict, metadata: dict[str, str]
) -> Path:
    """``save_checkpoint`` of a sharded run, whose optimizer state lies in the folder ``shards`` and is moved."""
    return _save(root, step, model, lambda to: shards.replace(to / SHARDS), stream, state, metadata)


def _save(
    root: Path,
    step: int,
    model: Tensors,
    put_optimizer: Callable[[Path], object],
    stream: Tensors,
    state: dict,
    metadata: dict[str, str],
) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    folder = root / f"step-{step:08d}"
    with atomic_folder(folder) as temporary:
        weights = {k: v.detach().cpu().contiguous() for k, v in model.items()}
        _write_tensors(temporary / "model.safetensors", weights, metadata)
        put_optimizer(temporary)
        _write_tensors(temporary / "stream.safetensors", stream)
        (temporary / "state.json").write_text(json.dumps(state, indent=1))
    atomic_write(root / "latest", folder.name + "\n")
    return folder


def _write_tensors(path: Path, tensors: Tensors, metadata: dict[str, str] | None = None) -> None:
    """``save_file``, whose errors of the disk are no OSError but say the system's number in their text."""
    try:
        save_file(tensors, path, metadata)
    except SafetensorError as e:
        found = re.search(r"os error (\d+)", str(e))
        if found is None:
            raise
        raise OSError(int(found[1]), os.strerror(int(found[1])), str(path)) from e


def _folders(root: Path) -> dict[int, Path]:
    """Checkpoint folders by their step; others, such as a user's copies, are none of ours."""
    return {int(m[1]): f for f in root.iterdir() if (m := re.fullmatch(r"step-(\d{8,})", f.name))}


def prune_checkpoints(root: Path, newest: int, keep: int, keep_every: int) -> None:
    """Delete all but the last ``keep`` checkpoints up to step ``newest``, and those whose step ``keep_every`` (0: none)
    divides. Later ones go as well: they are damaged ones, behind which a resume went back."""
    folders = _folders(root)
    whole = sorted(step for step in folders if step <= newest)
    kept = {*whole[-keep:], *(step for step in whole if keep_every and step % keep_every == 0)}
    for step in folders.keys() - kept:
        shutil.rmtree(folders[step], ignore_errors=True)


def read_checkpoint(folder: Path) -> Checkpoint:
    """Read a checkpoint folder that is whole by its checksums; CheckpointError says what is wrong otherwise."""
    problem = check_sums(folder)
    if problem:
        raise CheckpointError(f"checkpoint {folder} is damaged: {problem}")
    stream = folder / "stream.safetensors"
    return Checkpoint(
        folder,
        load_file(folder / "model.safetensors"),
        _read_optimizer(folder),
        load_file(stream) if stream.exists() else {},
        json.loads((folder / "state.json").read_text()),
    )


def _read_optimizer(folder: Path) -> Tensors:
    if not (folder / SHARDS).is_dir():
        return load_file(folder / OPTIMIZER)
    from selectivemae.engine.sharded import read_shards  # slow to import, and rarely needed

    return read_shards(folder / SHARDS)


def newest_checkpoint(root: Path) -> tuple[Checkpoint | None, list[str]]:
    """The newest whole checkpoint under ``root`` (None when there is none yet), and what was wrong with newer ones.

    Half-written leftovers of a killed process are removed. CheckpointError when there are checkpoints, but none whole.
    """
    if not root.is_dir():
        return None, []
    remove_temporaries(root)
    problems: list[str] = []
    folders = _folders(root)
    for _, folder in sorted(folders.items(), reverse=True):
        try:
            return read_checkpoint(folder), problems
        except CheckpointError as e:
            problems.append(str(e))
    if folders:
        raise CheckpointError(f"no whole checkpoint is left: {'; '.join(problems)}")
    return None, problems


def share_checkpoint(found: Checkpoint | None, group: Group) -> Checkpoint | None:
    """What process 0 has read, on all processes."""
    if group.world == 1:
        return found
    said = broadcast_data(group, None if found is None else {"folder": str(found.folder), "state": found.state})
    if said is None:
        return None
    parts = [found.model, found.optimizer, found.stream] if found else [{}, {}, {}]
    model, optimizer, stream = (broadcast_tensors(group, part) for part in parts)
    return Checkpoint(Path(said["folder"]), model, optimizer, stream, said["state"])


def restore_model(checkpoint: Checkpoint | None, model: nn.Module) -> RunState:
    """Put a checkpoint's weights into a model; where the run stood, or a fresh state where there is no checkpoint.

    CheckpointError when it is of another architecture.
    """
    if checkpoint is None:
        return RunState()
    try:
        model.load_state_dict(checkpoint.model)
    except RuntimeError as e:
        first = str(e).splitlines()[1].strip()
        raise CheckpointError(f"{checkpoint.folder} does not fit the model: {first}") from e
    log.info("going on from %s", checkpoint.folder)
    return RunState.restored(checkpoint.state)


def restore_hooks(checkpoint: Checkpoint | None, hooks: Sequence[BaseHook]) -> None:
    """Give each hook back what it saved under its name."""
    saved = checkpoint.state["hooks"] if checkpoint else {}
    for hook in hooks:
        if saved.get(hook.name):
            hook.restore(saved[hook.name])
