"""Zip archives read in place: whole, split (``X.z01`` … ``X.zip``) or cut by bytes (``X.zip.001`` …)."""

import os
import re
import zlib

from selectivemae.core.errors import StoreError
from selectivemae.data.stores import zipdir
from selectivemae.data.stores.base import Progress, text
from selectivemae.data.stores.index import IndexBuilder
from selectivemae.data.stores.indexed import ArchiveStore
from selectivemae.data.stores.sources import Files, LocalFile, Parts, Source, cannot_read

_BOMB_SIZE, _BOMB_RATIO = 1 << 30, 200
_SLACK = 64  # local headers have at most a few extra fields more than the directory: one read for header and data


class ZipStore(ArchiveStore):
    """The images of a zip archive, stored or packed by deflate, bzip2, lzma or zstd; checksums are checked on reading.

    Encrypted members, unsafe names, repeated names, members that are no images, and bombs (over 1 GiB and 200 times
    their packed size) are skipped with a reason. Nothing is written to disk.
    """

    def __init__(self, parts: Parts, name: str, files: Files, progress: Progress | None = None) -> None:
        self.parts = parts
        super().__init__(parts, name, files, progress)

    def __getitem__(self, index: int) -> bytes:
        record = self.index.record(index)
        span = zipdir.LOCAL_SIZE + record.name_length + _SLACK + record.stored
        raw = self.parts.read(record.offset, min(span, self.parts.size - record.offset))
        try:
            start = zipdir.data_start(raw)
            packed = raw[start : start + record.stored]
            if len(packed) < record.stored:
                packed = self.parts.read(record.offset + start, record.stored)
            data = zipdir.unpack(record.method, packed, record.size)
            if zlib.crc32(data) != record.stamp:
                raise ValueError("its checksum (CRC-32) fails")
        except ValueError as error:
            member = text(self.index.name(record))
            raise StoreError(f"{self.parts.name}: {member} is damaged ({error}); fetch the archive again") from error
        return data

    def _scan(self, builder: IndexBuilder) -> None:
        for entry in zipdir.entries(self.parts, zipdir.find_end(self.parts)):
            if entry.folder:
                continue
            if entry.encrypted:
                builder.skip(entry.name, "encrypted")
            elif entry.size > _BOMB_SIZE and entry.size > _BOMB_RATIO * entry.stored:
                builder.skip(entry.name, "bomb")
            elif entry.method == zipdir.ZSTANDARD and zipdir.zstandard_module() is None:
                raise StoreError(
                    f"{self.parts.name}: {text(entry.name)} is packed by zstd; install the package zstandard to read it"
                )
            elif entry.method not in zipdir.METHODS:
                builder.skip(entry.name, f"compression_{entry.method}")
            else:
                builder.add(entry.name, entry.offset, entry.stored, entry.size, entry.crc, entry.method)


def archive_path(path: str) -> str:
    """The zip that a path means: ``X.zip`` for a part ``X.zNN`` or ``X.zip.NNN`` of it too; other paths as they are."""
    if match := re.fullmatch(r"(.*\.zip)\.\d{3,}", path, re.DOTALL | re.IGNORECASE):
        return match[1]
    if match := re.fullmatch(r"(.*\.)(z)\d\d+", path, re.DOTALL | re.IGNORECASE):
        return match[1] + ("ZIP" if match[2] == "Z" else "zip")
    return path


def open_parts(path: str, files: Files) -> Parts:
    """All parts of an archive, in order; StoreError names a part that is missing.

    ``path`` is ``X.zip``, whether that is there or only ``X.zip.001`` and its fellows.
    """
    if not os.path.exists(path) and (pieces := _byte_parts(path, files)):
        return Parts(pieces)
    last = LocalFile.at(path, files)
    end = zipdir.find_end(Parts([last]))
    stem, suffix = os.path.splitext(path)
    parts: list[Source] = []
    for number in range(1, end.this_disk + 1):
        part = f"{stem}{suffix[:2] if suffix else '.z'}{number:02d}"
        if not os.path.exists(part):
            raise StoreError(
                f"{path}: part {number} of {end.this_disk + 1}, {os.path.basename(part)}, is missing; "
                "put all parts into one folder"
            )
        parts.append(LocalFile.at(part, files))
    return Parts([*parts, last])


def _byte_parts(stem: str, files: Files) -> list[LocalFile]:
    numbered = re.compile(re.escape(os.path.basename(stem)) + r"\.(\d{3,})")
    try:
        beside = os.listdir(os.path.dirname(stem))
    except OSError as error:
        raise cannot_read(stem, error) from error
    found = sorted(int(match[1]) for name in beside if (match := numbered.fullmatch(name)))
    for number, there in enumerate(found, start=1):
        if number != there:
            raise StoreError(f"{stem}: part {number}, {os.path.basename(stem)}.{number:03d}, is missing; fetch it")
    return [LocalFile.at(f"{stem}.{number:03d}", files) for number in found]
