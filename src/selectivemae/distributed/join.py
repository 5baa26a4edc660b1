"""Meeting the other processes, and leaving them."""

import os
import re
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta

import torch
import torch.distributed as dist
from torch.distributed import PrefixStore, Store, TCPStore  # pyright: ignore[reportPrivateImportUsage]

from selectivemae.core.errors import ElsewhereError, Interrupted, ProcessError, UserError
from selectivemae.distributed.group import Group
from selectivemae.distributed.watch import Watch

_ALONE = 12  # hours that one process may work while the others wait for it
_STAY = 60.0  # seconds that it waits at most for the others at an end that all have come to
_GRACE = 3.0  # seconds that the host of the meeting place stays longer, so that the others can still read why


@contextmanager
def joined(group: Group, meet: float = 300.0, hang: float = 1800.0) -> Iterator[Group]:
    """A context in which the processes of ``group`` can talk: torch's process group, gloo between hosts and NCCL
    between GPUs, made and destroyed. With one process there is nothing to do.

    ProcessError when not all have come within ``meet`` seconds; names the address and who is missing. A process that
    stands still for ``hang`` seconds is named by another one, and the job ends.
    """
    if group.world == 1:
        yield group
        return
    store = _meet(group, meet)
    if group.device.type == "cuda":
        torch.cuda.set_device(group.device)
    # The watch speaks first, and knows of work that is waited for; torch's own time-out is for what it cannot see.
    limit = timedelta(seconds=hang * 1.5 + 60, hours=_ALONE)
    backend = "cpu:gloo,cuda:nccl" if group.device.type == "cuda" else "gloo"
    dist.init_process_group(
        backend, store=PrefixStore("torch", store), rank=group.rank, world_size=group.world, timeout=limit
    )
    # A connection of its own: the first one may be held by a thread that waits.
    with _without_torchs_log():
        line = TCPStore(group.address, group.port, group.world, False, timedelta(seconds=meet))
    watch = Watch(PrefixStore(_attempt(group), line), group.rank, group.world, group.beat, hang)
    group.beat.at(0, "beginning")
    watch.start()
    stay, awaited = _STAY, group.rank
    try:
        yield group
    except UserError as e:
        if isinstance(e, ElsewhereError):
            awaited = e.speaker
        elif not isinstance(e, Interrupted):
            stay = _GRACE
        if not isinstance(e, ElsewhereError | Interrupted):
            _note(store, group)
        raise
    except RuntimeError as e:
        stay = _GRACE
        raise _lost(store, group, e) from e
    finally:
        watch.stop()  # first: it shall not mistake the end for a loss
        dist.destroy_process_group()
        _leave(store, group, stay, awaited, hang)


def _leave(store: Store, group: Group, stay: float, awaited: int, patience: float) -> None:
    """The host of the meeting place goes last, ``stay`` seconds after the others at most: they read there why it ends,
    and would take its absence for a loss. The process that says why, or saves the state, is ``awaited`` for
    ``patience`` seconds at most: launchers kill the rest of a job soon after one has left it with a code that is not
    0."""
    with suppress(RuntimeError, Interrupted):  # a signal that is repeated ends the waiting, and says nothing new
        if awaited != group.rank:
            _appear(store, [f"left/{awaited}"], patience)
        store.set(f"left/{group.rank}", "")
        if group.is_main and not group.hosted:
            _appear(store, [f"left/{rank}" for rank in range(group.world)], stay)


def _appear(store: Store, keys: list[str], seconds: float) -> bool:
    """Whether all ``keys`` are in the store within ``seconds``. RuntimeError when it is gone.

    ``Store.wait`` does the same, but logs it as a warning of the network when they do not come.
    """
    end, pause = time.monotonic() + seconds, 0.02
    while not store.check(keys):
        left = end - time.monotonic()
        if left <= 0:
            return False
        time.sleep(min(pause, left))
        pause = min(1.5 * pause, 1.0)
    return True


def _attempt(group: Group) -> str:
    """The heading of this attempt's notes in the store, which may outlive a restart."""
    return f"attempt/{group.attempt}"


def _note(store: Store, group: Group) -> None:
    """Let the others know that this process failed and has said why; the first note stands."""
    with suppress(RuntimeError):
        store.compare_set("failed", "", str(group.rank))


