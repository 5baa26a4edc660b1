"""A finished corpus: what it says of itself, how it is checked, and what a later generation needs of it."""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from selectivemae.core.errors import DataError, DecodeError, StoreError
from selectivemae.core.files import atomic_write, file_sha256
from selectivemae.core.version import __version__
from selectivemae.curation import card, hashes, tables
from selectivemae.curation.config import CONTENT, CurateConfig
from selectivemae.curation.decide import Old
from selectivemae.curation.dedup import Side
from selectivemae.curation.exclude import border_fill
from selectivemae.curation.ground import ground
from selectivemae.curation.linking import NEEDED, Party, scenes
from selectivemae.curation.pack import shard_path
from selectivemae.curation.sources import Sources
from selectivemae.curation.spool import fixed, words
from selectivemae.data.decode import decode, luma
from selectivemae.data.stores.shards import read_records, verify_shard

FORMAT = 2
OVERLAP = "eval_overlap.parquet"
SUMS = "SHA256SUMS"
_BLURRED = 3  # low bits that encoding may change in black and white
_SAME_BITS = 6  # bits of the hash that encoding a tile may change


def read_corpus(corpus: Path) -> dict[str, Any]:
    """``corpus.json``. DataError where there is none."""
    path = corpus / "corpus.json"
    try:
        content = json.loads(path.read_text())
    except OSError as e:
        raise DataError(f"{corpus} is no corpus: {path.name} is missing; make one with curate run") from e
    except json.JSONDecodeError as e:
        raise DataError(f"{path} is damaged (line {e.lineno}): take it from a copy of the corpus") from e
    if (found := content.get("format")) != FORMAT:
        way = "make the corpus anew with curate run" if found == 1 else "use a newer selectivemae"
        raise DataError(f"{path}: has format {found}, not {FORMAT}; {way}")
    return content


def generations(corpus: Path) -> list[Path]:
    """Folders of the finished generations, the oldest first."""
    return [corpus / entry["folder"] for entry in read_corpus(corpus)["generations"]]


def manifest(folders: list[Path], columns: list[str] | None = None) -> pa.Table:
    """Manifest rows of generations, in the order of shards and positions."""
    paths = [path for folder in folders for path in sorted((folder / "manifest").glob("part-*.parquet"))]
    return tables.read(paths, tables.MANIFEST, columns)


def corpus_digest(rows: pa.Table) -> str:
    """SHA-256 over id, pixels, size and CRC-32C of all samples in the order of their ids: equal for equal corpora,
    whatever their shards."""
    ids, content = fixed(rows.column("id"), 16), fixed(rows.column("content_id"), 32)
    sizes = rows.column("size").to_numpy().astype("<u4")[:, None].view(np.uint8)
    sums = rows.column("crc32c").to_numpy().astype("<u4")[:, None].view(np.uint8)
    order = np.lexsort(words(ids)[:, ::-1].T)
    return hashlib.sha256(np.concatenate([ids, content, sizes, sums], axis=1)[order].tobytes()).hexdigest()


def describe(corpus: Path, number: int, config: CurateConfig, sources: Sources, funnel: dict[str, Any]) -> str:
    """Write card, licences, ``corpus.json`` and the checksums after generation ``number``; returns the digest."""
    earlier = read_corpus(corpus)["generations"] if number > 1 else []
    folder = corpus / f"g{number:04d}"
    rows = manifest([corpus / entry["folder"] for entry in earlier] + [folder], ["id", "content_id", "size", "crc32c"])
    fresh = manifest([folder], ["size"])
    licences = {
        source.name: json.loads(source.licence.model_dump_json())
        for source in sources.sources
        if source.split_role == "train"
    }
    settled = json.dumps({name: config.settled()[name] for name in CONTENT}, sort_keys=True)
    entry = {
        "folder": folder.name,
        "samples": fresh.num_rows,
        "bytes": int(fresh.column("size").to_numpy().sum(dtype=np.int64)),
        "shards": len(list((folder / "manifest").glob("part-*.parquet"))),
        "config_digest": hashlib.sha256(settled.encode()).hexdigest()[:16],
        "sources": funnel,
        "licences": licences,
        "decontaminated": any(source.split_role == "eval" for source in sources.sources),
    }
    content = {
        "format": FORMAT,
        "name": config.name,
        "version": __version__,
        "hash": hashes.VERSION,
        "digest": corpus_digest(rows),
        "samples": rows.num_rows,
        "generations": [*earlier, entry],
    }
    old = tuple(f"{entry['folder']}/" for entry in earlier)
    _state(corpus, content, lambda name: name.startswith(old))
    return content["digest"]


