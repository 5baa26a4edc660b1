"""Curation of generated images end to end: time and memory as the number grows, and what 13 million would take.

    python benchmarks/curate_growth.py [--counts 20000 60000 200000] [--workers 2] [--scratch FOLDER]

The images (128 x 128 JPEG of hazy ground with grain) are written to plain tars of 10,000 first, which is not measured.
"""

import argparse
import io
import resource
import tarfile
import tempfile
import time
from functools import cache
from pathlib import Path

import numpy as np
import simplejpeg

from _table import markdown, write
from selectivemae.curation.config import CurateConfig
from selectivemae.curation.run import curate

SIDE = 128
IN_A_TAR = 10_000
WHOLE = 13_000_000


@cache
def fields() -> list[np.ndarray]:
    """Two fields of smooth ground and one of grain, each (2048, 2048) of mean 0 and deviation 1."""
    draw = np.random.default_rng(0)
    y, x = np.fft.fftfreq(2048)[:, None], np.fft.rfftfreq(2048)[None]
    away = np.hypot(np.hypot(x, y), 1 / 256)
    grounds = []
    for power in (1.5, 1.5, 0.0):
        ground = np.fft.irfft2(np.fft.rfft2(draw.normal(size=(2048, 2048))) * away**-power)
        grounds.append(((ground - ground.mean()) / ground.std()).astype(np.float32))
    return grounds


def image(number: int) -> bytes:
    """JPEG bytes of a picture that no other number has."""
    draw = np.random.default_rng(number)
    out = np.full((SIDE, SIDE, 3), 128, np.float32)
    for field, gain in zip(fields(), (40, 25, 4), strict=True):
        top, left = draw.integers(0, len(field) - SIDE, 2)
        window = field[top : top + SIDE, left : left + SIDE]
        out += window[..., None] * (gain * draw.uniform(0.6, 1.4, 3)).astype(np.float32)
    return simplejpeg.encode_jpeg(out.clip(0, 255).astype(np.uint8), 85, colorspace="RGB")


def generate(folder: Path, count: int) -> list[str]:
    """Tars with images 0 to ``count``; those already there are kept."""
    paths = []
    for start in range(0, count, IN_A_TAR):
        stop = min(start + IN_A_TAR, count)
        path = folder / f"generated-{start:08d}-{stop:08d}.tar"
        paths.append(str(path))
        if path.exists():
            continue
        with tarfile.open(path, "w") as archive:
            for number in range(start, stop):
                data = image(number)
                info = tarfile.TarInfo(f"{number:08d}.jpg")
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
    return paths


def main() -> None:
    """Measure each count and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--counts", type=int, nargs="+", default=[20_000, 60_000, 200_000])
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--scratch", type=Path)
    given = parser.parse_args()
    rows, rates = [], []
    with tempfile.TemporaryDirectory(dir=given.scratch) as scratch:
        for count in sorted(given.counts):
            sources = generate(Path(scratch), count)
            out = Path(scratch) / f"corpus-{count}"
            before = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
            began = time.monotonic()
            result = curate(CurateConfig(sources=sources, out=out, workers=given.workers), quiet=True)
            seconds = time.monotonic() - began
            after = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
            cpu = sum(a.ru_utime + a.ru_stime - b.ru_utime - b.ru_stime for a, b in zip(after, before, strict=True))
            memory = [usage.ru_maxrss / 2**20 for usage in after]
            rates.append(cpu / count)
            row = [f"{count:,}", f"{result.kept:,}", f"{seconds:.0f}", f"{cpu:.0f}", f"{1000 * cpu / count:.2f}"]
            rows.append([*row, f"{memory[0]:.2f}", f"{memory[1]:.2f}"])
    hours = rates[-1] * WHOLE / 3600
    growth = f"CPU time an image, last count against first: {rates[-1] / rates[0]:.2f}x (1 = linear)."
    write(
        "curate_growth",
        "Curation of generated images, end to end",
        "benchmarks/curate_growth.py",
        markdown(["images", "kept", "seconds", "CPU seconds", "CPU ms an image", "GiB main", "GiB worker"], rows),
        f"{growth} At the last rate 13 million images take {hours:.0f} CPU hours: {hours / 64:.1f} hours on 64 cores "
        "(extrapolated; the search for copies grows faster than linearly, see curate_search.md).",
    )


if __name__ == "__main__":
    main()