def _lost(store: Store, group: Group, error: RuntimeError) -> Exception:
    """What an error of the network means: another process said why it left, or it is gone without a word, which the
    first to notice says. A launcher's SIGTERM meanwhile says nothing new.

    An error that has nothing to do with other processes stays what it is.
    """
    if not isinstance(error, dist.DistError) and "gloo" not in str(error):
        _note(store, group)
        return error
    with suppress(RuntimeError, Interrupted):
        first = store.compare_set("lost", "", str(group.rank)) == str(group.rank).encode()
        if _appear(store, ["failed"], _GRACE) or not first:
            return ElsewhereError(ProcessError.exit_code)
    return ProcessError(
        f"process {group.rank} lost another one in step {group.beat.step} ({_first_sentence(error)}): look at the log "
        "of the one that is gone; go on with --resume"
    )


def _first_sentence(error: RuntimeError) -> str:
    """What an error of torch's network says, without the place in its source and its advice."""
    return re.sub(r"^\[\S+:\d+\] ", "", str(error).splitlines()[0].strip()).split(". ")[0]


def _meet(group: Group, seconds: float) -> Store:
    """The store that all processes have found within ``seconds``. ProcessError, with the address, when not."""
    where = f"{group.address}:{group.port}"
    host = group.is_main and not group.hosted
    wait = timedelta(seconds=seconds)
    began = time.monotonic()
    why = _taken(group.port) if host else _silent(group.address, group.port, seconds)
    try:
        if why:
            raise RuntimeError(why)
        place = "127.0.0.1" if host else group.address  # so that process 0 comes to the next line, and tries its own
        with _without_torchs_log():
            tcp = TCPStore(place, group.port, group.world, host, wait, wait_for_workers=False)
        if host and (why := _silent(group.address, group.port, min(seconds, 5.0))):
            raise RuntimeError(why)
        # A restarted group meets at the same place, where the notes of the one before still lie.
        store = PrefixStore(_attempt(group), tcp)
        store.set(f"here/{group.rank}", f"{socket.gethostname()}:{os.getpid()}")
    except RuntimeError as e:  # the errors of torch's network are all of this type
        why = why or ("something else answers there" if "Ping failed" in str(e) else "")
        raise ProcessError(
            f"process {group.rank} of {group.world} cannot meet the others at {where} within {seconds:g} s "
            f"({why or _first_sentence(e)}): look at MASTER_ADDR and MASTER_PORT, and at the first process"
        ) from e
    keys = [f"here/{rank}" for rank in range(group.world)]
    left = max(1.0, seconds - (time.monotonic() - began)) + (_GRACE if host else 0)
    try:
        if _appear(store, keys, left):
            return store
    except RuntimeError as e:
        raise _missing(group, store, keys, where, seconds) from e
    raise _missing(group, store, keys, where, seconds)


@contextmanager
def _without_torchs_log() -> Iterator[None]:
    """Stderr goes nowhere meanwhile: torch's store logs every attempt with a stack of C++ calls, and raises the last as
    an error, of which one line is said."""
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def _taken(port: int) -> str:
    """What is wrong with a port of this machine that process 0 is to listen at; empty when nothing is."""
    with socket.socket() as s:
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            s.bind(("", port))
        except OSError as e:
            return f"the port cannot be listened at: {e.strerror}"
    return ""


def _silent(address: str, port: int, seconds: float) -> str:
    """Why nobody answers at an address within ``seconds``; empty when somebody does.

    Torch's store tries as long by itself, but logs each failure with a stack of C++ calls.
    """
    end = time.monotonic() + seconds
    while True:
        left = end - time.monotonic()
        try:
            socket.create_connection((address, port), timeout=max(0.5, min(left, 10.0))).close()
        except OSError as e:
            if left <= 0:
                return f"nobody answers there: {e.strerror or e}"
            time.sleep(min(0.3, max(left, 0.0)))
        else:
            return ""


def _missing(group: Group, store: Store, keys: list[str], where: str, seconds: float) -> Exception:
    try:
        missing = [rank for rank, key in enumerate(keys) if not store.check([key])]
    except RuntimeError:
        return ProcessError(f"process 0 at {where} has left while process {group.rank} waited for the others")
    here = [rank for rank in range(group.world) if rank not in missing]
    if group.rank != (here or [0])[0]:
        return ElsewhereError(ProcessError.exit_code)
    names = ", ".join(str(rank) for rank in missing[:8]) + (" …" if len(missing) > 8 else "")
    return ProcessError(
        f"process {names} of {group.world} did not come to {where} within {seconds:g} s: "
        "look at the log of its machine, and that every machine runs the command"
    )
