"""Bytes behind a URL, by fsspec: range requests, tried again when they fail."""

import asyncio
import importlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import fsspec

from selectivemae.core.errors import StoreError

_T = TypeVar("_T")
_SILENCE_S = 30.0  # a server that sends nothing for this long has failed


@dataclass(frozen=True)
class RemoteFile:
    """A file behind a URL as it was when it was opened.

    A request that fails is tried ``attempts`` times in all, ``pause`` seconds apart and twice as long each time; then
    it is a StoreError that names the URL. Its stamp is what the server tells (size, ETag, time of change).
    """

    name: str
    size: int
    stamp: str
    attempts: int = 5
    pause: float = 0.5
    changed_ns: int = 0

    @classmethod
    def at(cls, url: str, attempts: int = 5, pause: float = 0.5) -> "RemoteFile":
        """The file at ``url`` as it is now; StoreError when it is not there or its size is not told."""

        def info() -> dict[str, Any]:
            filesystem, path = _resolve(url)
            return filesystem.info(path)

        found = persistently(url, info, attempts, pause)
        size = found.get("size")
        if size is None or found.get("type") == "directory":
            raise StoreError(f"{url}: is no file of a known size; give a server that tells it, or fetch the file")
        marks = ("ETag", "etag", "Last-Modified", "LastModified", "mtime", "updated", "created", "Content-MD5")
        stamp = " ".join(str(part) for part in (size, *(found[mark] for mark in marks if found.get(mark))))
        return cls(url, int(size), stamp, attempts, pause)

    def read(self, offset: int, size: int) -> bytes:
        if size == 0:
            return b""

        def fetch() -> bytes:
            filesystem, path = _resolve(self.name)
            data = filesystem.cat_file(path, start=offset, end=offset + size)
            if len(data) > size:
                raise StoreError(f"{self.name}: the server answers a range with more than it; fetch the file instead")
            if len(data) < size:
                raise EOFError(f"{len(data):,} of {size:,} bytes came")
            return data

        return persistently(self.name, fetch, self.attempts, self.pause)


def is_url(path: str) -> bool:
    """Whether a path is a URL that fsspec opens."""
    return "://" in path


def expand(url: str) -> list[str]:
    """The files that a URL with ``*`` or ``?`` means, or those in the folder it names; itself for a file."""

    def find() -> list[str]:
        filesystem, path = _resolve(url)
        if "*" in path:
            found = filesystem.glob(path)
        elif filesystem.isdir(path):
            found = filesystem.find(path)
        else:
            return [url]
        return sorted(filesystem.unstrip_protocol(name) for name in found)

    return persistently(url, find)


def exists(url: str) -> bool:
    """Whether there is something at ``url``."""

    def look() -> bool:
        filesystem, path = _resolve(url)
        return filesystem.exists(path)

    return persistently(url, look)


def persistently(url: str, action: Callable[[], _T], attempts: int = 5, pause: float = 0.5) -> _T:
    """The result of ``action``, tried again while it fails in a way that may pass; then StoreError naming ``url``."""
    last: Exception = EOFError("never tried")
    for attempt in range(attempts):
        try:
            return action()
        except StoreError:
            raise
        except FileNotFoundError as error:
            raise StoreError(f"{url}: is not there; check the address") from error
        except (ImportError, NotImplementedError) as error:
            raise StoreError(f"{url}: cannot be opened ({error}); install what is missing") from error
        except Exception as error:  # each protocol's library has errors of its own, without a common base
            last = error
            if 400 <= getattr(error, "status", 0) < 500 and getattr(error, "status", 0) not in (408, 425, 429):
                break
            if attempt + 1 < attempts:
                time.sleep(pause * 2**attempt)
    what = "no answer in time" if isinstance(last, (TimeoutError, asyncio.TimeoutError)) else str(last) or repr(last)
    raise StoreError(f"{url}: cannot be read ({what}); check the server and the connection, then start again") from last


def _resolve(url: str) -> tuple[Any, str]:
    """File system and path of a URL; fsspec keeps one file system per process and kind."""
    options: dict[str, Any] = {}
    if url.startswith(("http://", "https://")):
        timeout = importlib.import_module("aiohttp").ClientTimeout(sock_connect=_SILENCE_S, sock_read=_SILENCE_S)
        options = {"client_kwargs": {"timeout": timeout}}
    return fsspec.core.url_to_fs(url, **options)
