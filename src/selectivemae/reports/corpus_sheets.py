"""Pictures for the page of a corpus: where each rule cuts, as small images on both sides of its threshold, and plots of
``report.json``."""

import io
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow.parquet as pq
from PIL import Image, UnidentifiedImageError

from selectivemae.reports.corpus_figures import batches, parts, pictures
from selectivemae.reports.plots import png

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SHOWN = 24
_THUMB = 128
_DPI = 90
_BLUE, _INK, _FAINT = "#1f6fb4", "#20242a", "#dfe3e8"


_UNRULED = {
    "exact_dup": "the same pixels as an image that was kept",
    "near_dup": "correlation with the image that was kept, the lowest first",
    "same_footprint": "correlation with the image of the same place that was kept",
    "eval_overlap": "correlation with the evaluation image, the lowest first",
}


@dataclass(frozen=True)
class Shown:
    """A small picture (JPEG) and the words below it."""

    name: str
    caption: str
    image: bytes


@dataclass(frozen=True)
class Sheet:
    """What a reason left out, and what it kept, nearest to the threshold first."""

    reason: str
    rule: str
    left_out: list[Shown]
    kept: list[Shown]


def contact_sheets(folder: Path, generations: list[Path]) -> list[Sheet]:
    """A sheet for each reason of which pictures were saved."""
    lost: dict[str, list[dict[str, Any]]] = {}
    for path in sorted(folder.glob("g*/sheets/part-*.parquet")):
        for row in pq.read_table(path).to_pylist():
            lost.setdefault(row["reason"], []).append(row)
    rules = _rules(generations)
    near = _nearest(generations, {reason: rules[reason] for reason in lost if reason in rules})
    small = _small(generations, {place for found in near.values() for _, place, _ in found})
    out = []
    for reason, rows in sorted(lost.items()):
        rows.sort(key=lambda row: (_distance(row), row["id"]))
        shown = [Shown(f"{row['source']}/{row['member']}", _worth(row["value"]), row["image"]) for row in rows[:SHOWN]]
        statistic, threshold = rules.get(reason, (_UNRULED.get(reason, ""), None))
        rule = statistic if threshold is None else f"{statistic}, threshold {threshold:g}"
        kept = [
            Shown(small[place][0], _worth(value), small[place][1])
            for _, place, value in near.get(reason, [])
            if place in small
        ]
        out.append(Sheet(reason, rule, shown, kept))
    return out


def _distance(row: dict[str, Any]) -> float:
    """How far from its threshold; copies have none, and come by their correlation."""
    value = row["value"] if row["value"] is not None else 2.0
    return value if row["threshold"] is None else abs(value - row["threshold"])


def _worth(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}"


def _rules(generations: list[Path]) -> dict[str, tuple[str, float]]:
    """For each reason with one: its statistic and threshold (the newest)."""
    out: dict[str, tuple[str, float]] = {}
    for batch in batches(parts(generations, "dropped"), ["reason", "stat", "threshold"]):
        for reason, statistic, threshold in zip(*(column.to_pylist() for column in batch.columns), strict=True):
            if threshold is not None:
                out[reason] = (statistic, threshold)
    return out


def _nearest(generations: list[Path], rules: dict[str, tuple[str, float]]) -> dict[str, list[tuple[float, int, float]]]:
    """For each reason the kept images nearest to its threshold: (distance, row of the manifest, value)."""
    paths = parts(generations, "manifest")
    known = set(pq.read_schema(paths[0]).names) if paths else set()
    rules = {reason: rule for reason, rule in rules.items() if rule[0] in known}
    found: dict[str, list[tuple[float, int, float]]] = {reason: [] for reason in rules}
    start = 0
    for batch in batches(paths, sorted({statistic for statistic, _ in rules.values()})) if rules else ():
        for reason, (statistic, threshold) in rules.items():
            values = batch.column(statistic).to_numpy(zero_copy_only=False).astype(np.float64)
            far = np.abs(values - threshold)
            best = np.argsort(far, kind="stable")[:SHOWN]
            fresh = [(float(far[i]), start + int(i), float(values[i])) for i in best if np.isfinite(far[i])]
            found[reason] = sorted([*found[reason], *fresh])[:SHOWN]
        start += batch.num_rows
    return found


def samples(generations: list[Path], count: int) -> list[Shown]:
    """Images spread evenly over the corpus (its order is already mixed)."""
    places = np.unique(np.linspace(0, count - 1, min(SHOWN, count)).round().astype(np.int64))
    return [Shown(key, "", image) for key, image in _small(generations, places.tolist()).values()]


