"""What there is to say of a corpus, as numbers: ``report.json``. Reads the tables on disk a batch at a time, so that a
large corpus needs little memory; only for the channels' means a few images are decoded (curation.md, section 8).
"""

import io
import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from PIL import Image, UnidentifiedImageError

from selectivemae.core.errors import DataError
from selectivemae.core.statistics import wilson

SCALES = {  # figure of the manifest -> (low, high, on a logarithmic scale)
    "width": (16.0, 4096.0, True),
    "gsd_m": (0.01, 100.0, True),
    "mean": (0.0, 255.0, False),
    "std": (0.0, 128.0, False),
    "entropy": (0.0, 8.0, False),
    "nodata": (0.0, 1.0, False),
    "cloud": (0.0, 1.0, False),
    "noise": (0.0, 1.0, False),
    "quality": (0.0, 100.0, False),
}
BINS = 40
LISTED = 12  # groups
NAMED = 6  # copies of a group
MEASURED = 256  # images decoded for the channels' means
_BATCH = 1 << 16
_COPIES = ("exact_dup", "near_dup", "same_footprint")
_NUMBERS = [*SCALES, "lon_min", "lat_min", "lon_max", "lat_max"]
_KEPT = ["id", "key", "source", "category", "datetime", *_NUMBERS]


def corpus_figures(folder: Path) -> dict[str, Any]:
    """Everything that ``report.json`` says of a corpus. DataError when it is none or damaged."""
    try:
        about = json.loads((folder / "corpus.json").read_text())
        entries = about["generations"]
        generations = [folder / entry["folder"] for entry in entries]
        lost = _Lost(generations)
        kept = _Kept(generations, lost.keepers)
        return {
            "name": about["name"],
            "digest": about["digest"],
            "version": about["version"],
            "samples": kept.count,
            "left_out": sum(sum(reasons.values()) for reasons in lost.reasons.values()),
            "bytes": sum(entry["bytes"] for entry in entries),
            "shards": sum(entry["shards"] for entry in entries),
            "generations": len(entries),
            "decontaminated": all(entry["decontaminated"] for entry in entries),
            "funnel": _funnel(entries, lost),
            "duplicates": _duplicates(lost, kept),
            "groups": _groups(generations, kept),
            "evaluation": _evaluation(folder, entries),
            "histograms": {name: _histogram(name, counts) for name, counts in kept.histograms.items() if counts.any()},
            "categories": _categories(generations, kept.categories),
            "map": [[*cell, count] for cell, count in sorted(kept.cells.items())],
            "located": sum(kept.cells.values()),
            "months": dict(sorted(kept.months.items())),
            "licences": _licences(entries, kept.sources),
            "work": _work(folder, entries),
            "difference": _difference(entries, kept),
            "channels": _channels(generations, kept.count),
            "audit": _audit(folder),
        }
    except (OSError, ValueError, KeyError, pa.ArrowException) as e:
        raise DataError(f"{folder} is no whole corpus: {e}; check it with curate verify") from e


def parts(generations: Iterable[Path], table: str) -> list[Path]:
    """The files of a table in all generations, in order."""
    return [path for folder in generations for path in sorted((folder / table).glob("part-*.parquet"))]


def batches(paths: Iterable[Path], columns: list[str]) -> Iterator[pa.RecordBatch]:
    """Rows of Parquet files, at most 65,536 at a time."""
    for path in paths:
        with pq.ParquetFile(path) as file:
            yield from file.iter_batches(_BATCH, columns=columns)


class _Lost:
    """The rows of ``dropped``, summed up."""

    def __init__(self, generations: list[Path]) -> None:
        self.reasons: dict[str, Counter[str]] = defaultdict(Counter)
        self.whole: Counter[str] = Counter()  # files of a source that gave no tile
        self.keepers: dict[bytes, Counter[str]] = defaultdict(Counter)  # id of the kept -> sources of its copies
        for batch in batches(parts(generations, "dropped"), ["source", "reason", "win_w", "kept_id"]):
            rows = zip(*(column.to_pylist() for column in batch.columns), strict=True)
            for source, reason, width, keeper in rows:
                self.reasons[source][reason] += 1
                self.whole[source] += not width
                if reason in _COPIES and keeper is not None:
                    self.keepers[keeper][source] += 1


