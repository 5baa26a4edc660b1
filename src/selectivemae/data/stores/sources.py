"""Bytes at rest: local files read by position, several of them as one, and how many stay open.

Reads are positional (``os.pread``), so threads share a file without a lock around it and a fork cannot disturb one.
"""

import os
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from threading import Lock
from typing import Protocol

from selectivemae.core.errors import StoreError


class Source(Protocol):
    """A run of bytes that can be read anywhere."""

    @property
    def name(self) -> str:
        """Path or URL, for messages."""
        ...

    @property
    def size(self) -> int:
        """Bytes in all."""
        ...

    @property
    def stamp(self) -> str:
        """Changes when the content is written anew (size and time of change, or what a server tells)."""
        ...

    @property
    def changed_ns(self) -> int:
        """When the content changed last, Unix nanoseconds; 0 if unknown."""
        ...

    def read(self, offset: int, size: int) -> bytes:
        """Exactly ``size`` bytes from ``offset``, or a StoreError."""
        ...


class _Handle:
    """An open file that closes when its last user lets go, so that no thread reads a closed or recycled number."""

    __slots__ = ("fd",)

    def __init__(self, path: str) -> None:
        self.fd = -1
        self.fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def __del__(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)


class Files:
    """The open files of a set of stores in this process: at most ``limit``, the least recently used closed first.

    Corpora have thousands of shards and a process often only 1,024 file numbers. Pickles empty: another process
    opens what it needs itself.
    """

    def __init__(self, limit: int = 256) -> None:
        self.limit = limit
        self._open: OrderedDict[str, _Handle] = OrderedDict()
        self._lock = Lock()

    def __reduce__(self) -> tuple[type["Files"], tuple[int]]:
        return Files, (self.limit,)

    def handle(self, path: str, check: Callable[[int], None] | None = None) -> _Handle:
        """The open file at ``path``; ``check`` sees its number when it is opened and may raise."""
        with self._lock:
            handle = self._open.get(path)
            if handle is not None:
                self._open.move_to_end(path)
                return handle
        try:
            handle = _Handle(path)
        except OSError as error:
            raise cannot_read(path, error) from error
        if check is not None:
            check(handle.fd)
        with self._lock:
            self._open[path] = handle
            if len(self._open) > self.limit:
                self._open.popitem(last=False)
        return handle

    def forget(self, path: str) -> None:
        """Let go of the open file at ``path``, because another has taken its place."""
        with self._lock:
            self._open.pop(path, None)


@dataclass(frozen=True)
class LocalFile:
    """A file on disk as it was when it was indexed; reading it after a change is a StoreError."""

    name: str
    size: int
    changed_ns: int
    files: Files = field(compare=False, repr=False)

    @classmethod
    def at(cls, path: str | os.PathLike[str], files: Files) -> "LocalFile":
        """The file at ``path`` as it is now; StoreError when it is missing or unreadable."""
        name = os.path.abspath(path)
        try:
            with open(name, "rb") as file:
                status = os.fstat(file.fileno())
        except OSError as error:
            raise cannot_read(name, error) from error
        return cls(name, status.st_size, status.st_mtime_ns, files)

    @property
    def stamp(self) -> str:
        return f"{os.path.basename(self.name)} {self.size} {self.changed_ns}"

    def read(self, offset: int, size: int) -> bytes:
        handle = self.files.handle(self.name)
        try:
            data = read_at(handle.fd, offset, size)
            now = os.fstat(handle.fd)
        except OSError as error:
            raise cannot_read(self.name, error) from error
        if (now.st_size, now.st_mtime_ns) != (self.size, self.changed_ns):
            raise StoreError(f"{self.name}: changed while in use; start again, so that it is indexed anew")
        if len(data) < size:
            raise StoreError(f"{self.name}: ends before byte {offset + size:,}; it is truncated: fetch it again")
        return data


class Parts:
    """Several sources read as one: their bytes joined end to end, without a copy on disk."""

    def __init__(self, sources: Sequence[Source]) -> None:
        self.sources = list(sources)
        self.starts = [0, *accumulate(source.size for source in sources)]

    @property
    def name(self) -> str:
        return self.sources[-1].name

    @property
    def size(self) -> int:
        return self.starts[-1]

    @property
    def stamp(self) -> str:
        return "\n".join(source.stamp for source in self.sources)

    @property
    def changed_ns(self) -> int:
        return max(source.changed_ns for source in self.sources)

    def read(self, offset: int, size: int) -> bytes:
        if offset < 0 or offset + size > self.size:
            raise StoreError(f"{self.name}: ends before byte {offset + size:,}; it is truncated: fetch it again")
        pieces = []
        part = bisect_right(self.starts, offset) - 1
        while size > 0:
            inside = offset - self.starts[part]
            take = min(size, self.sources[part].size - inside)
            pieces.append(self.sources[part].read(inside, take))
            offset, size, part = offset + take, size - take, part + 1
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def read_at(fd: int, offset: int, size: int) -> bytes:
    """Up to ``size`` bytes of an open file from ``offset``: fewer only at its end (one call gives at most 2 GiB)."""
    data = os.pread(fd, size, offset)
    if len(data) == size or not data:
        return data
    pieces = [data]
    got = len(data)
    while got < size and (data := os.pread(fd, size - got, offset + got)):
        pieces.append(data)
        got += len(data)
    return b"".join(pieces)


def cannot_read(path: str, error: OSError) -> StoreError:
    """A StoreError of what the operating system said about ``path``."""
    advice = "give this user the right to read it" if isinstance(error, PermissionError) else "check the path and disk"
    return StoreError(f"{path}: cannot be read ({error.strerror or error}); {advice}")
