"""What the stores with an index file have in common."""

import hashlib

from selectivemae.data.stores.base import Progress, Skipped, text
from selectivemae.data.stores.index import Index, IndexBuilder, cached_index
from selectivemae.data.stores.sources import Files, Source


class IndexedStore:
    """Length, ids and skipped members from an index; a subclass reads the bytes."""

    def __init__(self, index: Index, name: str) -> None:
        self.index = index
        self.name = name
        self.fingerprint = index.fingerprint

    def __len__(self) -> int:
        return self.index.count

    def id(self, index: int) -> str:
        return f"{self.name}/{text(self.index.name(self.index.record(index)))}"

    @property
    def skipped(self) -> Skipped:
        return [(member, reason) for member, reason in self.index.tail()["skipped"]]


class ArchiveStore(IndexedStore):
    """A store over one run of bytes; ``_scan`` gives its members to a builder, once while the bytes stay the same."""

    def __init__(self, source: Source, name: str, files: Files, progress: Progress | None = None) -> None:
        self.source = source
        stamp = hashlib.blake2b(f"{type(self).__name__}\n{source.stamp}".encode(), digest_size=32).hexdigest()

        def valid(index: Index) -> bool:
            return index.stamp == stamp and index.settled(source.changed_ns)

        def build() -> tuple[IndexBuilder, str]:
            builder = IndexBuilder(name, progress)
            self._scan(builder)
            return builder, stamp

        super().__init__(cached_index(source.name, files, valid, build), name)

    def _scan(self, builder: IndexBuilder) -> None:
        raise NotImplementedError
