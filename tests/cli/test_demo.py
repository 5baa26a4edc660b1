"""The demo: the copies that it plants are what its curation takes out, and it goes from scenes to reports."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from selectivemae.cli import demo
from selectivemae.cli.main import main
from selectivemae.data.synthetic import write_scenes
from selectivemae.models import vit


def test_the_planted_copies_are_taken_out_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "COPY_EVERY", 2)
    write_scenes(tmp_path / "scenes", 6, size=96, classes=("harbour", "parking"))
    copies = demo._planted(tmp_path / "scenes", tmp_path / "again")
    files = sorted((tmp_path / "scenes").glob("*/*.jpg"))[::2]
    assert len(list(copies.iterdir())) == len(files) == 6
    for number, (file, copy) in enumerate(zip(files, sorted(copies.iterdir()), strict=True)):
        assert (file.read_bytes() == copy.read_bytes()) == (number % 3 == 0)
        with Image.open(file) as one, Image.open(copy) as other:
            turned = np.asarray(other)[:, ::-1] if number % 3 == 2 else np.asarray(other)
            assert np.abs(np.asarray(one).astype(int) - turned).mean() < 12
    said: list[str] = []
    found = demo._curate(tmp_path / "scenes", copies, tmp_path / "corpus", said.append)
    assert (found["planted"], found["kept"]) == (6, 12)
    assert found["left_out"] == {"exact_dup": 2, "near_dup": 4, "not_an_image": 1}  # the last is split.csv
    assert "12 images kept" in said[-1]


@pytest.mark.slow
def test_from_scenes_to_reports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    torch.set_num_threads(1)
    monkeypatch.setattr(demo, "PER_CLASS", 3)
    monkeypatch.setattr(demo.os, "cpu_count", lambda: 1)
    monkeypatch.setitem(vit.SIZES, "tiny", (2, 64, 2, 32, 2))
    out = tmp_path / "demo"
    assert main(["demo", "--out", str(out), "--minutes", "0.02", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["curated"]["kept"] >= 50
    assert found["samples"] > 0
    assert set(found["probe"]["baselines"]) == {"random weights", "raw pixels", "colour"}
    assert (out / "run" / "report.html").is_file()
    assert (out / "corpus" / "report" / "index.html").is_file()
    assert main(["demo", "--out", str(out), "--minutes", "0.02"]) == 2
