"""What every run's folder has beside checkpoints: what made it, its log, the check that a resume is the same run."""

import json
import logging
import shlex
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import torch

from selectivemae.core.config import read_yaml, write_settled
from selectivemae.core.errors import CheckpointError
from selectivemae.core.files import locked, prepare_output, remove_temporaries, writing
from selectivemae.core.version import __version__
from selectivemae.data.stores import Store
from selectivemae.distributed.gather import same_everywhere, together
from selectivemae.distributed.group import Group
from selectivemae.engine.checkpoint import Checkpoint, newest_checkpoint, share_checkpoint

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


@contextmanager
def open_run(
    out: Path,
    settled: dict[str, Any],
    keys: Sequence[str],
    store: Store,
    group: Group,
    *,
    resume: bool,
    overwrite: bool,
    command: str,
) -> Iterator[Checkpoint | None]:
    """A run's folder, held for this run: emptied, begun or continued as asked for, with ``config.yaml`` and its log.

    Gives the newest whole checkpoint of a continued run, on all processes of ``group``; files are process 0's matter. A
    group that its launcher has restarted continues what it began. OutputError, CheckpointError (another run's settings
    by ``keys``, other data), ConfigError (processes that see other data or settings).
    """
    resume, overwrite = resume or group.attempt > 0, overwrite and group.attempt == 0
    settings = {f"--{name.replace('_', '-')}": json.dumps(value) for name, value in settled.items()}
    seen = {"data": f"{len(store)} images, {store.fingerprint[:16]}", "version of selectivemae": __version__}
    same_everywhere(group, seen | settings)
    with ExitStack() as stack:
        found, problems = None, []
        with together(group):
            if group.is_main:
                prepare_output(out, resume=resume, overwrite=overwrite, marker=CONFIG)
                stack.enter_context(writing(out))
                stack.enter_context(locked(out))
                remove_temporaries(out)
                if resume:
                    check_same_run(out, settled, keys)
                    found, problems = newest_checkpoint(out / "checkpoints")
                if found:
                    check_same_data(found.state, store, found.folder)
                # Before any other file: a folder with it is ours, even when the run is killed in the next moment.
                write_settled(out / CONFIG, settled, about(command))
                stack.enter_context(log_file(out / "log.txt"))
                for problem in problems:
                    log.warning("%s; going on from the one before", problem)
        yield share_checkpoint(found, group)


def default_micro_batch(batch_size: int, device: torch.device) -> int:
    """On a GPU the whole batch is tried first (and halved until it fits); on a CPU larger parts gain nothing."""
    return batch_size if device.type != "cpu" else min(batch_size, 64)
