"""Own figures under the published table, as Markdown, CSV and one self-contained HTML page.

OUT/
  figures.json       what was measured: a list of ``Finding``
  comparison.md      both tables, the protocol of every own figure, notes
  comparison.csv     published and own figures, one a line
  comparison.html    the same as the Markdown, as a page; nothing is fetched
"""

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from selectivemae.core.files import atomic_write
from selectivemae.core.statistics import mean_deviation
from selectivemae.reports.html import fill
from selectivemae.reports.published import COLUMNS, ROW_NOTES, column, published_cells, published_rows

NAME = "comparison"
FIGURES = "figures.json"
MARK = "\\* was not measured by the published protocol; below stands how."
HEAD = ["method", "backbone", "pre-training"]


@dataclass(frozen=True)
class Finding:
    """One figure of one set of weights on one task: percent, one value a seed.

    ``departures`` are the ways in which it was not measured by the published protocol; with any it is marked, and it
    does not stand beside published figures as an equal.
    """

    weights: str
    backbone: str
    task: str
    metric: str
    values: tuple[float, ...]
    seeds: tuple[int, ...]
    protocol: str
    departures: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """Mean, deviation where there is one, and the mark of departures."""
        mean, deviation = mean_deviation(self.values)
        return f"{mean:.2f}" + (f" ± {deviation:.2f}" if deviation is not None else "") + "*" * bool(self.departures)


@dataclass(frozen=True)
class Table:
    """Cells as text; the last ``own`` rows are the user's."""

    head: list[str]
    rows: list[list[str]]
    own: int


def write_comparison(out: Path, findings: Sequence[Finding], absent: Sequence[str] = ()) -> None:
    """Write the folder described above; ``absent`` says which tasks had no data. OutputError on a full disk."""
    atomic_write(out / FIGURES, json.dumps([asdict(f) for f in findings], indent=1))
    atomic_write(out / f"{NAME}.md", as_markdown(findings, absent))
    atomic_write(out / f"{NAME}.csv", as_csv(findings))
    atomic_write(out / f"{NAME}.html", as_html(findings, absent))


def published_table(findings: Sequence[Finding]) -> Table:
    """The published rows, and below them a row for each of the user's weights with a figure in a published column."""
    rows = []
    for row in published_rows():
        cells = [f"{row.values[c.name]:.2f}" if c.name in row.values else "" for c in COLUMNS]
        rows.append([f"{row.method} {row.publication}".strip(), row.backbone, row.data, *cells])
    own = _own_rows([f for f in findings if _in_column(f)], [c.name for c in COLUMNS])
    return Table([*HEAD, *(c.title for c in COLUMNS)], rows + own, len(own))


def other_table(findings: Sequence[Finding]) -> Table:
    """Own figures that have no published column: probes, other data sets, other metrics."""
    others = [f for f in findings if not _in_column(f)]
    names = list(dict.fromkeys(f"{f.task} {f.metric}" for f in others))
    rows = _own_rows(others, names)
    return Table(["weights", "backbone", *names], [row[:2] + row[3:] for row in rows], len(rows))


def protocol_table(findings: Sequence[Finding]) -> Table:
    """How every own figure came about."""
    rows = [
        [f.weights, f.task, f.metric, f.text, ", ".join(map(str, f.seeds)), f.protocol, "; ".join(f.departures) or "-"]
        for f in findings
    ]
    return Table(["weights", "task", "metric", "value", "seeds", "protocol", "not as published (*)"], rows, len(rows))


def as_markdown(findings: Sequence[Finding], absent: Sequence[str] = ()) -> str:
    """Everything as Markdown with aligned columns."""
    parts = ["# Beside the published figures", _markdown(published_table(findings)), MARK]
    if others := other_table(findings).rows:
        parts += ["## Without a published figure", _markdown(Table(other_table(findings).head, others, len(others)))]
    parts += ["## How the own figures were measured", _markdown(protocol_table(findings))]
    if absent:
        parts += ["## Not measured, for want of data", "\n".join(f"* {line}" for line in absent)]
    parts += ["## What the published figures are", "\n".join(f"* {note}" for note in notes())]
    return "\n\n".join(parts) + "\n"


def notes() -> list[str]:
    """What is to be known of the published columns and rows."""
    return [f"{c.title}: {c.note}" for c in COLUMNS] + list(ROW_NOTES)


def as_csv(findings: Sequence[Finding]) -> str:
    """Published and own figures in the columns of ``published.csv``, with deviation, seeds and protocol."""
    head = [*published_cells()[0], "deviation", "seeds", "protocol", "departures"]
    text = io.StringIO()
    writer = csv.DictWriter(text, head, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(published_cells())
    for f in findings:
        mean, deviation = mean_deviation(f.values)
        place = column(f.task) if _in_column(f) else None
        line = {"method": f.weights, "backbone": f.backbone, "metric": f.metric, "value": f"{mean:.2f}"}
        line |= {"task": place.task, "dataset": place.dataset, "split": place.split} if place else {"task": f.task}
        line |= {"deviation": "" if deviation is None else f"{deviation:.2f}", "seeds": " ".join(map(str, f.seeds))}
        writer.writerow(line | {"protocol": f.protocol, "departures": "; ".join(f.departures)})
    return text.getvalue()


def as_html(findings: Sequence[Finding], absent: Sequence[str] = ()) -> str:
    """Everything as one page."""
    return fill(
        "comparison.html",
        published=published_table(findings),
        others=other_table(findings),
        protocol=protocol_table(findings),
        notes=notes(),
        mark=MARK.replace("\\", ""),
        absent=absent,
    )


def _in_column(finding: Finding) -> bool:
    """Whether a figure is what a published column holds, by its metric as well."""
    place = column(finding.task)
    return place is not None and place.own_metric == finding.metric


def _own_rows(findings: Sequence[Finding], names: Sequence[str]) -> list[list[str]]:
    """A row for each set of weights: name, backbone, nothing, and the figures by task or by task and metric."""
    rows: dict[tuple[str, str], dict[str, str]] = {}
    for f in findings:
        cells = rows.setdefault((f.weights, f.backbone), {})
        cells[f.task if f.task in names else f"{f.task} {f.metric}"] = f.text
    return [[weights, backbone, "", *(cells.get(n, "") for n in names)] for (weights, backbone), cells in rows.items()]


def _markdown(table: Table) -> str:
    """A Markdown table whose columns line up in a terminal; own rows are bold at the head."""
    first = len(table.rows) - table.own
    bold = table.own < len(table.rows)
    rows = [[f"**{row[0]}**" if bold and i >= first else row[0], *row[1:]] for i, row in enumerate(table.rows)]
    rows = [[cell.replace("|", "\\|") for cell in row] for row in [table.head, *rows]]
    wide = [max(len(row[i]) for row in rows) for i in range(len(table.head))]
    lines = ["| " + " | ".join(cell.ljust(w) for cell, w in zip(row, wide, strict=True)) + " |" for row in rows]
    return "\n".join([lines[0], "|" + "|".join("-" * (w + 2) for w in wide) + "|", *lines[1:]])
