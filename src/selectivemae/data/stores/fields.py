"""What stands beside an image in its container: columns of a Parquet file, ``json`` and ``cls`` of a WebDataset."""

import json
from functools import lru_cache
from typing import Any

from selectivemae.core.errors import StoreError
from selectivemae.data.stores.base import Store, text
from selectivemae.data.stores.parquet import ParquetStore
from selectivemae.data.stores.shards import ShardStore
from selectivemae.data.stores.sources import Source
from selectivemae.data.stores.tardir import members
from selectivemae.data.stores.tars import TarStore
from selectivemae.data.stores.union import UnionStore

_MOST_BYTES = 1 << 20  # of what stands beside one image


def fields(store: Store, index: int) -> dict[str, Any]:
    """Names and values that a container holds for the image at ``index``; empty where it knows none.

    Of a tar the keys of its ``json`` object, and ``cls`` and ``txt`` as text. StoreError for a damaged one.
    """
    if isinstance(store, UnionStore):
        return fields(*store.locate(index))
    if isinstance(store, ParquetStore):
        return store.fields(index)
    if isinstance(store, ShardStore):
        return _values(store.tar, _key(store.key(index)), store.fingerprint)
    if isinstance(store, TarStore):
        return _values(store.source, _key(store.id(index).removeprefix(f"{store.name}/")), store.fingerprint)
    return {}


def _key(member: str) -> str:
    folder, slash, name = member.rpartition("/")
    return folder + slash + name.partition(".")[0]


def _values(source: Source, key: str, stamp: str) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for suffix, offset, size in _beside(source, stamp).get(key, ()):
        data = source.read(offset, size)
        if suffix != "json":
            out[suffix] = data.decode("utf-8", "replace").strip()
            continue
        try:
            found = json.loads(data)
        except ValueError as e:
            raise StoreError(f"{source.name}: {key}.json is no JSON: {e}") from e
        out |= found if isinstance(found, dict) else {"json": found}
    return out


@lru_cache(maxsize=4)
def _beside(source: Source, stamp: str) -> dict[str, list[tuple[str, int, int]]]:
    """Where the small members of each key lie; one walk over the headers. ``stamp`` makes a changed tar another."""
    out: dict[str, list[tuple[str, int, int]]] = {}
    for member in members(source):
        name = text(member.name).removeprefix("./")
        key, suffix = _key(name), name.rpartition(".")[2].lower()
        if member.kind == "file" and suffix in ("json", "cls", "txt") and member.size <= _MOST_BYTES:
            out.setdefault(key, []).append((suffix, member.offset, member.size))
    return out
