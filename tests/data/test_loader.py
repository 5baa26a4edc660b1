"""The stream of batches: exact sets of samples, the same pixels from any number of workers and processes."""

import csv
import io
import itertools
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from selectivemae.core.errors import ConfigError, DataError, StoreError, TrainingError
from selectivemae.core.order import Int64
from selectivemae.data.augment import RandomCrop
from selectivemae.data.batch import Batch, Position
from selectivemae.data.ledger import chain, combine, step_sum
from selectivemae.data.loader import EverySample, Loader, auto_workers, check_room, cut
from selectivemae.data.pixels import Task
from selectivemae.data.stores import Store, open_store
from selectivemae.data.workers import Pool


def jpeg(number: int, side: int = 48) -> bytes:
    """A small picture that differs from every other number's."""
    pixels = np.random.default_rng(number).integers(0, 256, (side // 8, side // 8, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).resize((side + number % 5, side), Image.Resampling.BICUBIC).save(file, "JPEG", quality=95)
    return file.getvalue()


def pixels(store: Store, size: int = 16, channels: int = 3) -> Task:
    """Random crops of a store's pictures."""
    return Task(store, size, channels, RandomCrop())


@dataclass(frozen=True)
class MemoryStore:
    """Pictures held in memory; ``odd`` replaces the bytes of some; a number in ``fatal`` misbehaves when read."""

    n: int
    odd: dict[int, bytes] = field(default_factory=dict)
    fatal: dict[int, str] = field(default_factory=dict)
    fingerprint: str = "test"
    skipped: list[tuple[str, str]] = field(default_factory=list)

    def __len__(self) -> int:
        return self.n

    def id(self, index: int) -> str:
        return f"picture/{index:03}"

    def __getitem__(self, index: int) -> bytes:
        match self.fatal.get(index):
            case "die":
                os.kill(os.getpid(), signal.SIGKILL)
            case "hang":
                time.sleep(60)
            case "slow":
                time.sleep(0.01)
            case "bug":
                raise ZeroDivisionError("a bug in the store")
            case "unreadable":
                raise StoreError("member is gone")
        return self.odd[index] if index in self.odd else jpeg(index)


def take(loader: Loader, start: Position, steps: int) -> list[tuple[Batch, Position]]:
    with loader:
        return list(itertools.islice(loader.batches(start), steps))


def same(a: Batch, b: Batch) -> bool:
    return all(torch.equal(getattr(a, name), getattr(b, name)) for name in ("images", "index", "key", "weight"))


def test_every_epoch_has_every_sample_once() -> None:
    steps = take(Loader(pixels(MemoryStore(10)), 4, seed=1), Position(), 5)
    order = torch.cat([batch.index for batch, _ in steps]).tolist()
    assert sorted(order[:10]) == sorted(order[10:]) == list(range(10))
    assert order[:10] != order[10:]
    assert [after for _, after in steps] == [
        Position(0, 4), Position(0, 8), Position(1, 2), Position(1, 6), Position(2, 0),
    ]  # fmt: skip


def test_the_same_sample_has_another_key_in_another_epoch() -> None:
    (first, _), (second, _) = take(Loader(pixels(MemoryStore(6)), 6, seed=1), Position(), 2)
    assert not set(first.key.tolist()) & set(second.key.tolist())
    assert first.images.shape == (6, 3, 16, 16)
    assert first.images.dtype == torch.uint8


@pytest.mark.parametrize(("n", "size"), [(1, 3), (5, 12), (7, 7), (100, 1)])
def test_cut_goes_round_small_sets(n: int, size: int) -> None:
    position, seen = Position(), Counter()
    for _ in range(3):
        part = cut(EverySample(0, n), 0, position, size)
        seen.update(part.index.tolist())
        position = part.after
    assert position.epoch * n + position.consumed == 3 * size
    assert max(seen.values()) - min(seen.get(i, 0) for i in range(n)) <= 1


def test_resuming_anywhere_gives_the_rest() -> None:
    whole = take(Loader(pixels(MemoryStore(11)), 4, seed=3), Position(), 7)
    for done in (1, 3, 5):
        rest = take(Loader(pixels(MemoryStore(11)), 4, seed=3), whole[done - 1][1], 7 - done)
        assert all(same(a, b) and p == q for (a, p), (b, q) in zip(whole[done:], rest, strict=True))


def test_ranks_share_each_global_step() -> None:
    whole = take(Loader(pixels(MemoryStore(11)), 4, seed=3), Position(), 6)
    ranks = [take(Loader(pixels(MemoryStore(11)), 4, seed=3, rank=r, world=2), Position(), 6) for r in range(2)]
    for step, (batch, after) in enumerate(whole):
        for r in range(2):
            part, part_after = ranks[r][step]
            assert after == part_after
            assert torch.equal(batch.index[r::2], part.index)
            assert torch.equal(batch.images[r::2], part.images)


def test_an_epoch_over_changing_workers_and_ranks() -> None:
    """2 -> 1 -> 4 workers, then 1 -> 2 ranks, in the middle of an epoch: each sample once, and the same ledger."""
    store, size, steps = MemoryStore(64), 4, 16

    def ledger(parts: list[list[np.ndarray]]) -> int:
        digest = 0
        for step, indices in enumerate(parts, 1):
            digest = chain(digest, combine([step_sum(step, index) for index in indices]))
        return digest

    whole = [[batch.index.numpy()] for batch, _ in take(Loader(pixels(store), size, seed=3), Position(), steps)]
    position, parts = Position(), []
    for workers in (2, 1, 4):
        with Loader(pixels(store), size, seed=3, workers=workers) as loader:
            seen = list(itertools.islice(loader.batches(position), 4))
        parts += [[batch.index.numpy()] for batch, _ in seen]
        position = seen[-1][1]
    ranks = [take(Loader(pixels(store), size, seed=3, rank=r, world=2), position, 4) for r in range(2)]
    parts += [[rank[step][0].index.numpy() for rank in ranks] for step in range(4)]
    assert Counter(np.concatenate([index for step in parts for index in step]).tolist()) == Counter(range(64))
    assert ledger(parts) == ledger(whole)


def test_workers_give_the_same_to_the_bit() -> None:
    """0 -> 2 -> 1 workers in the middle of an epoch, with an unusable sample and a straddling batch."""
    store = MemoryStore(37, odd={5: b"not an image", 9: jpeg(9)[:-200], 11: b""})
    bad: dict[int, list[tuple[str, str]]] = {0: [], 1: []}
    whole = take(Loader(pixels(store), 12, seed=3, on_bad=lambda *r: bad[0].append(r)), Position(), 6)
    split = take(Loader(pixels(store), 12, seed=3, workers=2, on_bad=lambda *r: bad[1].append(r)), Position(), 3)
    split += take(Loader(pixels(store), 12, seed=3, workers=1, on_bad=lambda *r: bad[1].append(r)), split[-1][1], 3)
    assert all(same(a, b) and p == q for (a, p), (b, q) in zip(whole, split, strict=True))
    assert bad[0] == bad[1]
    assert Counter(bad[0]).keys() == {
        ("picture/005", "not_an_image"), ("picture/009", "truncated"), ("picture/011", "empty"),
    }  # fmt: skip


def test_an_unusable_sample_is_black_and_without_weight() -> None:
    store = MemoryStore(8, odd={2: b"GIF89a"}, fatal={4: "unreadable"})
    reported: list[tuple[str, str]] = []
    [(batch, _)] = take(Loader(pixels(store), 8, 0, on_bad=lambda *r: reported.append(r)), Position(), 1)
    unusable = (batch.index == 2) | (batch.index == 4)
    assert torch.equal(batch.weight, (~unusable).float())
    assert not batch.images[unusable].any()
    assert all(image.any() for image in batch.images[~unusable])
    assert sorted(reported) == [("picture/002", "corrupt"), ("picture/004", "unreadable")]


def test_nothing_usable_is_an_error() -> None:
    message = r"12 samples in a row are unusable; the last one is picture/0\d\d: the bytes begin with b'text'"
    with pytest.raises(DataError, match=message):
        take(Loader(pixels(MemoryStore(12, odd=dict.fromkeys(range(12), b"text"))), 4, 0), Position(), 3)


def test_one_usable_sample_is_enough() -> None:
    loader = Loader(pixels(MemoryStore(3, odd={0: b"", 2: b""})), 2, 0)
    assert sum(float(batch.weight.sum()) for batch, _ in take(loader, Position(), 60)) == 40


def test_a_folder_of_odd_files(shared_data: Path) -> None:
    """Every file of the folder is seen once an epoch; those to be dropped have no weight and are named."""
    pytest.importorskip("rasterio")
    store = open_store(shared_data / "odd_inputs")
    with (shared_data / "odd_inputs" / "manifest.csv").open(newline="") as file:
        expected = {row["file"]: row["expect"] for row in csv.DictReader(file) if row["kind"] != "pure_noise"}
    bad: list[tuple[str, str]] = []
    steps = take(Loader(pixels(store, 32), len(store), 0, on_bad=lambda *r: bad.append(r)), Position(), 1)
    assert sorted(steps[0][0].index.tolist()) == list(range(len(store)))
    named = {name.rpartition("/")[2]: reason for name, reason in bad}
    seen = {store.id(number).rpartition("/")[2] for number in range(len(store))}
    assert len(seen) > 30
    assert {name for name in seen if expected.get(name) == "drop"} == set(named)


def test_waiting_is_counted() -> None:
    loader = Loader(pixels(MemoryStore(8, fatal=dict.fromkeys(range(8), "slow"))), 4, 0)
    with loader:
        stream = loader.batches(Position())
        for _ in range(2):
            began, before = time.perf_counter(), loader.wait_seconds
            next(stream)
            assert 0.04 <= loader.wait_seconds - before <= time.perf_counter() - began
            time.sleep(0.05)  # the consumer's own time


@pytest.mark.fault
@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("die", r"data worker 0 \(pid \d+\), which held .*{}.* was killed by signal 9"),
        ("hang", r"no image came for 1 s: data worker 0 \(pid \d+\), which held .*{}"),
        ("bug", r"data worker 0 \(pid \d+\), which held .*{}.* failed: ZeroDivisionError: a bug in the store"),
    ],
)
def test_a_worker_that_fails_is_named(fault: str, message: str) -> None:
    victim = int(EverySample(0, 40).samples(0, np.array([22]))[0])
    with Loader(pixels(MemoryStore(40, fatal={victim: fault})), 4, seed=0, workers=1) as loader:
        stream = loader.batches(Position())
        next(stream)
        assert isinstance(loader._source, Pool)
        loader._source.timeout = 1  # now that the worker has started
        with pytest.raises(TrainingError, match=message.format(f"picture/{victim:03}")):
            list(itertools.islice(stream, 9))


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="counts descriptors in /proc")
def test_a_thousand_chunks_and_nothing_is_left_behind() -> None:
    loader = Loader(pixels(MemoryStore(8)), 4, seed=0, workers=1)
    before = descriptors()
    stream = loader.batches(Position())
    next(stream)
    assert isinstance(loader._source, Pool)
    pid = loader._source._processes[0].pid
    positions = [after for _, after in itertools.islice(stream, 200)]
    assert positions[-1] == Position(100, 4)
    stream.close()  # type: ignore[attr-defined]
    assert not Path(f"/proc/{pid}").exists()
    assert descriptors() <= before + 1  # the resource tracker's pipe stays
    loader.close()


