"""Names of tiles: they follow from what a tile is, not from when or by whom it was cut."""

import hashlib

from selectivemae.curation.slice import Window
from selectivemae.data.stores.shards import id_text


def tile_id(source: str, container: str, member: str, window: Window, resize: float = 1.0) -> bytes:
    """16 bytes that name a tile: BLAKE2b of source, container, member, window, and how far the scene was scaled.

    Two tiles differ in one of these, so ids differ; the order of files and the run do not matter.
    """
    x, y, w, h = window
    text = f"v1\0{source}\0{container}\0{member}\0{x},{y},{w},{h},{resize:.6g}"
    return hashlib.blake2b(text.encode("utf-8", "surrogateescape"), digest_size=16).digest()


def key(source: str, identity: bytes) -> str:
    """Name of a sample in the shards: ``<source>-<26 letters and digits>``, without a dot, so tools can group by it."""
    return f"{source}-{id_text(identity)}"


def shuffle_key(seed: int, identity: bytes) -> bytes:
    """8 bytes by which samples are ordered in the corpus: as good as random, and free of workers and sources."""
    return hashlib.blake2b(identity, digest_size=8, key=seed.to_bytes(8, "little", signed=True)).digest()
