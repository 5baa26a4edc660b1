"""The format of tar archives: walking the headers.

Source: POSIX.1-2017 pax, "ustar Interchange Format" and "pax Header Block"; GNU tar manual, "Basic Tar Format", for
long names (types L, K), sizes in base 256, and sparse files (S).
"""

from collections.abc import Iterator
from typing import NamedTuple

from selectivemae.core.errors import StoreError
from selectivemae.data.stores.sources import Source

BLOCK = 512
_PACKED = {b"\x1f\x8b": "gzip -d", b"BZh": "bzip2 -d", b"\xfd7zXZ": "xz -d", b"\x28\xb5\x2f\xfd": "zstd -d"}
_MOST_NAME = 1 << 20  # a longer name or pax header is damage, not a name


class Member(NamedTuple):
    """One member: its data are ``size`` bytes at ``offset``; ``kind`` is ``file``, ``folder`` or why it is neither."""

    name: bytes
    offset: int
    size: int
    kind: str


def members(source: Source, ahead: int = 1 << 16) -> Iterator[Member]:
    """The members of a tar in its order; StoreError when it is damaged, truncated or compressed.

    Reads blocks of ``ahead`` bytes, and jumps over data that are longer.
    """
    blocks = _Blocks(source, ahead)
    at, renamed, resized = 0, b"", None
    while at + BLOCK <= source.size:
        header = blocks.read(at, BLOCK)
        if header == bytes(BLOCK):
            return
        name, size, kind = parse_header(source.name, header, at)
        data_at = at + BLOCK
        if kind in b"xgLK":
            end = data_at + size
            if size > _MOST_NAME or end > source.size:
                raise StoreError(f"{source.name}: the header at byte {at:,} is damaged or cut off; fetch it again")
            if kind == b"L":
                renamed = blocks.read(data_at, size).rstrip(b"\0")
            elif kind == b"x":
                fields = _pax(source.name, blocks.read(data_at, size), at)
                renamed = fields.get(b"path", renamed)
                resized = int(fields[b"size"]) if b"size" in fields else resized
                if any(field.startswith(b"GNU.sparse.") for field in fields):
                    renamed, kind = fields.get(b"GNU.sparse.name", renamed), b"S"
            at = end + -size % BLOCK
            if kind != b"S":
                continue
            name, size, _ = parse_header(source.name, blocks.read(at, BLOCK), at)  # its data follow in pieces
            data_at = at + BLOCK
        elif kind == b"S":
            while header[482 if data_at == at + BLOCK else 504]:  # more lists of pieces follow the header
                header = blocks.read(data_at, BLOCK)
                data_at += BLOCK
        size = size if resized is None else resized
        name, renamed, resized = renamed or name, b"", None
        if data_at + size > source.size:
            raise StoreError(
                f"{source.name}: ends inside {name[:200].decode(errors='replace')!r}; it is truncated: fetch it again"
            )
        yield Member(name, data_at, size, _KINDS.get(kind, "special_file") if name[-1:] != b"/" else "folder")
        at = data_at + size + -size % BLOCK
    if at < source.size or at == 0:
        raise StoreError(f"{source.name}: ends inside a header; it is truncated or no tar: fetch it again")


_KINDS = {b"0": "file", b"\0": "file", b"7": "file", b"5": "folder", b"1": "link", b"2": "link", b"S": "sparse"}


def parse_header(label: str, header: bytes, at: int) -> tuple[bytes, int, bytes]:
    """Name, size and type of a 512-byte header; StoreError, naming ``label`` and byte ``at``, when it is none."""
    try:
        stated = int(header[148:156].strip(b" \0"), 8)
        size = _number(header[124:136])
    except ValueError:
        stated, size = -1, 0
    if stated != sum(header) - sum(header[148:156]) + 8 * 0x20 or size < 0:
        if at == 0:
            for magic, tool in _PACKED.items():
                if header.startswith(magic):
                    raise StoreError(f"{label}: is compressed, so it cannot be read at random; unpack it with {tool}")
            raise StoreError(f"{label}: is no tar archive; fetch it again or give another file")
        raise StoreError(f"{label}: the header at byte {at:,} is damaged; fetch it again")
    name = header[:100].split(b"\0", 1)[0]
    if header[257:263] == b"ustar\0" and (prefix := header[345:500].split(b"\0", 1)[0]):
        name = prefix + b"/" + name
    kind = header[156:157]
    return name, 0 if kind in b"123456" else size, kind


def _number(field: bytes) -> int:
    if field[0] & 0x80:
        return int.from_bytes(field[1:], "big") if field[0] == 0x80 else -1
    return int(field.strip(b" \0") or b"0", 8)


def _pax(label: str, data: bytes, at: int) -> dict[bytes, bytes]:
    """Keywords of a pax header: records of ``length keyword=value newline``."""
    fields: dict[bytes, bytes] = {}
    while data.strip(b"\0"):
        length, space, _ = data.partition(b" ")
        end = int(length) if length.isdigit() else 0
        keyword, equals, value = data[len(length) + 1 : max(end - 1, 0)].partition(b"=")
        if not space or not equals or end > len(data) or (keyword == b"size" and not value.isdigit()):
            raise StoreError(f"{label}: the pax header at byte {at:,} is damaged; fetch it again")
        fields[keyword] = value
        data = data[end:]
    return fields


class _Blocks:
    """Small reads through one large one at a time."""

    def __init__(self, source: Source, ahead: int) -> None:
        self.source = source
        self.ahead = ahead
        self.start, self.data = 0, b""

    def read(self, offset: int, size: int) -> bytes:
        begin = offset - self.start
        if begin < 0 or begin + size > len(self.data):
            take = min(max(size, self.ahead), self.source.size - offset)
            self.start, self.data, begin = offset, self.source.read(offset, take), 0
        return self.data[begin : begin + size]
