"""The format of zip archives: finding and reading the central directory, and unpacking a member.

Source: PKWARE APPNOTE.TXT 6.3.10, sections 4.3 (records), 4.4 (fields), 4.5.3 (ZIP64), 4.6.9 (Unicode path), 8
(split archives). Offsets of a split archive count from the start of the part that a record names.
"""

import bz2
import importlib
import lzma
import struct
import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from selectivemae.core.errors import StoreError
from selectivemae.data.stores.sources import Parts

_END = struct.Struct("<4s4H2LH")
_END64_LOCATOR = struct.Struct("<4sLQL")
_END64 = struct.Struct("<4sQ2H2L4Q")
_ENTRY = struct.Struct("<4s6H3L5H2L")
_LOCAL = struct.Struct("<4s5H3L2H")
_FULL16, _FULL32 = 0xFFFF, 0xFFFFFFFF  # the true value stands in the ZIP64 record
_ENCRYPTED = 0x1 | 0x40 | 0x2000
_UTF8 = 0x800
_BLOCK = 8 << 20
STORED, DEFLATED, BZIP2, LZMA, ZSTANDARD = 0, 8, 12, 14, 93
LOCAL_SIZE = _LOCAL.size


class End(NamedTuple):
    """Where the central directory lies: ``size`` bytes from ``at`` in part ``disk`` (0-based); ``end_at``, counted from
    the start of all parts, is where the first end record begins; ``this_disk`` is the number of the last part.
    """

    disk: int
    at: int
    size: int
    entries: int
    this_disk: int
    end_at: int


class Entry(NamedTuple):
    """One entry of the central directory; ``offset`` is its local header's, counted from the start of all parts."""

    name: bytes
    offset: int
    stored: int
    size: int
    crc: int
    method: int
    encrypted: bool
    folder: bool


def find_end(source: Parts) -> End:
    """The end record of an archive (with its ZIP64 part); StoreError when there is none."""
    span = min(source.size, _END.size + _FULL16)
    tail = source.read(source.size - span, span)
    at = _find_signature(tail)
    if at < 0:
        raise StoreError(
            f"{source.name}: has no end of central directory, so it is truncated or no zip; fetch it again "
            "(of a multi-part archive, the last part)"
        )
    fields = _END.unpack_from(tail, at)
    _, this_disk, disk, _, entries, size, offset, _ = fields
    end_at = source.size - span + at
    if at < _END64_LOCATOR.size:
        return End(disk, offset, size, entries, this_disk, end_at)
    magic, disk64, offset64, disks = _END64_LOCATOR.unpack_from(tail, at - _END64_LOCATOR.size)
    if magic != b"PK\6\7":
        return End(disk, offset, size, entries, this_disk, end_at)
    where = end_at - _END64_LOCATOR.size - _END64.size
    if where < 0 or source.read(where, 4) != b"PK\6\6":  # an extensible data sector: trust the locator
        if disk64 >= len(source.sources):
            return End(disk, offset, size, entries, disks - 1, end_at)  # parts are missing: the caller names them
        where = source.starts[disk64] + offset64
    magic, _, _, _, this64, disk_cd, _, entries64, size64, at64 = _END64.unpack(source.read(where, _END64.size))
    if magic != b"PK\6\6":
        raise StoreError(f"{source.name}: its ZIP64 end record is not where the archive says; fetch it again")
    return End(disk_cd, at64, size64, entries64, max(this64, disks - 1), where)


def _find_signature(tail: bytes) -> int:
    """Where the end record begins: the last one whose comment reaches the end, else fits; -1 if there is none."""
    fits, at = -1, len(tail) - _END.size + 4
    while (at := tail.rfind(b"PK\5\6", 0, at + 3)) >= 0:
        after = len(tail) - at - _END.size - _END.unpack_from(tail, at)[7] if at + _END.size <= len(tail) else -1
        if after == 0:
            return at
        fits = at if fits < 0 <= after else fits
    return fits


def entries(source: Parts, end: End) -> Iterator[Entry]:
    """The entries of the central directory in its order; StoreError when it is damaged."""
    if end.disk >= len(source.sources):
        raise StoreError(
            f"{source.name}: its directory lies in part {end.disk + 1}, which is not there; fetch it again"
        )
    start, shift = source.starts[end.disk] + end.at, 0
    if len(source.sources) == 1 or end.this_disk == 0:
        shift = end.end_at - end.size - start  # bytes before the archive, as in self-extracting ones
        start += shift
    if shift < 0 or start + end.size > end.end_at:
        raise StoreError(f"{source.name}: bytes are missing before its directory; it is truncated: fetch it again")
    starts = source.starts if end.this_disk else [shift]
    buffer, at, read = b"", 0, 0
    for number in range(end.entries):
        while len(buffer) - at < _ENTRY.size or len(buffer) - at < _entry_size(buffer, at):
            if read == end.size:
                raise StoreError(
                    f"{source.name}: its directory ends at entry {number} of {end.entries}; fetch it again"
                )
            take = min(_BLOCK, end.size - read)
            buffer, at = buffer[at:] + source.read(start + read, take), 0
            read += take
        if buffer[at : at + 4] != b"PK\1\2":
            raise StoreError(f"{source.name}: entry {number} of its directory is damaged; fetch it again")
        yield _parse(source, buffer, at, starts)
        at += _entry_size(buffer, at)


