"""The page of a run: one self-contained HTML file, and the same in words.

RUN/
  pictures/loss.png      loss, learning rate, phases, probe accuracy over epochs
  pictures/map-NAME.png  preview of a scene that ``predict`` mapped with the run
  report.html            headline figures, plots, pictures, settings; all inside, nothing fetched
"""

import re
import shlex
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from selectivemae.core.errors import DataError
from selectivemae.core.files import atomic_write, cannot_write, check_sums
from selectivemae.core.progress import duration
from selectivemae.reports.html import data_uri, fill
from selectivemae.reports.plots import loss_plot, numbers, smoothed, span_of
from selectivemae.reports.records import RunRecords, is_checkpoint, is_run, read_run, read_saved

MOST_EXAMPLES = 5  # of unusable files, for each reason
MOST_MAPS = 12  # previews on a page
_PLACE = ("epoch", "time_s")  # when an evaluation was made, not what it found
_TITLES = {"oa": "OA", "aa": "AA", "miou": "mIoU", "mf1": "mF1", "aacc": "aAcc"}


@dataclass(frozen=True)
class Figure:
    """One headline figure: a value, what it is, and a word more."""

    name: str
    value: str
    note: str = ""


@dataclass(frozen=True)
class Unusable:
    """Files of one reason in quarantine."""

    reason: str
    count: int
    examples: list[str]


def write_report(folder: Path) -> Path:
    """Bring ``pictures/loss.png`` and ``report.html`` of a run folder up to date; gives the page's path.

    The page depends on the folder's content alone. DataError when it is no run; OutputError on a full disk.
    """
    run = read_run(folder)
    plot = loss_plot(run)
    if plot is not None:
        pictures = folder / "pictures"
        try:
            pictures.mkdir(exist_ok=True)
        except OSError as e:
            raise cannot_write(e, pictures) from e
        atomic_write(pictures / "loss.png", plot)
    path = folder / "report.html"
    atomic_write(path, render(run, plot))
    return path


def show_on_page(folder: Path, previews: Mapping[str, Path]) -> None:
    """Put previews of maps, by the maps' names, onto the page of the run that made them.

    Raises as ``write_report``.
    """
    pictures = folder / "pictures"
    try:
        pictures.mkdir(exist_ok=True)
    except OSError as e:
        raise cannot_write(e, pictures) from e
    for name, preview in previews.items():
        atomic_write(pictures / f"map-{name}.png", preview.read_bytes())
    write_report(folder)


def render(run: RunRecords, plot: bytes | None) -> str:
    """The page's HTML."""
    grids = run.pictures[:1] + run.pictures[-1:] if len(run.pictures) > 1 else run.pictures
    return fill(
        "run.html",
        name=run.folder.resolve().name,
        status=status(run),
        figures=headline(run),
        plot=data_uri(plot, "png") if plot else None,
        grids=[(step_of(path), data_uri(path.read_bytes(), "png")) for path in reversed(grids)],
        judged=[(path.stem, data_uri(path.read_bytes(), "png")) for path in run.judged],
        maps=[(path.stem.removeprefix("map-"), data_uri(path.read_bytes(), "png")) for path in run.maps[:MOST_MAPS]],
        probes=[p for p in run.probes if "knn" in p][-10:],
        norm_pix=run.settings.get("norm_pix", True),
        settings=[(k, plain(v)) for k, v in run.settings.items() if v is not None],
        about=run.about,
        unusable=unusable(run),
        events=events(run),
        checkpoints=run.checkpoints,
        commands=next_commands(run),
    )


def text_report(folder: Path) -> str:
    """A run in a few lines for a terminal. DataError when ``folder`` is no run."""
    run = read_run(folder)
    lines = [f"{folder}: {status(run)}"]
    rows = [(f.name, f.value + (f" ({f.note})" if f.note else "")) for f in headline(run)]
    rows += [(f"unusable: {u.reason}", f"{u.count}, such as {u.examples[0]}") for u in unusable(run)]
    rows += [("event", event) for event in events(run)]
    rows += [("checkpoint", f"{c.folder.name}, epoch {c.state['epochs']:.2f}") for c in run.checkpoints]
    rows += [(f"to {what}", command) for what, command in next_commands(run)]
    return "\n".join(lines + table(rows))


def text_checkpoint(folder: Path) -> tuple[str, bool]:
    """A checkpoint in a few lines, and whether it is whole by its checksums."""
    saved = read_saved(folder)
    problem = check_sums(folder)
    state = saved.state
    identity = state.get("identity", {})
    rows = [
        ("step", str(state["step"])),
        ("epoch", f"{state['epochs']:.2f}"),
        ("images seen", f"{state['samples']}"),
        ("trained", f"{duration(state['elapsed_s'])}, {state['progress']:.1%} of the run"),
        *((k, plain(v)) for k, v in identity.items() if v is not None),
    ]
    whole = f"damaged: {problem}" if problem else "whole by its checksums"
    return "\n".join([f"{folder}: checkpoint, {whole}", *table(rows)]), problem is None


