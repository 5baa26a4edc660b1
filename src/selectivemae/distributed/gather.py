"""What processes tell each other: small data as JSON, tensors, and whether all of them are well.

All of it is synchronous, on the host and for rare moments; what every step exchanges is in ``distributed.each_step``.
With one process nothing is sent.
"""

import json
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from selectivemae.core.errors import ConfigError, ElsewhereError, UserError
from selectivemae.distributed.group import Group


def barrier(group: Group) -> None:
    """Wait until all are here."""
    if group.world > 1:
        dist.all_reduce(torch.zeros(1))


def gather_numbers(group: Group, value: int) -> list[int]:
    """A number (64 bits, signed) of every process, by rank, on all of them."""
    if group.world == 1:
        return [value]
    out = [torch.zeros(1, dtype=torch.int64) for _ in range(group.world)]
    dist.all_gather(out, torch.tensor([value]))
    return [int(v) for v in out]


def gather_data(group: Group, value: Any) -> list[Any]:
    """JSON data of every process, by rank, on all of them."""
    if group.world == 1:
        return [value]
    mine = torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8)
    sizes = gather_numbers(group, len(mine))
    padded = torch.zeros(max(sizes), dtype=torch.uint8)
    padded[: len(mine)] = mine
    out = [torch.zeros_like(padded) for _ in sizes]
    dist.all_gather(out, padded)
    return [json.loads(bytes(part[:size].numpy())) for part, size in zip(out, sizes, strict=True)]


def broadcast_data(group: Group, value: Any) -> Any:
    """The JSON data of process 0 on all."""
    if group.world == 1:
        return value
    text = bytearray(json.dumps(value).encode()) if group.is_main else bytearray()
    size = torch.tensor([len(text)])
    dist.broadcast(size, 0)
    data = torch.frombuffer(text, dtype=torch.uint8) if group.is_main else torch.zeros(int(size), dtype=torch.uint8)
    dist.broadcast(data, 0)
    return json.loads(bytes(data.numpy()))


def broadcast_tensors(group: Group, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The named CPU tensors of process 0 on all."""
    if group.world == 1:
        return dict(tensors)
    described = {k: (str(v.dtype).removeprefix("torch."), list(v.shape)) for k, v in tensors.items()}
    out = {}
    for name, (dtype, shape) in broadcast_data(group, described).items():
        mine = tensors[name].contiguous() if group.is_main else torch.empty(shape, dtype=getattr(torch, dtype))
        if mine.numel():
            dist.broadcast(mine.view(-1).view(torch.uint8), 0)
        out[name] = mine
    return out


@contextmanager
def together(group: Group) -> Iterator[None]:
    """What is done inside is done by all processes, or fails on all: the first that fails raises its own error, the
    others an ElsewhereError, which says nothing more."""
    error: UserError | None = None
    try:
        yield
    except UserError as e:
        if group.world == 1:
            raise
        error = e
    failed = gather_data(group, None if error is None else error.exit_code)
    code = next((c for c in failed if c is not None), None)
    if code is None:
        return
    speaker = failed.index(code)
    if error is not None and speaker == group.rank:
        raise error
    raise ElsewhereError(code, speaker) from error


def same_everywhere(group: Group, what: Mapping[str, str]) -> None:
    """ConfigError when a process has another value than process 0 under a name of ``what``; says which, and where."""
    all_of_them = gather_data(group, [socket.gethostname(), dict(what)])
    _, wanted = all_of_them[0]
    for rank, (host, found) in enumerate(all_of_them):
        differing = [name for name in wanted if found.get(name) != wanted[name]]
        if not differing:
            continue
        if not group.is_main:
            raise ElsewhereError(2)
        name = differing[0]
        more = f"; also other {', '.join(differing[1:])}" if len(differing) > 1 else ""
        raise ConfigError(
            f"process {rank} on {host} has other {name} than process 0 on {all_of_them[0][0]} "
            f"({found.get(name)} there, {wanted[name]} here{more}): give all processes the same"
        )
