"""What lies in the sources: containers, members, sizes, and the chunks of work that follow."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from selectivemae.core.errors import ConfigError, DataError, StoreError
from selectivemae.core.files import file_sha256
from selectivemae.curation.config import CurateConfig
from selectivemae.curation.read import Chunk
from selectivemae.curation.sources import Source, Sources, read_sources, sources_of_paths
from selectivemae.data.stores import Store, open_store
from selectivemae.data.stores.folder import FolderStore
from selectivemae.data.stores.index import Index
from selectivemae.data.stores.parquet import ParquetStore
from selectivemae.data.stores.remote import is_url
from selectivemae.data.stores.shards import ShardStore
from selectivemae.data.stores.sources import Files
from selectivemae.data.stores.tars import TarStore
from selectivemae.data.stores.union import UnionStore, distinct_names
from selectivemae.data.stores.zips import ZipStore, archive_path, open_parts


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
            if source.checksum:
                check_sums(source, path)
            try:
                store = open_store(path)
            except StoreError as e:
                raise StoreError(f"source {source.name}: {e}") from e
            _check_kind(source, path, store)
            denied = sources.licence_policy == "deny_unknown" and source.licence.id == "unknown"
            whole = Chunk("", source, sources.rules, path, name, 0, len(store), config.encoding, store.fingerprint)
            sizes = [_size(store, number) for number in range(len(store))]
            chunks = list(_chunks(replace(whole, denied=denied), sizes, config))
            found.append(
                Container(source, name, path, store.fingerprint, len(store), sum(sizes), store.skipped, chunks)
            )
    return [replace(c, chunks=[replace(k, name=f"{i:04d}-{k.name}") for k in c.chunks]) for i, c in enumerate(found)]


def check_sums(source: Source, path: str) -> None:
    """Compare the files of a container with the source's list of SHA-256 sums (the format of sha256sum; names count
    from the list's folder). ConfigError for a list that is none, StoreError for a file not in it or of another sum."""
    listing = Path(source.checksum)
    try:
        lines = [line.split(maxsplit=1) for line in listing.read_text().splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as e:
        raise ConfigError(f"source {source.name}: cannot read {listing}: {getattr(e, 'strerror', 'no text')}") from e
    if bad := next((n for n, line in enumerate(lines, 1) if len(line) != 2 or len(line[0]) != 64), None):
        raise ConfigError(f"{listing}, line {bad}: is no SHA-256 sum and name")
    listed = {listing.parent / name.removeprefix("*").strip(): digest.lower() for digest, name in lines}
    place = Path(path)
    files = [p for p in listed if place in p.parents] if place.is_dir() else _parts(path)
    for file in files:
        if file not in listed:
            raise StoreError(f"source {source.name}: {file} is not listed in {listing}; add its sum")
        if not file.is_file() or file_sha256(file) != listed[file]:
            raise StoreError(f"source {source.name}: {file} does not match its sum in {listing}; fetch it again")
    if not files:
        raise StoreError(f"source {source.name}: {listing} lists no file of {path}; names count from the list's folder")


def _parts(path: str) -> list[Path]:
    if is_url(path):
        raise ConfigError(f"{path}: checksum needs local files; fetch it first")
    if not path.lower().endswith((".zip", ".001")):
        return [Path(path)]
    return [Path(part.name) for part in open_parts(archive_path(path), Files()).sources]


_KINDS: dict[str, tuple[type, ...]] = {
    "folder": (FolderStore,),
    "zip": (ZipStore,),
    "tar": (TarStore, ShardStore),
    "webdataset": (TarStore, ShardStore),
    "parquet": (ParquetStore,),
}


def _check_kind(source: Source, path: str, store: Store) -> None:
    """StoreError for a container of another kind than the source says, or without the columns that it names."""
    for part in store.stores if isinstance(store, UnionStore) else [store]:
        found = next((name for name, types in _KINDS.items() if isinstance(part, types)), "archive")
        if source.kind != "auto" and not isinstance(part, _KINDS[source.kind]):
            raise StoreError(f"source {source.name}: {path} is a {found}, not a {source.kind}; set kind: auto")
        if not source.columns:
            continue
        if isinstance(part, FolderStore | ZipStore):
            raise StoreError(f"source {source.name}: a {found} has no columns; take the values from the path (regex)")
        if isinstance(part, ParquetStore) and (missing := sorted(source.columns - set(part.columns))):
            known = ", ".join(part.columns)
            raise StoreError(f"source {source.name}: {path} has no column {missing[0]!r} (columns: {known})")


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
