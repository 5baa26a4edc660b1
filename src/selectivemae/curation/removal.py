"""Taking images out of a finished corpus: ``remove`` hides them at once, ``compact`` takes their bytes away.

    g0001/shards/000/….idx                   the removed samples are no longer in its order by id
    g0001/manifest/part-00007.parquet        without them
    g0001/dropped/part-removed-00007.parquet with them, reason ``removed``
    .work/compact/                           shards written anew, until ``ready`` says that they may take their places

Each step can be repeated, so a command that was interrupted is given again.
"""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from selectivemae.core.errors import DataError, OutputError
from selectivemae.core.files import atomic_write, cannot_write, locked
from selectivemae.curation import tables
from selectivemae.curation.corpus import generations, manifest, read_corpus, restate
from selectivemae.curation.pack import description, shard_path, write_hashes
from selectivemae.curation.review import forget
from selectivemae.data.stores.shards import Sample, bury, index_path, read_records, write_shard

_READY = "ready"


@dataclass(frozen=True)
class Compacted:
    """What ``compact`` did: shards written anew, shards that held nothing more, bytes of the tars saved."""

    rewritten: int
    deleted: int
    bytes_saved: int


@contextmanager
def changing(corpus: Path) -> Iterator[dict[str, Any]]:
    """Hold a corpus for a change; gives its ``corpus.json``. DataError where there is none, OutputError while another
    process has it or an interrupted ``compact`` waits to be finished."""
    content = read_corpus(corpus)
    with locked(corpus):
        if (_staging(corpus) / _READY).exists():
            raise OutputError(f"{corpus}: curate compact was interrupted here; give it again first")
        yield content


def remove(corpus: Path, keys: set[str], source: str | None) -> int:
    """Take images out of a finished corpus: by key, or all of a source. Returns how many.

    Stores no longer give them and ``dropped`` says ``removed``; their bytes stay in the shards until ``compact``.
    DataError when nothing fits.
    """

    def fits(row: dict[str, Any]) -> bool:
        return row["key"] in keys or (source is not None and row["source"] == source)

    with changing(corpus) as content:
        removed, touched = 0, []
        for folder in generations(corpus):
            parts = sorted((folder / "manifest").glob("part-*.parquet"))
            count = sum(_remove_from(folder, part, content["name"], fits) for part in parts)
            # also after an interruption between the last shard and the totals
            if count or manifest([folder], ["id"]).num_rows != _stated(content, folder):
                touched.append(folder)
                write_hashes(folder, manifest([folder], ["h64", "h256"]))
            removed += count
        if not touched:
            what = f"source {source!r}" if source else "these keys"
            raise DataError(f"{corpus}: holds no image of {what}; keys stand in the manifest")
        restate(corpus, generations(corpus))  # later ones may have lost pictures too
        return removed


def _stated(content: dict[str, Any], folder: Path) -> int:
    return next(entry["samples"] for entry in content["generations"] if entry["folder"] == folder.name)


def _remove_from(folder: Path, part: Path, name: str, fits: Callable[[dict[str, Any]], bool]) -> int:
    """Hide what ``fits`` in one shard; the manifest goes last, so that a repetition finds the same rows again."""
    rows = pq.read_table(part)
    gone = [row for row in rows.to_pylist() if fits(row)]
    if not gone:
        return 0
    number = int(part.stem.removeprefix("part-"))
    lost = {row["id"] for row in gone}
    names = set(tables.DROPPED.names) - {"detail"}
    listed = folder / "dropped" / f"part-removed-{number:05d}.parquet"
    before = pq.read_table(listed).to_pylist() if listed.exists() else []
    fresh = [{k: v for k, v in row.items() if k in names} | {"reason": "removed"} for row in gone]
    known = [row for row in before if row["id"] not in lost]
    tables.write(listed, tables.table([*known, *fresh], tables.DROPPED))
    for generation in generations(folder.parent):  # a later one may show an image of an earlier one
        forget(generation, lost)
    bury(shard_path(folder, name, number), lost)
    kept = [row for row in rows.to_pylist() if row["id"] not in lost]
    tables.write(part, tables.table(kept, tables.MANIFEST))
    return len(gone)


