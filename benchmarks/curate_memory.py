"""Memory of a worker that cuts a scene of 30,000 x 30,000 pixels, 4 bands of 16 bits, into tiles.

    python benchmarks/curate_memory.py [--side 30000] [--share 0.25] [--folder /tmp]

The scene is a GeoTIFF in blocks of 512 x 512 (deflate), made here: terrain and grain in a share of its blocks, spread
evenly, the others left out of the file (they read as 0, which is no data). The worker is one of the local engine's; its
peak is what the system counted over its life, the interpreter and all libraries included.
Writes benchmarks/results/curate_memory.md.
"""

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import rasterio
from rasterio.windows import Window

from _table import markdown, write
from selectivemae.curation.engine import run_stage
from selectivemae.curation.exclude import Rules
from selectivemae.curation.pool import LocalPool
from selectivemae.curation.read import Chunk, read_chunk
from selectivemae.curation.sources import Source
from selectivemae.curation.tasks import Mark

BLOCK = 512


def make(path: Path, side: int, share: float) -> int:
    """Write the scene; returns how many blocks hold pixels."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[0:BLOCK, 0:BLOCK] / BLOCK
    profile = {"driver": "GTiff", "width": side, "height": side, "count": 4, "dtype": "uint16", "tiled": True}
    layout = {"blockxsize": BLOCK, "blockysize": BLOCK, "compress": "deflate", "zlevel": 1, "SPARSE_OK": True}
    grain = rng.integers(0, 256, (4, BLOCK, BLOCK), dtype=np.uint16)
    filled, due = 0, 0.0
    with rasterio.open(path, "w", **profile, **layout) as raster:
        for top in range(0, side, BLOCK):
            for left in range(0, side, BLOCK):
                due += share
                if due < 1:
                    continue
                due -= 1
                a, b, phase = rng.uniform(1, 9, 3)
                ground = 1500 + 900 * np.sin(a * x + b * y + phase) * np.cos(b * x - a * y)
                high, wide = min(BLOCK, side - top), min(BLOCK, side - left)
                values = (ground[None] + np.roll(grain, filled, axis=2)).astype(np.uint16)[:, :high, :wide]
                raster.write(values, window=Window(left, top, wide, high))
                filled += 1
    return filled


def measured(chunk: Chunk, folder: Path, mark: Mark) -> dict[str, int]:
    """Job: reads a chunk, and tells the peak of this process in KiB before and after."""
    before = peak_kib()
    counts = read_chunk(chunk, folder, mark)
    return counts | {"before": before, "peak": peak_kib()}


def peak_kib() -> int:
    """The largest part of memory that this process ever held (Linux; getrusage would count its parent's as well)."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0])


def main() -> None:
    """Measure and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, default=30_000)
    parser.add_argument("--share", type=float, default=0.25)
    parser.add_argument("--folder", type=Path, help="where the scene is made (a temporary folder)")
    parser.add_argument("--name", default="curate_memory", help="name of the table in benchmarks/results")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=given.folder) as name:
        scenes, out = Path(name) / "scenes", Path(name) / "read"
        scenes.mkdir()
        filled = make(scenes / "scene.tif", given.side, given.share)
        source = Source(name="scenes", path=(str(scenes),), bands=(1, 2, 3))
        chunk = Chunk("scene", source, Rules(), str(scenes), "scenes", 0, 1)
        pool, began = LocalPool(1), time.monotonic()
        try:
            counts = run_stage(pool, measured, [chunk], out).counts
        finally:
            pool.close()
        seconds, size = time.monotonic() - began, (scenes / "scene.tif").stat().st_size
    rows = [
        ("scene", f"{given.side:,} x {given.side:,} x 4 x 16 bit ({given.side**2 * 8 / 1e9:.1f} GB of pixels)"),
        ("file", f"{size / 1e6:,.0f} MB, {filled:,} blocks with pixels"),
        ("tiles kept", f"{counts['tiles']:,} ({counts['bytes'] / 1e6:,.0f} MB of JPEG)"),
        ("tiles and files left out", f"{counts['dropped']:,}"),
        ("peak of the worker", f"{counts['peak'] / 2**20:.2f} GiB"),
        ("the same before the first pixel", f"{counts['before'] / 2**20:.2f} GiB"),
        ("seconds", f"{seconds:.0f}"),
    ]
    write(given.name, "Memory of a worker", "benchmarks/curate_memory.py", markdown(("", ""), rows))


if __name__ == "__main__":
    main()
