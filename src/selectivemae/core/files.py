"""Files and folders that are whole or not there: atomic writes, checksums, locks.

Whatever is written goes to a temporary name beside its place, is flushed to the disk and renamed; a reader sees
the old content or the new one, never a half.
"""

import errno
import fcntl
import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from selectivemae.core.errors import OutputError

SUMS = "SHA256SUMS"
_ABOUT = "about.json"


def cannot_write(error: OSError, path: Path) -> OutputError:
    """What an error in writing ``path`` means to a user."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return OutputError(f"no space left on the disk of {path}: free some and go on with --resume")
    return OutputError(f"cannot write {path}: {os.strerror(error.errno) if error.errno else error}")


def _sync(path: Path) -> None:
    """Flush a file or a folder's list of names to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def atomic_write(path: Path, data: bytes | str) -> None:
    """Write a file as a whole. OutputError (disk full, no permission) leaves the old content as it was."""
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        with open(temporary, "wb") as f:
            f.write(data.encode() if isinstance(data, str) else data)
            f.flush()
            os.fsync(f.fileno())
        os.replace(temporary, path)
        _sync(path.parent)
    except OSError as e:
        temporary.unlink(missing_ok=True)
        raise cannot_write(e, path) from e


def put_in_place(temporary: Path, path: Path) -> None:
    """Flush a finished file and give it its name. OutputError on a full disk or missing permission."""
    try:
        _sync(temporary)
        os.replace(temporary, path)
        _sync(path.parent)
    except OSError as e:
        raise cannot_write(e, path) from e


@contextmanager
def atomic_folder(path: Path, sums: bool = True) -> Iterator[Path]:
    """A folder that appears as a whole: fill the temporary one that is handed out; at the end it gets checksums
    (unless ``sums`` is False), is flushed and renamed, or it is removed when anything fails.

    OutputError on a full disk or missing permission.
    """
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        temporary.mkdir(parents=True)
        yield temporary
        if sums:
            write_sums(temporary)
        for f in temporary.rglob("*"):
            _sync(f)
        _sync(temporary)
        if path.exists():
            shutil.rmtree(path)
        os.replace(temporary, path)
        _sync(path.parent)
    except OSError as e:
        raise cannot_write(e, path) from e
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's content, hexadecimal."""
    with open(path, "rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def write_sums(folder: Path) -> None:
    """Write ``SHA256SUMS`` over all files under a folder, in the format of the sha256sum tool."""
    files = sorted(f for f in folder.rglob("*") if f.is_file() and f.name != SUMS)
    lines = [f"{file_sha256(f)}  {f.relative_to(folder).as_posix()}\n" for f in files]
    (folder / SUMS).write_text("".join(lines))


def check_sums(folder: Path) -> str | None:
    """What is wrong with a folder by its ``SHA256SUMS``, in words; None when all is whole."""
    sums = folder / SUMS
    if not sums.is_file():
        return f"{SUMS} is missing"
    lines = sums.read_text(errors="replace").splitlines()
    written = {name: digest for digest, _, name in (line.partition("  ") for line in lines)}
    there = {f.relative_to(folder).as_posix() for f in folder.rglob("*") if f.is_file()} - {SUMS}
    for name in sorted(written.keys() | there):
        if name not in there:
            return f"{name} is missing"
        if name not in written:
            return f"{name} is not listed in {SUMS}"
        if file_sha256(folder / name) != written[name]:
            return f"{name} does not match its checksum"
    return None if there else "it is empty"


@contextmanager
def writing(out: Path) -> Iterator[None]:
    """Turns an error of the disk inside (full, read-only, no permission) into an OutputError that names ``out``."""
    try:
        yield
    except OSError as e:
        if e.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS):
            raise
        raise cannot_write(e, Path(e.filename) if e.filename else out) from e


def remove_temporaries(folder: Path) -> None:
    """Delete what a killed process left half-written in a folder (our own temporary names only)."""
    for leftover in folder.glob(".*.tmp"):
        if leftover.is_dir():
            shutil.rmtree(leftover, ignore_errors=True)
        else:
            leftover.unlink(missing_ok=True)


