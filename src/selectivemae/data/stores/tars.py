"""Plain tar archives and WebDataset shards."""

from collections.abc import Iterable, Iterator
from itertools import groupby

from selectivemae.data.stores.base import judge_name
from selectivemae.data.stores.index import IndexBuilder
from selectivemae.data.stores.indexed import ArchiveStore
from selectivemae.data.stores.remote import RemoteFile
from selectivemae.data.stores.tardir import Member, members

_AHEAD_REMOTE = 4 << 20  # a request costs as much as megabytes do


class TarStore(ArchiveStore):
    """The images of an uncompressed tar, whose headers are walked once.

    Neighbours that share their name up to the first dot are one sample of a WebDataset when there is an image among
    them and something else: the image is the sample, the rest (json, cls, a second image such as a mask) belongs to
    it. Links, sparse and special files, unsafe and repeated names are skipped with a reason.
    """

    def __getitem__(self, index: int) -> bytes:
        record = self.index.record(index)
        return self.source.read(record.offset, record.size)

    def _scan(self, builder: IndexBuilder) -> None:
        ahead = _AHEAD_REMOTE if isinstance(self.source, RemoteFile) else 1 << 16
        for member, reason in samples(members(self.source, ahead)):
            if reason:
                builder.skip(member.name, reason)
            else:
                builder.add(member.name, member.offset, member.size, member.size)


def samples(found: Iterable[Member]) -> Iterator[tuple[Member, str]]:
    """Each member with the reason why it is no sample, or ``""``; WebDataset's metadata are left out.

    Members that are no images by name and stand alone come through: the index judges names.
    """
    for _, neighbours in groupby((member for member in found if member.kind != "folder"), _key):
        group = list(neighbours)
        files = [member for member in group if member.kind == "file"]
        yield from ((member, member.kind) for member in group if member.kind != "file")
        images = [member for member in files if judge_name(member.name) == ""]
        if not images or len(images) == len(files):
            yield from ((member, "") for member in files)
            continue
        first = min(images, key=lambda member: _file_name(member.name).count(b"."))
        yield from ((member, "" if member is first else "second_image") for member in images)


def _file_name(name: bytes) -> bytes:
    return name.rpartition(b"/")[2]


def _key(member: Member) -> bytes:
    """WebDataset's key: the path up to the first dot of its last component."""
    folder, slash, file_name = member.name.rpartition(b"/")
    return folder + slash + file_name.partition(b".")[0]
