"""How fast data come: ``bench data``. The loader's path and the usual one of Pillow and float transforms, in turn."""

import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from io import BytesIO
from statistics import median
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from selectivemae.core.errors import ConfigError, DataError, DecodeError, StoreError
from selectivemae.core.order import Int64, epoch_order, sample_key
from selectivemae.data.augment import RandomCrop, resample
from selectivemae.data.batch import Position
from selectivemae.data.bench_config import BenchDataConfig
from selectivemae.data.catalogue import resolve_all
from selectivemae.data.decode import decode, header, judge_content
from selectivemae.data.loader import Loader, auto_workers
from selectivemae.data.pixels import Task
from selectivemae.data.stores import Store, open_stores
from selectivemae.data.workers import CHUNK

_CHECKED = 4 * CHUNK  # images a round
_MEAN, _STD = (torch.tensor(v)[:, None, None] for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))


@dataclass(frozen=True)
class DataCost:
    """What ``bench data`` found; rates are of wall time, medians over rounds, the ratio is that of the rounds."""

    samples: int
    image_size: int
    device: str
    worker_images_per_s: float  # one core, from bytes at rest to a crop
    worker_bytes_per_s: float
    reference_images_per_s: float  # the same with Pillow and float transforms
    ratio: float
    shares: dict[str, float]  # of read, decode, judge, resize, transfer
    workers: int
    total_images_per_s: float  # through the loader, on the device
    total_bytes_per_s: float
    unusable: int  # among the images timed in this process
    needs: float | None


def bench_data(config: BenchDataConfig) -> DataCost:
    """Measure stages and reference in turn in this process, then the loader with its workers.

    Raises ConfigError without data, StoreError for data that cannot be opened, DataError when no image is usable.
    """
    if not config.data:
        raise ConfigError("no data given: --data FOLDER (or archive) with images")
    store = open_stores(resolve_all(config.data, config.data_root))
    device = _device(config.device)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        rounds = list(_rounds(store, config, device))
    finally:
        torch.set_num_threads(threads)
    used = [r for r in rounds if r.images]
    if not used:
        raise DataError(f"{', '.join(config.data)}: none of {len(rounds) * _CHECKED} images is usable; see data check")
    stages = {name: median(r.stages[name] / r.images for r in used) for name in used[0].stages}
    worker, reference = (median(getattr(r, k) / r.images for r in used) for k in ("ours", "reference"))
    size = sum(r.bytes for r in used) / sum(r.images for r in used)
    workers = auto_workers() if config.workers == "auto" else config.workers
    total = _through_loader(store, config, workers, device)
    return DataCost(
        samples=len(store),
        image_size=config.image_size,
        device=str(device),
        worker_images_per_s=1 / worker,
        worker_bytes_per_s=size / worker,
        reference_images_per_s=1 / reference,
        ratio=median(r.reference / r.ours for r in used),
        shares={name: seconds / sum(stages.values()) for name, seconds in stages.items()},
        workers=workers,
        total_images_per_s=total,
        total_bytes_per_s=total * size,
        unusable=sum(r.unusable for r in rounds),
        needs=config.needs,
    )


@dataclass
class _Round:
    """Seconds of one round over the same images, all of them usable."""

    images: int
    unusable: int
    bytes: int
    ours: float
    reference: float
    stages: dict[str, float]


def _rounds(store: Store, config: BenchDataConfig, device: torch.device) -> Iterator[_Round]:
    """Rounds over new images each, as training draws them; one before, which warms up, is not told."""
    task = Task(store, config.image_size, 3, RandomCrop())
    count = min(_CHECKED, len(store))
    for number in range(-1, config.rounds):
        places = (np.arange(count) + (number + 1) * count) % len(store)
        index = epoch_order(config.seed, 0, places, len(store))
        good = np.array([_usable(store, int(i)) for i in index])
        measured = _measure(task, index[good], sample_key(config.seed, number + 1, index[good]), device)
        measured.unusable = count - int(good.sum())
        if number >= 0:
            yield measured


