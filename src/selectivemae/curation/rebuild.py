"""A corpus from its recipe: everything in it but the shards, and the archives that it was made from.

A recipe is a corpus without ``g*/shards`` (and without ``g*/review`` and ``g*/sheets``, which hold small pictures):
sources that may not be passed on stay with those who have them, and the manifest says which window of which file each
image is.
"""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from selectivemae.core.config import read_yaml
from selectivemae.core.errors import DataError
from selectivemae.core.files import atomic_write, cannot_write, locked, prepare_output
from selectivemae.core.progress import ProgressLine
from selectivemae.curation import tables
from selectivemae.curation.config import CurateConfig
from selectivemae.curation.corpus import OVERLAP, generations, manifest, read_corpus, restate
from selectivemae.curation.engine import run_stage
from selectivemae.curation.pack import ShardTask, write_hashes, write_one_shard
from selectivemae.curation.pool import LocalPool
from selectivemae.curation.read import read_chunk
from selectivemae.curation.run import CONFIG, WORK
from selectivemae.curation.scan import scan
from selectivemae.curation.sources import Source, Sources
from selectivemae.curation.spool import Spool, open_spool, places

_ABSENT = ("shard", "generation", "key", "crc32c")  # of a plan
_CHUNK = pa.field("chunk", pa.string())
_PLACES = ("shard", "offset", "size", "crc32c", "ext", "generation", "key")


@dataclass(frozen=True)
class Rebuilt:
    """What was rebuilt. ``encoded_anew`` counts images whose pixels are right but whose bytes another version of the
    encoder gives; ``same`` says whether the digest is the recipe's."""

    out: Path
    samples: int
    shards: int
    encoded_anew: int
    digest: str
    same: bool


def rebuild(
    recipe: Path, data: list[Path], out: Path, workers: int, *, resume: bool = False, overwrite: bool = False
) -> Rebuilt:
    """Rebuild the corpus that ``recipe`` describes in ``out``, from archives found by their names under ``data``.

    DataError names the first archive, file or window that is missing or holds other pixels; nothing is written then but
    what a repetition with ``resume`` goes on from.
    """
    content = read_corpus(recipe)
    prepare_output(out, resume=resume, overwrite=overwrite, marker=CONFIG)
    with locked(out):
        _copy(recipe, out)
        executor = LocalPool(workers)
        shards, anew = 0, 0
        try:
            for folder in generations(recipe):
                config = CurateConfig.build(read_yaml(folder / "config" / "config.yaml"), where=str(folder))
                spool = _read(folder, data, out, config, executor)
                shards += _pack(_matched(folder, spool), spool, out / folder.name, config, executor)
                anew += _encoded_anew(folder, out / folder.name)
                write_hashes(out / folder.name, manifest([out / folder.name], ["h64", "h256"]))
        finally:
            executor.close()
        atomic_write(out / OVERLAP, (recipe / OVERLAP).read_bytes())
        atomic_write(out / "corpus.json", (recipe / "corpus.json").read_bytes())  # last: what it names is there
        restate(out, generations(out), sorted(out.glob("g*/shards/*/*.tar")))
        shutil.rmtree(out / WORK, ignore_errors=True)
    digest = read_corpus(out)["digest"]
    return Rebuilt(out, content["samples"], shards, anew, digest, digest == content["digest"])


def _copy(recipe: Path, out: Path) -> None:
    settled = recipe / CONFIG
    atomic_write(out / CONFIG, settled.read_bytes() if settled.exists() else b"")  # first: the folder is ours
    try:
        for folder in generations(recipe):
            shutil.copytree(
                folder, out / folder.name, dirs_exist_ok=True, ignore=shutil.ignore_patterns("shards", "manifest")
            )
    except OSError as e:
        raise cannot_write(e, out) from e


def _read(folder: Path, data: list[Path], out: Path, config: CurateConfig, executor: LocalPool) -> Spool:
    """Read the sources of a generation anew."""
    sources = Sources.build(read_yaml(folder / "config" / "sources.yaml"), where=str(folder))
    training = tuple(_found(source, data) for source in sources.sources if source.split_role == "train")
    containers = scan(sources.model_copy(update={"sources": training}), config)
    chunks = [chunk for container in containers for chunk in container.chunks]
    place = out / WORK / folder.name / "read"
    place.mkdir(parents=True, exist_ok=True)
    with ProgressLine(f"read {folder.name}") as line:
        run_stage(
            executor,
            read_chunk,
            chunks,
            place,
            lambda done, total: line.update(done / max(total, 1), f"{done} of {total}"),
        )
    return open_spool(place, [chunk.name for chunk in chunks])


def _found(source: Source, data: list[Path]) -> Source:
    """The source with its containers where they lie under one of the folders ``data``."""
    return source.model_copy(update={"path": tuple(_place(source.name, name, data) for name in source.path)})


def _place(source: str, name: str, data: list[Path]) -> str:
    for root in data:
        for path in (root / name, root):
            if path.exists() and str(path.absolute()).endswith("/" + name):
                return str(path.absolute())
    where = ", ".join(map(str, data)) or "no folder"
    raise DataError(f"source {source}: {name} was not found in {where}; name the folder that holds it with --data")


def _encoded_anew(before: Path, after: Path) -> int:
    """How many images of a generation have other bytes than before; the order of both is the same."""
    old, new = ([row.values() for row in manifest([f], ["crc32c", "size"]).to_pylist()] for f in (before, after))
    return sum(tuple(a) != tuple(b) for a, b in zip(old, new, strict=True))


def _matched(folder: Path, spool: Spool) -> dict[int, list[dict[str, Any]]]:
    """Rows for each shard of a generation, in the recipe's order, with the places of their images in the spool.
    DataError for the first that is missing or another picture."""
    wanted = manifest([folder]).to_pylist()
    number = places(spool.rows.column("id"), (row["id"] for row in wanted))
    out: dict[int, list[dict[str, Any]]] = {}
    for row in wanted:
        place = f"{row['source']}: {row['container']}/{row['member']}"
        if row["id"] not in number:
            raise DataError(
                f"{place} holds no such window ({row['key']}); is it the file that the recipe was made from?"
            )
        at = number[row["id"]]
        found = spool.rows.slice(at, 1).to_pylist()[0]
        if found["content_id"] != row["content_id"]:
            raise DataError(f"{place} holds another picture than the recipe says; find the file that it was made from")
        shard = row["shard"]
        row = {name: value for name, value in row.items() if name not in _PLACES}
        row |= {name: found[name] for name in ("offset", "size", "ext")}
        out.setdefault(shard, []).append(row | {"chunk": spool.names[spool.chunk[at]]})
    return out


def _pack(
    rows: dict[int, list[dict[str, Any]]], spool: Spool, generation: Path, config: CurateConfig, executor: LocalPool
) -> int:
    plans = generation.parent / WORK / generation.name / "plans"
    plans.mkdir(parents=True, exist_ok=True)
    schema = pa.schema([f for f in tables.MANIFEST if f.name not in _ABSENT] + [_CHUNK])
    tasks = []
    for shard, content in sorted(rows.items()):
        plan = plans / f"{shard:06d}.parquet"
        tables.write(plan, pa.Table.from_pylist(content, schema=schema))
        name = f"{config.name}-{generation.name}-{shard:06d}"
        tasks.append(ShardTask(name, shard, str(plan), str(spool.folder), str(generation), config.name))
    run_stage(executor, write_one_shard, tasks, plans.parent / "pack")
    return len(tasks)
