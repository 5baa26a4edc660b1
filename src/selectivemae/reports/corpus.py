"""The page of a corpus: one self-contained HTML file, and the same in words. Reads what lies in the folder alone.

CORPUS/
  report.html            funnel, reasons, copies between sources, evaluation sets, histograms, licences, some images
  review.html            the pairs in doubt (reports.review)
"""

import io
import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from selectivemae.core.errors import DataError
from selectivemae.core.files import atomic_write
from selectivemae.reports.html import data_uri, fill
from selectivemae.reports.review import doubtful_pairs, write_review

FIGURES = ("width", "mean", "std", "entropy", "noise", "nodata", "cloud", "quality")
MOST_LISTED = 20
SHOWN = 24
_THUMB = 128


@dataclass(frozen=True)
class CorpusRecords:
    """What a corpus folder holds: ``corpus.json``, the manifest's figures, what was left out, confirmed pairs."""

    folder: Path
    about: dict[str, Any]
    kept: pa.Table
    dropped: list[dict[str, Any]]
    in_review: int


def is_corpus(path: Path) -> bool:
    """Whether a folder is a finished corpus."""
    return (path / "corpus.json").is_file()


def read_corpus_records(folder: Path) -> CorpusRecords:
    """Read a corpus for its page. DataError when it is none or damaged."""
    try:
        about = json.loads((folder / "corpus.json").read_text())
        generations = [folder / entry["folder"] for entry in about["generations"]]
        columns = ["id", "key", "source", "generation", "shard", "offset", "size", "category", *FIGURES]
        kept = _read(generations, "manifest", columns)
        lost = _read(generations, "dropped", ["source", "member", "reason", "kept_id", "d64", "d256", "ncc"])
    except (OSError, json.JSONDecodeError, KeyError, pa.ArrowException) as e:
        raise DataError(f"{folder} is no whole corpus: {e}; check it with curate verify") from e
    return CorpusRecords(folder, about, kept, lost.to_pylist(), len(doubtful_pairs(folder)))


def _read(generations: list[Path], table: str, columns: list[str]) -> pa.Table:
    paths = [path for folder in generations for path in sorted((folder / table).glob("part-*.parquet"))]
    parts = [pq.read_table(path, columns=columns) for path in paths]
    return pa.concat_tables(parts).unify_dictionaries()


def write_corpus_report(folder: Path) -> Path:
    """Write ``report.html`` into a corpus, and ``review.html`` where pairs are in doubt; gives the former's path.

    The pages depend on the folder's content alone.
    """
    path = folder / "report.html"
    atomic_write(path, render_corpus(read_corpus_records(folder)))
    write_review(folder)
    return path


def render_corpus(corpus: CorpusRecords) -> str:
    """The page as HTML."""
    return fill(
        "corpus.html",
        name=corpus.about["name"],
        digest=corpus.about["digest"],
        headline=headline(corpus),
        funnel=funnel(corpus),
        reasons=sorted(Counter(row["reason"] for row in corpus.dropped).items(), key=lambda item: (-item[1], item[0])),
        copies=copies_between_sources(corpus),
        evaluation=evaluation(corpus),
        in_review=corpus.in_review,
        doubtful=doubtful(corpus),
        categories=sorted(Counter(c for c in corpus.kept.column("category").to_pylist() if c).items()),
        histograms=data_uri(histograms(corpus.kept), "png") if corpus.kept.num_rows else "",
        images=[(key, data_uri(image, "jpeg")) for key, image in samples(corpus)],
    )


def text_corpus(folder: Path) -> str:
    """The page's figures in words, for a terminal."""
    corpus = read_corpus_records(folder)
    lines = [f"{name}: {value}" for name, value in headline(corpus)]
    for row in funnel(corpus):
        reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(row["dropped"].items()))
        lines.append(
            f"{row['name']}: {row['files']:,} files, {row['kept']:,} images kept" + (f"; {reasons}" if reasons else "")
        )
    return "\n".join(lines)


