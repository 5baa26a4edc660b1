"""Metrics and quarantine: lines that can be read again, each once."""

import csv
import errno
import json
from pathlib import Path

import pytest

from selectivemae.core.errors import DataError, OutputError
from selectivemae.core.records import Metrics, Quarantine, read_metrics


def steps(path: Path) -> list[int]:
    return [r["step"] for r in read_metrics(path)]


def test_a_resumed_run_has_no_line_twice(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    metrics = Metrics(path)
    for step in range(1, 8):
        metrics.write("train", step, loss=step / 10)
    metrics.close()
    with open(path, "a") as f:
        f.write('{"kind": "train", "st')  # a kill in the middle of a line
    assert steps(path) == [1, 2, 3, 4, 5, 6, 7]
    resumed = Metrics(path, resume_step=5)
    resumed.write("train", 6, loss=0.6)
    assert steps(path) == [1, 2, 3, 4, 5, 6]  # at once on the disk
    resumed.close()
    Metrics(path).close()  # a run that begins anew
    assert steps(path) == []


def test_lines_are_json_for_anybody(tmp_path: Path) -> None:
    metrics = Metrics(tmp_path / "m")
    metrics.write("train", 1, loss=float("nan"), rate=float("inf"), name="機場", none=None)
    metrics.close()

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    line = json.loads((tmp_path / "m").read_text(), parse_constant=refuse)
    assert line == {"kind": "train", "step": 1, "loss": "nan", "rate": "inf", "name": "機場", "none": None}


def test_a_broken_line_in_the_middle_is_named(tmp_path: Path) -> None:
    (tmp_path / "m").write_text('{"step": 1}\n{"st\n{"step": 3}\n')
    with pytest.raises(DataError, match="line 2 is no JSON"):
        list(read_metrics(tmp_path / "m"))


def test_a_full_disk_is_said_in_one_line(tmp_path: Path) -> None:
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("no /dev/full on this machine")
    (tmp_path / "m").symlink_to(full)
    metrics = Metrics.__new__(Metrics)
    metrics.path, metrics._file = tmp_path / "m", open(full, "ab", buffering=0)  # noqa: SIM115
    with pytest.raises(OutputError, match="no space left") as error:
        metrics.write("train", 1)
    assert isinstance(error.value.__cause__, OSError)
    assert error.value.__cause__.errno == errno.ENOSPC
    metrics.close()


def test_quarantine_counts_and_survives(tmp_path: Path) -> None:
    path = tmp_path / "quarantine.csv"
    quarantine = Quarantine(path)
    quarantine.flush()
    assert not path.exists()
    odd = 'a/"odd", name\nwith everything 機場.jpg'
    assert quarantine.add(odd, "truncated")
    assert not quarantine.add(odd, "truncated")
    assert quarantine.add("b.jpg", "not_an_image")
    quarantine.flush()
    with open(path, newline="") as f:
        assert list(csv.reader(f)) == [
            ["id", "reason", "times"],
            [odd, "truncated", "2"],
            ["b.jpg", "not_an_image", "1"],
        ]
    again = Quarantine(path)
    assert not again.add(odd, "corrupt")
    assert again.rows == {odd: ("corrupt", 3), "b.jpg": ("not_an_image", 1)}
