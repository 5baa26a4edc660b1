"""The assembly of a curation: scan -> read -> decide -> pack -> describe. A generation at a time."""

import json
import os
import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from selectivemae.core.config import read_yaml, write_settled
from selectivemae.core.errors import ConfigError, OutputError, UserError
from selectivemae.core.files import atomic_write, locked, prepare_output, remove_temporaries, writing
from selectivemae.core.progress import ProgressLine
from selectivemae.core.version import __version__
from selectivemae.curation import pack, tables
from selectivemae.curation.accounts import QUARANTINE, Clock, write_overlap, write_quarantine, write_work
from selectivemae.curation.config import CONTENT, CurateConfig
from selectivemae.curation.confirm import PRESETS
from selectivemae.curation.corpus import OVERLAP, describe, generations, old_side
from selectivemae.curation.decide import Decision, Judging, decide
from selectivemae.curation.decisions import NONE, Decisions, read_decisions
from selectivemae.curation.engine import Quarantined, run_stage
from selectivemae.curation.pool import LocalPool
from selectivemae.curation.ray_pool import RayPool
from selectivemae.curation.read import Chunk, read_chunk
from selectivemae.curation.removal import changing
from selectivemae.curation.review import doubtful
from selectivemae.curation.scan import Container, scan, settled_sources
from selectivemae.curation.sheets import sheet
from selectivemae.curation.slice import Window
from selectivemae.curation.sources import Sources
from selectivemae.curation.spool import Spool, fixed, open_spool
from selectivemae.curation.tasks import Task
from selectivemae.curation.tiles import tile_id
from selectivemae.data.stores.remote import is_url
from selectivemae.data.stores.union import distinct_names

CONFIG = "curate.yaml"
DECISIONS = "decisions.jsonl"
WORK = ".work"
_ARCHIVES = (".zip", ".tar", ".gz", ".tgz", ".bz2", ".zst", ".7z", ".rar", ".parquet")
_NESTED = "an archive inside a source is not read; give it as a source of its own, unpacked from an outer archive"


@dataclass(frozen=True)
class CurateResult:
    """What a run or an addition made. ``quarantined`` are files that killed their worker twice."""

    out: Path
    generation: int
    files: int
    kept: int
    dropped: dict[str, int]
    shards: int
    bytes: int
    digest: str
    seconds: float
    retries: int
    quarantined: list[Quarantined]
    quarantine_share: float


def curate(config: CurateConfig, *, resume: bool = False, overwrite: bool = False, quiet: bool = False) -> CurateResult:
    """Make a corpus in ``config.out`` from ``config.sources``.

    ConfigError, StoreError, OutputError say in one line what is wrong; what is done stays and ``resume`` goes on.
    """
    out = _out(config)
    task = _task(config)
    prepare_output(out, resume=resume, overwrite=overwrite, marker=CONFIG)
    with locked(out), writing(out):
        for folder in (out, *out.glob("g*"), *out.glob("g*/shards/*")):
            remove_temporaries(folder)
        if (out / "corpus.json").exists():
            raise OutputError(f"{out} is a finished corpus: extend it with curate add, or replace it with --overwrite")
        _same_content(out, config)
        write_settled(out / CONFIG, config.settled(), {"selectivemae": __version__})
        return _generation(out, 1, task, quiet)


def add(config: CurateConfig, *, quiet: bool = False) -> CurateResult:
    """Add sources to the corpus in ``config.out`` as a new generation; nothing old is read again or changed.

    An addition that was interrupted goes on when it is asked for again.
    """
    out = _out(config)
    if not (out / "corpus.json").exists():
        raise OutputError(f"{out} is no finished corpus; make one with curate run, or continue it with --resume")
    task = _task(config)
    with changing(out), writing(out):
        return _generation(out, len(generations(out)) + 1, task, quiet)


@dataclass(frozen=True)
class _Task:
    """What is asked for, looked at before anything is written."""

    config: CurateConfig
    sources: Sources
    containers: list[Container]
    decisions: Decisions


def _task(config: CurateConfig) -> _Task:
    sources = settled_sources(config)
    decisions = read_decisions(config.decisions) if config.decisions else NONE
    return _Task(config, sources, scan(sources, config), decisions)


def _out(config: CurateConfig) -> Path:
    if config.out is None:
        raise ConfigError("--out is missing: name the folder of the corpus")
    return config.out


def _same_content(out: Path, config: CurateConfig) -> None:
    """Refuse to continue a run under settings that would give another corpus."""
    path = out / CONFIG
    if not path.exists():
        return
    before, now = read_yaml(path), config.settled()
    for name in CONTENT:
        if before.get(name) != now[name]:
            flag = "--" + name.replace("_", "-")
            raise ConfigError(f"{flag} was {before.get(name)!r} when this run began; use it again, or --overwrite")


