"""Own figures beside the published ones: every published cell is shown once, marks and notes are where they belong."""

import csv
import io
import json
import re
from pathlib import Path

import pytest

from selectivemae.reports.comparison import Finding, as_csv, as_html, as_markdown, published_table, write_comparison
from selectivemae.reports.published import COLUMNS, published_cells, published_rows

OURS = Finding("ours", "vit_base_patch16_224", "aid-28", "OA", (96.0, 97.0), (0, 1), "by the book")
SHORT = Finding("ours", "vit_base_patch16_224", "resisc-19", "OA", (80.0,), (0,), "in short", ("epochs 1",))
PROBE = Finding("other|one", "", "aid-probe", "kNN-20", (50.0,), (0,), "frozen")


def cells(markdown: str, table: int) -> list[list[str]]:
    """Rows of the n-th Markdown table, without the line below the head."""
    blocks = re.findall(r"(?:^\|.*\n?)+", markdown, re.MULTILINE)
    rows = [re.split(r"(?<!\\)\|", line)[1:-1] for line in blocks[table].strip().splitlines()]
    return [[cell.strip() for cell in row] for row in rows if not row[0].startswith("---")]


def test_every_published_cell_is_in_the_table_once() -> None:
    shown = sorted(float(v) for row in published_table([]).rows for v in row[3:] if v)
    assert shown == sorted(float(cell["value"]) for cell in published_cells())
    assert len(published_cells()) == 144
    assert {len(row) for row in published_table([]).rows} == {3 + len(COLUMNS)}
    # Spot checks against the paper's tables.
    rows = {(r.method, r.backbone, r.data): r.values for r in published_rows()}
    assert rows["SelectiveMAE", "ViT-L", "OpticalRS-13M"]["dior-r"] == 71.75
    assert rows["MAE", "ViT-B", "MillionAID, 1 M images x 800 epochs"]["aid-28"] == 94.92
    assert "loveda" not in rows["SatMAE", "ViT-L", ""]


def test_own_rows_stand_last_in_their_columns() -> None:
    rows = cells(as_markdown([OURS, SHORT, PROBE]), 0)
    assert rows[-1][:2] == ["**ours**", "vit_base_patch16_224"]
    own = dict(zip(rows[0], rows[-1], strict=True))
    assert own["AID 20 %"] == "96.50 ± 0.71"
    assert own["RESISC-45 20 %"] == "80.00*"
    assert own["DIOR mAP50"] == ""
    assert len(rows) == 1 + len(published_rows()) + 1
    assert cells(as_markdown([OURS, SHORT, PROBE]), 1) == [
        ["weights", "backbone", "aid-probe kNN-20"],
        ["other\\|one", "", "50.00"],
    ]
    assert "epochs 1" in as_markdown([SHORT])


def test_a_metric_that_is_not_the_columns_does_not_stand_in_it() -> None:
    figures = [
        Finding("ours", "x", "spacenet", metric, (v,), (0,), "") for metric, v in (("mIoU", 79.0), ("mF1", 88.0))
    ]
    figures.append(Finding("ours", "x", "loveda", "val mIoU", (50.0,), (0,), "its own validation set"))
    table = published_table(figures)
    assert dict(zip(table.head, table.rows[-1], strict=True))["SpaceNetv1 mF1"] == "79.00"
    assert dict(zip(table.head, table.rows[-1], strict=True))["LoveDA mIoU"] == ""
    text = as_markdown(figures)
    assert "spacenet mF1" in text
    assert "loveda val mIoU" in text


def test_notes_say_what_labels_hide() -> None:
    text = as_markdown([OURS])
    for words in (
        "really 10 %",
        "really 20 %",
        "COCO AP",
        "VOC07",
        "mIoU of the two classes",
        "ViTAE-B",
        "hidden test",
    ):
        assert words in text


def test_csv_gives_back_what_went_in() -> None:
    rows = list(csv.DictReader(io.StringIO(as_csv([OURS, PROBE]))))
    assert [{k: row[k] for k in published_cells()[0]} for row in rows[:-2]] == list(published_cells())
    assert [(r["method"], r["dataset"], r["split"], r["value"], r["deviation"], r["seeds"]) for r in rows[-2:]] == [
        ("ours", "AID", "20", "96.50", "0.71", "0 1"),
        ("other|one", "", "", "50.00", "", "0"),
    ]


def test_the_page_is_whole_and_fetches_nothing(tmp_path: Path) -> None:
    odd = Finding("<script>", "x", "aid-28", "OA", (1.0,), (0,), "a & b")
    page = as_html([odd])
    assert "<script>" not in page
    assert "&lt;script&gt;" in page
    assert not re.search(r"(?:src|href)=\"(?!data:)", page)
    assert page.count('class="own"') == 1
    write_comparison(tmp_path, [OURS])
    assert sorted(f.name for f in tmp_path.iterdir()) == [
        "comparison.csv", "comparison.html", "comparison.md", "figures.json",
    ]  # fmt: skip
    assert json.loads((tmp_path / "figures.json").read_text())[0]["values"] == [96.0, 97.0]


@pytest.mark.parametrize("column", COLUMNS, ids=lambda c: c.name)
def test_columns_exist_in_the_file(column) -> None:
    found = [
        c
        for c in published_cells()
        if (c["task"], c["dataset"], c["split"]) == (column.task, column.dataset, column.split)
    ]
    assert found
    assert {c["metric"] for c in found} == {column.metric}
