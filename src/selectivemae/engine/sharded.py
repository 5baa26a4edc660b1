"""Models too large for one device: weights, gradients and optimizer state in shards (FSDP2), and what is saved of them.

A sharded checkpoint differs from a plain one in its optimizer state only:

checkpoints/step-00001234/
  model.safetensors       whole, as in a plain one: whatever reads weights need not know
  shards/                 optimizer state, a file a process, by torch.distributed.checkpoint in safetensors
  stream.safetensors, state.json, SHA256SUMS
"""

import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed import checkpoint
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

from selectivemae.distributed.group import Group
from selectivemae.engine.parallel import check_shard
from selectivemae.engine.recompute import blocks_of

dcp: Any = checkpoint  # its names are not marked as exported


def shard(model: nn.Module, group: Group, bf16_gradients: bool = False) -> None:
    """Divide a model that all processes hold alike among them, block by block, in place; its optimizer is made after.

    ConfigError as ``parallel.check_shard``.
    """
    check_shard(group)
    mesh = init_device_mesh(group.device.type, (group.world,))
    policy = MixedPrecisionPolicy(reduce_dtype=torch.bfloat16 if bf16_gradients else None)
    for part in (*blocks_of(model), model):
        fully_shard(part, mesh=mesh, mp_policy=policy)


def gathered(model: nn.Module) -> dict[str, Tensor]:
    """The whole state of a sharded model on the CPU of process 0, empty on the others; all of them call it."""
    whole: dict[str, Any] = get_model_state_dict(
        model, options=StateDictOptions(full_state_dict=True, cpu_offload=True)
    )
    return whole


def begin_shards(folder: Path, tensors: dict[str, Any], line: Any) -> Any:
    """Copy this process's shards of named tensors and write them to ``folder`` in the background; a future that is
    done when all processes have written theirs. ``line`` is a process group of its own, for the background's talk."""
    writer = dcp.HuggingFaceStorageWriter(str(folder), save_distributed=True)
    return dcp.async_save(tensors, storage_writer=writer, process_group=line)


def read_shards(folder: Path) -> dict[str, Tensor]:
    """All named tensors of a folder of shards, whole, by this process alone."""
    reader = dcp.HuggingFaceStorageReader(str(folder))
    described = reader.read_metadata().state_dict_metadata
    out: dict[str, Any] = {
        name: torch.empty(about.size, dtype=about.properties.dtype)  # pyright: ignore[reportAttributeAccessIssue]
        for name, about in described.items()
    }
    with warnings.catch_warnings():  # that no process group is used is what we want
        warnings.simplefilter("ignore", UserWarning)
        dcp.load(out, storage_reader=reader, no_dist=True)
    return out