def _same_decisions(work: Path, decisions: Decisions) -> None:
    """Refuse to continue a run under other decisions than it began with."""
    begun = work / DECISIONS
    if begun.exists() and begun.read_text() != decisions.text():
        raise ConfigError("--decisions are others than when this run began; use the same again, or --overwrite")
    atomic_write(begun, decisions.text())


def _judging(task: _Task) -> Judging:
    return Judging(
        roles={source.name: source.split_role for source in task.sources.sources},
        priority={source.name: source.priority for source in task.sources.sources},
        preset=PRESETS[task.config.preset],
        decisions=task.decisions,
        keep_dates=task.config.temporal == "keep",
    )


def _generation(out: Path, number: int, task: _Task, quiet: bool) -> CurateResult:
    clock = Clock()
    config, sources, containers = task.config, task.sources, task.containers
    work, generation = out / WORK / f"g{number:04d}", out / f"g{number:04d}"
    work.mkdir(parents=True, exist_ok=True)
    _same_decisions(work, task.decisions)
    executor = _executor(config, containers, work)
    try:
        chunks = [chunk for container in containers for chunk in container.chunks]
        with ProgressLine("read", quiet=quiet) as line:
            read = run_stage(executor, read_chunk, _largest_first(chunks), work / "read", _shown(line, "chunks"))
        spool = open_spool(work / "read", [chunk.name for chunk in chunks])
        old = old_side(out) if number > 1 else None
        decision = decide(spool, _judging(task), old)
        doubtful_pairs = doubtful(spool, decision, old, config.review)
        rows = pack.order(spool, decision.rows, config.seed)
        extra = decision.extra.take(pa.array([int(i) for i in decision.rows.searchsorted(rows)], pa.int64()))
        generation.mkdir(exist_ok=True)
        dropped = _dropped(decision, spool, containers, work / "read", [c.name for c in chunks], sources, number)
        left_out = sheet(dropped, spool, chunks, executor, work / "sheets")
        tasks = pack.plan_shards(spool, rows, extra, work / "plans", generation, config)
        with ProgressLine("pack", quiet=quiet) as line:
            packed = run_stage(executor, pack.write_one_shard, tasks, work / "pack", _shown(line, "shards"))
    finally:
        executor.close()
    written = {"dropped": dropped, "pairs": decision.pairs, "review": doubtful_pairs, "sheets": left_out}
    for name, content in written.items():
        (generation / name).mkdir(exist_ok=True)
        tables.write(generation / name / "part-00000.parquet", tables.normal(content))
    write_overlap(out / OVERLAP, spool, decision.overlap, number)
    write_quarantine(out / QUARANTINE, number, read.quarantined, {chunk.name: chunk for chunk in chunks})
    funnel = _write_about(generation, dropped, containers, config, sources, task.decisions)
    for name, count in _twins(spool, decision.overlap).items():
        funnel[name]["twins"] = count
    digest = describe(out, number, config, sources, funnel)
    shutil.rmtree(out / WORK)
    files = sum(c.members + len(c.skipped) for c in containers if c.source.split_role == "train")
    retries = read.retries + packed.retries
    read_files = sum(c.members for c in containers)
    cost = {"workers": workers(config), "files": read_files, "retries": retries, "quarantined": len(read.quarantined)}
    write_work(generation, clock, engine=config.engine, **cost)
    return CurateResult(
        out=out,
        generation=number,
        files=files,
        kept=len(rows),
        dropped=dict(Counter(dropped.column("reason").to_pylist())),
        shards=len(tasks),
        bytes=packed.counts.get("bytes", 0),
        digest=digest,
        seconds=clock.seconds(),
        retries=retries,
        quarantined=read.quarantined,
        quarantine_share=len(read.quarantined) / max(files, 1),
    )


def _twins(spool: Spool, overlap: pa.Table) -> Counter[str]:
    """How many images of each evaluation set have a twin, or their ground, in a source."""
    found = pa.array(np.isin(_ids(spool.rows.column("id")), _ids(overlap.column("left"))))
    members = spool.rows.filter(found).select(["source", "container", "member"]).to_pylist()
    return Counter(source for source, _, _ in {tuple(row.values()) for row in members})


def _ids(column: pa.ChunkedArray) -> NDArray:
    return np.ascontiguousarray(fixed(column, 16)).view("V16")[:, 0]


