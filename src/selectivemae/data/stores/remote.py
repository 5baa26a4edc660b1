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
_ATTEMPTS = 5
_PAUSE_S = 0.5  # after the first failure; twice as long after each further one


class NotThereError(StoreError):
    """There is nothing at a URL."""


@dataclass(frozen=True)
class RemoteFile:
    """A file behind a URL as it was when it was opened.

    A request that fails is tried five times in all, over eight seconds; then it is a StoreError that names the URL.
    Its stamp is what the server tells (size, ETag, time of change).
    """

    url: str
    size: int
    stamp: str
    changed_ns: int = 0

    @property
    def name(self) -> str:
        return without_query(self.url)

    @classmethod
    def at(cls, url: str) -> "RemoteFile":
        """The file at ``url`` as it is now; StoreError when it is not there or its size is not told."""

        def info() -> dict[str, Any]:
            filesystem, path = _resolve(url)
            return filesystem.info(path)

        found = persistently(url, info)
        size = found.get("size")
        if size is None or found.get("type") == "directory":
            raise StoreError(f"{without_query(url)}: is no file of a known size; fetch it instead")
        marks = ("ETag", "etag", "Last-Modified", "LastModified", "mtime", "updated", "created", "Content-MD5")
        stamp = " ".join(str(part) for part in (size, *(found[mark] for mark in marks if found.get(mark))))
        return cls(url, int(size), stamp)

    def read(self, offset: int, size: int) -> bytes:
        if size == 0:
            return b""

        def fetch() -> bytes:
            filesystem, path = _resolve(self.url)
            data = filesystem.cat_file(path, start=offset, end=offset + size)
            if len(data) > size:
                raise StoreError(f"{self.name}: the server answers a range with more than it; fetch the file instead")
            if len(data) < size:
                raise EOFError(f"{len(data):,} of {size:,} bytes came")
            return data

        return persistently(self.url, fetch)


def is_url(path: str) -> bool:
    """Whether a path is a URL that fsspec opens."""
    return "://" in path


def without_query(url: str) -> str:
    """A URL as it is shown and named: what follows ``?`` may be a secret, or change from day to day."""
    return url.partition("?")[0]


def is_archive(url: str) -> bool:
    """Whether a URL names a tar or zip, by its suffix."""
    return without_query(url).lower().endswith((".tar", ".zip"))


def expand(url: str) -> list[str]:
    """The files that a URL with ``*`` means, or those in the folder it names; an archive's URL is returned as it is."""
    if is_archive(url) and "*" not in url:
        return [url]  # asking a web server whether this is a folder would fetch the whole of it

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


def persistently(url: str, action: Callable[[], _T]) -> _T:
    """The result of ``action``, tried again while it fails in a way that may pass; then StoreError naming ``url``."""
    name = without_query(url)
    last: Exception = EOFError("never tried")
    for attempt in range(_ATTEMPTS):
        try:
            return action()
        except StoreError:
            raise
        except (ImportError, NotImplementedError, ValueError) as error:  # no such protocol, or its library is missing
            raise StoreError(f"{name}: cannot be opened ({error}); install what it needs") from error
        except Exception as error:  # each protocol's library has errors of its own, without a common base
            last = error
            status = _status(url, error)
            if status in (404, 410):
                raise NotThereError(f"{name}: is not there; check the address") from error
            if 400 <= status < 500 and status not in (408, 425, 429):
                break
            if attempt + 1 < _ATTEMPTS:
                time.sleep(_PAUSE_S * 2**attempt)
    what = "no answer in time" if isinstance(last, (TimeoutError, asyncio.TimeoutError)) else str(last) or repr(last)
    raise StoreError(f"{name}: cannot be read ({what}); check server and connection, then start again") from last


def _status(url: str, error: Exception) -> int:
    """The HTTP status that a failure means; 0 if none, as for an answer that is no HTTP (aiohttp says 400 then)."""
    if isinstance(error, FileNotFoundError) and error.__cause__ is not None:
        garbled = error.__cause__.__cause__
    else:
        garbled = error.__cause__
    if type(garbled).__module__ == "aiohttp.http_exceptions":
        return 0
    if isinstance(error, FileNotFoundError):
        # fsspec's HTTP file system calls every failed look-up "not found"; its cause tells what it was.
        if not url.startswith(("http://", "https://")) or error.__cause__ is None:
            return 404
        return getattr(error.__cause__, "status", 0)
    return getattr(error, "status", 0)


def _resolve(url: str) -> tuple[Any, str]:
    """File system and path of a URL; fsspec keeps one file system per process and kind."""
    options: dict[str, Any] = {}
    if url.startswith(("http://", "https://")):
        timeout = importlib.import_module("aiohttp").ClientTimeout(sock_connect=_SILENCE_S, sock_read=_SILENCE_S)
        options = {"client_kwargs": {"timeout": timeout}}
    return fsspec.core.url_to_fs(url, **options)