@dataclass
class Barrier:
    """An order that notes when an epoch is first asked for, and how many batches were then handed out."""

    n: int
    barrier: bool = True
    handed: int = 0
    asked: dict[int, int] = field(default_factory=dict)

    def count(self, epoch: int) -> int:
        self.asked.setdefault(epoch, self.handed)
        return self.n - epoch  # epochs of different length, as under pruning

    def samples(self, epoch: int, positions: Int64) -> Int64:
        self.asked.setdefault(epoch, self.handed)
        return EverySample(0, self.count(epoch)).samples(epoch, positions)

    def weights(self, epoch: int, indices: Int64) -> NDArray[np.float32]:
        return np.full(len(indices), 1 + epoch, np.float32)


@pytest.mark.parametrize(("n", "first_of_1", "workers"), [(10, 2, 0), (8, 2, 0), (9, 2, 0), (12, 3, 0), (10, 2, 1)])
def test_an_epoch_behind_a_barrier_is_asked_for_late(n: int, first_of_1: int, workers: int) -> None:
    order = Barrier(n)
    with Loader(pixels(MemoryStore(n)), 4, 0, order=order, workers=workers, prefetch=3) as loader:
        for batch, _ in loader.batches(Position()):
            order.handed += 1
            if order.handed == 4:
                assert batch.weight.diff().min() >= 0
                break
    assert order.asked[1] == first_of_1


