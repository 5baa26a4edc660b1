"""``compare``: it runs what data there are, marks what is not the published protocol, and goes on where it stopped."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from selectivemae.cli.compare_tasks import TASKS, CompareConfig, named_weights, plan
from selectivemae.cli.main import main
from selectivemae.core.errors import ConfigError, DataError
from selectivemae.data.catalogue import find
from selectivemae.models import vit
from selectivemae.reports.published import column

CLASSES = {"Beach": (200, 180, 120), "Forest": (30, 90, 30), "Port": (40, 60, 140)}
SMALL = ("--epochs", "2", "--batch-size", "8", "--image-size", "32", "--device", "cpu")


@pytest.fixture(autouse=True)
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    """vit_tiny of two narrow blocks in every call."""
    torch.set_num_threads(1)
    monkeypatch.setitem(vit.SIZES, "tiny", (2, 64, 2, 32, 2))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """ROOT/AID with three classes of ten images, and the published lists of split 28 in the published order."""
    aid = tmp_path / "root" / "AID"
    lists: dict[str, list[str]] = {"train": [], "valid": []}
    for number, (name, colour) in enumerate(CLASSES.items()):
        (aid / name).mkdir(parents=True)
        for i in range(1, 11):
            noise = np.random.default_rng(100 * number + i).normal(colour, 25, (40, 40, 3))
            file = f"{name.lower()}_{i}.jpg"
            Image.fromarray(noise.clip(0, 255).astype(np.uint8)).save(aid / name / file)
            lists["train" if i <= 2 else "valid"].append(f"{file} /home/them/AID/images/{name} {2 - number}")
    for part, lines in lists.items():
        (aid / f"{part}_labels_28_0.txt").write_text("\n".join(lines) + "\n")
    return aid.parent


def test_own_rows_under_the_published_table(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    words = ["compare", "--weights", "a=random:vit_tiny_patch8", "random:vit_tiny_patch16", "--data", str(root)]
    words += ["--tasks", "aid-28", "aid-probe", "resisc-19", "--out", str(out), *SMALL]
    assert main(words) == 0
    printed, log = capsys.readouterr()
    assert "left out resisc-19" in log
    (line,) = [row for row in printed.splitlines() if row.startswith("| **a** ")]
    assert "vit_tiny_patch8_224" in line
    figures = json.loads((out / "figures.json").read_text())
    assert [(f["weights"], f["task"], f["metric"]) for f in figures] == [
        (weights, task, metric)
        for weights in ("a", "random:vit_tiny_patch16")
        for task, metrics in (("aid-28", ("OA", "AA")), ("aid-probe", ("kNN-20", "linear")))
        for metric in metrics
    ]
    # The run's own evaluation is the figure, and its share of the table's cell.
    own = json.loads((out / "a" / "aid-28" / "evaluation" / "figures.json").read_text())
    assert figures[0]["values"] == [own["oa"]]
    assert own["images"] == 24
    assert f"{own['oa']:.2f}*" in line
    assert list(own["per_class"]) == ["Port", "Forest", "Beach"]  # the order of the published lists
    assert figures[0]["departures"] == [
        "epochs 2 instead of 200", "batch size 8 instead of 64", "image size 32 instead of 224",
        "30 images of the data set's 10,000",
    ]  # fmt: skip
    with open(out / "comparison.csv", newline="") as f:
        assert [row["method"] for row in csv.DictReader(f)][144] == "a"
    assert (out / "comparison.html").stat().st_size > 10_000
    for kind in ("md", "html"):
        assert "resisc-19: " in (out / f"comparison.{kind}").read_text().partition("for want of data")[2]
    # Resumed, nothing is trained again and the figures are the same; without --resume nothing is touched.
    assert main([*words, "--resume", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == figures
    assert main(words) == 2


def test_a_split_that_is_not_the_published_one_is_said_to_be_none(root: Path, tmp_path: Path) -> None:
    words = ["compare", "--weights", "random:vit_tiny_patch8", "--data", str(root), "--out", str(tmp_path / "out")]
    assert main([*words, "--tasks", "aid-55", *SMALL, "--seeds", "2", "--quiet"]) == 0
    figures = json.loads((tmp_path / "out" / "figures.json").read_text())
    assert len(figures[0]["values"]) == 2
    assert figures[0]["seeds"] == [0, 1]
    assert "not the published split but 50% of each class drawn for test" in figures[0]["departures"]


def test_a_dry_run_writes_nothing(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["compare", "--weights", "x=random:vit_tiny_patch8", "--data", str(root), "--out", str(tmp_path / "out")]
    assert main([*words, "--dry-run"]) == 0
    printed, log = capsys.readouterr()
    assert "for resisc-19, resisc-28, dior, dior-r, loveda, spacenet, ucmerced-55" in log
    assert printed.splitlines() == [f"x: {task} on {root / 'AID'}" for task in ("aid-28", "aid-55", "aid-probe")]
    assert not (tmp_path / "out").exists()


def test_what_is_wrong_is_said_before_anything_is_run(root: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no weights given"):
        plan(CompareConfig(data=root))
    with pytest.raises(ConfigError, match="no data given"):
        plan(CompareConfig(weights=["x"]))
    with pytest.raises(ConfigError, match="unknown task 'aid-82', did you mean 'aid-28'"):
        plan(CompareConfig(weights=["x"], data=root, tasks=["aid-82"]))
    with pytest.raises(DataError, match=r"no data for any task: resisc-19: .*has no folder resisc45"):
        plan(CompareConfig(weights=["x"], data=root, tasks=["resisc-19"]))
    with pytest.raises(ConfigError, match="two weights are called a"):
        named_weights(CompareConfig(weights=["a=random:vit_tiny_patch8", "a=random:vit_tiny_patch16"]))


def test_every_task_has_data_in_the_catalogue_and_those_of_the_table_their_column() -> None:
    for task in TASKS:
        assert find(task.dataset).images > 0
        if task.name.rpartition("-")[2].isdigit() and task.dataset in ("aid", "resisc45"):
            assert column(task.name) is not None
