"""The table of contents of a container, on disk: what lies where, in the order of the names' bytes.

A corpus has 13 million members, and every worker process needs any of them at any time. So the table is a file of
fixed records that is read by position, not a Python list, and not a mapping either: pages of a mapping that were
touched count as resident in each process, and after an epoch all of them were (0.6 GB of records, 0.8 GB of names).
Positional reads leave them in the system's cache, once for all processes, at about a microsecond each.

    .NAME.selectivemae-index    (beside the data, or ``indexes/`` in the cache folder)
        header   128 bytes: magic, sizes, time of building, stamp of the data, fingerprint
        records  48 bytes a member, see ``Record``
        names    UTF-8, end to end
        tail     JSON: members skipped with reasons, and what the container's reader notes for itself
"""

import hashlib
import json
import os
import struct
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np

from selectivemae.core.errors import StoreError
from selectivemae.data.stores.base import Progress, Skipped, judge_name, text
from selectivemae.data.stores.sources import Files, cannot_read, read_at

MAGIC = b"SMAEIX01"
_HEADER = struct.Struct("<8s4Q32s32s24x")
_RECORD = struct.Struct("<5Q2H4x")
_RECORD_TYPE = np.dtype(
    {
        "names": ["name_at", "offset", "stored", "size", "stamp", "name_length", "method"],
        "formats": ["<u8"] * 5 + ["<u2"] * 2,
        "itemsize": _RECORD.size,
    }
)
_SETTLE_NS = 100_000_000  # a file changed this shortly before it was indexed may have changed again unnoticed
_REPORT_EVERY = 10_000


class Record(NamedTuple):
    """One member: ``stored`` bytes at ``offset``, ``size`` bytes when unpacked by ``method``.

    ``stamp`` is what else tells that it is the same: the CRC-32 of a zip's member, a file's time of change.
    """

    name_at: int
    offset: int
    stored: int
    size: int
    stamp: int
    name_length: int
    method: int


@dataclass(frozen=True)
class Index:
    """An index file, open for look-ups from any thread."""

    path: str
    count: int
    names_size: int
    tail_size: int
    built_ns: int
    stamp: str
    fingerprint: str
    files: Files = field(compare=False, repr=False)

    @classmethod
    def load(cls, path: str, files: Files) -> "Index | None":
        """The index at ``path``, or None when there is none or it is no whole index of this version."""
        try:
            with open(path, "rb") as file:
                header = file.read(_HEADER.size)
                length = os.fstat(file.fileno()).st_size
        except OSError:
            return None  # not there, or not ours to read: the caller looks elsewhere or builds one
        if len(header) < _HEADER.size:
            return None
        magic, count, names_size, tail_size, built_ns, stamp, fingerprint = _HEADER.unpack(header)
        if magic != MAGIC or not tail_size or length != _HEADER.size + count * _RECORD.size + names_size + tail_size:
            return None
        return cls(path, count, names_size, tail_size, built_ns, stamp.hex(), fingerprint.hex(), files)

    def record(self, index: int) -> Record:
        """The member at ``index``; IndexError outside of 0..count-1 (an index from the end is a mistake here)."""
        if not 0 <= index < self.count:
            raise IndexError(f"sample {index} of {self.count}")
        return Record._make(_RECORD.unpack(self._read(_HEADER.size + index * _RECORD.size, _RECORD.size)))

    def name(self, record: Record) -> bytes:
        """The member's name."""
        return self._read(_HEADER.size + self.count * _RECORD.size + record.name_at, record.name_length)

    def tail(self) -> dict[str, Any]:
        """The notes at the end: ``skipped`` and the reader's own."""
        at = _HEADER.size + self.count * _RECORD.size + self.names_size
        return json.loads(self._read(at, self.tail_size))

    def settled(self, changed_ns: int) -> bool:
        """Whether data that changed last at ``changed_ns`` cannot have changed again within a tick of the clock."""
        return changed_ns < self.built_ns - _SETTLE_NS

    def discard(self) -> None:
        """Delete the file, so that the next opening indexes anew; those who have it open keep what they have."""
        with suppress(OSError):
            os.unlink(self.path)

    def _read(self, offset: int, size: int) -> bytes:
        handle = self.files.handle(self.path, self._check)
        try:
            data = read_at(handle.fd, offset, size)
        except OSError as error:
            raise cannot_read(self.path, error) from error
        if len(data) < size:
            raise StoreError(f"{self.path}: this index is truncated; delete it and start again")
        return data

    def _check(self, fd: int) -> None:
        # Another process may have built the same index meanwhile and put it in place: equal content is as good.
        header = read_at(fd, 0, _HEADER.size)
        if len(header) < _HEADER.size or _HEADER.unpack(header)[6].hex() != self.fingerprint:
            raise StoreError(f"{self.path}: the data were indexed anew while in use; start again")


