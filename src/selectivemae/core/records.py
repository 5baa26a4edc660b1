"""``metrics.jsonl`` and ``quarantine.csv``: what happened in a run, as lines on disk.

metrics.jsonl
    one JSON object a line: ``kind`` ("train", "probe", "eval", "event"), ``step``, ``epoch``, ``samples``,
    ``time_s`` and figures
quarantine.csv
    id, reason, times
"""

import csv
import errno
import io
import json
import math
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from selectivemae.core.errors import DataError
from selectivemae.core.files import atomic_write, cannot_write


def _plain(value: Any) -> Any:
    """JSON has no infinities: a figure that is not finite is written as a string."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value


class Metrics:
    """Appends lines to a metrics file; a resumed run drops what came after its checkpoint first."""

    def __init__(self, path: Path, resume_step: int | None = None) -> None:
        self.path = path
        if path.exists():
            kept = [] if resume_step is None else [r for r in read_metrics(path) if r.get("step", 0) <= resume_step]
            atomic_write(path, "".join(json.dumps(r) + "\n" for r in kept))
        # Unbuffered: what a full disk refused is not tried again when the file is closed.
        self._file = open(path, "ab", buffering=0)  # noqa: SIM115 (lives as long as the run)

    def write(self, kind: str, step: int, **figures: Any) -> None:
        """Append one line. OutputError on a full disk."""
        record = {"kind": kind, "step": step} | {k: _plain(v) for k, v in figures.items()}
        line = (json.dumps(record) + "\n").encode()
        try:
            if self._file.write(line) < len(line):
                raise OSError(errno.ENOSPC, "part of a line")
        except OSError as e:
            raise cannot_write(e, self.path) from e

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def read_metrics(path: Path) -> Iterator[dict[str, Any]]:
    """The records of a metrics file in order; a last line that a kill cut short is left out."""
    lines = path.read_text().splitlines()
    for number, line in enumerate(lines, 1):
        try:
            yield json.loads(line)
        except json.JSONDecodeError as e:
            if number < len(lines):
                raise DataError(f"{path}: line {number} is no JSON ({e.msg})") from e


class Quarantine:
    """Samples that could not be used: id, reason, how many times met; kept as a CSV file.

    The file is rewritten as a whole by ``flush`` when something is new.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows: dict[str, tuple[str, int]] = {}
        self._changed = False
        if path.exists():
            with open(path, newline="") as f:
                self.rows = {r["id"]: (r["reason"], int(r["times"])) for r in csv.DictReader(f)}

    def add(self, sample: str, reason: str) -> bool:
        """Note one failure; True when the sample was not known to be bad before."""
        new = sample not in self.rows
        self.rows[sample] = (reason, 1 if new else self.rows[sample][1] + 1)
        self._changed = True
        return new

    def flush(self) -> None:
        """Write the file if anything was added."""
        if not self._changed:
            return
        rows = ((sample, reason, times) for sample, (reason, times) in sorted(self.rows.items()))
        atomic_write(self.path, csv_text(["id", "reason", "times"], rows))
        self._changed = False


def csv_text(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table as CSV text, with the column names ``head`` as its first line."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(head)
    writer.writerows(rows)
    return text.getvalue()
