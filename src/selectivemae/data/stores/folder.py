"""A folder of images, any depth."""

import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from selectivemae.core.errors import StoreError
from selectivemae.data.stores.base import Progress
from selectivemae.data.stores.index import Index, IndexBuilder, Record, cached_index
from selectivemae.data.stores.indexed import IndexedStore
from selectivemae.data.stores.sources import Files, cannot_read, read_at

_Found = tuple[bytes, int, int]  # path inside, bytes, time of change


class FolderStore(IndexedStore):
    """The images below a folder, sorted by the bytes of their relative paths; symbolic links are not followed.

    The walk is cached and repeated only when a folder's time of change differs. A file that was written anew since is
    noticed when it is read.
    """

    def __init__(self, root: str | os.PathLike[str], name: str, files: Files, progress: Progress | None = None) -> None:
        self.root = os.path.abspath(root)
        super().__init__(cached_index(self.root, files, self._valid, lambda: self._build(name, progress)), name)

    def __getitem__(self, index: int) -> bytes:
        record = self.index.record(index)
        path = self._path(record)
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
            try:
                data = read_at(fd, 0, record.size)
                now = os.fstat(fd)
            finally:
                os.close(fd)
        except OSError as error:
            raise cannot_read(os.fsdecode(path), error) from error
        if (now.st_size, now.st_mtime_ns) != (record.size, record.stamp) or len(data) != record.size:
            self.index.discard()
            raise StoreError(f"{os.fsdecode(path)}: changed since it was indexed; start again, so that it is read anew")
        return data

    def path(self, index: int) -> Path:
        """Where the image at ``index`` lies."""
        return Path(os.fsdecode(self._path(self.index.record(index))))

    def _path(self, record: Record) -> bytes:
        return os.path.join(os.fsencode(self.root), self.index.name(record))

    def _build(self, name: str, progress: Progress | None) -> tuple[IndexBuilder, str]:
        builder = IndexBuilder(name, progress, dated=True)
        folders: dict[str, int] = {}
        walk(os.fsencode(self.root), builder, folders)
        builder.notes["folders"] = folders
        return builder, _stamp(folders)

    def _valid(self, index: Index) -> bool:
        folders: dict[str, int] = index.tail().get("folders", {})
        try:
            now = {folder: os.stat(os.path.join(self.root, folder)).st_mtime_ns for folder in folders}
        except OSError:
            return False  # a folder is gone: walk again
        return bool(now) and _stamp(now) == index.stamp and index.settled(max(now.values()))


def walk(root: bytes, builder: IndexBuilder, folders: dict[str, int]) -> None:
    """Add every file below ``root`` to ``builder``, and each folder's time of change to ``folders``.

    Folders of one depth are listed by several threads: on network disks listing waits rather than works.
    """
    depth = [b""]
    with ThreadPoolExecutor(8, thread_name_prefix="walk") as pool:
        while depth:
            below: list[bytes] = []
            for folder, (changed_ns, files, subfolders, odd) in zip(
                depth, pool.map(lambda folder: _list(root, folder), depth), strict=True
            ):
                folders[os.fsdecode(folder)] = changed_ns
                for name, size, file_changed_ns in files:
                    builder.add(name, 0, size, size, file_changed_ns)
                for name, reason in odd:
                    builder.skip(name, reason)
                below += subfolders
            depth = below


def _list(root: bytes, folder: bytes) -> tuple[int, list[_Found], list[bytes], list[tuple[bytes, str]]]:
    """Time of change, files, sub-folders and what is neither, of one folder; hidden entries are left out."""
    files: list[_Found] = []
    subfolders: list[bytes] = []
    odd: list[tuple[bytes, str]] = []
    path = os.path.join(root, folder)
    try:
        changed_ns = os.stat(path).st_mtime_ns
        with os.scandir(path) as entries:
            for entry in entries:
                inside = os.path.join(folder, entry.name)
                if entry.name.startswith(b"."):
                    continue
                if entry.is_symlink():
                    odd.append((inside, "symlink"))
                elif entry.is_dir():
                    subfolders.append(inside)
                elif entry.is_file():
                    status = entry.stat(follow_symlinks=False)
                    files.append((inside, status.st_size, status.st_mtime_ns))
                else:
                    odd.append((inside, "special_file"))
    except OSError as error:
        raise cannot_read(os.fsdecode(path), error) from error
    return changed_ns, files, subfolders, odd


def _stamp(folders: dict[str, int]) -> str:
    digest = hashlib.blake2b(digest_size=32)
    for folder, changed_ns in sorted(folders.items()):
        digest.update(f"{folder}\0{changed_ns}\0".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()