def restate(corpus: Path, touched: Collection[Path], rewritten: Collection[Path] = ()) -> None:
    """Write totals, digest and checksums anew after images were taken out of the generations ``touched``; of their
    shards only those in ``rewritten`` are read again."""
    content = read_corpus(corpus)
    for entry in content["generations"]:
        folder = corpus / entry["folder"]
        if folder not in touched:
            continue
        rows = manifest([folder], ["source", "size"])
        entry["samples"] = rows.num_rows
        entry["bytes"] = int(rows.column("size").to_numpy().sum(dtype=np.int64))
        entry["shards"] = len(list((folder / "manifest").glob("part-*.parquet")))
        kept = Counter(rows.column("source").to_pylist())
        lost = tables.read(sorted((folder / "dropped").glob("*.parquet")), tables.DROPPED, ["source", "reason"])
        removed = Counter(row["source"] for row in lost.to_pylist() if row["reason"] == "removed")
        for name, funnel in entry["sources"].items():
            funnel["kept"] = kept.get(name, 0)
            if name in removed:
                funnel["dropped"]["removed"] = removed[name]
    everything = manifest(generations(corpus), ["id", "content_id", "size", "crc32c"])
    content |= {"digest": corpus_digest(everything), "samples": everything.num_rows}
    changed = tuple(f"{folder.name}/" for folder in touched)
    anew = {path.relative_to(corpus).as_posix() for path in rewritten}

    def unchanged(name: str) -> bool:
        return "/" in name and (not name.startswith(changed) or (name.endswith(".tar") and name not in anew))

    _state(corpus, content, unchanged)


def _state(corpus: Path, content: dict[str, Any], unchanged: Callable[[str], bool]) -> None:
    """Write what describes a corpus; checksums of files that are ``unchanged`` are taken over."""
    atomic_write(corpus / "README.md", card.readme(content))
    atomic_write(corpus / "LICENSES.md", card.licences(content))
    text = json.dumps(content, indent=1, ensure_ascii=False) + "\n"
    atomic_write(corpus / SUMS, _sums(corpus, content, text, unchanged))
    atomic_write(corpus / "corpus.json", text)  # last: what it names is whole


def _sums(corpus: Path, content: dict[str, Any], text: str, unchanged: Callable[[str], bool]) -> str:
    """Checksums of every file, in the format of the sha256sum tool."""
    known: dict[str, str] = {}
    if (corpus / SUMS).exists():
        for line in (corpus / SUMS).read_text().splitlines():
            digest, _, name = line.partition("  ")
            if unchanged(name):
                known[name] = digest
    names = [path.relative_to(corpus).as_posix() for path in _files(corpus, content)]
    lines = {name: known.get(name) or file_sha256(corpus / name) for name in names}
    lines["corpus.json"] = hashlib.sha256(text.encode()).hexdigest()
    return "".join(f"{digest}  {name}\n" for name, digest in sorted(lines.items()))


def _files(corpus: Path, content: dict[str, Any]) -> Iterator[Path]:
    yield from (corpus / name for name in ("README.md", "LICENSES.md", OVERLAP))
    for entry in content["generations"]:
        for part in ("shards", "manifest", "dropped", "pairs", "review", "sheets", "config"):
            yield from sorted(path for path in (corpus / entry["folder"] / part).rglob("*") if path.is_file())
        yield corpus / entry["folder"] / "hashes.npy"


@dataclass(frozen=True)
class Finding:
    """Something wrong with a corpus: the file (inside it), and what."""

    file: str
    problem: str


def verify(corpus: Path, *, deep: bool = False) -> list[Finding]:
    """Check sums, shards against their indexes, and both against the manifest; ``deep`` decodes every image too.

    Returns all findings, none for a whole corpus. DataError where there is no corpus.
    """
    content = read_corpus(corpus)
    found = list(_check_sums(corpus))
    for entry in content["generations"]:
        folder = corpus / entry["folder"]
        for part in sorted((folder / "manifest").glob("part-*.parquet")):
            tar = shard_path(folder, content["name"], int(part.stem.removeprefix("part-")))
            try:
                rows = pq.read_table(part)
                found += _check_shard(corpus, tar, rows, deep)
            except (StoreError, pa.ArrowException, OSError) as e:
                found.append(Finding(str(tar.relative_to(corpus)), str(e)))
    try:
        digest = corpus_digest(manifest(generations(corpus), ["id", "content_id", "size", "crc32c"]))
    except (pa.ArrowException, OSError) as e:
        return [*found, Finding("manifest", str(e))]
    if digest != content["digest"]:
        found.append(Finding("corpus.json", f"its digest {content['digest'][:16]}… is not the manifest's"))
    return found


