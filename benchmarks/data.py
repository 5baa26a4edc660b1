"""How fast images come: decode and crop to 224 px, against the usual path of Pillow and float transforms.

    python benchmarks/data.py --scenes ../shared/data/big_scenes [--rounds 15]

Real scenes are cut into JPEGs (quality 90) of 256, 512 and 1024 px. All variants run interleaved in one process, each
round over all files with new crops, one thread. Rates are images per second of processor time, which neighbours on the
machine disturb less than the wall clock: medians over the rounds, ratios as medians of the rounds' ratios. Then one
and two workers, as threads and as processes, by the wall clock, interleaved; the load average tells how far to trust
these.
"""

import argparse
import io
import math
import os
import random
import statistics
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from PIL import Image

import _table
from selectivemae.data.augment import RandomCrop, crop_box, resample
from selectivemae.data.batch import Position
from selectivemae.data.decode import decode, judge_content
from selectivemae.data.loader import Loader
from selectivemae.data.pack import pixmap, shrink
from selectivemae.data.pixels import Task

SIZE = 224
MEAN, STD = torch.tensor([0.485, 0.456, 0.406])[:, None, None], torch.tensor([0.229, 0.224, 0.225])[:, None, None]


@dataclass(frozen=True)
class Files:
    """Images in memory, ``repeat`` times over."""

    files: list[bytes]
    repeat: int = 1
    fingerprint: str = ""
    skipped: list[tuple[str, str]] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.files) * self.repeat

    def __getitem__(self, index: int) -> bytes:
        return self.files[index % len(self.files)]

    def id(self, index: int) -> str:
        return str(index)


def cut_scenes(scenes: Path, side: int) -> list[bytes]:
    """JPEGs of side x side pixels from the corners of the scenes that are large enough."""
    files = []
    for path in sorted(scenes.glob("*.jpg")):
        with Image.open(path) as image:
            scene = image.convert("RGB")
        for x, y in ((0, 0), (scene.width - side, scene.height - side)):
            if min(x, y, scene.width - side, scene.height - side) >= 0:
                file = io.BytesIO()
                scene.crop((x, y, x + side, y + side)).save(file, "JPEG", quality=90)
                files.append(file.getvalue())
    return files


def reference(data: bytes, draw: random.Random) -> torch.Tensor:
    """The usual path: Pillow, RandomResizedCrop(0.2..1, bicubic), flip, float, normalise."""
    with Image.open(io.BytesIO(data)) as file:
        image = file.convert("RGB")
    for _ in range(10):
        area = image.width * image.height * draw.uniform(0.2, 1)
        ratio = math.exp(draw.uniform(math.log(3 / 4), math.log(4 / 3)))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if w <= image.width and h <= image.height:
            x, y = draw.randint(0, image.width - w), draw.randint(0, image.height - h)
            image = image.crop((x, y, x + w, y + h))
            break
    image = image.resize((SIZE, SIZE), Image.Resampling.BICUBIC)
    if draw.random() < 0.5:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous().float().div(255)
    return pixels.sub_(MEAN).div_(STD)


def filled(task: Task, count: int, first_key: int) -> None:
    """All files once through the loader's own path, in its chunks."""
    images = np.empty((16, SIZE, SIZE, 3), np.uint8)
    for start in range(0, count, 16):
        index = np.arange(start, min(start + 16, count))
        task.fill(index, index + first_key, images[: len(index)], np.zeros(len(index), "S24"))


def cpu_seconds(work: Callable[[], object]) -> float:
    """Processor seconds of this process."""
    began = time.process_time()
    work()
    return time.process_time() - began


def seconds(files: list[bytes], side: int, rounds: int) -> dict[str, list[float]]:
    """Processor seconds an image of each variant and stage in each round."""
    store = Files(files)
    exact, scaled = (Task(store, SIZE, 3, RandomCrop(), dct) for dct in (False, True))
    packed = Task(Files([pixmap(shrink(decode(file), 256)) for file in files]), SIZE, 3, RandomCrop())
    draw, pixels = random.Random(0), [decode(file) for file in files]
    buffer = np.empty(3 * side * side, np.uint8)
    times: dict[str, list[float]] = {}
    for turn in range(rounds):
        key = turn << 20
        boxes = crop_box(np.arange(len(files)) + key, side, side)
        variants: dict[str, Callable[[], object]] = {
            "reference": lambda: [reference(file, draw) for file in files],
            "ours": lambda key=key: filled(exact, len(files), key),
            "ours, DCT scaling": lambda key=key: filled(scaled, len(files), key),
            "packed": lambda key=key: filled(packed, len(files), key),
            "decode": lambda: [decode(file, buffer=buffer) for file in files],
            "judge": lambda: [judge_content(image) for image in pixels],
            "crop and resize": lambda boxes=boxes: [
                resample(image, box, SIZE) for image, box in zip(pixels, boxes, strict=True)
            ],
        }
        for name, work in variants.items():
            times.setdefault(name, []).append(cpu_seconds(work) / len(files))
    return times


