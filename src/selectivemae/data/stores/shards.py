"""Corpus shards: plain tars with a side index, so that any sample is one read away.

    corpus-g0001-000000.tar    ustar: <key>.jpg (.png, .webp), then <key>.json and other side members
    corpus-g0001-000000.idx    little-endian
        header       64 bytes: magic, version, record size, count, bytes of the tar, first 16 bytes of its SHA-256
        records      32 bytes a sample: u64 offset, u32 size, u8 type, 3 zero bytes, 16-byte id; by position
        permutation  u32 a sample: the records' numbers in the order of their ids

The same samples give the same bytes: no times, owners or machine in the headers (curation.md, section 6).
"""

import base64
import hashlib
import os
import struct
import tarfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import IO

import numpy as np

from selectivemae.core.errors import OutputError, StoreError
from selectivemae.data.stores.base import Skipped
from selectivemae.data.stores.index import replacing
from selectivemae.data.stores.sources import Files, LocalFile, Source
from selectivemae.data.stores.tardir import BLOCK, members, parse_header

MAGIC = b"SMAESIDX"
VERSION = 1
TYPES = ("jpg", "png", "webp")
_HEADER = struct.Struct("<8s2I2Q16s16x")
_RECORD = struct.Struct("<QIB3x16s")
_PLACES_TYPE = np.dtype({"names": ["offset", "size"], "formats": ["<u8", "<u4"], "itemsize": _RECORD.size})
_PLACE = struct.Struct("<I")
_END = bytes(2 * BLOCK)


@dataclass(frozen=True)
class Sample:
    """One sample to write: its id (16 bytes), key (no dot), image and what goes beside it (``{"json": …}``)."""

    id: bytes
    key: str
    suffix: str
    image: bytes
    sides: Mapping[str, bytes] = field(default_factory=dict)


@dataclass(frozen=True)
class Written:
    """A shard as written: its SHA-256 (hex), bytes, and (offset, size) of each image in the order of the samples."""

    sha256: str
    size: int
    places: list[tuple[int, int]]


def id_text(identity: bytes) -> str:
    """A sample's 16-byte id as 26 characters, base 32 with the extended-hex alphabet (RFC 4648, section 7), small.

    Texts sort as the bytes do.
    """
    return base64.b32hexencode(identity).decode().rstrip("=").lower()


def write_shard(path: str | os.PathLike[str], samples: Iterable[Sample]) -> Written:
    """Write a shard and its side index (``.idx`` for ``.tar``), each in one move, the tar first.

    OutputError when the disk is full or the folder not writable; ValueError for a repeated id or key, a key with a
    dot, or an unknown image type.
    """
    path = os.fspath(path)
    records = bytearray()
    seen: set[str | bytes] = set()
    ids: list[bytes] = []
    places: list[tuple[int, int]] = []
    digest, at = hashlib.sha256(), 0
    try:
        with replacing(path) as file:
            for sample in samples:
                if "." in sample.key or len(sample.id) != 16 or not seen.isdisjoint((sample.key, sample.id)):
                    raise ValueError(f"{sample.key!r} has a dot, an id not of 16 bytes, or key or id are repeated")
                seen |= {sample.key, sample.id}
                names = [sample.suffix, *sorted(sample.sides)]
                for suffix, data in zip(names, [sample.image, *(sample.sides[s] for s in names[1:])], strict=True):
                    header = _tar_header(f"{sample.key}.{suffix}", len(data))
                    if suffix == sample.suffix:
                        places.append((at + len(header), len(data)))
                    at += _append(file, digest, header, data, bytes(-len(data) % BLOCK))
                records += _RECORD.pack(*places[-1], TYPES.index(sample.suffix), sample.id)
                ids.append(sample.id)
            at += _append(file, digest, _END)
        order = np.array(sorted(range(len(ids)), key=ids.__getitem__), dtype="<u4")
        with replacing(index_path(path)) as file:
            file.write(_HEADER.pack(MAGIC, VERSION, _RECORD.size, len(ids), at, digest.digest()[:16]))
            file.write(records)
            file.write(order.tobytes())
    except OSError as error:
        raise OutputError(f"{path}: cannot be written ({error.strerror}); free space there") from error
    return Written(digest.hexdigest(), at, places)


def index_path(path: str) -> str:
    """Where the side index of a shard lies."""
    return path.removesuffix(".tar") + ".idx"


