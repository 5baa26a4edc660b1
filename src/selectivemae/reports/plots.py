"""Plots of a run, drawn from its records; the same records give the same bytes."""

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from selectivemae.reports.records import Record, RunRecords

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Float = NDArray[np.float64]

INK, FAINT, LOSS, RATE, PROBE = "#20242a", "#8a919c", "#1f6fb4", "#6a737d", "#b4540a"
BANDS = {"near": "#e7f0fa", "far": "#fbeee0", "random": "#eef4ea"}
MOST_POINTS = 2000  # of the raw loss: more than a plot has pixels across


def numbers(lines: Sequence[Record], key: str) -> Float:
    """One figure of every line (N,); NaN where it is missing or was not finite."""
    values = (line.get(key) for line in lines)
    return np.array([v if isinstance(v, int | float) else np.nan for v in values], float)


def smoothed(values: Float, span: int) -> Float:
    """Moving average (N,): the mean of the finite values at most ``span`` places before and after, NaN where there are
    none. It looks no farther ahead than back, so the steep beginning is not blurred into what follows.
    """
    good = np.isfinite(values)
    total = np.concatenate([[0.0], np.cumsum(np.where(good, values, 0.0))])
    weight = np.concatenate([[0], np.cumsum(good)])
    at = np.arange(len(values))
    half = np.minimum(at, span)
    low, high = at - half, np.minimum(at + half + 1, len(values))
    count = weight[high] - weight[low]
    return np.where(count > 0, (total[high] - total[low]) / np.maximum(count, 1), np.nan)


def span_of(count: int) -> int:
    """To how many of ``count`` lines on either side the smoothed loss looks: a hundredth of them, at least 4."""
    return max(4, count // 100)


def thinned(x: Float, y: Float, most: int = MOST_POINTS) -> tuple[Float, Float]:
    """At most about ``most`` points that keep the lowest and the highest of each stretch."""
    if len(x) <= most:
        return x, y
    keep = set()
    for stretch in np.array_split(np.arange(len(x)), most // 2):
        if np.isfinite(y[stretch]).any():
            keep |= {int(stretch[np.nanargmin(y[stretch])]), int(stretch[np.nanargmax(y[stretch])])}
    at = np.array(sorted(keep), int)
    return x[at], y[at]


def phases(train: Sequence[Record]) -> list[tuple[float, float, str]]:
    """(begin, end, name) of the stretches of one phase, in epochs."""
    found: list[tuple[float, float, str]] = []
    for line in train:
        if "phase" not in line:
            continue
        name, epoch = str(line["phase"]), float(line["epoch"])
        if found and found[-1][2] == name:
            found[-1] = (found[-1][0], epoch, name)
        else:
            found.append((found[-1][1] if found else 0.0, epoch, name))
    return found


def loss_plot(run: RunRecords) -> bytes | None:
    """A PNG of loss, learning rate, phases and probe accuracy over epochs; None while nothing is recorded."""
    if not run.train:
        return None
    from matplotlib.figure import Figure

    heights = [4.0, 1.0] + ([1.4] if run.probes else [])
    figure = Figure(figsize=(6.4, 0.72 * sum(heights) + 0.5), layout="constrained", facecolor="white")
    axes = list(figure.subplots(len(heights), 1, sharex=True, squeeze=False, height_ratios=heights)[:, 0])
    for ax in axes:
        _plain(ax)
    _draw_phases(axes, phases(run.train))
    _draw_loss(axes[0], run)
    _draw_rate(axes[1], run.train)
    if run.probes:
        _draw_probe(axes[2], run.probes)
    axes[-1].set_xlabel("epoch")
    axes[-1].set_xlim(0, max(float(numbers(run.train, "epoch")[-1]), 1e-6))
    return png(figure)


def _draw_loss(ax: "Axes", run: RunRecords) -> None:
    epoch, loss = numbers(run.train, "epoch"), numbers(run.train, "loss")
    smooth = smoothed(loss, span_of(len(loss)))
    ax.plot(*thinned(epoch, loss), color=LOSS, alpha=0.3, linewidth=0.8)
    ax.plot(*thinned(epoch, smooth), color=LOSS, linewidth=1.8)
    shown = loss[np.isfinite(loss)]
    if len(shown):
        # The first steps and single spikes would flatten all the rest.
        low, high = np.percentile(shown, [0, 98])
        margin = 0.06 * max(high - low, 1e-3)
        ax.set_ylim(low - margin, high + margin)
    if run.settings.get("norm_pix"):
        _mark_means_only(ax)
    ax.set_ylabel("loss")
    ax.set_title(f"loss {smooth[-1]:.4f} after step {run.train[-1]['step']}", loc="left", fontsize=11, color=INK)


def _mark_means_only(ax: "Axes") -> None:
    """The loss of a model that knows nothing but each patch's mean: its normalised patch has variance 1."""
    low, high = ax.get_ylim()
    if low < 1.0 < high:
        ax.axhline(1.0, color=FAINT, linewidth=0.9, linestyle=(0, (4, 3)))
        ax.annotate(
            "each patch's mean alone", (1, 1.0), xycoords=("axes fraction", "data"), xytext=(-4, 3),
            textcoords="offset points", ha="right", va="bottom", fontsize=8, color=INK,
        )  # fmt: skip


def _draw_rate(ax: "Axes", train: Sequence[Record]) -> None:
    ax.plot(*thinned(numbers(train, "epoch"), numbers(train, "lr")), color=RATE, linewidth=1.2)
    ax.set_ylim(bottom=0)
    ax.set_ylabel("learning rate", fontsize=8)
    ax.ticklabel_format(axis="y", style="sci", scilimits=(0, 0))
    ax.yaxis.get_offset_text().set_fontsize(8)


def _draw_probe(ax: "Axes", probes: Sequence[Record]) -> None:
    epoch, knn = numbers(probes, "epoch"), numbers(probes, "knn")
    ax.plot(epoch, knn, color=PROBE, linewidth=1.4, marker="o", markersize=3.5)
    ax.set_ylabel("kNN, %", fontsize=8)
    ax.margins(y=0.25)
    if np.isfinite(knn[-1]):
        ax.annotate(
            f"{knn[-1]:.1f}", (epoch[-1], knn[-1]), xytext=(-4, 5), textcoords="offset points", ha="right", fontsize=8,
            color=PROBE,
        )  # fmt: skip


def _draw_phases(axes: Sequence["Axes"], spans: Sequence[tuple[float, float, str]]) -> None:
    """Bands behind all axes, named at the top; a ramp between two phases is left white."""
    if len(spans) < 2:
        return
    for begin, end, name in spans:
        if name not in BANDS:
            continue
        for ax in axes:
            ax.axvspan(begin, end, color=BANDS[name], linewidth=0, zorder=0)
        axes[0].annotate(
            name, ((begin + end) / 2, 1), xycoords=("data", "axes fraction"), xytext=(0, -4),
            textcoords="offset points", ha="center", va="top", fontsize=9, color=INK,
        )  # fmt: skip


def _plain(ax: "Axes") -> None:
    """Thin, quiet axes."""
    for side in ("top", "right"):
        ax.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        ax.spines[side].set_color(FAINT)
    ax.tick_params(colors=INK, labelsize=8, length=3)


def png(figure: "Figure", dpi: float = 150) -> bytes:
    """A figure as a PNG that holds neither date nor version."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    out = io.BytesIO()
    options: dict[str, Any] = {"metadata": {"Software": None}}
    FigureCanvasAgg(figure).print_figure(out, format="png", dpi=dpi, **options)
    return out.getvalue()