class IndexBuilder:
    """Collects a container's members in any order and writes their index.

    ``dated`` says that stamps are times of change: they stay out of the fingerprint, so that a copy has the same.
    Takes about 200 bytes of memory a member while it builds.
    """

    def __init__(self, label: str, progress: Progress | None = None, dated: bool = False) -> None:
        self.label = label
        self.built_ns = time.time_ns()
        self.notes: dict[str, Any] = {}
        self._progress = progress
        self._dated = dated
        self._names: list[bytes] = []
        self._records = bytearray()
        self._skipped: Skipped = []

    def add(self, name: bytes, offset: int, stored: int, size: int, stamp: int = 0, method: int = 0) -> None:
        """Take a member, or note why its name is no sample's."""
        name = _plain(name)
        reason = judge_name(name)
        if reason:
            self.skip(name, reason)
            return
        if len(name) > 0xFFFF:
            self.skip(name[:80], "name_too_long")
            return
        self._records += _RECORD.pack(0, offset, stored, size, stamp, len(name), method)
        self._names.append(name)
        if self._progress is not None and len(self._names) % _REPORT_EVERY == 0:
            self._progress(self.label, len(self._names))

    def skip(self, name: bytes, reason: str) -> None:
        """Note a member that is no sample."""
        if reason != "hidden" and judge_name(_plain(name)) != "hidden":
            self._skipped.append((text(name), reason))

    def write(self, path: str, stamp: str) -> None:
        """Write the index to ``path`` in one move; ``stamp`` (hex of 32 bytes) tells the data it was made from.

        Of members with the same name the first is kept.
        """
        names, records = self._sorted()
        lengths = records["name_length"].astype(np.uint64)
        records["name_at"] = np.cumsum(lengths) - lengths
        digest = hashlib.blake2b(digest_size=32)
        for column in ("name_length", "size") if self._dated else ("name_length", "size", "stamp"):
            digest.update(records[column].tobytes())
        tail = json.dumps({"skipped": self._skipped, **self.notes}).encode()
        with replacing(path) as file:
            file.seek(_HEADER.size + records.nbytes)
            for start in range(0, len(names), 65536):
                blob = b"".join(names[start : start + 65536])
                digest.update(blob)
                file.write(blob)
            file.write(tail)
            file.seek(0)
            file.write(
                _HEADER.pack(
                    MAGIC,
                    len(names),
                    int(lengths.sum()),
                    len(tail),
                    self.built_ns,
                    bytes.fromhex(stamp),
                    digest.digest(),
                )
            )
            file.write(records.data)
        if self._progress is not None:
            self._progress(self.label, len(names))

    def _sorted(self) -> tuple[list[bytes], np.ndarray]:
        names = self._names
        records = np.frombuffer(self._records, dtype=_RECORD_TYPE)
        if all(a < b for a, b in pairwise(names)):
            return names, records.copy()
        order = sorted(range(len(names)), key=names.__getitem__)
        kept = [
            i for i, before in zip(order, [None, *order], strict=False) if before is None or names[i] != names[before]
        ]
        if len(kept) < len(order):
            first = set(kept)
            self._skipped += [(text(names[i]), "dup_member") for i in order if i not in first]
        return [names[i] for i in kept], records[kept]


def _plain(name: bytes) -> bytes:
    """A name without the ``./`` that tar and zip tools like to begin with."""
    while name.startswith(b"./"):
        name = name[2:].lstrip(b"/")
    return name


def cached_index(
    origin: str,
    files: Files,
    valid: Callable[[Index], bool],
    build: Callable[[], tuple[IndexBuilder, str]],
) -> Index:
    """The index of ``origin`` (path or URL): a cached one that is ``valid``, or one built and cached now.

    It lies beside the data, or in the cache folder when that cannot be written, when ``SELECTIVEMAE_CACHE`` is set,
    or when ``origin`` is a URL. ``build`` returns the entries and the stamp of the data they came from.
    """
    places = index_places(origin)
    for place in places:
        index = Index.load(place, files)
        if index is not None and valid(index):
            return index
    builder, stamp = build()
    failure: OSError | None = None
    for place in reversed(places) if "SELECTIVEMAE_CACHE" in os.environ else places:
        try:
            os.makedirs(os.path.dirname(place), exist_ok=True)
            builder.write(place, stamp)
            files.forget(place)  # a stale index of that name may have been looked at
        except OSError as error:
            failure = error
            continue
        index = Index.load(place, files)
        if index is not None:
            return index
    why = f"{failure.filename}: {failure.strerror}" if failure else "it vanished"
    raise StoreError(f"{origin}: its index cannot be cached ({why}); set SELECTIVEMAE_CACHE to a writable folder")


def index_places(origin: str) -> list[str]:
    """Where the index of a path or URL may lie: beside it (paths only), then in the cache folder."""
    key = hashlib.blake2b(origin.encode("utf-8", "surrogateescape"), digest_size=16).hexdigest()
    cached = os.path.join(cache_folder(), key)
    if "://" in origin:
        return [cached]
    folder, name = os.path.split(origin)
    return [os.path.join(folder, f".{name}.selectivemae-index"), cached]


def cache_folder() -> str:
    """The folder of indexes that cannot lie beside their data: in ``SELECTIVEMAE_CACHE``, else the user's cache."""
    base = os.environ.get("SELECTIVEMAE_CACHE")
    if base is None:
        base = os.path.join(os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache"), "selectivemae")
    return os.path.join(base, "indexes")


@contextmanager
def replacing(path: str) -> Iterator[IO[bytes]]:
    """A new file that takes the place of ``path`` in one move when the block ends well, and vanishes otherwise."""
    number, temporary = tempfile.mkstemp(dir=os.path.dirname(path), prefix=".index-", suffix=".tmp")
    try:
        with open(number, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
