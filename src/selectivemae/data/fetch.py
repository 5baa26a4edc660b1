"""Getting a known data set: from the hub, from a web server, or the word of where a person gets it.

    OUT/NAME/
      FILE ...            as published
      .FILE.part          a download that was broken off; the next call goes on with it
      .cache/huggingface  the same, of huggingface_hub

Every file is checked against its published digest, and a file that is there and right is not fetched again.
"""

import hashlib
import http.client
import os
import shutil
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from selectivemae.core.errors import DataError, OutputError
from selectivemae.core.files import cannot_write, locked
from selectivemae.data.catalogue import Download, Known
from selectivemae.data.stores.base import judge_name

Say = Callable[[float, str], None]  # (share done, what)

_CHUNK = 1 << 20
_SILENCE_S = 30.0  # a server that sends nothing for this long has failed
_ATTEMPTS = 5  # in a row without a byte
_PAUSE_S = 1.0  # after the first failure; twice as long after each further one


@dataclass(frozen=True)
class _File:
    """One file on a hub: bytes and SHA-256 as the hub tells them (the digest of large files only)."""

    name: str
    size: int
    digest: str


def fetch(entry: Known, out: Path, say: Say) -> Path:
    """Fetch a data set into ``out/NAME``, going on where an earlier call was broken off; the folder it is in.

    DataError when only a person can get it, when a server fails, or when a file is not what was published;
    OutputError when ``out`` cannot be written or has too little room.
    """
    folder = out / entry.name
    if entry.by_hand:
        raise DataError(
            f"{entry.title} cannot be fetched by a program: get it from {entry.by_hand} ({entry.licence}),"
            f" and lay it out as {folder}/{entry.layout}"
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise cannot_write(error, folder) from error
    with locked(folder):
        if entry.hub:
            _from_hub(entry, folder, say)
        for number, file in enumerate(entry.files):
            if file.url:
                download(file, folder, lambda share, text, n=number: say((n + share) / len(entry.files), text))
    return folder


def download(file: Download, folder: Path, say: Say) -> Path:
    """Fetch one file by HTTP into a folder, going on with a part that is there, and check its digest.

    Breaks are mended by asking for the rest, as long as some bytes come. DataError when the server refuses or stays
    silent, or the digest is wrong (then nothing is left, so that the next call begins anew).
    """
    path, part = folder / file.file, folder / f".{file.file}.part"
    if path.exists() and _digest(path, file.digest, say) == file.digest:
        return path
    failures, total = 0, None
    while total is None or _size(part) < total:
        before, why = _size(part), "the connection ended early"
        try:
            total = _receive(file.url, part, before, lambda share: say(share, file.file))
        except urllib.error.HTTPError as error:
            if error.code == 416 and before:  # all of it is here, or it is no part of what is there now
                if _digest(part, file.digest, say) == file.digest:
                    break
                part.unlink()
                continue
            why = f"the server says {error.code} {error.reason}"
            if 400 <= error.code < 500 and error.code not in (408, 425, 429):
                raise DataError(f"{file.url}: cannot be fetched ({why}); see data list for its source") from error
        except (http.client.HTTPException, OSError) as error:
            why = str(getattr(error, "reason", error)) or type(error).__name__
        failures = 0 if _size(part) > before else failures + 1
        if failures >= _ATTEMPTS:
            raise DataError(f"{file.url}: cannot be fetched ({why}); call again to go on")
        if failures:
            time.sleep(_PAUSE_S * 2 ** (failures - 1))
    if (found := _digest(part, file.digest, say)) != file.digest:
        part.unlink()
        raise DataError(f"{file.url}: what came is not what was published ({found}, not {file.digest}); call again")
    os.replace(part, path)
    return path


def _receive(url: str, part: Path, start: int, say: Callable[[float], None]) -> int:
    """Append what is missing of ``url`` to its part; the bytes that the whole has."""
    request = urllib.request.Request(url, headers={"Range": f"bytes={start}-"} if start else {})
    with urllib.request.urlopen(request, timeout=_SILENCE_S) as answer:
        goes_on = answer.status == 206
        length = answer.headers.get("Content-Length")
        if length is None:
            raise DataError(f"{url}: the server does not tell the size; fetch it by hand")
        done = start if goes_on else 0
        total = done + int(length)
        _check_room(part.parent, total - done)
        with _writing(part):
            out = open(part, "ab" if goes_on else "wb")  # noqa: SIM115 (reading, unlike writing, may fail and be mended)
        try:
            while data := answer.read(_CHUNK):
                with _writing(part):
                    out.write(data)
                done += len(data)
                say(done / total)
        finally:
            with _writing(part), out:
                out.flush()
                os.fsync(out.fileno())
    return total


def _from_hub(entry: Known, folder: Path, say: Say) -> None:
    """Fetch the wanted files of a hub repository at its newest revision, and check them."""
    from huggingface_hub import HfApi, hf_hub_download
    from huggingface_hub.utils import disable_progress_bars

    if not sys.stderr.isatty():
        disable_progress_bars()
    wanted = {file.file: file.digest for file in entry.files}
    with _explained(entry.hub):
        info = HfApi().dataset_info(entry.hub, files_metadata=True)
    files = [
        _File(found.rfilename, found.size or 0, wanted.get(found.rfilename) or _hub_digest(found.lfs))
        for found in info.siblings or []
        if found.rfilename in wanted or (not wanted and judge_name(found.rfilename.encode()) != "unsafe_name")
    ]
    if absent := wanted.keys() - {file.name for file in files}:
        raise DataError(f"hf:{entry.hub}: {', '.join(sorted(absent))} is no longer there; see {entry.source}")
    _check_room(folder, sum(file.size for file in files if not (folder / file.name).exists()))
    total, done = sum(file.size for file in files) or 1, 0
    for file in files:
        say(done / total, file.name)
        path = folder / file.name
        if not (path.exists() and file.digest and _digest(path, file.digest, say) == file.digest):
            with _explained(entry.hub):
                hf_hub_download(entry.hub, file.name, repo_type="dataset", revision=info.sha, local_dir=folder)
            if file.digest and (found := _digest(path, file.digest, say)) != file.digest:
                path.unlink()
                raise DataError(
                    f"hf:{entry.hub}: {file.name} is not what was published ({found}, not {file.digest}); call again"
                )
        done += file.size
        say(done / total, file.name)


def _hub_digest(lfs: Any) -> str:
    return f"sha256:{lfs.sha256}" if lfs else ""


@contextmanager
def _explained(repo: str) -> Iterator[None]:
    """Turn what goes wrong on the way to the hub into one DataError."""
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OfflineModeIsEnabled

    try:
        yield
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OfflineModeIsEnabled, OSError) as error:
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise DataError(f"hf:{repo}: cannot be fetched ({first}); call again to go on") from error


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    """Turn a failure to write into an OutputError."""
    try:
        yield
    except OSError as error:
        raise cannot_write(error, path) from error


def _digest(path: Path, like: str, say: Say) -> str:
    """``kind:hex`` of a file's content, of the kind of the digest that it is to be compared with."""
    kind = like.partition(":")[0]
    say(1.0, f"checking {path.name}")
    with open(path, "rb") as file:
        return f"{kind}:{hashlib.file_digest(file, kind).hexdigest()}"


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _check_room(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise OutputError(f"{folder}: {needed / 1e9:.1f} GB are to come, but only {free / 1e9:.1f} GB are free")
