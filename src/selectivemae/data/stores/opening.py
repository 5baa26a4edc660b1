"""Which store a path is."""

import os
from collections import Counter
from collections.abc import Sequence

from selectivemae.core.errors import StoreError
from selectivemae.data.stores.base import Progress, Store
from selectivemae.data.stores.folder import FolderStore
from selectivemae.data.stores.sources import Files
from selectivemae.data.stores.union import UnionStore, distinct_names
from selectivemae.data.stores.zips import ZipStore, archive_path, open_parts


def open_store(path: str | os.PathLike[str], progress: Progress | None = None) -> Store:
    """The images at a path: a folder or a zip (whole or in parts).

    StoreError when it is missing, damaged or holds no image.
    """
    return open_stores([path], progress)


def open_stores(paths: Sequence[str | os.PathLike[str]], progress: Progress | None = None) -> Store:
    """The images at several paths as one store, sorted by id.

    A store's name is its last path component, with as many folders before it as it takes to tell it from the others.
    StoreError when a path is given twice.
    """
    if not paths:
        raise StoreError("no data given; name a folder, an archive or a corpus")
    files = Files()
    origins = [archive_path(os.path.abspath(path)) for path in paths]
    names = distinct_names(origins)
    stores = [_open(origin, name, files, progress) for origin, name in zip(origins, names, strict=True)]
    return stores[0] if len(stores) == 1 else UnionStore(dict(zip(names, stores, strict=True)))


def _open(origin: str, name: str, files: Files, progress: Progress | None) -> Store:
    if os.path.isdir(origin):
        return _not_empty(origin, FolderStore(origin, name, files, progress))
    if origin.lower().endswith(".zip"):
        return _not_empty(origin, ZipStore(open_parts(origin, files), name, files, progress))
    raise StoreError(f"{origin}: is no folder or archive that can be read; give a folder of images or a zip")


def _not_empty(origin: str, store: Store) -> Store:
    if len(store) == 0:
        reasons = Counter(reason for _, reason in store.skipped)
        passed = ", ".join(f"{count} {reason}" for reason, count in sorted(reasons.items())) or "it is empty"
        raise StoreError(f"{origin}: holds no image ({passed}); give a folder or archive with images")
    return store
