"""What reading costs, by container, and what 13 million members cost a worker.

    python benchmarks/stores.py --images FOLDER [--members 13000000] [--rounds 7]

Rates: the same images in a folder, a zip, a split zip, a zip cut by bytes, a tar and a corpus shard, read in one random
order from the system's cache, all containers in turn in every round, beside decoding the same bytes with simplejpeg and
beside Python's zipfile. Scale: a zip with a synthetic index of that many members (all of one image's bytes), which a
fresh process reads at random. Figures are CPU time, so that they hold on a machine with other work.
"""

import argparse
import copy
import hashlib
import json
import os
import pickle
import resource
import shutil
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import simplejpeg

from _table import markdown, write
from selectivemae.data.stores import Store, index, open_store
from selectivemae.data.stores.index import index_places
from selectivemae.data.stores.shards import Sample, write_shard

SEED = 0
NAME = "images/part-{:04d}/scene-{:011d}.jpg"
CHUNK = 1_000_000
LOOK_UPS = 50_000
PLAIN, DECODING = "zip, deflated", "decoding alone (simplejpeg)"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, required=True, help="a folder of JPEGs")
    parser.add_argument("--members", type=int, default=13_000_000)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--look-up", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.look_up:
        print(json.dumps(look_up(options.look_up)))
        return
    with tempfile.TemporaryDirectory() as scratch:
        os.environ["SELECTIVEMAE_CACHE"] = os.path.join(scratch, "cache")
        rates = measure_rates(options.images, Path(scratch), options.rounds)
        indexing = measure_indexing(Path(scratch))
        worker = measure_worker(Path(scratch), options.members)
    how = (
        f"Reading {rates.images:,} JPEGs of {rates.bytes / rates.images / 1000:.1f} kB in random order, one thread, "
        f"from the system's cache; CPU time (user and system), medians of {options.rounds} interleaved rounds. "
        "The last column compares with what simplejpeg takes to decode the same bytes."
    )
    write(
        "stores",
        "Stores: rates and memory",
        "benchmarks/stores.py",
        how,
        rate_table(rates),
        scale_table(worker, indexing),
    )


@dataclass(frozen=True)
class Rates:
    """CPU seconds of every round, by container."""

    images: int
    bytes: int
    seconds: dict[str, list[float]]


# Rates.


