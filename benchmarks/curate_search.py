"""How long the exact search for near codes takes, with 8 orientations, and that it misses nothing.

Codes are random, and one in twenty is a copy of another with at most T bits changed in a random orientation. Recall is
counted on a sample of rows against all rows. Writes benchmarks/results/curate_search.md.

    python benchmarks/curate_search.py --count 1000000 --thresholds 4 6
"""

import argparse
import resource
import time

import numpy as np

from _table import markdown, write
from selectivemae.core.order import splitmix64
from selectivemae.curation.search import intact_bands, join_self


def codes(count: int, threshold: int, seed: int) -> np.ndarray:
    """(count, 8) uint64 codes of 63 bits with 5 % planted near copies, in place of turned pictures."""
    keys = splitmix64(np.arange(count * 8, dtype=np.uint64) + np.uint64(seed)).reshape(count, 8) >> np.uint64(1)
    rng = np.random.default_rng(seed)
    copies = rng.choice(count, count // 20, replace=False)
    for copy, source in zip(copies.tolist(), rng.integers(0, count, len(copies)).tolist(), strict=True):
        flips = rng.choice(63, rng.integers(0, threshold + 1), replace=False)
        difference = np.bitwise_or.reduce(np.uint64(1) << flips.astype(np.uint64)) if len(flips) else np.uint64(0)
        keys[copy] = np.roll(keys[source], int(rng.integers(0, 8))) ^ difference
    return keys


def recall(found: set[tuple[int, int]], keys: np.ndarray, threshold: int, sample: int) -> tuple[int, int]:
    """Pairs of ``sample`` rows that comparing all with all gives, and how many of them were found."""
    order = np.lexsort((np.arange(len(keys)), *keys.T[::-1]))
    rank = np.empty(len(keys), np.int64)
    rank[order] = np.arange(len(keys))
    expected: set[tuple[int, int]] = set()
    for row in np.random.default_rng(1).choice(len(keys), sample, replace=False).tolist():
        for g in range(8):
            for other in np.flatnonzero(np.bitwise_count(keys[:, 0] ^ keys[row, g]) <= threshold).tolist():
                if rank[row] < rank[other]:
                    expected.add((row, other))
    return len(expected), len(expected & found)


def measure(count: int, threshold: int, sample: int) -> list[str]:
    """One row of the table."""
    keys = codes(count, threshold, 7)
    began, found = time.process_time(), set()
    for part in join_self(keys, threshold):
        found.update(zip(part.left.tolist(), part.right.tolist(), strict=True))
    seconds = time.process_time() - began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    expected, met = recall(found, keys, threshold, sample)
    bands = intact_bands(count, count, threshold)
    cells = (f"{count:,}", threshold, bands, f"{seconds:.1f}", f"{len(found):,}", f"{met} of {expected}", f"{peak:.2f}")
    return [str(cell) for cell in cells]


def main() -> None:
    """Measure and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, nargs="+", default=[1_000_000])
    parser.add_argument("--thresholds", type=int, nargs="+", default=[4, 6])
    parser.add_argument("--sample", type=int, default=300)
    given = parser.parse_args()
    rows = [measure(count, threshold, given.sample) for count in given.count for threshold in given.thresholds]
    header = ("codes", "T", "bands kept", "CPU s", "pairs", "found of all pairs of a sample", "GB at the peak")
    how = (
        "Random 63-bit codes under 8 orientations, 5 % planted near copies (seed 7), one process. CPU time, so that it "
        "holds on a machine with other work. The pairs are held as a Python set, which is part of the memory."
    )
    write("curate_search", "Exact search for near codes", "benchmarks/curate_search.py", how, markdown(header, rows))


if __name__ == "__main__":
    main()
