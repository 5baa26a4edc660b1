"""The edge of a training command: which process this is, on which device, and the others that it works with."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from selectivemae.distributed.group import Group
from selectivemae.distributed.join import joined
from selectivemae.engine.precision import choose_device

log = logging.getLogger("selectivemae")


@contextmanager
def processes(device: str = "auto", meet: float = 300.0, hang: float = 1800.0) -> Iterator[Group]:
    """The group that torchrun or Slurm started this process in, met within ``meet`` seconds; a process by itself
    without them. Each process gets a GPU of its own where there are any.

    Only process 0 logs. UserError subclasses for all that does not fit: see ``distributed.join.joined``.
    """
    group = Group.from_environment()
    group = group.on(choose_device(device, group.local_rank if group.world > 1 else None))
    level = log.level
    if not group.is_main:
        log.setLevel(logging.ERROR)
    try:
        with joined(group, meet, hang):
            yield group
    finally:
        log.setLevel(level)