def headline(corpus: CorpusRecords) -> list[tuple[str, str]]:
    """Name and value of the figures at the head."""
    entries = corpus.about["generations"]
    files = sum(row["files"] for row in funnel(corpus))
    return [
        ("images", f"{corpus.kept.num_rows:,}"),
        ("files seen", f"{files:,}"),
        ("left out", f"{len(corpus.dropped):,}"),
        ("size", f"{sum(entry['bytes'] for entry in entries) / 1e9:.2f} GB"),
        ("shards", f"{sum(entry['shards'] for entry in entries):,}"),
        ("generations", str(len(entries))),
        ("compared with evaluation sets", "yes" if all(entry["decontaminated"] for entry in entries) else "no"),
    ]


def funnel(corpus: CorpusRecords) -> list[dict[str, Any]]:
    """For each training source: files, images kept, left out by reason, licence."""
    out: dict[str, dict[str, Any]] = {}
    for entry in corpus.about["generations"]:
        for name, found in entry["sources"].items():
            if found["role"] != "train":
                continue
            row = out.setdefault(name, {"name": name, "files": 0, "kept": 0, "dropped": Counter()})
            row["files"] += found["files"]
            row["kept"] += found.get("kept", 0)
            row["dropped"].update(found["dropped"])
            row["licence"] = entry["licences"][name]["id"]
    return sorted(out.values(), key=lambda row: row["name"])


def evaluation(corpus: CorpusRecords) -> list[tuple[str, int, int]]:
    """For each evaluation set: name, images, and how many of them had a twin or their ground among the sources."""
    found = [
        item for entry in corpus.about["generations"] for item in entry["sources"].items() if item[1]["role"] == "eval"
    ]
    twins: Counter[str] = Counter()
    for name, entry in found:
        twins[name] += entry.get("twins", 0)
    return [(name.removeprefix("eval_"), entry["files"], twins[name]) for name, entry in sorted(dict(found).items())]


def copies_between_sources(corpus: CorpusRecords) -> list[tuple[str, str, int]]:
    """(source of the image left out, source of the one kept, how many)."""
    source = dict(zip(corpus.kept.column("id").to_pylist(), corpus.kept.column("source").to_pylist(), strict=True))
    pairs = Counter((row["source"], source[row["kept_id"]]) for row in corpus.dropped if row["kept_id"] in source)
    return [(a, b, count) for (a, b), count in sorted(pairs.items(), key=lambda item: (-item[1], item[0]))]


def doubtful(corpus: CorpusRecords) -> list[dict[str, Any]]:
    """Near copies that were taken out on the least evidence: the lowest correlation first."""
    keys = dict(zip(corpus.kept.column("id").to_pylist(), corpus.kept.column("key").to_pylist(), strict=True))
    near = [row | {"kept": keys.get(row["kept_id"], "")} for row in corpus.dropped if row["reason"] == "near_dup"]
    return sorted(near, key=lambda row: (row["ncc"], row["member"]))[:MOST_LISTED]


def histograms(kept: pa.Table) -> bytes:
    """PNG with one histogram for each of the figures."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.6), dpi=90, layout="constrained")
    FigureCanvasAgg(figure)
    for place, name in enumerate(FIGURES):
        axes = figure.add_subplot(2, 4, place + 1)
        values = kept.column(name).to_numpy().astype(np.float64)
        axes.hist(values[np.isfinite(values)], bins=40, color="#1f6fb4")
        axes.set_title(name, fontsize=9)
        axes.tick_params(labelsize=7)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def samples(corpus: CorpusRecords) -> list[tuple[str, bytes]]:
    """Key and JPEG thumbnail of images spread evenly over the corpus (its order is already mixed)."""
    count = corpus.kept.num_rows
    places = np.linspace(0, count - 1, min(SHOWN, count)).round().astype(np.int64)
    out = []
    for row in corpus.kept.take(pa.array(places)).to_pylist():
        generation = corpus.folder / f"g{row['generation']:04d}"
        tar = next(generation.glob(f"shards/*/*-{generation.name}-{row['shard']:06d}.tar"))
        with tar.open("rb") as file:
            file.seek(row["offset"])
            image = Image.open(io.BytesIO(file.read(row["size"]))).convert("RGB")
        image.thumbnail((_THUMB, _THUMB))
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=80)
        out.append((row["key"], buffer.getvalue()))
    return out