def threads_rate(task: Task, count: int, threads: int, passes: int) -> float:
    """Images per second of wall time, each of several threads taking its passes over the files."""
    jobs = [
        threading.Thread(target=lambda: [filled(task, count, turn << 20) for turn in range(passes)])
        for _ in range(threads)
    ]
    began = time.perf_counter()
    for job in jobs:
        job.start()
    for job in jobs:
        job.join()
    return count * passes * threads / (time.perf_counter() - began)


def scaling(files: list[bytes], rounds: int) -> dict[str, float]:
    """Median images per second of wall time of 1 and 2 threads, and of 1 and 2 worker processes through the loader."""
    task = Task(Files(files), SIZE, 3, RandomCrop())
    passes = 3
    batch = len(files) * passes
    loaders = {n: Loader(Task(Files(files, 1000), SIZE, 3, RandomCrop()), batch, 0, workers=n) for n in (1, 2)}
    streams = {n: loader.batches(Position()) for n, loader in loaders.items()}
    found: dict[str, list[float]] = {}
    for stream in streams.values():
        next(stream)
    for _ in range(rounds):
        for n in (1, 2):
            found.setdefault(f"{n} threads", []).append(threads_rate(task, len(files), n, passes))
            for _ in range(3):  # two batches were decoded while the others ran
                next(streams[n])
            began = time.perf_counter()
            for _ in range(2):
                next(streams[n])
            found.setdefault(f"{n} processes", []).append(2 * batch / (time.perf_counter() - began))
            time.sleep(0.1 + 3 * batch / found["1 threads"][0])  # its workers fill the ring, then rest
    for loader in loaders.values():
        loader.close()
    return {name: statistics.median(values) for name, values in found.items()}


def main() -> None:
    """Measure and write ``results/data.md``."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenes", type=Path, default=Path("../shared/data/big_scenes"))
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    torch.set_num_threads(1)
    stages, ratios, wall = [], [], []
    for side in (256, 512, 1024):
        files = cut_scenes(options.scenes, side)
        times = seconds(files, side, options.rounds)
        typical = {name: statistics.median(values) for name, values in times.items()}
        cells = [f"{1 / typical['reference']:.0f}"]
        for name in ("ours", "ours, DCT scaling", "packed"):
            paired = statistics.median(a / b for a, b in zip(times["reference"], times[name], strict=True))
            cells.append(f"{1 / typical[name]:.0f} ({paired:.2f}x)")
        ratios.append([f"{side}²", len(files), *cells])
        stages.append(
            [f"{side}²", f"{1e3 * typical['ours']:.2f}"]
            + [f"{1e3 * typical[name]:.3f}" for name in ("decode", "judge", "crop and resize")]
        )
        load = os.getloadavg()[0]
        many = scaling(files, max(3, options.rounds // 3))
        wall.append(
            [f"{side}²"]
            + [f"{many[f'1 {kind}']:.0f} -> {many[f'2 {kind}']:.0f} ({many[f'2 {kind}'] / many[f'1 {kind}']:.2f}x)"
               for kind in ("threads", "processes")]
            + [f"{load:.1f}"]
        )  # fmt: skip
    _table.write(
        "data",
        "Decode and crop",
        "python benchmarks/data.py",
        "Images per second of one core's processor time, JPEG quality 90 to a 224 px random resized crop;"
        f" interleaved, medians of {options.rounds} rounds (of the ratios too), one thread."
        " The reference is Pillow with float transforms; packed: decoded once by data pack (196 kB an image at 256²)"
        " and read from memory.",
        _table.markdown(
            ["JPEG", "files", "reference", "ours (exact)", "ours, DCT scaling", "packed at 256 px"], ratios
        ),
        "Where the time goes, milliseconds an image:",
        _table.markdown(["JPEG", "all", "decode", "quality rule", "crop and resize"], stages),
        "One and two workers by the wall clock, images per second. The load is that of the whole machine before the"
        " measurement: with other work on the cores, two workers cannot show their gain.",
        _table.markdown(["JPEG", "threads", "processes", "load"], wall),
    )


if __name__ == "__main__":
    main()