def group_pictures(generations: list[Path], keys: Iterable[str]) -> dict[str, bytes]:
    """Small pictures of some images by key."""
    wanted, places, start = set(keys), [], 0
    for batch in batches(parts(generations, "manifest"), ["key"]) if wanted else ():
        places += [start + i for i, key in enumerate(batch.column("key").to_pylist()) if key in wanted]
        start += batch.num_rows
    return dict(_small(generations, places).values())


def _small(generations: list[Path], places: Iterable[int]) -> dict[int, tuple[str, bytes]]:
    """Key and small picture of the images at some rows of the manifest, in one pass over it."""
    found = pictures(generations, np.array(sorted(places), np.int64))
    return {place: (key, image) for place, key, data in found for image in thumb(data)}


def thumb(data: bytes) -> list[bytes]:
    """An encoded image as a small JPEG; none where it cannot be decoded."""
    try:
        image = Image.open(io.BytesIO(data))
        image.draft("RGB", (_THUMB, _THUMB))
        image = image.convert("RGB")
        image.thumbnail((_THUMB, _THUMB))
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError):
        return []
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=80)
    return [buffer.getvalue()]


def _figure(width: float, height: float) -> "Figure":
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=_DPI, layout="constrained")


def _plain(axes: "Axes") -> None:
    axes.tick_params(labelsize=8, colors=_INK)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color("#8a919c")


_TITLES = {
    "width": "width (pixels)",
    "gsd_m": "ground sampling distance (m)",
    "mean": "brightness (grey levels)",
    "std": "contrast (grey levels)",
    "entropy": "entropy (bits)",
    "nodata": "share without data",
    "cloud": "share of cloud",
    "noise": "noise / contrast",
    "quality": "JPEG quality",
}


def histogram_plot(histograms: dict[str, Any]) -> bytes:
    """A PNG of all histograms, three in a row."""
    rows = -(-len(histograms) // 3)
    figure = _figure(10.6, 1.9 * rows)
    for place, (name, found) in enumerate(histograms.items()):
        axes = figure.add_subplot(rows, 3, place + 1)
        edges = np.array(found["edges"])
        axes.bar(edges[:-1], found["counts"], np.diff(edges), align="edge", color=_BLUE)
        if edges[0] > 0:
            axes.set_xscale("log")
        axes.set_title(_TITLES[name], fontsize=9, color=_INK)
        _plain(axes)
    return png(figure, _DPI)


def map_plot(cells: list[list[int]]) -> bytes:
    """A PNG of the world with the images of each cell of one degree; a cell is drawn larger than it is, to be seen."""
    figure = _figure(10.6, 5.4)
    axes = figure.add_subplot()
    west, south, count = np.array(cells).T
    axes.set_facecolor("#f5f6f8")
    axes.grid(color=_FAINT)
    axes.axhline(0, color="#8a919c", linewidth=0.8)
    order = np.argsort(count)
    colour = np.log10(count[order])
    found = axes.scatter(west[order] + 0.5, south[order] + 0.5, 22, colour, marker="s", cmap="viridis_r", zorder=3)
    if count.min() < count.max():
        bar = figure.colorbar(found, ax=axes, shrink=0.8, pad=0.01)
        ticks = np.unique(np.geomspace(count.min(), count.max(), 4).round().astype(int))
        bar.set_ticks(np.log10(ticks).tolist(), labels=[f"{tick:,}" for tick in ticks])
        bar.ax.tick_params(labelsize=8)
    axes.set(xlim=(-180, 180), ylim=(-90, 90), xticks=range(-180, 181, 30), yticks=range(-90, 91, 30), aspect="equal")
    axes.xaxis.set_major_formatter(lambda x, _: f"{abs(x):.0f}°{'W' if x < 0 else 'E' if x > 0 else ''}")
    axes.yaxis.set_major_formatter(lambda y, _: f"{abs(y):.0f}°{'S' if y < 0 else 'N' if y > 0 else ''}")
    _plain(axes)
    return png(figure, _DPI)


def time_plot(months: dict[str, int]) -> bytes:
    """A PNG of the images of each month, or of each year where there are more than five years."""
    numbers = {int(month[:4]) * 12 + int(month[5:]) - 1: count for month, count in months.items()}
    step = 1 if max(numbers) - min(numbers) < 60 else 12
    first, last = min(numbers) // step, max(numbers) // step
    counts = np.zeros(last - first + 1, np.int64)
    for number, count in numbers.items():
        counts[number // step - first] += count
    names = [str(n) if step == 12 else f"{n // 12}-{n % 12 + 1:02d}" for n in range(first, last + 1)]
    figure = _figure(10.6, 2.2)
    axes = figure.add_subplot()
    axes.bar(range(len(counts)), counts, 0.9, color=_BLUE)
    every = -(-len(names) // 12)
    axes.set_xticks(range(0, len(names), every), names[::every])
    axes.set_xlim(-1, max(len(names), 12))
    _plain(axes)
    return png(figure, _DPI)