class ShardStore:
    """The images of one shard, in the order of their ids. Ids inside are ``id_text``; ``key`` tells the member's name.

    Each read takes the member's tar header along, so an index that does not belong to the tar is noticed.
    """

    def __init__(self, tar: Source, index: LocalFile, name: str) -> None:
        self.tar = tar
        self.index = index
        self.name = name
        header = index.read(0, min(_HEADER.size, index.size))
        if len(header) < _HEADER.size or header[:8] != MAGIC:
            raise StoreError(f"{index.name}: is no shard index; delete it, and the tar is indexed by itself")
        _, version, record_size, self.count, tar_size, _ = _HEADER.unpack(header)
        if version != VERSION or record_size != _RECORD.size:
            raise StoreError(f"{index.name}: has index version {version}, not {VERSION}; use a newer selectivemae")
        if index.size != _HEADER.size + self.count * (_RECORD.size + _PLACE.size):
            raise StoreError(f"{index.name}: is truncated; fetch it again, or delete it")
        if tar_size != tar.size:
            raise StoreError(
                f"{index.name}: is the index of another file ({tar_size:,} bytes) than {tar.name} ({tar.size:,}); "
                "fetch both again, or delete the index"
            )
        self.fingerprint = hashlib.blake2b(header, digest_size=32).hexdigest()

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> bytes:
        offset, size, _, _ = self._record(index)
        return self._member(offset, size)[BLOCK:]

    def id(self, index: int) -> str:
        return f"{self.name}/{id_text(self._record(index)[3])}"

    def key(self, index: int) -> str:
        """The member's name in the tar (a long one ends at 100 bytes)."""
        offset, _, _, _ = self._record(index)
        return parse_header(self.tar.name, self._member(offset, 0), offset - BLOCK)[0].decode()

    @property
    def skipped(self) -> Skipped:
        return []

    def _record(self, index: int) -> tuple[int, int, int, bytes]:
        if not 0 <= index < self.count:
            raise IndexError(f"sample {index} of {self.count}")
        places_at = _HEADER.size + self.count * _RECORD.size
        (place,) = _PLACE.unpack(self.index.read(places_at + index * _PLACE.size, _PLACE.size))
        return _RECORD.unpack(self.index.read(_HEADER.size + place * _RECORD.size, _RECORD.size))

    def _member(self, offset: int, size: int) -> bytes:
        """Header and first ``size`` bytes of the member whose data begin at ``offset``."""
        if offset < BLOCK or offset + size > self.tar.size:
            raise StoreError(f"{self.index.name}: points outside of {self.tar.name}; fetch both again")
        raw = self.tar.read(offset - BLOCK, BLOCK + size)
        _, stated, _ = parse_header(self.tar.name, raw[:BLOCK], offset - BLOCK)
        if size and stated != size:
            raise StoreError(f"{self.index.name}: is not the index of {self.tar.name}; fetch both again")
        return raw


def verify_shard(path: str | os.PathLike[str]) -> None:
    """Read a local shard whole: its SHA-256 is the index's, and its images are exactly the index's records.

    StoreError says what differs.
    """
    files = Files()
    tar = LocalFile.at(path, files)
    index = LocalFile.at(index_path(tar.name), files)
    count = ShardStore(tar, index, "").count
    with open(tar.name, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").digest()
    if digest[:16] != _HEADER.unpack(index.read(0, _HEADER.size))[5]:
        raise StoreError(f"{tar.name}: its SHA-256 differs from the one in {index.name}; fetch both again")
    records = np.frombuffer(index.read(_HEADER.size, count * _RECORD.size), _PLACES_TYPE)
    images = [m for m in members(tar) if m.name.rpartition(b".")[2].decode() in TYPES]
    if [(m.offset, m.size) for m in images] != list(zip(records["offset"], records["size"], strict=True)):
        raise StoreError(f"{index.name}: its records are not the images of {tar.name}; fetch both again")
    order = np.frombuffer(index.read(_HEADER.size + count * _RECORD.size, count * _PLACE.size), "<u4")
    ids = [index.read(_HEADER.size + int(place) * _RECORD.size + 16, 16) for place in order]
    if sorted(set(ids)) != ids:
        raise StoreError(f"{index.name}: its order by id is wrong; fetch it again")


def _tar_header(name: str, size: int) -> bytes:
    info = tarfile.TarInfo(name)
    info.size = size  # the rest is as it should be: no time, no owner, mode 0644
    try:
        return info.tobuf(tarfile.USTAR_FORMAT)
    except ValueError:  # over 100 bytes
        return info.tobuf(tarfile.PAX_FORMAT)


def _append(file: IO[bytes], digest: "hashlib._Hash", *pieces: bytes) -> int:
    for piece in pieces:
        file.write(piece)
        digest.update(piece)
    return sum(len(piece) for piece in pieces)
