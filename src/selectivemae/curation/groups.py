"""Which of several like pictures stays (curation.md, section 5.6)."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

Int64 = NDArray[np.int64]


@dataclass(frozen=True)
class Kept:
    """The outcome for n pictures.

    ``edge`` (n,) int64: the confirmed pair by which a picture was dropped, -1 where it is kept.
    ``keeper`` (n,) int64: the kept picture of that pair, the picture itself where it is kept.
    ``group`` (n,) int64: the first picture of its connected component; a component may keep several.
    """

    edge: Int64
    keeper: Int64
    group: Int64


def keep(rank: Int64, left: Int64, right: Int64) -> Kept:
    """Walk the pictures in order of ``rank`` (n,) (0 = best, all different) and drop one only if it is *directly*
    confirmed against a picture already kept; chains of likeness are not trusted.

    ``left``, ``right`` (m,) are the confirmed pairs. Of several kept twins the best one is named.
    """
    count = len(rank)
    walk = np.empty(count, np.int64)
    walk[rank] = np.arange(count)
    edge, keeper = np.full(count, -1, np.int64), np.arange(count)
    better = rank[left] < rank[right]
    first, second = np.where(better, left, right), np.where(better, right, left)
    order = np.lexsort((rank[first], rank[second]))  # by the worse picture, then by its best partner
    dropped = np.zeros(count, bool)
    for place in order:
        a, b = first[place], second[place]
        if not dropped[b] and not dropped[a]:
            dropped[b], edge[b], keeper[b] = True, place, a
    graph = coo_array((np.ones(len(left), np.int8), (left, right)), shape=(count, count))
    component = connected_components(graph, directed=False)[1]
    best = np.full(int(component.max(initial=-1)) + 1, count, np.int64)
    np.minimum.at(best, component, rank)
    return Kept(edge, keeper, walk[best[component]])
