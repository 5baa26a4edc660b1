"""Several stores as one."""

import hashlib
from bisect import bisect_right
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import accumulate, pairwise

from selectivemae.core.errors import StoreError
from selectivemae.data.stores.base import Skipped, Store


class UnionStore:
    """Several stores one after the other, so that all ids stand in the order of their UTF-8 bytes.

    ``stores`` maps names to stores. Ids of a store begin with ``name/``, and no name with a slash begins another
    (``distinct_names``), so sorting the names sorts the ids.
    """

    def __init__(self, stores: Mapping[str, Store]) -> None:
        names = sorted(stores, key=_prefix)
        assert not any(_prefix(b).startswith(_prefix(a)) for a, b in pairwise(names)), "names overlap"
        self.stores = [stores[name] for name in names]
        self.starts = [0, *accumulate(len(store) for store in self.stores)]
        digest = hashlib.blake2b(digest_size=32)
        for name, store in zip(names, self.stores, strict=True):
            digest.update(_prefix(name) + b"\0" + store.fingerprint.encode() + b"\0")
        self.fingerprint = digest.hexdigest()

    def __len__(self) -> int:
        return self.starts[-1]

    def __getitem__(self, index: int) -> bytes:
        store, inside = self.locate(index)
        return store[inside]

    def id(self, index: int) -> str:
        store, inside = self.locate(index)
        return store.id(inside)

    @property
    def skipped(self) -> Skipped:
        return [item for store in self.stores for item in store.skipped]

    def locate(self, index: int) -> tuple[Store, int]:
        """The store that holds sample ``index``, and its number there; IndexError outside."""
        if not 0 <= index < len(self):
            raise IndexError(f"sample {index} of {len(self)}")
        part = bisect_right(self.starts, index) - 1
        return self.stores[part], index - self.starts[part]


def distinct_names(origins: Sequence[str]) -> list[str]:
    """A name for each path or URL: its last component, with folders before it while two names are equal or one would
    be a folder of the other. StoreError when an origin is given twice.
    """
    repeated = [origin for origin, count in Counter(origins).items() if count > 1]
    if repeated:
        raise StoreError(f"{repeated[0]}: is given more than once; give each source once")
    steps = [[step for step in origin.split("/") if step] or ["root"] for origin in origins]
    depth = [1] * len(origins)
    while True:
        names = ["/".join(path[-take:]) for path, take in zip(steps, depth, strict=True)]
        order = sorted(range(len(names)), key=lambda i: _prefix(names[i]))
        clashes = {i for a, b in pairwise(order) if _prefix(names[b]).startswith(_prefix(names[a])) for i in (a, b)}
        if not clashes:
            return names
        if all(depth[i] >= len(steps[i]) for i in clashes):
            raise StoreError(f"{origins[min(clashes)]}: lies inside another source; give each source once")
        for i in clashes:
            depth[i] += 1


def _prefix(name: str) -> bytes:
    return (name + "/").encode("utf-8", "backslashreplace")