def containers(images: Path, scratch: Path) -> dict[str, Store]:
    """The same images in every kind of container."""
    folder = scratch / "folder"
    shutil.copytree(images, folder, ignore=lambda path, names: [n for n in names if "." in n and n[-4:] != ".jpg"])
    files = sorted(folder.rglob("*.jpg"))
    with zipfile.ZipFile(scratch / "plain.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for file in files:
            archive.write(file, file.relative_to(folder))
    with zipfile.ZipFile(scratch / "stored.zip", "w", zipfile.ZIP_STORED) as archive:
        for file in files:
            archive.write(file, file.relative_to(folder))
    with tarfile.open(scratch / "plain.tar", "w") as archive:
        for file in files:
            archive.add(file, str(file.relative_to(folder)))
    identities = [hashlib.blake2b(str(i).encode(), digest_size=16).digest() for i in range(len(files))]
    write_shard(
        scratch / "shard.tar",
        (Sample(identity, f"s-{i}", "jpg", files[i].read_bytes()) for i, identity in enumerate(identities)),
    )
    size = (scratch / "plain.zip").stat().st_size
    whole = (scratch / "plain.zip").read_bytes()
    for part in range(3):
        (scratch / f"cut.zip.{part + 1:03d}").write_bytes(whole[part * size // 3 : (part + 1) * size // 3])
    found = {
        "folder": folder,
        "zip, stored": scratch / "stored.zip",
        PLAIN: scratch / "plain.zip",
        "zip, deflated, cut by bytes in 3": scratch / "cut.zip",
        "tar": scratch / "plain.tar",
        "corpus shard": scratch / "shard.tar",
    }
    if shutil.which("zip"):
        command = ["zip", "-q", "-r", "-s", f"{size // 3 // 65536 * 64 + 64}k", "../split.zip", "."]
        subprocess.run(command, cwd=folder, check=True)
        found["zip, deflated, split in 3 by `zip -s`"] = scratch / "split.zip"
    return {name: open_store(path) for name, path in found.items()}


def measure_rates(images: Path, scratch: Path, rounds: int) -> Rates:
    stores = containers(images, scratch)
    count = len(stores["folder"])
    order = [int(i) for i in np.random.default_rng(SEED).permutation(count)]
    encoded = [stores["folder"][i] for i in order]
    oracle = zipfile.ZipFile(scratch / "plain.zip")
    names = [oracle.namelist()[i] for i in order]
    runs: dict[str, Callable[[], object]] = {
        name: (lambda store=store: [len(store[i]) for i in order]) for name, store in stores.items()
    }
    runs["Python's zipfile, deflated"] = lambda: [len(oracle.read(name)) for name in names]
    runs[DECODING] = lambda: [simplejpeg.decode_jpeg(data).shape for data in encoded]
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            start = time.process_time()
            run()
            seconds[name].append(time.process_time() - start)
    return Rates(count, sum(map(len, encoded)), seconds)


# Scale.


def measure_indexing(scratch: Path, members: int = 50_000) -> float:
    """CPU seconds a member of indexing a zip whose directory lists one stored image under many names."""
    image = np.random.default_rng(SEED).bytes(1000)
    with zipfile.ZipFile(scratch / "many.zip", "w") as archive:
        archive.writestr(NAME.format(0, 0), image)
        info = archive.infolist()[0]
        for i in range(1, members):
            twin = copy.copy(info)
            twin.filename = NAME.format(i // 10_000, i)
            archive.filelist.append(twin)
    os.utime(scratch / "many.zip", ns=(0, 10**18))
    start = time.process_time()
    assert len(open_store(scratch / "many.zip")) == members
    return (time.process_time() - start) / members


def measure_worker(scratch: Path, members: int) -> dict[str, float]:
    """Memory and look-ups of a worker on a zip whose cached index lists ``members`` names of one image."""
    archive = scratch / "giant.zip"
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr(NAME.format(0, 0), np.random.default_rng(SEED).bytes(1000))
    os.utime(archive, ns=(0, 10**18))
    open_store(archive)
    place = Path(index_places(str(archive))[1])
    multiply_index(place, members)
    start = time.process_time()
    store = open_store(archive)
    opening = time.process_time() - start
    assert len(store) == members
    pickled = scratch / "store.pickle"
    pickled.write_bytes(pickle.dumps(store))
    command = [sys.executable, __file__, "--images", str(scratch), "--look-up", str(pickled)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    sizes = {"index": place.stat().st_size, "pickle": pickled.stat().st_size}
    return {"members": members, "opening": opening, **sizes, **json.loads(done.stdout)}


def multiply_index(place: Path, members: int) -> None:
    """Make an index of one member into one of ``members`` with names in order, all of the same bytes."""
    raw = place.read_bytes()
    magic, _, length, tail, built, stamp, fingerprint = index._HEADER.unpack_from(raw)
    record = np.frombuffer(raw, index._RECORD_TYPE, 1, index._HEADER.size)
    with open(place, "wb") as file:
        file.write(index._HEADER.pack(magic, members, members * length, tail, built, stamp, fingerprint))
        for start in range(0, members, CHUNK):
            records = np.repeat(record, min(CHUNK, members - start))
            records["name_at"] = np.arange(start, start + len(records), dtype=np.uint64) * length
            file.write(records.tobytes())
        for start in range(0, members, CHUNK):
            numbers = np.arange(start, min(start + CHUNK, members))
            names = np.tile(np.frombuffer(NAME.format(0, 0).encode(), np.uint8), (len(numbers), 1))
            for digit in range(4):
                names[:, 15 - digit] += (numbers // 10 ** (4 + digit) % 10).astype(np.uint8)
            for digit in range(11):
                names[:, 33 - digit] += (numbers // 10**digit % 10).astype(np.uint8)
            file.write(names.tobytes())
        file.write(raw[-tail:])


def look_up(pickled: Path) -> dict[str, float]:
    """In a fresh process: resident memory before and after reading members and ids from everywhere."""
    before = resident()
    store: Store = pickle.loads(pickled.read_bytes())
    places = np.random.default_rng(SEED).integers(0, len(store), 2 * LOOK_UPS)
    start = time.process_time()
    for i in places[:LOOK_UPS]:
        store[int(i)]
    reading = (time.process_time() - start) / LOOK_UPS
    start = time.process_time()
    for i in places[LOOK_UPS:]:
        form = NAME.format(i // 10_000, i)
        assert store.id(int(i)).endswith(form), (store.id(int(i)), form)
    naming = (time.process_time() - start) / LOOK_UPS
    return {"before": before, "after": resident(), "reading": reading, "naming": naming}


def resident() -> int:
    """Resident bytes of this process, shared pages included."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()


# The table.


def rate_table(rates: Rates) -> str:
    medians = {name: statistics.median(times) for name, times in rates.seconds.items()}
    rows = []
    for name, times in rates.seconds.items():
        each = medians[name] / rates.images
        share = medians[name] / medians[DECODING]
        ratio = ratios(rates.seconds[PLAIN], times)
        rows.append([name, f"{1 / each:,.0f}", f"{ratio:.2f}", f"{each * 1e6:.0f}", f"{share:.1%}"])
    return markdown(["container", "images per CPU second", "of the plain zip", "µs an image", "of decoding"], rows)


def scale_table(worker: dict[str, float], indexing: float) -> str:
    looks = f"{LOOK_UPS:,}"
    rows = [
        ["indexing, CPU time a million members", f"{indexing * 1e6:.1f} s"],
        ["index on disk", f"{worker['index'] / 1e9:.2f} GB"],
        ["opening it when it is indexed, CPU time", f"{worker['opening'] * 1e3:.1f} ms"],
        ["pickled store", f"{worker['pickle']:.0f} bytes"],
        ["worker, resident: the package imported", f"{worker['before'] / 1e6:.0f} MB"],
        [f"worker, resident: after {looks} reads and {looks} ids at random", f"{worker['after'] / 1e6:.0f} MB"],
        ["a read of 1 kB, CPU time", f"{worker['reading'] * 1e6:.1f} µs"],
        ["an id, CPU time", f"{worker['naming'] * 1e6:.1f} µs"],
    ]
    return markdown([f"a zip of {worker['members']:,.0f} members", ""], rows)


def ratios(reference: Sequence[float], times: Sequence[float]) -> float:
    """Median over the rounds of how much faster ``times`` are than ``reference``."""
    return statistics.median(a / b for a, b in zip(reference, times, strict=True))


if __name__ == "__main__":
    main()
