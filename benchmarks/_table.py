"""Dated Markdown tables: what every benchmark writes its figures with."""

import datetime
import os
import platform
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from selectivemae.core.statistics import mean_deviation

RESULTS = Path(__file__).parent / "results"


def cpu_name() -> str:
    """The processor's name, as the system tells it."""
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def machine(packages: Sequence[str] = ("torch", "timm", "numpy")) -> str:
    """One line: date, processor, cores, versions."""
    versions = []
    for name in packages:
        try:
            versions.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            continue
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    today = datetime.date.today().isoformat()
    return f"{today} · {cpu_name()}, {cores} cores · Python {platform.python_version()}, {', '.join(versions)}"


def markdown(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A Markdown table; figures are written as given."""
    lines = ["| " + " | ".join(header) + " |", "|" + " --- |" * len(header)]
    lines += ["| " + " | ".join("" if c is None else str(c) for c in row) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def spread(values: Sequence[float]) -> str:
    """Mean of a figure over seeds, and its deviation where there are several."""
    mean, deviation = mean_deviation(values)
    return f"{mean:.1f}" + (f" ± {deviation:.1f}" if deviation is not None else "")


def write(name: str, title: str, script: str, *blocks: str, show: bool = True) -> Path:
    """Write ``results/NAME.md``: title, machine, the blocks, and the script that made it; print it, too (``show``)."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.md"
    body = "\n\n".join(block.strip() for block in blocks)
    path.write_text(f"# {title}\n\n{machine()} · made by `{script}`\n\n{body}\n")
    if show:
        print(path.read_text())
    return path
