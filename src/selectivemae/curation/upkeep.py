"""Looking ahead and looking after: what a run would cost, what another threshold would, twins of evaluation sets in
any corpus."""

import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from selectivemae.core.errors import ConfigError
from selectivemae.core.suggest import did_you_mean
from selectivemae.curation import tables
from selectivemae.curation.config import CurateConfig
from selectivemae.curation.confirm import PRESETS
from selectivemae.curation.corpus import generations
from selectivemae.curation.dedup import overlaps
from selectivemae.curation.engine import run_stage
from selectivemae.curation.exclude import Rules
from selectivemae.curation.pool import LocalPool
from selectivemae.curation.read import read_chunk
from selectivemae.curation.scan import scan, settled_sources
from selectivemae.curation.spool import open_spool

_IMAGES_PER_SECOND = 100.0  # of one worker, for estimates only; benchmarks/curate_read.py measures it
_STATISTIC = {"low_info": "flat_share", "uniform": "std"}


@dataclass(frozen=True)
class SourcePlan:
    """One source as found: containers, files that may be images, bytes, files passed over by reason, licence."""

    name: str
    role: str
    containers: int
    files: int
    bytes: int
    passed_over: dict[str, int]
    licence: str
    redistribute: bool


@dataclass(frozen=True)
class Plan:
    """What a run would do. Hours hold for the workers asked for; disk is what is needed at the peak."""

    sources: list[SourcePlan]
    chunks: int
    hours: float
    disk_bytes: int


def plan(config: CurateConfig, workers: int) -> Plan:
    """Open all sources and count, without touching a pixel. ConfigError or StoreError for what is wrong."""
    found: dict[str, SourcePlan] = {}
    containers = scan(settled_sources(config), config)
    for c in containers:
        before = found.get(c.source.name)
        passed = Counter(before.passed_over if before else {})
        passed.update(reason for _, reason in c.skipped)
        found[c.source.name] = SourcePlan(
            c.source.name,
            c.source.split_role,
            (before.containers if before else 0) + 1,
            (before.files if before else 0) + c.members,
            (before.bytes if before else 0) + c.size,
            dict(passed),
            c.source.licence.id,
            c.source.licence.redistribute,
        )
    files = sum(s.files for s in found.values())
    total = sum(s.bytes for s in found.values() if s.role == "train")
    hours = files / _IMAGES_PER_SECOND / workers / 3600
    return Plan(list(found.values()), sum(len(c.chunks) for c in containers), hours, 2 * total + 5000 * files)


@dataclass(frozen=True)
class Audit:
    """Twins of evaluation images in a corpus: for each set how many of its images have one, and the pairs."""

    twins: dict[str, int]
    images: dict[str, int]
    pairs: list[dict[str, Any]]


def audit(config: CurateConfig, workers: int) -> Audit:
    """Compare any data (``config.sources``: a corpus, folder or archive) with evaluation sets (``config.against``)."""
    if not config.against:
        raise ConfigError("--against is missing: name the evaluation sets")
    sources = settled_sources(config)
    with tempfile.TemporaryDirectory(prefix="selectivemae-audit-") as folder:
        chunks = [chunk for container in scan(sources, config) for chunk in container.chunks]
        executor = LocalPool(workers)
        try:
            run_stage(executor, read_chunk, chunks, Path(folder))
        finally:
            executor.close()
        spool = open_spool(Path(folder), [chunk.name for chunk in chunks])
        names = spool.column("source")
        guards = np.array([str(name).startswith("eval_") for name in names], bool)
        rows, others = np.flatnonzero(~guards), np.flatnonzero(guards)
        found = overlaps(spool, rows, others, PRESETS["loose"])
        found = found.take(np.flatnonzero(found.confirmed))
        member = spool.column("member")
        left, right = others[found.matches.left], rows[found.matches.right]
        pairs = [
            {
                "set": str(names[a]).removeprefix("eval_"),
                "image": member[a],
                "twin": f"{names[b]}/{member[b]}",
                "d64": int(d),
                "ncc": round(float(c), 4),
            }
            for a, b, d, c in zip(left, right, found.matches.distance, found.correlation, strict=True)
        ]
        images = Counter(name for name, _ in {(str(names[i]), member[i]) for i in others})
        twins = Counter(name for name, _ in {(pair["set"], pair["image"]) for pair in pairs})
    return Audit(dict(twins), {name.removeprefix("eval_"): n for name, n in sorted(images.items())}, pairs)


@dataclass(frozen=True)
class Tuning:
    """What another threshold would change: images now kept that would go, images that would come back, and the kept
    and dropped images nearest to the threshold (key or member, value)."""

    rule: str
    statistic: str
    threshold: float
    would_go: int
    would_return: int
    kept_nearest: list[tuple[str, float]]
    dropped_nearest: list[tuple[str, float]]


def tune(corpus: Path, rule: str, threshold: float, show: int = 25) -> Tuning:
    """Count from the stored statistics what ``threshold`` for ``rule`` would change; no pixel is read."""
    known = [name for name in Rules.model_fields if name not in ("keep_rate", "label_colours", "elongated")]
    if rule not in known:
        raise ConfigError(f"unknown rule {rule!r}{did_you_mean(rule, known)} (known: {', '.join(known)})")
    statistic = _STATISTIC.get(rule, rule)
    below = rule in ("uniform", "blur")
    folders = generations(corpus)
    kept = tables.read(
        [p for f in folders for p in sorted((f / "manifest").glob("*.parquet"))], tables.MANIFEST, ["key", statistic]
    )
    lost = tables.read(
        [p for f in folders for p in sorted((f / "dropped").glob("*.parquet"))],
        tables.DROPPED,
        ["member", "reason", "value"],
    )
    values = kept.column(statistic).to_numpy().astype(np.float64)
    gone = values < threshold if below else values > threshold
    mine = np.array([reason == rule for reason in lost.column("reason").to_pylist()], bool)
    old = lost.column("value").to_numpy(zero_copy_only=False).astype(np.float64)
    back = mine & ((old >= threshold) if below else (old <= threshold))
    near_kept = np.argsort(np.abs(values - threshold), kind="stable")[:show]
    near_lost = np.flatnonzero(mine)[np.argsort(np.abs(old[mine] - threshold), kind="stable")[:show]]
    keys, members = kept.column("key"), lost.column("member")
    return Tuning(
        rule,
        statistic,
        threshold,
        int(gone.sum()),
        int(back.sum()),
        [(keys[int(i)].as_py(), float(values[i])) for i in near_kept],
        [(members[int(i)].as_py(), float(old[i])) for i in near_lost],
    )