def _executor(config: CurateConfig, containers: list[Container], work: Path) -> LocalPool | RayPool:
    if config.engine == "local":
        return LocalPool(workers(config), _memory(config))
    pool = RayPool(None if config.workers == "auto" else config.workers, _memory(config))
    try:
        pool.check_shared([c.path for c in containers if not is_url(c.path)], work)
    except UserError:
        pool.close()
        raise
    return pool


def workers(config: CurateConfig) -> int:
    """How many worker processes a configuration asks for: ``auto`` is one a core."""
    return len(os.sched_getaffinity(0)) if config.workers == "auto" else config.workers


def _memory(config: CurateConfig) -> int | None:
    return int(config.worker_memory_gib * 2**30) if config.worker_memory_gib else None


def _largest_first(chunks: list[Chunk]) -> Sequence[Task]:
    return sorted(chunks, key=_size_and_name)


def _size_and_name(chunk: Chunk) -> tuple[int, str]:
    return chunk.start - chunk.stop, chunk.name


def _shown(line: ProgressLine, what: str) -> Callable[[int, int], None]:
    return lambda done, total: line.update(done / total if total else 1.0, f"{done} of {total} {what}")


def _dropped(
    decision: Decision,
    spool: Spool,
    containers: list[Container],
    folder: Path,
    names: list[str],
    sources: Sources,
    number: int,
) -> pa.Table:
    """Everything that was left out, by whatever stage, sorted by id and reason. Evaluation sets are not part of it."""
    early = tables.read([folder / f"{name}.dropped.parquet" for name in names], tables.DROPPED)
    passed = [
        {
            "id": tile_id(c.source.name, c.name, member, Window(0, 0, 0, 0)),
            "source": c.source.name,
            "container": c.name,
            "member": member,
            "reason": reason,
            "detail": _NESTED if member.lower().endswith(_ARCHIVES) else None,
            **dict.fromkeys(("win_x", "win_y", "win_w", "win_h"), 0),
        }
        for c in containers
        for member, reason in c.skipped
    ]
    parts = [early, tables.table(passed, tables.DROPPED), decision.dropped]
    everything = pa.concat_tables(parts).unify_dictionaries()
    training = {source.name for source in sources.sources if source.split_role == "train"}
    words = everything.column("source").to_pylist()
    everything = everything.filter(pa.array([name in training for name in words], pa.bool_()))
    for name, value in (("generation", number), ("rule_version", tables.RULES_VERSION)):
        place = everything.schema.get_field_index(name)
        marked = pa.array([value] * everything.num_rows, pa.uint16())
        everything = everything.set_column(place, tables.DROPPED.field(name), marked)
    keys = everything.select(["id", "member"]).append_column("why", everything.column("reason").cast(pa.string()))
    keys = keys.append_column("row", pa.array(range(keys.num_rows), pa.int64()))
    ordered = keys.sort_by([("id", "ascending"), ("why", "ascending"), ("member", "ascending"), ("row", "ascending")])
    return everything.take(ordered.column("row"))


def _write_about(
    generation: Path,
    dropped: pa.Table,
    containers: list[Container],
    config: CurateConfig,
    sources: Sources,
    decisions: Decisions,
) -> dict[str, Any]:
    """Write what else stands beside the shards; returns the funnel (source -> stage -> count) for corpus.json."""
    manifest = tables.read(sorted((generation / "manifest").glob("*.parquet")), tables.MANIFEST, _NEEDED)
    pack.write_hashes(generation, manifest)
    (generation / "config").mkdir(exist_ok=True)
    settled = json.loads(sources.model_dump_json())
    for source in settled["sources"]:
        source["path"] = distinct_names(source["path"])
    write_settled(generation / "config" / "sources.yaml", settled, {})
    if decisions:
        atomic_write(generation / "config" / DECISIONS, decisions.text())
    content = {name: value for name, value in config.settled().items() if name in CONTENT}
    write_settled(generation / "config" / "config.yaml", content, {"selectivemae": __version__})
    funnel: dict[str, Any] = {}
    for c in containers:
        entry = funnel.setdefault(c.source.name, {"role": c.source.split_role, "files": 0, "bytes": 0, "dropped": {}})
        entry["files"] += c.members + len(c.skipped)
        entry["bytes"] += c.size
    for source, count in Counter(manifest.column("source").to_pylist()).items():
        funnel[source]["kept"] = count
    for (source, reason), count in sorted(
        Counter(zip(dropped.column("source").to_pylist(), dropped.column("reason").to_pylist(), strict=True)).items()
    ):
        funnel[source]["dropped"][reason] = count
    return funnel


_NEEDED = ["source", "h64", "h256"]