def _check_sums(corpus: Path) -> Iterator[Finding]:
    try:
        lines = (corpus / SUMS).read_text().splitlines()
    except OSError:
        yield Finding(SUMS, "is missing")
        return
    for line in lines:
        digest, _, name = line.partition("  ")
        path = corpus / name
        if not path.is_file():
            yield Finding(name, "is missing")
        elif file_sha256(path) != digest:
            yield Finding(name, f"does not match its checksum in {SUMS}")


def _check_shard(corpus: Path, tar: Path, rows: pa.Table, deep: bool) -> Iterator[Finding]:
    name = str(tar.relative_to(corpus))
    verify_shard(tar)
    present = read_records(tar).present
    if len(present) != rows.num_rows or (present["offset"] != rows.column("offset").to_numpy()).any():
        yield Finding(name, "its index and its manifest part do not hold the same samples")
        return
    if present["id"].tobytes() != fixed(rows.column("id"), 16).tobytes():
        yield Finding(name, "its index and its manifest part name other ids")
        return
    if not deep:
        return
    with tar.open("rb") as file:
        columns = ["key", "offset", "size", "h64", "content_id", "passthrough", "nodata"]
        for row in rows.select(columns).to_pylist():
            file.seek(row["offset"])
            try:
                pixels = decode(file.read(row["size"]))
            except DecodeError as e:
                yield Finding(name, f"{row['key']} cannot be decoded: {e}")
                continue
            if row["passthrough"]:
                same = hashes.content_id(pixels) == row["content_id"]
            else:
                same = _as_hashed(pixels, row["nodata"], row["h64"])[1] <= _SAME_BITS
            if not same:
                yield Finding(name, f"{row['key']} is another picture than the manifest says")


def _as_hashed(pixels: NDArray[np.uint8], nodata: float, code: int) -> tuple[NDArray[np.int64], int]:
    """The 64x64 area means of a stored picture as they were when it was hashed, and how many bits its 64-bit code now
    lies from ``code``. A picture with no data had that filled; which pixels they were, encoding may have blurred."""
    grey = luma(pixels)
    ways = [grey]
    if nodata > 0:
        near_pure = (grey >> _BLURRED)[..., None]
        masks = border_fill(pixels, (0, 255)), border_fill(near_pure, (0, 255 >> _BLURRED))
        ways += [hashes.fill_masked(grey, mask) for mask in masks]
    means = [hashes.area_means(way) for way in ways]
    codes = hashes.hash64(np.stack([coarse for _, coarse in means]))[:, 0]
    bits = np.bitwise_count(codes ^ np.uint64(code))
    best = int(bits.argmin())
    return means[best][0], int(bits[best])


def old_side(corpus: Path) -> Old:
    """What a new generation is compared with: codes from ``hashes.npy``, thumbs decoded from the shards on demand."""
    folders = generations(corpus)
    columns = ["key", "content_id", "width", "height", "shard", "offset", "size", "generation", "nodata"]
    rows = tables.undated(manifest(folders, [*columns, *NEEDED, "flags"]))
    codes = np.concatenate([np.load(folder / "hashes.npy") for folder in folders])
    name = read_corpus(corpus)["name"]
    size = np.stack([rows.column(c).to_numpy().astype(np.int64) for c in ("width", "height")], axis=1)
    place = [rows.column(c).to_numpy() for c in ("generation", "shard", "offset", "size")]

    def picture(row: int) -> NDArray[np.uint8]:
        generation, shard, offset, length = (int(column[row]) for column in place)
        with shard_path(corpus / f"g{generation:04d}", name, shard).open("rb") as file:
            file.seek(offset)
            return decode(file.read(length))

    nodata = rows.column("nodata").to_numpy()

    def thumbs(which: NDArray[np.int64]) -> NDArray:
        out = np.empty((len(which), 64, 64), np.uint8)
        for i, row in enumerate(which.tolist()):
            out[i] = (_as_hashed(picture(row), nodata[row], codes[row, 0])[0] + 128) >> 8
        return out

    side = Side(size, lambda which: codes[which, 1:], thumbs)
    whole = Party(rows.column("id"), side, lambda which: codes[which, 0], ground(rows), partial(scenes, rows))
    lost = tables.read([p for f in folders for p in sorted((f / "dropped").glob("*.parquet"))], tables.DROPPED)
    removed = lost.filter(pa.array([reason == "removed" for reason in lost.column("reason").to_pylist()], pa.bool_()))
    return Old(whole, rows.column("key"), rows.column("content_id"), picture, removed)