def _entry_size(buffer: bytes, at: int) -> int:
    name, extra, comment = struct.unpack_from("<3H", buffer, at + 28)
    return _ENTRY.size + name + extra + comment


def _parse(source: Parts, buffer: bytes, at: int, starts: Sequence[int]) -> Entry:
    (_, _, _, flags, method, _, _, crc, stored, size, name_length, extra_length, _, disk, _, _, offset) = (
        _ENTRY.unpack_from(buffer, at)
    )
    name_at = at + _ENTRY.size
    raw = buffer[name_at : name_at + name_length]
    extra = buffer[name_at + name_length : name_at + name_length + extra_length] if extra_length else b""
    name = raw if flags & _UTF8 or raw.isascii() else _unicode_path(raw, extra)
    if size == _FULL32 or stored == _FULL32 or offset == _FULL32 or disk == _FULL16:
        wide = iter(struct.unpack_from(f"<{len(field) // 8}Q", field) if (field := _extra(extra, 1)) else ())
        size = next(wide, size) if size == _FULL32 else size
        stored = next(wide, stored) if stored == _FULL32 else stored
        offset = next(wide, offset) if offset == _FULL32 else offset
        disk = struct.unpack("<L", field[-4:])[0] if disk == _FULL16 and len(field) % 8 == 4 else disk
    if disk >= len(starts):
        raise StoreError(f"{source.name}: {raw[:80]!r} lies in part {disk + 1}, which is not there; fetch it again")
    return Entry(name, starts[disk] + offset, stored, size, crc, method, bool(flags & _ENCRYPTED), raw.endswith(b"/"))


def _extra(extra: bytes, kind: int) -> bytes:
    """The extra field of a kind, or nothing."""
    at = 0
    while at + 4 <= len(extra):
        found, length = struct.unpack_from("<2H", extra, at)
        if found == kind:
            return extra[at + 4 : at + 4 + length]
        at += 4 + length
    return b""


def _unicode_path(raw: bytes, extra: bytes) -> bytes:
    """UTF-8 of a name without the UTF-8 flag: the Unicode path field if it belongs to the name, else code page 437."""
    field = _extra(extra, 0x7075)
    if len(field) > 5 and field[0] == 1 and struct.unpack_from("<L", field, 1)[0] == zlib.crc32(raw):
        return field[5:]
    return raw.decode("cp437").encode()


def data_start(header: bytes) -> int:
    """Where a member's data begin, from the start of its local header; ValueError when it is none."""
    if len(header) < _LOCAL.size or not header.startswith(b"PK\3\4"):
        raise ValueError("no member begins there")
    fields = _LOCAL.unpack_from(header)
    return _LOCAL.size + fields[9] + fields[10]


def unpack(method: int, packed: bytes, size: int) -> bytes:
    """A member's bytes from its packed ones, ``size`` of them; ValueError when they do not unpack to that many.

    Never takes more memory than ``size`` + 1 bytes, whatever the packed bytes would swell to.
    """
    if method == STORED:
        data = packed
    else:
        try:
            data = _DECODERS[method](packed, size + 1)
        except (zlib.error, lzma.LZMAError, OSError, EOFError, struct.error) as error:
            raise ValueError(str(error)) from error
    if len(data) != size:
        raise ValueError(f"unpacks to {'more' if len(data) > size else 'fewer'} than {size:,} bytes")
    return data


def _inflate(packed: bytes, limit: int) -> bytes:
    return zlib.decompressobj(-15).decompress(packed, limit)


def _bunzip2(packed: bytes, limit: int) -> bytes:
    return bz2.BZ2Decompressor().decompress(packed, limit)


def _unlzma(packed: bytes, limit: int) -> bytes:
    # Section 5.8.8: two bytes of version, two of length, then the filter's properties, then the stream.
    length = struct.unpack_from("<H", packed, 2)[0]
    properties = packed[4 : 4 + length]
    first, dictionary = struct.unpack_from("<BL", properties)
    rest, lc = divmod(first, 9)
    pb, lp = divmod(rest, 5)
    filters = [{"id": lzma.FILTER_LZMA1, "lc": lc, "lp": lp, "pb": pb, "dict_size": dictionary}]
    return lzma.LZMADecompressor(lzma.FORMAT_RAW, filters=filters).decompress(packed[4 + length :], limit)


def _unzstd(packed: bytes, limit: int) -> bytes:
    module = zstandard_module()
    if module is None:
        raise ValueError("zstd needs Python 3.14 or the package zstandard")
    if module.__name__ == "zstandard":
        with module.ZstdDecompressor().stream_reader(packed) as stream:
            try:
                return stream.read(limit)
            except module.ZstdError as error:
                raise ValueError(str(error)) from error
    try:
        return module.ZstdDecompressor().decompress(packed, limit)
    except module.ZstdError as error:
        raise ValueError(str(error)) from error


def zstandard_module() -> Any:
    """Python's own zstd (3.14) or the package ``zstandard``; None where there is neither."""
    for name in ("compression.zstd", "zstandard"):
        try:
            return importlib.import_module(name)
        except ImportError:
            continue
    return None


_DECODERS: dict[int, Callable[[bytes, int], bytes]] = {
    DEFLATED: _inflate,
    BZIP2: _bunzip2,
    LZMA: _unlzma,
    ZSTANDARD: _unzstd,
}
METHODS = frozenset([STORED, *_DECODERS])
