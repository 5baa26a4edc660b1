"""Curation of real imagery: every file accounted for, odd files judged as their manifest says, known copies joined."""

import csv
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from curation_inline import Inline

from selectivemae.curation import run as assembly
from selectivemae.curation.config import CurateConfig
from selectivemae.curation.run import curate

Rows = list[dict]
CROPPED = {"crop90", "crop75", "watermark"}  # beyond what the standard thresholds can see


@pytest.fixture
def inline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(assembly, "LocalPool", Inline)


def curated(source: Path, out: Path) -> tuple[Rows, Rows]:
    curate(CurateConfig(sources=[str(source)], out=out, workers=1), quiet=True)
    return tuple(
        [row for path in out.glob(f"g*/{name}/*") for row in pq.read_table(path).to_pylist()]
        for name in ("manifest", "dropped")
    )


@pytest.mark.slow
def test_odd_inputs(shared_data: Path, tmp_path: Path, inline: None) -> None:
    folder = shared_data / "odd_inputs"
    kept, dropped = curated(folder, tmp_path / "c")
    here, gone = {row["member"] for row in kept}, {row["member"] for row in dropped}
    assert here | gone == {path.name for path in folder.iterdir()}
    firm = [row for row in csv.DictReader((folder / "manifest.csv").open()) if row["firm"] == "yes"]
    firm = [row for row in firm if (folder / row["file"]).exists()]
    assert {row["file"]: row["file"] in here for row in firm} == {row["file"]: row["expect"] == "ok" for row in firm}


@pytest.mark.slow
def test_known_copies(shared_data: Path, tmp_path: Path, inline: None) -> None:
    """Of each base one picture stays beside what was cropped or stamped; no base goes for another's sake."""
    folder = shared_data / "dedup_cases"
    kept, dropped = curated(folder, tmp_path / "c")
    pairs = list(csv.DictReader((folder / "pairs.csv").open()))
    base = {row["base"]: row["base"] for row in pairs} | {row["variant"]: row["base"] for row in pairs}
    member = {row["id"]: row["member"] for row in kept}
    lost = [row for row in dropped if row["kept_id"] in member]
    assert all(base[row["member"]] == base[member[row["kept_id"]]] for row in lost)
    gone = {row["member"] for row in lost}
    plain = [row["variant"] for row in pairs if row["kind"] not in CROPPED]
    left = [name for name in [*plain, *{row["base"] for row in pairs}] if name not in gone]
    assert len(left) <= len({row["base"] for row in pairs})