class _Kept:
    """The rows of the manifest, summed up."""

    def __init__(self, generations: list[Path], keepers: dict[bytes, Counter[str]]) -> None:
        self.count = 0
        self.sources: Counter[str] = Counter()
        self.categories: Counter[str] = Counter()
        self.months: Counter[str] = Counter()
        self.cells: Counter[tuple[int, int]] = Counter()
        self.by_generation: list[Counter[str]] = []
        self.histograms = {name: np.zeros(BINS, np.int64) for name in SCALES}
        self.matrix: Counter[tuple[str, str]] = Counter()
        self.largest: list[tuple[int, str]] = []  # (copies left out, key)
        for folder in generations:
            self.by_generation.append(Counter())
            for batch in batches(parts([folder], "manifest"), _KEPT):
                self._add(batch, keepers)

    def _add(self, batch: pa.RecordBatch, keepers: dict[bytes, Counter[str]]) -> None:
        self.count += batch.num_rows
        sources = batch.column("source").to_pylist()
        self.sources.update(sources)
        self.by_generation[-1].update(sources)
        self.categories.update(word for word in batch.column("category").to_pylist() if word)
        self.months.update(f"{time:%Y-%m}" for time in batch.column("datetime").to_pylist() if time)
        for name, counts in self.histograms.items():
            counts += _binned(name, _numbers(batch, name))
        west, south, east, north = (_numbers(batch, name) for name in _NUMBERS[-4:])
        middles = np.stack([(west + east) / 2, (south + north) / 2], axis=1)
        cells = np.floor(middles[np.isfinite(middles).all(axis=1)]).astype(int)
        self.cells.update(map(tuple, cells.tolist()))
        for identity, key, source in zip(batch.column("id").to_pylist(), batch.column("key"), sources, strict=True):
            if (copies := keepers.get(identity)) is not None:  # n_dropped knows no copies of later generations
                for other, count in copies.items():
                    self.matrix[other, source] += count
                self.largest.append((-copies.total(), key.as_py()))
        self.largest = sorted(self.largest)[:LISTED]


def _numbers(batch: pa.RecordBatch, name: str) -> np.ndarray:
    return batch.column(name).to_numpy(zero_copy_only=False).astype(np.float64)


def _edges(name: str) -> np.ndarray:
    low, high, logarithmic = SCALES[name]
    return np.geomspace(low, high, BINS + 1) if logarithmic else np.linspace(low, high, BINS + 1)


def _binned(name: str, values: np.ndarray) -> np.ndarray:
    """How many finite values fall into each bin; what lies outside counts to the outermost."""
    edges = _edges(name)
    return np.histogram(values[np.isfinite(values)].clip(edges[0], edges[-1]), edges)[0]


def _histogram(name: str, counts: np.ndarray) -> dict[str, Any]:
    return {"edges": [float(f"{edge:.6g}") for edge in _edges(name)], "counts": counts.tolist()}


def _funnel(entries: list[dict[str, Any]], lost: _Lost) -> list[dict[str, Any]]:
    """For each training source: files found, files that could be used, tiles cut of them, left out by reason, kept."""
    out: dict[str, dict[str, Any]] = {}
    for entry in entries:
        for name, found in entry["sources"].items():
            if found["role"] != "train":
                continue
            row = out.setdefault(name, {"source": name, "files": 0, "kept": 0})
            row["files"] += found["files"]
            row["kept"] += found.get("kept", 0)
            row["licence"] = entry["licences"][name]["id"]
    for name, row in out.items():
        reasons = lost.reasons[name]
        row["usable"] = row["files"] - lost.whole[name]
        row["tiles"] = row["kept"] + sum(reasons.values()) - lost.whole[name]
        row["dropped"] = dict(sorted(reasons.items(), key=lambda item: (-item[1], item[0])))
    return [out[name] for name in sorted(out)]


