"""How long the exact search for near codes takes, with 8 orientations, and that it misses nothing.

    python benchmarks/curate_search.py --images FOLDER --count 500000 1000000 2000000 13000000 --thresholds 4

``even``: random codes. ``real``: the 8 codes of windows of the images of FOLDER, each bit of a code changed with a
probability of 0.16, the same bit in all orientations: bits as uneven and as tied to one another as in pictures, and
about as many unrelated pairs within 6 bits as were counted among real tiles (1.7 in a million). In both, one row in
twenty is a copy of another with at most T bits changed in a random orientation. One process; CPU time, so that it
holds on a machine with other work. Pairs are counted as they come, as a run of ``curate`` takes them. Recall is
counted on a sample of rows against all rows. Writes benchmarks/results/curate_search.md.
"""

import argparse
import resource
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from _table import markdown, write
from selectivemae.core.order import splitmix64
from selectivemae.curation.hashes import area_means, hash64
from selectivemae.curation.search import intact_bands, join_self
from selectivemae.data.decode import luma

SLICE = 1 << 18
FLIP = 0.16


def windows(folder: Path, count: int) -> np.ndarray:
    """Codes (count, 8) of random windows, 128 to 512 pixels a side, of the images below ``folder``."""
    rng = np.random.default_rng(3)
    paths = sorted(p for p in folder.rglob("*") if p.suffix.lower() in (".jpg", ".png", ".tif"))
    means: list[np.ndarray] = []
    for path in rng.permutation(np.array(paths, object))[: count // 8]:
        grey = luma(np.asarray(Image.open(path).convert("RGB")))
        for _ in range(8):
            side = int(rng.integers(128, 512))
            high, wide = (min(side, length) for length in grey.shape)
            y, x = int(rng.integers(0, grey.shape[0] - high + 1)), int(rng.integers(0, grey.shape[1] - wide + 1))
            window = grey[y : y + high, x : x + wide]
            if window.std() >= 2:
                means.append(area_means(window)[1])
    return hash64(np.stack(means))


def noise(first: int, count: int, seed: int) -> np.ndarray:
    """(count,) uint64 with each of 63 bits set with probability ``FLIP`` (to 1/256), by row number."""
    out = np.zeros(count, np.uint64)
    level = round(FLIP * 256)
    for bit in range(8):  # from the last binary digit of the level to its first
        draw = splitmix64(np.arange(first, first + count, dtype=np.uint64) * np.uint64(8) + np.uint64(bit + seed))
        out = out | draw if level >> bit & 1 else out & draw
    return out >> np.uint64(1)


def codes(count: int, threshold: int, seed: int, real: np.ndarray | None) -> np.ndarray:
    """(count, 8) uint64 codes of 63 bits with 5 % planted near copies."""
    keys = np.empty((count, 8), np.uint64)
    rng = np.random.default_rng(seed)
    for low in range(0, count, SLICE):
        part = keys[low : low + SLICE]
        if real is None:
            part[:] = splitmix64(np.arange(8 * low, 8 * low + part.size, dtype=np.uint64)).reshape(part.shape)
            part >>= np.uint64(1)
        else:
            part[:] = real[rng.integers(0, len(real), len(part))] ^ noise(low, len(part), seed)[:, None]
    copies = rng.choice(count, count // 20, replace=False)
    difference = np.zeros(len(copies), np.uint64)
    for _ in range(threshold):
        difference |= np.uint64(1) << rng.integers(0, 63, len(copies)).astype(np.uint64)
    turn = (np.arange(8) - rng.integers(0, 8, (len(copies), 1))) % 8
    keys[copies] = keys[rng.integers(0, count, len(copies))[:, None], turn] ^ difference[:, None]
    return keys


def expected(keys: np.ndarray, rows: np.ndarray, threshold: int) -> set[tuple[int, int, int]]:
    """All (row of ``rows``, other, orientation) that comparing these rows with all gives, the row sorting first."""
    out: set[tuple[int, int, int]] = set()
    for row in rows.tolist():
        mine = (keys[row].tolist(), row)
        for g in range(8):
            near = np.concatenate(
                [
                    low + np.flatnonzero(np.bitwise_count(keys[low : low + SLICE, 0] ^ keys[row, g]) <= threshold)
                    for low in range(0, len(keys), SLICE)
                ]
            )
            out.update((row, other, g) for other in near.tolist() if mine < (keys[other].tolist(), other))
    return out


def measure(kind: str, count: int, threshold: int, sample: int, real: np.ndarray | None) -> list[str]:
    """One row of the table."""
    keys = codes(count, threshold, 7, real)
    rows = np.random.default_rng(1).choice(count, sample, replace=False)
    wanted = np.zeros(count, bool)
    wanted[rows] = True
    pairs, met, began = 0, set(), time.process_time()
    for part in join_self(keys, threshold):
        pairs += len(part)
        some = part.take(np.flatnonzero(wanted[part.left]))
        met.update(zip(some.left.tolist(), some.right.tolist(), some.orientation.tolist(), strict=True))
    seconds = time.process_time() - began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
    truth = expected(keys, rows, threshold)
    assert not met - truth, "pairs that are none"
    bands = intact_bands(count, count, threshold)
    cells = (kind, f"{count:,}", threshold, bands, f"{seconds:.1f}", f"{pairs:,}", f"{len(met)} of {len(truth)}")
    print(*cells, f"{peak:.2f}", flush=True)
    return [*(str(cell) for cell in cells), f"{peak:.2f}"]


def growth(rows: Sequence[Sequence[str]], kind: str, threshold: int) -> str:
    """By which power of the number of codes the time grew, between the two largest counts of one kind and T."""
    points = [(int(r[1].replace(",", "")), float(r[4])) for r in rows if r[0] == kind and r[2] == str(threshold)]
    if len(points) < 2:
        return ""
    (a, s), (b, t) = points[-2:]
    return f"{kind}, T = {threshold}: time grew as N^{np.log(t / s) / np.log(b / a):.2f} from {a:,} to {b:,}."


def main() -> None:
    """Measure and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, nargs="+", default=[500_000, 1_000_000])
    parser.add_argument("--thresholds", type=int, nargs="+", default=[4, 6])
    parser.add_argument("--images", type=Path, help="images for codes of the kind 'real'")
    parser.add_argument("--kinds", nargs="+", default=["even", "real"], choices=["even", "real"])
    parser.add_argument("--windows", type=int, default=4000)
    parser.add_argument("--sample", type=int, default=200)
    parser.add_argument("--name", default="curate_search", help="name of the table in benchmarks/results")
    given = parser.parse_args()
    if "real" in given.kinds and given.images is None:
        parser.error("codes of the kind 'real' need --images")
    sides = {kind: windows(given.images, given.windows) if kind == "real" else None for kind in given.kinds}
    rows = [
        measure(kind, count, threshold, given.sample, real)
        for threshold in given.thresholds
        for kind, real in sides.items()
        for count in given.count
    ]
    header = ("kind", "codes", "T", "bands kept", "CPU s", "pairs", "found of a sample's pairs", "GB at the peak")
    how = (
        "63-bit codes under 8 orientations, 5 % planted near copies (seed 7), one process, CPU time. `even`: random "
        f"codes. `real`: codes of {given.windows:,} windows of real images with {FLIP:.0%} of their bits changed. The "
        "peak holds the codes of all orientations (64 bytes a row)."
    )
    powers = "\n".join(filter(None, (growth(rows, kind, t) for t in given.thresholds for kind in given.kinds)))
    write(given.name, "Exact search for near codes", "benchmarks/curate_search.py", how, markdown(header, rows), powers)


if __name__ == "__main__":
    main()
