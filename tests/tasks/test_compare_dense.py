"""``compare`` on detection and segmentation: the figures of the tasks' own runs, in the columns where they belong."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from box_worlds import SmallFaster, SmallOriented
from PIL import Image

from selectivemae.cli import compare_tasks
from selectivemae.cli.main import main
from selectivemae.core.config import read_recipe
from selectivemae.models import vit
from selectivemae.tasks import boxes_model

pytestmark = pytest.mark.slow
DEPARTURES = [
    "epochs 1 instead of 12",
    "batch size 2 instead of 4",
    "image size 64 instead of 800",
    "2 test images instead of 11,738",
]


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """A narrow encoder, small heads, few regions."""
    torch.set_num_threads(1)
    monkeypatch.setitem(vit.SIZES, "tiny", (4, 64, 2, 32, 2))
    monkeypatch.setitem(boxes_model.KINDS, "detect", SmallFaster)
    monkeypatch.setitem(boxes_model.KINDS, "oriented", SmallOriented)
    monkeypatch.setattr(compare_tasks, "read_recipe", _small_recipe)


def _small_recipe(command: str, name: str) -> dict:
    return read_recipe(command, name) | {"head_width": 8} | ({} if "segment" in name else {"neck_width": 8})


def write_dior(root: Path) -> None:
    """Four images to train on and two to judge by, with a ship each, upright and oriented."""
    for place in ("Annotations/Horizontal Bounding Boxes", "Annotations/Oriented Bounding Boxes", "ImageSets/Main"):
        (root / place).mkdir(parents=True)
    for number in range(1, 7):
        folder = root / ("JPEGImages-trainval" if number <= 4 else "JPEGImages-test")
        folder.mkdir(exist_ok=True)
        pixels = np.random.default_rng(number).normal(90, 20, (64, 64, 3))
        pixels[20:40, 10:50] = (220, 60, 60)
        name = f"{number:05d}"
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / f"{name}.jpg")
        size = "<size><width>64</width><height>64</height><depth>3</depth></size>"
        box = "<xmin>10</xmin><ymin>20</ymin><xmax>50</xmax><ymax>40</ymax>"
        corners = zip(
            ("left_top", "right_top", "right_bottom", "left_bottom"),
            [(10, 20), (50, 20), (50, 40), (10, 40)],
            strict=True,
        )
        turned = "".join(f"<x_{corner}>{x}</x_{corner}><y_{corner}>{y}</y_{corner}>" for corner, (x, y) in corners)
        for kind, inside in (("Horizontal", f"<bndbox>{box}</bndbox>"), ("Oriented", f"<robndbox>{turned}</robndbox>")):
            text = f"<annotation>{size}<object><name>ship</name>{inside}</object></annotation>"
            (root / "Annotations" / f"{kind} Bounding Boxes" / f"{name}.xml").write_text(text)
    for part, numbers in {"train": (1, 2), "val": (3, 4), "trainval": (1, 2, 3, 4), "test": (5, 6)}.items():
        (root / "ImageSets" / "Main" / f"{part}.txt").write_text("".join(f"{n:05d}\n" for n in numbers))


def write_loveda(root: Path) -> None:
    """Images of 64 px with masks of the numbers 0 to 7, to train on and to judge by."""
    for part in ("Train", "Val"):
        for i in range(3):
            draw = np.random.default_rng(i + 10 * (part == "Val"))
            numbers = np.kron(draw.integers(0, 8, (8, 8)), np.ones((8, 8), int)).astype(np.uint8)
            for name, array in (("images_png", np.stack([numbers * 30] * 3, -1)), ("masks_png", numbers)):
                folder = root / part / "Urban" / name
                folder.mkdir(parents=True, exist_ok=True)
                Image.fromarray(array).save(folder / f"{i + 10 * (part == 'Val')}.png")


def test_detection_stands_in_its_column(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_dior(tmp_path / "root" / "DIOR")
    out = tmp_path / "out"
    words = ["compare", "--weights", "a=random:vit_tiny_patch16", "--data", str(tmp_path / "root"), "--out", str(out)]
    words += ["--epochs", "1", "--batch-size", "2", "--image-size", "64", "--device", "cpu"]
    assert main(words) == 0
    (line,) = [row for row in capsys.readouterr().out.splitlines() if row.startswith("| **a** ")]
    figures = {(f["task"], f["metric"]): f for f in json.loads((out / "figures.json").read_text())}
    assert {task for task, _ in figures} == {"dior", "dior-r"}
    cells = [cell.strip() for cell in line.split("|")[1:-1]]
    for column, task in ((7, "dior"), (8, "dior-r")):
        assert cells[column] == f"{figures[task, 'mAP50']['values'][0]:.2f}*"
        own = json.loads((out / "a" / task / "evaluation" / "figures.json").read_text())
        name = "coco_ap50" if task == "dior" else "rotated_voc07_ap50"
        assert figures[task, "mAP50"]["values"][0] == pytest.approx(own[name])
        assert figures[task, "mAP50"]["departures"] == DEPARTURES


def test_own_masks_do_not_stand_beside_the_servers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_loveda(tmp_path / "root" / "LoveDA")
    out = tmp_path / "out"
    words = ["compare", "--weights", "a=random:vit_tiny_patch16", "--data", str(tmp_path / "root"), "--out", str(out)]
    assert main([*words, "--steps", "4", "--batch-size", "2", "--image-size", "32", "--device", "cpu"]) == 0
    printed = capsys.readouterr().out
    assert "loveda val mIoU" in printed
    assert "| **a** " not in printed
    (first, _) = json.loads((out / "figures.json").read_text())
    assert "steps 4 instead of 80000" in first["departures"]
    assert "not by the contest's server" in first["departures"][-1]