def _measure(task: Task, index: Int64, key: Int64, device: torch.device) -> _Round:
    """Time the path as the workers go it, its stages one by one, and the reference, over samples (n,)."""
    if not len(index):
        return _Round(0, 0, 0, 0.0, 0.0, {})
    store, size = task.store, task.image_size
    images = np.empty((len(index), size, size, 3), np.uint8)

    def ours() -> None:
        for start in range(0, len(index), CHUNK):
            part = slice(start, start + CHUNK)
            task.fill(index[part], key[part], images[part], np.zeros(len(index[part]), "S24"))

    def transfer() -> None:
        torch.from_numpy(images).to(device).permute(0, 3, 1, 2).contiguous()
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    read, files = _timed(lambda: [store[int(i)] for i in index])
    widths, heights = np.array([header(data)[:2] for data in files], np.int64).T
    boxes, turns = task.augment(key, widths, heights)
    decoded, pixels = _timed(lambda: [decode(data) for data in files])
    judged, _ = _timed(lambda: [judge_content(image) for image in pixels])
    resized, _ = _timed(
        lambda: [resample(image, box, size, int(t)) for image, box, t in zip(pixels, boxes, turns, strict=True)]
    )
    seconds, _ = _timed(ours)
    moved, _ = _timed(transfer)
    usual, _ = _timed(
        lambda: [reference(store[int(i)], box, size, int(t)) for i, box, t in zip(index, boxes, turns, strict=True)]
    )
    stages = {"read": read, "decode": decoded, "judge": judged, "resize": resized, "transfer": moved}
    return _Round(len(index), 0, sum(map(len, files)), seconds, usual, stages)


def reference(data: bytes, box: Int64, size: int, turn: int) -> Tensor:
    """The usual path: Pillow decodes, crops and resizes; then float, scaled and normalised (3, size, size).

    ``box`` (x, y, w, h) and ``turn`` (1: mirrored) are those of the other path, so that both do the same.
    """
    x, y, w, h = (int(edge) for edge in box)
    with Image.open(BytesIO(data)) as file:
        image = file.convert("RGB").crop((x, y, x + w, y + h)).resize((size, size), Image.Resampling.BICUBIC)
    if turn & 1:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous().float().div(255)
    return pixels.sub_(_MEAN).div_(_STD)


def _usable(store: Store, index: int) -> bool:
    """Whether both paths can use a sample: Pillow alone does not read every TIFF."""
    try:
        data = store[index]
        pixels: NDArray[np.uint8] = decode(data)
        with Image.open(BytesIO(data)) as file:
            file.convert("RGB")
    except (DecodeError, StoreError, OSError, SyntaxError, ValueError):
        return False
    return judge_content(pixels) is None


def _through_loader(store: Store, config: BenchDataConfig, workers: int, device: torch.device) -> float:
    """Images per second of wall time through the loader, once its workers run at their pace."""
    batch = min(config.batch_size, max(1, len(store)))
    task = Task(store, config.image_size, 3, RandomCrop())
    with Loader(task, batch, config.seed, workers=workers, device=device) as loader:
        stream = loader.batches(Position())
        for _ in range(3 if workers else 1):  # starting the workers, and the batches that they had ready
            next(stream)
        began, count = time.perf_counter(), 0
        while time.perf_counter() - began < config.seconds or not count:
            next(stream)
            count += batch
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return count / (time.perf_counter() - began)


def _timed(work: Callable[[], Any]) -> tuple[float, Any]:
    began = time.perf_counter()
    result = work()
    return time.perf_counter() - began, result


def _device(name: str) -> torch.device:
    """The device of a name; ConfigError when it is not there."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(f"--device {name} is not there: {str(error).splitlines()[0]}") from error
    return device


def as_text(cost: DataCost) -> str:
    """The figures for people."""
    shares = ", ".join(f"{name} {100 * share:.0f} %" for name, share in cost.shares.items())
    lines = [
        f"{cost.samples:,} images, random crops to {cost.image_size} px, to {cost.device}",
        f"one core    {cost.worker_images_per_s:8.0f} images/s, {cost.worker_bytes_per_s / 1e6:.1f} MB/s: {shares}",
        f"reference   {cost.reference_images_per_s:8.0f} images/s (Pillow, float transforms); ours {cost.ratio:.2f}x",
        f"loader      {cost.total_images_per_s:8.0f} images/s, {cost.total_bytes_per_s / 1e6:.1f} MB/s with"
        f" {cost.workers} workers",
    ]
    if cost.unusable:
        lines.append(f"left out    {cost.unusable:8} images that are unusable or that Pillow cannot read")
    lines.append(meaning(cost))
    return "\n".join(lines)


def meaning(cost: DataCost) -> str:
    """What the figures mean for training."""
    feeds = f"feeds {cost.total_images_per_s:.0f} images/s"
    if cost.needs is None:
        return f"{feeds}; give what training takes (see selectivemae bench model) as --needs"
    if cost.total_images_per_s >= cost.needs:
        return f"{feeds}; training takes {cost.needs:.0f}: enough, {cost.total_images_per_s / cost.needs:.1f}x"
    more = int(np.ceil(cost.needs / cost.worker_images_per_s))
    wait = 100 * (1 - cost.total_images_per_s / cost.needs)
    return (
        f"{feeds}; training takes {cost.needs:.0f}: it would wait {wait:.0f} % of the time; about {more} cores would do"
    )


def as_dict(cost: DataCost) -> dict[str, Any]:
    """The figures as plain data."""
    return asdict(cost) | {"meaning": meaning(cost)}
