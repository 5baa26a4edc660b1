"""What every run's folder has beside checkpoints: what made it, its log, the check that a resume is the same run."""

import logging
import shlex
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch

from selectivemae.core.config import read_yaml
from selectivemae.core.errors import CheckpointError
from selectivemae.core.version import __version__
from selectivemae.data.stores import Store

CONFIG = "config.yaml"

log = logging.getLogger("selectivemae")


def _git(here: Path, *words: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(["git", "-C", str(here.parent), *words], capture_output=True, text=True, check=False)


def about(command: str = "") -> dict[str, str]:
    """Versions, git commit where there is one, and the command line: the head of ``config.yaml``."""
    commit, here = "", Path(__file__)
    with suppress(OSError):  # a machine without git
        # Only where git knows this very file: an installed package may lie inside somebody else's repository.
        if _git(here, "ls-files", "--error-unmatch", here.name).returncode == 0:
            commit = _git(here, "rev-parse", "HEAD").stdout.strip()
    words = command or shlex.join(sys.argv)
    made_by = {"selectivemae": __version__, "torch": str(torch.__version__), "command": " ".join(words.split())}
    return made_by | ({"commit": commit} if commit else {})


@contextmanager
def log_file(path: Path) -> Iterator[None]:
    """Everything logged goes to the run's log.txt as well.

    On a full disk its lines are lost without a word: what must be saved will say it.
    """
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.handleError = lambda record: None
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    log.addHandler(handler)
    try:
        yield
    finally:
        log.removeHandler(handler)
        with suppress(OSError):
            handler.close()


def saved_settings(out: Path) -> dict[str, Any]:
    """The settled settings of a run folder, for a resume; empty where there is none."""
    return read_yaml(out / CONFIG) if (out / CONFIG).is_file() else {}


def check_same_run(out: Path, settled: dict[str, Any], keys: Sequence[str]) -> None:
    """CheckpointError when settings (``keys``) that make a run what it is differ from those of the folder."""
    before = saved_settings(out)
    differing = [k for k in keys if k in before and before[k] != settled[k]]
    if differing:
        k = differing[0]
        more = f" (also: {', '.join(differing[1:])})" if len(differing) > 1 else ""
        raise CheckpointError(
            f"{out} was trained with {k} {before[k]!r}, not {settled[k]!r}{more}: resume it with its own settings "
            "(leave the option out), or name another --out"
        )


def check_same_data(saved: dict[str, Any], store: Store, folder: Path) -> None:
    """CheckpointError when the data are not those that a checkpoint in ``folder`` was trained on."""
    before = saved["identity"]
    if before["fingerprint"] != store.fingerprint:
        raise CheckpointError(
            f"the data changed since {folder} was written ({before['samples']} samples then, {len(store)} now): "
            "a resume would not be exact; restore the data, or begin a new run in another --out"
        )


def default_micro_batch(batch_size: int, device: torch.device) -> int:
    """On a GPU the whole batch is tried first (and halved until it fits); on a CPU larger parts gain nothing."""
    return batch_size if device.type != "cpu" else min(batch_size, 64)