def _duplicates(lost: _Lost, kept: _Kept) -> dict[str, Any]:
    """Copies that were left out: rows = the source they came from, columns = the source of the image kept instead."""
    names = sorted({name for pair in kept.matrix for name in pair})
    reasons = {reason: sum(one[reason] for one in lost.reasons.values()) for reason in _COPIES}
    matrix = [[kept.matrix[a, b] for b in names] for a in names]
    return {"sources": names, "matrix": matrix, "reasons": {r: count for r, count in reasons.items() if count}}


def _groups(generations: list[Path], kept: _Kept) -> list[dict[str, Any]]:
    """The images that stand for the most others, with where those came from."""
    wanted = {key: -count for count, key in kept.largest}
    found: dict[bytes, dict[str, Any]] = {}
    for batch in batches(parts(generations, "manifest"), ["id", "key"]) if wanted else ():
        mask = pc.call_function("is_in", [batch.column("key")], pc.SetLookupOptions(value_set=pa.array(list(wanted))))
        for row in batch.filter(mask).to_pylist():
            found[row["id"]] = {"key": row["key"], "left_out": wanted[row["key"]], "members": []}
    for batch in batches(parts(generations, "dropped"), ["source", "member", "reason", "kept_id"]) if found else ():
        ids = pa.array(list(found), pa.binary(16))
        mask = pc.call_function("is_in", [batch.column("kept_id")], pc.SetLookupOptions(value_set=ids))
        for row in batch.filter(mask).to_pylist():
            members = found[row["kept_id"]]["members"]
            if row["reason"] in _COPIES and len(members) < NAMED:
                members.append(f"{row['source']}/{row['member']}")
    return sorted(found.values(), key=lambda group: (-group["left_out"], group["key"]))


def _evaluation(folder: Path, entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """For each evaluation set: its images, how many have a twin or their ground in the sources, and in which."""
    found: dict[str, dict[str, Any]] = {}
    for entry in entries:
        for name, source in entry["sources"].items():
            if source["role"] == "eval":
                name = name.removeprefix("eval_")
                found[name] = {"set": name, "images": source["files"]}
    twins: dict[str, set[str]] = defaultdict(set)
    sources: dict[str, Counter[str]] = defaultdict(Counter)
    seen: set[tuple[str, bytes]] = set()
    for batch in batches([folder / "eval_overlap.parquet"], ["set", "image", "source", "id"]):
        for row in batch.to_pylist():
            twins[row["set"]].add(row["image"])
            if (row["set"], row["id"]) not in seen:
                seen.add((row["set"], row["id"]))
                sources[row["set"]][row["source"]] += 1
    return [
        row | {"with_twin": len(twins[name]), "twins_by_source": dict(sorted(sources[name].items()))}
        for name, row in sorted(found.items())
    ]


def _categories(generations: list[Path], counts: Counter[str]) -> dict[str, Any]:
    """Images of each category, and which of those that the sources file lists have none."""
    wanted = {name for folder in generations for name in _listed(folder / "config" / "sources.yaml")}
    ordered = dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))
    return {"counts": ordered, "wanted": sorted(wanted), "missing": sorted(wanted - set(counts))}


def _listed(path: Path) -> list[str]:
    import yaml

    return (yaml.safe_load(path.read_text()) or {}).get("categories") or []


def _licences(entries: list[dict[str, Any]], kept: Counter[str]) -> list[dict[str, Any]]:
    terms = {name: licence for entry in entries for name, licence in entry["licences"].items()}
    rows = [{"source": name, "images": kept[name]} | licence for name, licence in terms.items()]
    return sorted(rows, key=lambda row: (row["redistribute"], row["source"]))


def _work(folder: Path, entries: list[dict[str, Any]]) -> dict[str, Any]:
    """What each generation cost, where that is known, and the files that killed their workers."""
    costs = []
    for entry in entries:
        path = folder / entry["folder"] / "work.json"
        if path.is_file():
            cost = json.loads(path.read_text())
            rate = cost["files"] / max(cost["seconds"], 1e-9)
            hours = {"cpu_hours": round(cost["cpu_seconds"] / 3600, 5), "files_per_second": round(rate, 1)}
            costs.append({"generation": entry["folder"]} | cost | hours)
    path = folder / "quarantine.jsonl"
    lines = path.read_text().splitlines() if path.is_file() else []
    return {"generations": costs, "quarantine": [json.loads(line) for line in lines]}


