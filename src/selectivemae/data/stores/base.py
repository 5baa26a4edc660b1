"""What a store is, and which names inside it are samples."""

import re
from collections.abc import Callable
from typing import Protocol

Progress = Callable[[str, int], None]  # (name of the container, entries indexed so far)
Skipped = list[tuple[str, str]]  # (member, reason)

IMAGE_SUFFIXES = frozenset(b"jpg jpeg jpe jfif png bmp gif webp tif tiff jp2 j2k jpx jpf ppm pgm".split())
_DRIVE = re.compile(rb"[A-Za-z]:[\\/]")


class Store(Protocol):
    """Where bytes lie: encoded images by index, in the order of their ids' UTF-8 bytes.

    A store pickles in a few hundred bytes a container, opens its files lazily in each process, and may be read from
    several threads at once.
    """

    fingerprint: str
    """Changes when the content does, as far as names, sizes and checksums tell (a zip's CRC-32, a shard's SHA-256);
    a copy of the same container elsewhere has the same."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> bytes:
        """The encoded image at ``index``; StoreError names file and member."""
        ...

    def id(self, index: int) -> str:
        """``store name/path inside`` of the image at ``index``."""
        ...

    @property
    def skipped(self) -> Skipped:
        """Members that are no samples, with a reason code each; hidden files are passed over silently."""
        ...


def judge_name(name: bytes) -> str:
    """Why a member is no sample: ``hidden``, ``unsafe_name``, ``not_an_image``, or ``""`` for one that is.

    Samples have an image's extension in any case, or none at all. A name is unsafe when it is absolute, climbs with
    ``..`` or holds a NUL: nothing is ever written under a member's name, but what lists it further on might be.
    """
    if name.startswith((b"/", b"\\")) or b"\0" in name or b".." in name or _DRIVE.match(name):
        steps = name.replace(b"\\", b"/").split(b"/")
        if b".." in steps or steps[0] == b"" or b"\0" in name or _DRIVE.match(name):
            return "unsafe_name"
    if name.startswith(b".") or b"/." in name:
        return "hidden"
    _, dot, suffix = name.rpartition(b"/")[2].rpartition(b".")
    return "" if not dot or suffix.lower() in IMAGE_SUFFIXES else "not_an_image"


def text(name: bytes) -> str:
    """A member's name for people and files: bytes that are no UTF-8 appear as ``\\xNN``, so it always prints."""
    return name.decode("utf-8", "backslashreplace")