def compact(corpus: Path) -> Compacted:
    """Write the shards that hold removed images anew without them; a shard that is left empty is deleted.

    All are written beside the corpus first (which needs their size on the disk) and then take their places; a corpus
    is whole before and after. DataError where there is no corpus, OutputError on a full disk.
    """
    content = read_corpus(corpus)
    staging = _staging(corpus)
    with locked(corpus):
        if not (staging / _READY).exists():
            shutil.rmtree(staging, ignore_errors=True)
            try:
                staging.mkdir(parents=True)
                _stage(corpus, content["name"], staging)
            except OSError as e:
                raise cannot_write(e, staging) from e
            finally:
                if not (staging / _READY).exists():
                    shutil.rmtree(staging, ignore_errors=True)
        plan = json.loads((staging / _READY).read_text())
        rewritten = _take_places(corpus, content["name"], staging, plan["shards"])
        folders = {corpus / entry["generation"] for entry in plan["shards"]}
        for folder in folders:
            write_hashes(folder, manifest([folder], ["h64", "h256"]))
        if folders:
            restate(corpus, folders, rewritten)
        shutil.rmtree(staging)
        if not any(staging.parent.iterdir()):
            staging.parent.rmdir()
    return Compacted(len(rewritten), len(plan["shards"]) - len(rewritten), plan["saved"])


def _staging(corpus: Path) -> Path:
    return corpus / ".work" / "compact"


def _stage(corpus: Path, name: str, staging: Path) -> None:
    """Write the new shards, their indexes and manifest parts to ``staging``; ``ready``, last, lists them."""
    shards, saved = [], 0
    for folder in generations(corpus):
        for part in sorted((folder / "manifest").glob("part-*.parquet")):
            number = int(part.stem.removeprefix("part-"))
            tar = shard_path(folder, name, number)
            records = read_records(tar)
            if len(records.order) == len(records.places):
                continue
            stem = f"{folder.name}-{number:06d}"
            rows = pq.read_table(part).to_pylist()
            size = 0
            if rows:
                written = write_shard(staging / f"{stem}.tar", _samples(tar, rows))
                for row, (offset, length) in zip(rows, written.places, strict=True):
                    row.update(offset=offset, size=length)
                tables.write(staging / f"{stem}.parquet", tables.table(rows, tables.MANIFEST))
                size = written.size
            saved += tar.stat().st_size - size
            shards.append({"generation": folder.name, "number": number, "stem": stem, "empty": not rows})
    atomic_write(staging / _READY, json.dumps({"shards": shards, "saved": saved}))


def _take_places(corpus: Path, name: str, staging: Path, shards: list[dict[str, Any]]) -> list[Path]:
    """Move the new shards to where they belong; those already moved are passed over. Returns their tars."""
    out = []
    for entry in shards:
        folder = corpus / entry["generation"]
        tar = shard_path(folder, name, entry["number"])
        part = folder / "manifest" / f"part-{entry['number']:05d}.parquet"
        places = {"tar": tar, "idx": Path(index_path(str(tar))), "parquet": part}
        for suffix, place in places.items():
            fresh = staging / f"{entry['stem']}.{suffix}"
            if entry["empty"]:
                place.unlink(missing_ok=True)
            elif fresh.exists():
                os.replace(fresh, place)
        if not entry["empty"]:
            out.append(tar)
    return out


def _samples(tar: Path, rows: list[dict[str, Any]]) -> Iterator[Sample]:
    with tar.open("rb") as file:
        for row in rows:
            file.seek(row["offset"])
            yield Sample(row["id"], row["key"], row["ext"], file.read(row["size"]), {"json": description(row)})
