"""From the decision what stays to a corpus on disk (curation.md, section 6).

CORPUS/
  corpus.json                              format, digest, totals, generations; written last
  g0001/shards/000/NAME-g0001-000000.tar   and .idx
  g0001/manifest/part-00000.parquet        one part a shard, in the order of its samples
  g0001/dropped/part-00000.parquet         what was left out, and why
  g0001/pairs/part-00000.parquet           likenesses that were looked at
  g0001/review/  g0001/sheets/             small pictures: pairs in doubt, what was left out near a threshold
  g0001/hashes.npy                         (n, 5) uint64 in manifest order: 64-bit hash, 256-bit hash
  g0001/config/                            sources.yaml, config.yaml as settled
  eval_overlap.parquet  quarantine.jsonl  g0001/work.json    (curation.accounts)
  report.json  report/index.html  review.html                (reports.corpus)
  README.md  LICENSES.md  SHA256SUMS
"""

import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from selectivemae.core.files import atomic_write
from selectivemae.curation import tables
from selectivemae.curation.spool import Spool, fixed, words
from selectivemae.curation.tasks import Counts, Mark
from selectivemae.curation.tiles import key, shuffle_key
from selectivemae.data.stores.shards import Sample, write_shard
from selectivemae.ops.crc32c import crc32c

SHARDS_PER_FOLDER = 1000
_DESCRIBED = 400  # most bytes of a description
_OVERHEAD = 2048  # bytes of headers, padding and description beside an image in a tar


@dataclass(frozen=True)
class ShardTask:
    """One shard to write: its plan (a Parquet file of manifest rows with the chunk of each) and where it goes."""

    name: str
    number: int
    plan: str
    spool: str
    generation: str
    corpus_name: str


def order(spool: Spool, rows: NDArray[np.int64], seed: int) -> NDArray[np.int64]:
    """``rows`` in the order of the corpus: by a keyed hash of the id, so mixed, and free of workers and sources."""
    ids = fixed(spool.rows.column("id"), 16)
    keys = np.array([int.from_bytes(shuffle_key(seed, ids[row].tobytes()), "big") for row in rows], np.uint64)
    return rows[np.lexsort((rows, keys))]


def cut(sizes: NDArray[np.int64], samples: int, limit: int) -> list[tuple[int, int]]:
    """Runs of samples that fill a shard each: at most ``samples``, and ``limit`` bytes unless one alone is larger."""
    out: list[tuple[int, int]] = []
    start, total = 0, 0
    for place, size in enumerate((sizes + _OVERHEAD).tolist()):
        if place > start and (place - start >= samples or total + size > limit):
            out.append((start, place))
            start, total = place, 0
        total += size
    if start < len(sizes):
        out.append((start, len(sizes)))
    return out


def plan_shards(
    spool: Spool,
    rows: NDArray[np.int64],
    extra: pa.Table,
    folder: Path,
    generation: Path,
    config: Any,
) -> list[ShardTask]:
    """Write a plan for each shard of ``rows`` (in corpus order; ``extra`` holds the columns that curation adds)."""
    folder.mkdir(parents=True, exist_ok=True)
    sizes = spool.column("size")[rows].astype(np.int64)
    content = spool.rows.take(pa.array(rows))
    for name in extra.column_names:
        content = content.append_column(extra.schema.field(name), extra.column(name))
    chunks = pa.array([spool.names[c] for c in spool.chunk[rows]], pa.string())
    content = tables.dated(content).append_column("chunk", chunks)
    tasks = []
    for number, (start, stop) in enumerate(cut(sizes, config.shard_samples, config.shard_mib << 20)):
        path = folder / f"{number:06d}.parquet"
        tables.write(path, content.slice(start, stop - start))
        name = f"{config.name}-{generation.name}-{number:06d}"
        tasks.append(ShardTask(name, number, str(path), str(spool.folder), str(generation), config.name))
    return tasks


def write_one_shard(task: ShardTask, folder: Path, mark: Mark) -> Counts:
    """Job of the engine: copy a shard's images from the spool, write its part of the manifest."""
    rows = pq.read_table(task.plan)
    generation = Path(task.generation)
    tar = shard_path(generation, task.corpus_name, task.number)
    tar.parent.mkdir(parents=True, exist_ok=True)
    mark(-1, 3600.0)
    records = rows.to_pylist()
    written = write_shard(tar, _samples(records, Path(task.spool)))
    number = int(generation.name[1:])
    for record, (offset, size) in zip(records, written.places, strict=True):
        record.update(shard=task.number, offset=offset, size=size, generation=number)
        record["key"] = key(record["source"], record["id"])
        del record["chunk"]
    part = generation / "manifest" / f"part-{task.number:05d}.parquet"
    part.parent.mkdir(exist_ok=True)
    tables.write(part, tables.table(records, tables.MANIFEST))
    return {"samples": len(records), "bytes": written.size, "shards": 1}


def shard_path(generation: Path, name: str, number: int) -> Path:
    """Where a shard lies: a thousand in a folder."""
    return generation / "shards" / f"{number // SHARDS_PER_FOLDER:03d}" / f"{name}-{generation.name}-{number:06d}.tar"


def _samples(records: list[dict[str, Any]], spool: Path) -> Iterator[Sample]:
    for record in records:
        with (spool / f"{record['chunk']}.bin").open("rb") as file:
            file.seek(record["offset"])
            image = file.read(record["size"])
        record["crc32c"] = crc32c(image)
        identity = record["id"]
        yield Sample(identity, key(record["source"], identity), record["ext"], image, {"json": description(record)})


def description(record: dict[str, Any]) -> bytes:
    """What stands beside an image in its shard: source, licence, window, and what else is known."""
    out: dict[str, Any] = {"source": record["source"], "licence": record["licence"]}
    out["window"] = [record[name] for name in ("win_x", "win_y", "win_w", "win_h")]
    gsd, day = record["gsd_m"], tables.date_text(record["datetime"], record["flags"])
    more = {"gsd_m": None if gsd is None else round(gsd, 4), "datetime": day, "category": record["category"]}
    out |= {name: value for name, value in more.items() if value is not None}
    encoded = _json(out)
    while len(encoded) > _DESCRIBED and out.keys() & more.keys():  # long names stand in the manifest
        out.pop(max(out.keys() & more.keys(), key=lambda name: (len(str(out[name])), name)))
        encoded = _json(out)
    return encoded


def _json(content: dict[str, Any]) -> bytes:
    return json.dumps(content, ensure_ascii=False, separators=(",", ":"), sort_keys=True).encode()


def write_hashes(generation: Path, manifest: pa.Table) -> None:
    """``hashes.npy``: the codes of all samples, in the order of the manifest."""
    h64 = manifest.column("h64").to_numpy()[:, None]
    h256 = words(fixed(manifest.column("h256"), 32))
    buffer = io.BytesIO()
    np.save(buffer, np.concatenate([h64, h256], axis=1))
    atomic_write(generation / "hashes.npy", buffer.getvalue())