def prepare_output(out: Path, *, resume: bool, overwrite: bool, marker: str) -> None:
    """Make an output folder ready, or say in one OutputError why it cannot be used.

    A folder with content is continued by ``resume``, emptied by ``overwrite`` (only if it holds ``marker``, the file
    that shows it to be ours), and refused otherwise.
    """
    if resume and overwrite:
        raise OutputError("--resume continues a folder and --overwrite replaces it: give one of them")
    try:
        if out.exists() and not out.is_dir():
            raise OutputError(f"{out} is a file; --out needs a folder")
        content = [f for f in out.iterdir() if f.name != ".lock"] if out.is_dir() else []
        if content and overwrite:
            if not (out / marker).is_file():
                raise OutputError(
                    f"{out} holds files but no {marker}, so it is no run of ours: --overwrite leaves it alone"
                )
            with locked(out):  # never under the feet of a run that is going on
                _empty(content)
        elif content and resume and not (out / marker).is_file() and any(not f.name.startswith(".") for f in content):
            raise OutputError(
                f"{out} holds files but no {marker}, so there is nothing of ours to continue: name another"
            )
        elif content and not resume:
            raise OutputError(
                f"{out} is not empty: continue it with --resume, replace it with --overwrite, or name another"
            )
        out.mkdir(parents=True, exist_ok=True)
        probe = out / f".probe.{uuid.uuid4().hex[:8]}.tmp"
        probe.write_bytes(b"")
        probe.unlink()
    except OSError as e:
        raise cannot_write(e, out) from e


def prepare_parts(out: Path, about: dict[str, str], *, resume: bool, overwrite: bool) -> Path:
    """The folder ``OUT.parts`` in which a file is made, ready; it says in ``about.json`` what it is made of.

    ``resume`` goes on with one that a stopped run left, if it was made of the same; ``overwrite`` begins anew and lets
    ``out`` be replaced. OutputError when what is there is not to be touched.
    """
    parts = out.with_name(out.name + ".parts")
    if out.is_dir():
        raise OutputError(f"{out} is a folder; --out needs a file")
    if out.exists() and not overwrite:
        raise OutputError(f"{out} is there already: replace it with --overwrite, or name another")
    if not out.parent.is_dir():
        raise OutputError(f"{out.parent} is no folder; make it, or name another --out")
    try:
        if parts.exists():
            if overwrite:
                with locked(parts):  # never under the feet of a run that is going on
                    _empty([f for f in parts.iterdir() if f.name != ".lock"])
            elif not resume:
                raise OutputError(f"{parts} is of a stopped run: go on with --resume, or begin anew with --overwrite")
            else:
                file = parts / _ABOUT
                before = json.loads(file.read_text()) if file.is_file() else about
                differing = [k for k in about if before.get(k) != about[k]]
                if differing:
                    raise OutputError(
                        f"{parts} was begun with other {', '.join(differing)}: give the same settings, or --overwrite"
                    )
        parts.mkdir(exist_ok=True)
    except OSError as e:
        raise cannot_write(e, parts) from e
    atomic_write(parts / _ABOUT, json.dumps(about))
    return parts


def _empty(content: list[Path]) -> None:
    for f in content:
        if f.is_dir() and not f.is_symlink():
            shutil.rmtree(f)
        else:
            f.unlink()


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a folder for one process; OutputError names the process that holds it already."""
    path = folder / ".lock"
    try:
        f = open(path, "a+")  # noqa: SIM115 (closed below; the lock lives as long as the file is open)
    except OSError as e:
        raise cannot_write(e, path) from e
    with f:
        try:
            fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            f.seek(0)
            holder = f.read().strip() or "unknown"
            raise OutputError(
                f"{folder} is in use by another run (process {holder}): wait for it or name another folder"
            ) from None
        f.truncate(0)
        f.write(f"{os.getpid()}\n")
        f.flush()
        yield
