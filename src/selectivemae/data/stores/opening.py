"""Which store a path or URL is."""

import hashlib
import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from glob import glob

from selectivemae.core.errors import StoreError
from selectivemae.data.stores import remote
from selectivemae.data.stores.base import Progress, Store
from selectivemae.data.stores.folder import FolderStore
from selectivemae.data.stores.index import cache_folder, replacing
from selectivemae.data.stores.parquet import MAGIC as PARQUET_MAGIC
from selectivemae.data.stores.parquet import ParquetStore
from selectivemae.data.stores.remote import NotThereError, RemoteFile
from selectivemae.data.stores.shards import MAGIC, ShardStore, index_path
from selectivemae.data.stores.sources import Files, LocalFile, Parts
from selectivemae.data.stores.tars import TarStore
from selectivemae.data.stores.union import UnionStore, distinct_names
from selectivemae.data.stores.zips import ZipStore, archive_path, open_parts

_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")
_UNREADABLE = {
    ".7z": "unpack it with 7z x",
    ".rar": "unpack it with unrar x",
    ".tgz": "unpack it with gzip -d",
    ".gz": "unpack it with gzip -d",
    ".bz2": "unpack it with bzip2 -d",
    ".xz": "unpack it with xz -d",
    ".zst": "unpack it with zstd -d",
}
_AT_ONCE = 8  # archives indexed at the same time: on network disks and remote stores this mostly waits


def open_store(path: str | os.PathLike[str], progress: Progress | None = None) -> Store:
    """The images at one path or URL; see ``open_stores``."""
    return open_stores([path], progress)


def open_stores(paths: Sequence[str | os.PathLike[str]], progress: Progress | None = None) -> Store:
    """The images at several paths or URLs as one store, sorted by id.

    Each is a folder of images, a zip (whole, split or cut by bytes: name any part), a tar, a WebDataset shard, a
    Parquet file with a column ``image``, a corpus, a folder of such archives, a pattern (``*``, ``{000..012}``), or a
    URL of tars that fsspec opens. Indexes are built once and cached beside the data or in the cache folder
    (``SELECTIVEMAE_CACHE``); ``progress(name, entries)`` is told how far that is, from several threads.

    A store's name is its last path component, with as many folders before it as it takes to tell it from the others.
    StoreError when a path is missing, damaged, holds no image, or is given twice.
    """
    origins = [origin for path in paths for origin in _expand(os.fspath(path))]
    if not origins:
        raise StoreError("no data given; name a folder, an archive or a corpus")
    names = distinct_names([_shown(origin) for origin in origins])
    store = _open_all(dict(zip(names, origins, strict=True)), Files(), progress)
    if len(store) == 0:
        reasons = Counter(reason for _, reason in store.skipped)
        passed = ", ".join(f"{count} {reason}" for reason, count in sorted(reasons.items())) or "nothing in it"
        where = ", ".join(map(_shown, origins))[:500]
        raise StoreError(f"{where}: holds no image ({passed}); give a folder or archive of images")
    return store


def _open_all(origins: dict[str, str], files: Files, progress: Progress | None) -> Store:
    with ThreadPoolExecutor(min(_AT_ONCE, len(origins)), thread_name_prefix="index") as pool:
        stores = list(pool.map(lambda item: _open(item[1], item[0], files, progress), origins.items()))
    return stores[0] if len(stores) == 1 else UnionStore(dict(zip(origins, stores, strict=True)))


def _open(origin: str, name: str, files: Files, progress: Progress | None) -> Store:
    """The store at one path or URL of a single file or local folder."""
    is_url = remote.is_url(origin)
    if not is_url and os.path.isdir(origin):
        return _open_folder(origin, name, files, progress)
    suffix = os.path.splitext(_shown(origin))[1].lower()
    if suffix in _UNREADABLE:
        raise StoreError(f"{_shown(origin)}: cannot be read in place; {_UNREADABLE[suffix]} and give what comes out")
    if suffix == ".zip":
        return ZipStore(Parts([RemoteFile.at(origin)]) if is_url else open_parts(origin, files), name, files, progress)
    source = RemoteFile.at(origin) if is_url else LocalFile.at(origin, files)
    if isinstance(source, LocalFile) and source.read(0, min(source.size, 4)) == PARQUET_MAGIC:
        return ParquetStore(source, name, files, progress)
    if suffix != ".tar" and not source.read(0, min(source.size, 512))[257:262] == b"ustar":
        raise StoreError(f"{_shown(origin)}: is no archive that can be read; give a folder, zip, tar or Parquet file")
    index = _side_index(origin, files)
    return ShardStore(source, index, name) if index is not None else TarStore(source, name, files, progress)


