"""Corpus shards: plain tars with a side index, so that any sample is one read away.

    corpus-g0001-000000.tar    ustar: <key>.jpg (.png, .webp), then <key>.json and other side members
    corpus-g0001-000000.idx    little-endian
        header       64 bytes: magic, version, record size, count, bytes of the tar, first 16 bytes of its SHA-256,
                     count of removed samples, first 8 bytes of the BLAKE2b of the permutation if there are any
        records      32 bytes a sample: u64 offset, u32 size, u8 type, 3 zero bytes, 16-byte id; by position
        permutation  u32 a sample: the records' numbers in the order of their ids

A removed sample keeps its record and goes from the permutation (``bury``): stores no longer give it, and the tar is as
it was until it is written anew.

The same samples give the same bytes: no times, owners or machine in the headers (curation.md, section 6).
"""

import base64
import hashlib
import os
import struct
import tarfile
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import IO

import numpy as np
from numpy.typing import NDArray

from selectivemae.core.errors import OutputError, StoreError
from selectivemae.data.stores.base import Skipped
from selectivemae.data.stores.index import replacing
from selectivemae.data.stores.sources import Files, LocalFile, Source
from selectivemae.data.stores.tardir import BLOCK, members, parse_header

MAGIC = b"SMAESIDX"
VERSION = 1
TYPES = ("jpg", "png", "webp")
_HEADER = struct.Struct("<8s2I2Q16sQ8s")
_RECORD = struct.Struct("<QIB3x16s")
_RECORD_TYPE = np.dtype(
    {
        "names": ["offset", "size", "id"],
        "formats": ["<u8", "<u4", "V16"],
        "offsets": [0, 8, 16],
        "itemsize": _RECORD.size,
    }
)
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
            file.write(_HEADER.pack(MAGIC, VERSION, _RECORD.size, len(ids), at, digest.digest()[:16], 0, bytes(8)))
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
        _, version, record_size, self.count, tar_size, _, self.removed, _ = _HEADER.unpack(header)
        if version != VERSION or record_size != _RECORD.size:
            raise StoreError(f"{index.name}: has index version {version}, not {VERSION}; use a newer selectivemae")
        self._order_at = _HEADER.size + (self.count + self.removed) * _RECORD.size
        if index.size != self._order_at + self.count * _PLACE.size:
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
        (place,) = _PLACE.unpack(self.index.read(self._order_at + index * _PLACE.size, _PLACE.size))
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


@dataclass(frozen=True)
class Records:
    """A side index read whole: its header's fields, ``places`` (n,) of offset, size and id by position (removed samples
    too), and ``order``: the numbers of the present ones in the order of their ids."""

    header: tuple
    places: NDArray
    order: NDArray[np.uint32]

    @property
    def present(self) -> NDArray:
        """The records of the samples that are not removed, by position."""
        return self.places[np.sort(self.order)]


def read_records(path: str | os.PathLike[str]) -> Records:
    """The side index of a local shard (given by its tar). StoreError when it is missing, damaged or of another file."""
    files = Files()
    tar = LocalFile.at(path, files)
    index = LocalFile.at(index_path(tar.name), files)
    store = ShardStore(tar, index, "")
    total = store.count + store.removed
    places = np.frombuffer(index.read(_HEADER.size, total * _RECORD.size), _RECORD_TYPE)
    order = np.frombuffer(index.read(_HEADER.size + total * _RECORD.size, store.count * _PLACE.size), "<u4")
    return Records(_HEADER.unpack(index.read(0, _HEADER.size)), places, order)


def bury(path: str | os.PathLike[str], ids: Collection[bytes]) -> int:
    """Take samples out of a shard's side index, so that no store gives them; returns how many were still in it.

    Their bytes stay in the tar. StoreError for a damaged index; OutputError when it cannot be written.
    """
    path = os.fspath(path)
    records = read_records(path)
    gone = np.isin(records.places["id"][records.order], np.array(sorted(ids), "V16"))
    if not gone.any():
        return 0
    order = records.order[~gone].astype("<u4").tobytes()
    *head, _, tar_size, tar_digest, removed, _ = records.header
    mark = hashlib.blake2b(order, digest_size=8).digest()
    count = len(order) // _PLACE.size
    header = _HEADER.pack(*head, count, tar_size, tar_digest, removed + int(gone.sum()), mark)
    try:
        with replacing(index_path(path)) as file:
            file.write(header + records.places.tobytes() + order)
    except OSError as error:
        raise OutputError(f"{index_path(path)}: cannot be written ({error.strerror}); free space there") from error
    return int(gone.sum())


def verify_shard(path: str | os.PathLike[str]) -> None:
    """Read a local shard whole: its SHA-256 is the index's, and its images are exactly the index's records.

    StoreError says what differs.
    """
    path = os.fspath(path)
    records = read_records(path)
    name, tar = index_path(path), LocalFile.at(path, Files())
    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").digest()
    *_, tar_digest, removed, mark = records.header
    if digest[:16] != tar_digest:
        raise StoreError(f"{path}: its SHA-256 differs from the one in {name}; fetch both again")
    images = [m for m in members(tar) if m.name.rpartition(b".")[2].decode() in TYPES]
    stated = zip(records.places["offset"].tolist(), records.places["size"].tolist(), strict=True)
    if [(m.offset, m.size) for m in images] != list(stated):
        raise StoreError(f"{name}: its records are not the images of {path}; fetch both again")
    if (records.order >= len(records.places)).any():
        raise StoreError(f"{name}: its order by id is wrong; fetch it again")
    ids = [identity.tobytes() for identity in records.places["id"][records.order]]
    expected = hashlib.blake2b(records.order.tobytes(), digest_size=8).digest() if removed else bytes(8)
    if sorted(set(ids)) != ids or mark != expected:
        raise StoreError(f"{name}: its order by id is wrong; fetch it again")


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
