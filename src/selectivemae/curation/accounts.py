"""What stands beside the shards for those who ask later: the twins of evaluation images, the files that killed their
workers, and what the work cost.

CORPUS/
  eval_overlap.parquet   image of an evaluation set, its twin among the sources, and their figures (tables.OVERLAP)
  quarantine.jsonl       source, container, member, reason and last words of each file that killed its worker twice
  g0001/work.json        time, workers, repeated attempts; like the former in no checksum, for no two runs agree in it
"""

import json
import resource
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

from selectivemae.core.files import atomic_write
from selectivemae.curation import tables
from selectivemae.curation.engine import Quarantined
from selectivemae.curation.read import Chunk, member_id
from selectivemae.curation.spool import Spool, places
from selectivemae.data.stores import open_store

QUARANTINE = "quarantine.jsonl"
WORK = "work.json"


def write_overlap(path: Path, spool: Spool, pairs: pa.Table, generation: int) -> None:
    """Put a generation's pairs (tables.PAIRS: evaluation image left, image of a source right) beside the earlier."""
    found = pairs.to_pylist()
    number = places(spool.rows.column("id"), (pair[side] for pair in found for side in ("left", "right")))
    columns = spool.rows.select(["source", "container", "member"])

    def named(identity: bytes) -> dict[str, Any]:
        return columns.slice(number[identity], 1).to_pylist()[0]

    rows = []
    for pair in found:
        image, twin = named(pair["left"]), named(pair["right"])
        rows.append(
            {name: pair.get(name) for name in tables.OVERLAP.names}
            | {
                "set": image["source"].removeprefix("eval_"),
                "image": f"{image['container']}/{image['member']}",
                "image_id": pair["left"],
                "source": twin["source"],
                "member": twin["member"],
                "id": pair["right"],
                "generation": generation,
            }
        )
    before = tables.read([path], tables.OVERLAP).to_pylist() if path.exists() else []
    kept = [row for row in before if row["generation"] < generation]
    rows.sort(key=lambda row: (row["set"], row["image"], row["image_id"], row["id"]))
    tables.write(path, tables.table([*kept, *rows], tables.OVERLAP))


def write_quarantine(path: Path, generation: int, found: list[Quarantined], chunks: Mapping[str, Chunk]) -> None:
    """Put a generation's quarantined files beside the earlier ones; no file where there never was any."""
    lines = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    lines = [line for line in lines if line["generation"] < generation]
    for one in found:
        chunk = chunks[one.task]
        member = member_id(open_store(chunk.path), chunk.path, one.member)
        lines.append(
            {
                "generation": generation,
                "source": chunk.source.name,
                "container": chunk.container,
                "member": member,
                "reason": one.reason,
                "stderr": one.stderr,
            }
        )
    if lines:
        atomic_write(path, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))


def _processor_seconds() -> float:
    usage = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in usage)


@dataclass(frozen=True)
class Clock:
    """Wall and processor time from when it is made."""

    began: float = field(default_factory=time.monotonic)
    spent: float = field(default_factory=_processor_seconds)

    def seconds(self) -> float:
        """Seconds since."""
        return time.monotonic() - self.began

    def processor_seconds(self) -> float:
        """Seconds of processors since, of this process and those workers of this machine that have ended."""
        return _processor_seconds() - self.spent


def write_work(generation: Path, clock: Clock, **more: Any) -> None:
    """What a generation cost. CPU time is of the workers of this machine, times of the last attempt alone."""
    content = {"seconds": round(clock.seconds(), 3), "cpu_seconds": round(clock.processor_seconds(), 3)} | more
    atomic_write(generation / WORK, json.dumps(content, indent=1) + "\n")
