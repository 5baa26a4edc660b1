"""The page of a corpus: its figures as data, one self-contained HTML file made of them, and the same in words.

CORPUS/
  report.json            all figures (reports.corpus_figures)
  report/index.html      the same to look at, with plots and pictures
  review.html            the pairs in doubt (reports.review)

Reads what lies in the folder alone. None of these is in ``SHA256SUMS``: they tell what the work cost as well.
"""

import json
from pathlib import Path
from typing import Any

from selectivemae.core.files import atomic_write
from selectivemae.reports.corpus_figures import corpus_figures
from selectivemae.reports.corpus_sheets import (
    contact_sheets,
    group_pictures,
    histogram_plot,
    map_plot,
    samples,
    time_plot,
)
from selectivemae.reports.html import data_uri, fill
from selectivemae.reports.review import write_review

FIGURES = "report.json"
PAGE = Path("report") / "index.html"


def is_corpus(path: Path) -> bool:
    """Whether a folder is a finished corpus."""
    return (path / "corpus.json").is_file()


def write_corpus_report(folder: Path) -> Path:
    """Write ``report.json`` and ``report/index.html`` into a corpus, and ``review.html`` where pairs are in doubt;
    gives the page's path. DataError when it is none or damaged.

    They depend on the folder's content alone.
    """
    figures = corpus_figures(folder)
    page = folder / PAGE
    html = render_corpus(folder, figures)
    page.parent.mkdir(exist_ok=True)
    atomic_write(folder / FIGURES, json.dumps(figures, indent=1, ensure_ascii=False) + "\n")
    atomic_write(page, html)
    write_review(folder)
    return page


def render_corpus(folder: Path, figures: dict[str, Any]) -> str:
    """The page as HTML."""
    generations = [folder / f"g{number:04d}" for number in range(1, figures["generations"] + 1)]
    groups = figures["groups"]
    images = group_pictures(generations, [group["key"] for group in groups])
    months = figures["months"]
    return fill(
        "corpus.html",
        f=figures,
        headline=headline(figures),
        histograms=data_uri(histogram_plot(figures["histograms"]), "png") if figures["histograms"] else "",
        map=data_uri(map_plot(figures["map"]), "png") if figures["map"] else "",
        time=data_uri(time_plot(months), "png") if months else "",
        groups=[group | {"image": images.get(group["key"])} for group in groups],
        sheets=contact_sheets(folder, generations),
        images=samples(generations, figures["samples"]),
        uri=lambda image: data_uri(image, "jpeg"),
    )


def text_corpus(folder: Path) -> str:
    """The page's figures in words, for a terminal."""
    figures = corpus_figures(folder)
    lines = [f"{name}: {value}" for name, value in headline(figures)]
    for row in figures["funnel"]:
        reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(row["dropped"].items()))
        files = f"{row['source']}: {row['files']:,} files, {row['kept']:,} images kept"
        lines.append(files + (f"; {reasons}" if reasons else ""))
    for row in figures["evaluation"]:
        lines.append(f"{row['set']}: {row['with_twin']:,} of {row['images']:,} images had a twin in the sources")
    return "\n".join(lines)


def headline(figures: dict[str, Any]) -> list[tuple[str, str]]:
    """Name and value of the figures at the head."""
    return [
        ("images", f"{figures['samples']:,}"),
        ("files seen", f"{sum(row['files'] for row in figures['funnel']):,}"),
        ("left out", f"{figures['left_out']:,}"),
        ("size", f"{figures['bytes'] / 1e9:.2f} GB" if figures["bytes"] >= 1e8 else f"{figures['bytes'] / 1e6:.1f} MB"),
        ("shards", f"{figures['shards']:,}"),
        ("generations", str(figures["generations"])),
        ("compared with evaluation sets", "yes" if figures["decontaminated"] else "no"),
    ]