def test_settings_that_do_not_fit() -> None:
    store = MemoryStore(8)
    for wrong in ({"world": 3}, {"rank": 2, "world": 2}, {"workers": "many"}, {"workers": -1}):
        with pytest.raises(ConfigError):
            Loader(pixels(store), 4, 0, **wrong)
    with pytest.raises(DataError, match="no samples"):
        Loader(pixels(MemoryStore(0)), 4, 0)
    assert auto_workers(10_000) == 0
    assert 0 <= auto_workers(1) <= 16


SCRIPT = """
import itertools, os, signal, sys, time
sys.path.insert(0, {folder!r})
from test_loader import Loader, MemoryStore, Position, pixels

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job would inherit "ignore"
    loader = Loader(pixels(MemoryStore(64)), 8, 0, workers=2)
    for step, _ in enumerate(loader.batches(Position())):
        if step == 1:
            print(*(process.pid for process in loader._source._processes), flush=True)
        time.sleep(0.05)
"""


def start(tmp_path: Path) -> tuple[subprocess.Popen[str], list[int]]:
    """A process of its own group that loads for ever, and the pids of its two workers."""
    script = tmp_path / "run.py"
    script.write_text(SCRIPT.format(folder=str(Path(__file__).parent)))
    process = subprocess.Popen(
        [sys.executable, str(script)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    assert process.stdout is not None
    return process, [int(word) for word in process.stdout.readline().split()]


def all_gone(pids: list[int], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if not any(Path(f"/proc/{pid}").exists() for pid in pids):
            return True
        time.sleep(0.05)
    return False


@pytest.mark.fault
@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="looks for processes in /proc")
def test_ctrl_c_leaves_one_traceback_and_no_process(tmp_path: Path) -> None:
    process, workers = start(tmp_path)
    assert len(workers) == 2
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == -signal.SIGINT
    assert errors.count("Traceback") == errors.count("KeyboardInterrupt") == 1
    assert all_gone(workers, 60)


@pytest.mark.fault
@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="looks for processes in /proc")
def test_workers_end_with_a_parent_that_is_killed(tmp_path: Path) -> None:
    process, workers = start(tmp_path)
    assert len(workers) == 2
    process.kill()
    _, errors = process.communicate(timeout=120)
    assert all_gone(workers, 60)
    assert "Traceback" not in errors


def test_batches_of_one_channel_are_not_overwritten_by_the_workers():
    """A view of one channel counts as contiguous: the batch must still have memory of its own."""

    def batches(workers: int) -> list[torch.Tensor]:
        with Loader(pixels(MemoryStore(24), 16, channels=1), 4, 0, workers=workers) as loader:
            kept = []
            for step, (batch, _) in enumerate(loader.batches(Position())):
                kept.append(batch.images)
                time.sleep(0.05)  # time enough for workers to fill the slot again
                if step == 5:
                    return kept
        raise AssertionError

    for alone, by_worker in zip(batches(0), batches(1), strict=True):
        assert torch.equal(alone, by_worker)


def test_a_batch_without_room_is_refused_before_its_memory_is_taken() -> None:
    with pytest.raises(
        ConfigError, match=r"no.* memory for 10000000 images of 1000 px .* take 30000\.0 GB, .* --batch-"
    ):
        check_room(10_000_000, 1, 1000, 3, 1)
    check_room(8, 2, 224, 3, 2)
