"""What decoding, judging and hashing an image costs, beside a plain Pillow + imagehash loop.

    python benchmarks/curate_read.py --images FOLDER [--count 200] [--rounds 5]

The images of FOLDER are cut to 256 x 256 and saved as JPEG (quality 90) in memory. Both sides begin with those bytes:
ours decodes, takes all statistics, the 64-bit and 256-bit hashes under 8 orientations and the digests of content and
file; the plain loops decode with Pillow and take imagehash.phash, of one orientation or of all 8 (the same hashes as
ours, without the statistics, the 256-bit hash and the digests). One process with one thread and the memory settings of
a worker; rounds are interleaved, CPU time, medians.
"""

import argparse
import hashlib
import io
import statistics as stats
import time
from collections.abc import Callable
from pathlib import Path

import imagehash
import numpy as np
from PIL import Image

from _table import markdown, write
from selectivemae.curation import hashes
from selectivemae.curation.exclude import border_fill, distinct_colours, jpeg_quality, statistics
from selectivemae.curation.pool import keep_freed_memory
from selectivemae.data.decode import decode, luma


def tiles(folder: Path, count: int) -> list[bytes]:
    """JPEG bytes of 256 x 256 pieces of the images below ``folder``."""
    out: list[bytes] = []
    for path in sorted(p for p in folder.rglob("*") if p.suffix.lower() in (".jpg", ".png")):
        image = Image.open(path).convert("RGB")
        if min(image.size) < 256:
            image = image.resize((256, 256))
        buffer = io.BytesIO()
        image.crop((0, 0, 256, 256)).save(buffer, "JPEG", quality=90)
        out.append(buffer.getvalue())
        if len(out) == count:
            break
    return out


def ours(images: list[bytes]) -> None:
    """Everything that reading a chunk does to an image that is passed through."""
    fine, coarse = [], []
    for data in images:
        pixels = decode(data)
        grey = luma(pixels)
        mask = border_fill(pixels, (0, 255))
        distinct_colours(pixels)
        statistics(pixels, grey, mask)
        jpeg_quality(data)
        means = hashes.area_means(hashes.without_fill(grey, mask))
        fine.append(means[0])
        coarse.append(means[1])
        hashes.content_id(pixels)
        hashlib.sha256(data).digest()
    hashes.hash64(np.stack(coarse))
    hashes.hash256(np.stack(fine))


def plain(images: list[bytes]) -> None:
    """Pillow and imagehash, one orientation, no statistics."""
    for data in images:
        imagehash.phash(Image.open(io.BytesIO(data)).convert("RGB"))


def plain_turned(images: list[bytes]) -> None:
    """The same for 8 orientations, by hashing turned pixels."""
    for data in images:
        image = Image.open(io.BytesIO(data)).convert("RGB")
        for mirrored in (image, image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)):
            for turn in range(4):
                imagehash.phash(mirrored.rotate(90 * turn))


def main() -> None:
    """Measure and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    keep_freed_memory()
    images = tiles(given.images, given.count)
    sides: dict[str, Callable[[list[bytes]], None]] = {
        "ours: decode, statistics, 2 hashes x 8 orientations, 2 digests": ours,
        "Pillow + imagehash.phash, 1 orientation": plain,
        "Pillow + imagehash.phash, 8 orientations": plain_turned,
    }
    spent: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(given.rounds):
        for name, side in sides.items():
            began = time.process_time()
            side(images)
            spent[name].append((time.process_time() - began) / len(images))
    median = {name: stats.median(values) for name, values in spent.items()}
    fastest = next(iter(median.values()))
    rows = [(name, f"{1e3 * s:.2f}", f"{1 / s:,.0f}", f"{s / fastest:.2f}") for name, s in median.items()]
    how = f"{len(images)} JPEGs of 256 x 256, {given.rounds} interleaved rounds, medians of CPU time of one thread."
    table = markdown(("side", "ms an image", "images a second and core", "time against ours"), rows)
    write("curate_read", "Reading images for a corpus", "benchmarks/curate_read.py", how, table)


if __name__ == "__main__":
    main()
