"""What lies in the sources: containers, members, sizes, and the chunks of work that follow."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from selectivemae.core.errors import ConfigError, DataError, StoreError
from selectivemae.curation.config import CurateConfig
from selectivemae.curation.read import Chunk
from selectivemae.curation.sources import Source, Sources, read_sources, sources_of_paths
from selectivemae.data.stores import Store, open_store
from selectivemae.data.stores.index import Index
from selectivemae.data.stores.union import distinct_names


@dataclass(frozen=True)
class Container:
    """One archive or folder of a source, as found: members that may be images, their bytes, what was passed over."""

    source: Source
    name: str
    path: str
    fingerprint: str
    members: int
    size: int
    skipped: list[tuple[str, str]]
    chunks: list[Chunk]


def settled_sources(config: CurateConfig) -> Sources:
    """The sources that a configuration names: at most one file of sources, bare paths, and evaluation sets."""
    files = [path for path in config.sources if path.endswith((".yaml", ".yml"))]
    if len(files) > 1:
        raise ConfigError(f"{files[1]}: only one sources file may be given; put all sources into one")
    bare = sources_of_paths([path for path in config.sources if path not in files])
    sources = read_sources(Path(files[0])) if files else Sources()
    guards = (
        s.model_copy(update={"name": f"eval_{s.name}", "split_role": "eval"}) for s in sources_of_paths(config.against)
    )
    sources = sources.model_copy(update={"sources": _distinct((*sources.sources, *bare, *guards))})
    if not any(source.split_role == "train" for source in sources.sources):
        raise DataError("no source is given; name a sources file, a folder or an archive")
    return sources


def _distinct(sources: tuple[Source, ...]) -> tuple[Source, ...]:
    """The sources sorted by name, so that their order changes nothing. ConfigError for two of one name."""
    names = [source.name for source in sources]
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(f"two sources are called {name!r}; names are part of every id: give one another name")
    return tuple(sorted(sources, key=lambda source: source.name))


def scan(sources: Sources, config: CurateConfig) -> list[Container]:
    """Open every container and cut it into chunks, in the order of source and container names.

    StoreError (what, where) for one that is missing or unreadable: a corpus that silently lacks a source is none.
    """
    found: list[Container] = []
    for source in sources.sources:
        for name, path in sorted(zip(distinct_names(source.path), source.path, strict=True)):
            try:
                store = open_store(path)
            except StoreError as e:
                raise StoreError(f"source {source.name}: {e}") from e
            denied = sources.licence_policy == "deny_unknown" and source.licence.id == "unknown"
            whole = Chunk("", source, sources.rules, path, name, 0, len(store), config.encoding, store.fingerprint)
            sizes = [_size(store, number) for number in range(len(store))]
            chunks = list(_chunks(replace(whole, denied=denied), sizes, config))
            found.append(
                Container(source, name, path, store.fingerprint, len(store), sum(sizes), store.skipped, chunks)
            )
    return [replace(c, chunks=[replace(k, name=f"{i:04d}-{k.name}") for k in c.chunks]) for i, c in enumerate(found)]


def _size(store: Store, number: int) -> int:
    index = getattr(store, "index", None)
    return index.record(number).size if isinstance(index, Index) else 0


def _chunks(whole: Chunk, sizes: list[int], config: CurateConfig) -> Iterator[Chunk]:
    start, total = 0, 0
    for number, size in enumerate(sizes):
        if number > start and (number - start >= config.chunk_members or total + size > config.chunk_mib << 20):
            yield replace(whole, name=f"{start:09d}", start=start, stop=number)
            start, total = number, 0
        total += size
    if start < len(sizes):
        yield replace(whole, name=f"{start:09d}", start=start, stop=len(sizes))