def _difference(entries: list[dict[str, Any]], kept: _Kept) -> dict[str, Any] | None:
    """What the newest generation added to those before it; None for the first."""
    if len(entries) < 2:
        return None
    before = sum(kept.by_generation[:-1], Counter())
    last = kept.by_generation[-1]
    sources = {name: {"before": before[name], "added": last[name]} for name in sorted({*before, *last})}
    dropped: Counter[str] = Counter()
    for source in entries[-1]["sources"].values():
        dropped.update(source["dropped"])
    return {
        "generation": entries[-1]["folder"],
        "before": before.total(),
        "added": last.total(),
        "sources": sources,
        "dropped": dict(sorted(dropped.items())),
    }


def _channels(generations: list[Path], count: int) -> dict[str, Any] | None:
    """Mean and standard deviation of red, green and blue (0 to 1), from images spread evenly over the corpus."""
    total, square, pixels, used = np.zeros(3), np.zeros(3), 0, 0
    wanted = np.unique(np.linspace(0, count - 1, min(MEASURED, count)).round().astype(np.int64))
    for _, _, data in pictures(generations, wanted):
        try:
            values = np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).reshape(-1, 3)
        except (OSError, UnidentifiedImageError, Image.DecompressionBombError):
            continue
        levels = np.stack([np.bincount(values[:, channel], minlength=256) for channel in range(3)])
        total += levels @ np.arange(256.0)
        square += levels @ np.arange(256.0) ** 2
        pixels, used = pixels + len(values), used + 1
    if not pixels:
        return None
    mean = total / pixels
    std = np.sqrt(np.maximum(square / pixels - mean**2, 0))
    return {"mean": (mean / 255).round(4).tolist(), "std": (std / 255).round(4).tolist(), "images": used}


def pictures(generations: list[Path], places: np.ndarray) -> Iterator[tuple[int, str, bytes]]:
    """Place, key and encoded bytes of the images at ``places`` (sorted row numbers of the manifest); those of a corpus
    that came without its shards are passed over."""
    start = 0
    for path in parts(generations, "manifest"):
        generation = path.parent.parent
        for batch in batches([path], ["key", "shard", "offset", "size"]):
            mine = places[(places >= start) & (places < start + batch.num_rows)] - start
            for place, row in zip((mine + start).tolist(), batch.take(pa.array(mine)).to_pylist(), strict=True):
                tar = next(generation.glob(f"shards/*/*-{generation.name}-{row['shard']:06d}.tar"), None)
                if tar is not None:
                    with tar.open("rb") as file:
                        file.seek(row["offset"])
                        yield place, row["key"], file.read(row["size"])
            start += batch.num_rows


def _audit(folder: Path) -> dict[str, Any]:
    """Pairs joined and not; of those that people decided, the share called the same,
    with a Wilson interval of 95 %; and how many pairs wait for a look."""
    basis: Counter[tuple[str, bool]] = Counter()
    for batch in batches(sorted(folder.glob("g*/pairs/part-*.parquet")), ["basis", "confirmed"]):
        words, verdicts = batch.column("basis").to_pylist(), batch.column("confirmed").to_pylist()
        basis.update(zip(words, verdicts, strict=True))
    waiting = sum(pq.read_metadata(path).num_rows for path in folder.glob("g*/review/part-*.parquet"))
    same, different = basis["decision", True], basis["decision", False]
    out: dict[str, Any] = {
        "joined": sum(n for (_, yes), n in basis.items() if yes),
        "not_joined": sum(n for (_, yes), n in basis.items() if not yes),
        "decided_same": same,
        "decided_different": different,
        "in_review": waiting,
        "share_same": None,
    }
    if same + different:
        share = same / (same + different)
        out["share_same"] = [round(value, 4) for value in (share, *wilson(same, same + different))]
    return out