def _open_folder(origin: str, name: str, files: Files, progress: Progress | None) -> Store:
    """A corpus, a folder of images, or one of archives (where it has no image): a store each, named by path inside."""
    if os.path.exists(os.path.join(origin, "corpus.json")):  # pictures beside its shards are of reports
        shards = sorted(glob("g*/shards/**/*.tar", root_dir=origin, recursive=True))
        if not shards:
            raise StoreError(f"{origin}: is a corpus without shards; finish or verify it")
        return _open_all({f"{name}/{shard}": os.path.join(origin, shard) for shard in shards}, files, progress)
    pack = os.path.join(origin, "pack.json")
    if os.path.exists(pack) and not _is_whole(pack):
        raise StoreError(f"{origin}: is a pack that is not whole; go on with data pack --resume")
    store = FolderStore(origin, name, files, progress)
    if len(store):
        return store
    inside = {archive_path(member) for member, reason in store.skipped if reason == "not_an_image"}
    archives = sorted(member for member in inside if member.lower().endswith((".tar", ".zip", ".parquet")))
    if not archives:
        return store
    return _open_all({f"{name}/{member}": os.path.join(origin, member) for member in archives}, files, progress)


def _is_whole(pack: str) -> bool:
    """Whether the description of a pack says how many images it holds, which is written last."""
    with open(pack, encoding="utf-8") as file:
        return "images" in file.read()


def _side_index(origin: str, files: Files) -> LocalFile | None:
    """The side index of a shard, if there is one; a remote one is fetched to the cache folder."""
    if not remote.is_url(origin):
        path = index_path(origin)
        if not os.path.exists(path):
            return None
        index = LocalFile.at(path, files)
        return index if index.read(0, min(8, index.size)) == MAGIC else None  # other tools write .idx files too
    path, question, query = origin.partition("?")
    url = index_path(path) + question + query
    try:
        source = RemoteFile.at(url)
    except NotThereError:
        return None
    key = hashlib.blake2b(f"{url}\n{source.stamp}".encode(), digest_size=16).hexdigest()
    place = os.path.join(cache_folder(), key + ".idx")
    if not os.path.exists(place):
        data = source.read(0, source.size)
        if data[:8] != MAGIC:
            return None
        try:
            os.makedirs(cache_folder(), exist_ok=True)
            with replacing(place) as file:
                file.write(data)
        except OSError as error:
            raise StoreError(f"{place}: cannot be written ({error.strerror}); set SELECTIVEMAE_CACHE") from error
    return LocalFile.at(place, files)


def _shown(origin: str) -> str:
    return remote.without_query(origin) if remote.is_url(origin) else origin


def _expand(path: str) -> Iterator[str]:
    """The single files and local folders that a path, URL or pattern stands for."""
    if match := _RANGE.search(path):
        first, last = match.groups()
        for number in range(int(first), int(last) + 1):
            yield from _expand(f"{path[: match.start()]}{number:0{len(first)}d}{path[match.end() :]}")
    elif remote.is_url(path):
        found = remote.expand(path)
        archives = [url for url in found if url == path or remote.is_archive(url)]
        if not archives:
            raise StoreError(f"{path}: holds no tar; only tars, shards and zips can be read over a network")
        yield from archives
    elif "*" in path and not os.path.exists(path):
        found = sorted(glob(os.path.abspath(path), recursive=True))
        if not found:
            raise StoreError(f"{path}: matches nothing; check the pattern")
        yield from dict.fromkeys(map(archive_path, found))
    else:
        yield archive_path(os.path.abspath(path))