def run_of(path: Path) -> Path:
    """The run folder that ``path`` is, or that the checkpoint ``path`` belongs to. DataError for anything else."""
    if is_run(path):
        return path
    if is_checkpoint(path):
        run = path.resolve().parent.parent
        if is_run(run):
            return run
        raise DataError(f"{path} is a checkpoint outside its run, which has no page: look at it with --text")
    if not path.exists():
        raise DataError(f"{path} does not exist: give a run folder (the --out of a pretrain) or a checkpoint in it")
    raise DataError(f"{path} is neither a run folder (no config.yaml) nor a checkpoint (no state.json)")


# What the page says, as plain data -----------------------------------------------------------------------


def status(run: RunRecords) -> str:
    """Where a run stands, in a few words."""
    if not run.last:
        return "nothing recorded yet"
    return "finished" if run.finished else f"{run.progress:.1%} done"


def headline(run: RunRecords) -> list[Figure]:
    """The figures that answer: is it learning, how fast, how long?"""
    if not run.last:
        return []
    figures = []
    if run.train:
        loss = smoothed(numbers(run.train, "loss"), span_of(len(run.train)))
        figures.append(Figure("loss", f"{loss[-1]:.4f}", f"{loss[0]:.4f} at the start"))
    scored = [p for p in run.probes if "knn" in p]
    if scored:
        note = f"{scored[0]['knn']:.1f} % at epoch {scored[0]['epoch']:.1f}" if len(scored) > 1 else ""
        figures.append(Figure("kNN accuracy", f"{scored[-1]['knn']:.1f} %", note))
    if run.evaluations:
        last = run.evaluations[-1]
        where = f"on {last['images']} images" if "images" in last else ""
        shown = {k: v for k, v in last.items() if isinstance(v, float) and k not in _PLACE}
        figures += [Figure(_TITLES.get(k, k.replace("_", " ")), f"{v:.2f} %", where) for k, v in shown.items()]
    figures.append(Figure("epochs", f"{run.epochs:.1f}", f"{run.last['step']} steps"))
    figures.append(Figure("images seen", spaced(int(run.last["samples"]))))
    left = (
        "" if run.finished else f"about {duration(run.seconds * (1 / run.progress - 1))} left" if run.progress else ""
    )
    figures.append(Figure("training time", duration(run.seconds), left))
    rates = [r["images_per_s"] for r in run.train if r.get("images_per_s")]
    if rates:
        figures.append(Figure("images per second", f"{median(rates):.0f}", "median"))
    if run.quarantine:
        figures.append(Figure("unusable files", spaced(len(run.quarantine))))
    return figures


def unusable(run: RunRecords) -> list[Unusable]:
    """Quarantined files by reason, the most frequent first."""
    counts = Counter(reason for reason, _ in run.quarantine.values())
    return [
        Unusable(reason, count, [k for k, (why, _) in run.quarantine.items() if why == reason][:MOST_EXAMPLES])
        for reason, count in sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    ]


def events(run: RunRecords) -> list[str]:
    """What happened on the way, a line each."""
    return [
        f"step {e['step']}: {str(e.get('event', 'event')).replace('_', ' ')}"
        + (f" ({', '.join(map(str, e['samples'][:3]))})" if e.get("samples") else "")
        for e in run.events
    ]


def next_commands(run: RunRecords) -> list[tuple[str, str]]:
    """(what for, command) of the next steps."""
    out = shlex.quote(str(run.folder))
    commands = []
    if run.checkpoints and not run.finished:
        task = re.search(r"\bfinetune (\w+)", run.about.get("command", ""))
        doing = f"finetune {task[1]}" if task else "pretrain"
        commands.append(("go on", f"selectivemae {doing} --out {out} --resume"))
    if (run.folder / "encoder.safetensors").is_file():
        commands.append(("judge the encoder", f"selectivemae probe {out} --data CLASSES"))
    if run.evaluations:
        commands.append(("judge the model on other data", f"selectivemae evaluate {out} --data DATA"))
        commands.append(("map a scene", f"selectivemae predict {out} --image SCENE --out MAP"))
    commands.append(("look again", f"selectivemae inspect {out}"))
    return commands


# Small things --------------------------------------------------------------------------------------------


def step_of(picture: Path) -> int:
    """The step in a picture's name."""
    return int(picture.stem.rpartition("-")[2])


def spaced(number: int) -> str:
    """1234567 as ``1 234 567``."""
    return f"{number:,}".replace(",", "\N{NO-BREAK SPACE}")


def plain(value: Any) -> str:
    """A setting as people write it."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def table(rows: list[tuple[str, str]]) -> list[str]:
    """Two aligned columns."""
    wide = max((len(name) for name, _ in rows), default=0)
    return [f"  {name:{wide}}  {value}" for name, value in rows]
