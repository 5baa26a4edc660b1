"""Which of how many processes this one is, as torchrun or Slurm says.

A ``Group`` is a few numbers; the process group itself is torch's own (``distributed.join``).
"""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Self

import torch

from selectivemae.core.errors import ConfigError
from selectivemae.distributed.watch import Beat

_FIRST_PORT, _PORTS = 20_000, 20_000  # of jobs under Slurm, below those that systems hand out by themselves


@dataclass(frozen=True)
class Group:
    """One process among ``world``: its ``rank`` in all of them, its ``local_rank`` on this machine, its ``device``.

    ``address`` and ``port`` are where all meet; ``hosted`` says that the launcher keeps the meeting place there;
    ``attempt`` counts the restarts of the whole group by the launcher. ``beat`` is where the process says how far it
    is.
    """

    rank: int = 0
    world: int = 1
    local_rank: int = 0
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    address: str = ""
    port: int = 0
    hosted: bool = False
    attempt: int = 0
    beat: Beat = field(default_factory=Beat, compare=False)

    @classmethod
    def single(cls, device: torch.device | str = "cpu") -> Self:
        """A process by itself."""
        return cls(device=torch.device(device))

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] | None = None) -> Self:
        """What the launcher's variables say: torchrun's, else those of a Slurm step; a process by itself without them.

        ConfigError for variables that are missing or do not fit together.
        """
        names = os.environ if environment is None else environment
        if "RANK" in names and "WORLD_SIZE" in names:
            return cls._from_torchrun(names)
        # A batch script itself has SLURM_NTASKS too, but is no step: only what srun starts is one of many.
        in_step = "SLURM_STEP_ID" in names or "SLURM_JOB_ID" not in names
        if "SLURM_PROCID" in names and in_step and ("SLURM_NTASKS" in names or "SLURM_STEP_NUM_TASKS" in names):
            return cls._from_slurm(names)
        return cls()

    @classmethod
    def _from_torchrun(cls, names: Mapping[str, str]) -> Self:
        rank, world = _number(names, "RANK"), _number(names, "WORLD_SIZE")
        attempt = _number(names, "TORCHELASTIC_RESTART_COUNT", 0)
        if world == 1:
            return cls(attempt=attempt)
        return cls(
            rank,
            world,
            _number(names, "LOCAL_RANK", 0),
            address=_text(names, "MASTER_ADDR"),
            port=_number(names, "MASTER_PORT"),
            hosted=names.get("TORCHELASTIC_USE_AGENT_STORE") == "True",
            attempt=attempt,
        )._checked()

    @classmethod
    def _from_slurm(cls, names: Mapping[str, str]) -> Self:
        tasks = "SLURM_STEP_NUM_TASKS" if "SLURM_STEP_NUM_TASKS" in names else "SLURM_NTASKS"
        rank, world, attempt = (
            _number(names, "SLURM_PROCID"),
            _number(names, tasks),
            _number(names, "SLURM_RESTART_COUNT", 0),
        )
        if world == 1:
            return cls(attempt=attempt)
        nodes = names.get("SLURM_STEP_NODELIST") or names.get("SLURM_JOB_NODELIST") or names.get("SLURM_NODELIST", "")
        address = names.get("MASTER_ADDR") or first_host(nodes)
        if not address:
            raise ConfigError("SLURM_JOB_NODELIST is not set, so nobody knows where to meet: set MASTER_ADDR")
        job = _number(names, "SLURM_JOB_ID", 0)
        port = _number(names, "MASTER_PORT", _FIRST_PORT + job % _PORTS)
        local = _number(names, "SLURM_LOCALID", 0)
        return cls(rank, world, local, address=address, port=port, attempt=attempt)._checked()

    def _checked(self) -> Self:
        if not 0 <= self.rank < self.world:
            raise ConfigError(f"process {self.rank} is none of 0..{self.world - 1}: the launcher's variables are wrong")
        return self

    def on(self, device: torch.device) -> Self:
        """The same process, with its device."""
        return replace(self, device=device)

    @property
    def is_main(self) -> bool:
        """Whether this process writes the records."""
        return self.rank == 0

    def share(self, total: int, what: str) -> int:
        """This process's equal share of ``total``. ConfigError when there is none."""
        if total % self.world:
            fits = total // self.world * self.world or self.world
            raise ConfigError(
                f"{what} {total} cannot be divided among {self.world} processes: use a multiple, such as {fits}"
            )
        return total // self.world


def first_host(nodes: str) -> str:
    """The first host of a list as Slurm writes it: ``node[03-07,12],other`` gives ``node03``."""
    first = re.split(r",(?![^\[]*\])", nodes.strip())[0]
    return re.sub(r"\[(\w+)[^\]]*\]", r"\1", first)


def _text(names: Mapping[str, str], name: str) -> str:
    if not names.get(name):
        raise ConfigError(f"{name} is not set, though RANK and WORLD_SIZE are: start the program with torchrun")
    return names[name]


def _number(names: Mapping[str, str], name: str, default: int | None = None) -> int:
    if default is not None and not names.get(name):
        return default
    text = _text(names, name)
    if not text.isdecimal():
        raise ConfigError(f"{name} must be a number, got {text!r}")
    return int(text)
