"""The detection recipes run as they are on a data set with DIOR's tree; here smaller than in the benchmark."""

import sys
from pathlib import Path

import numpy as np
import pytest

from selectivemae.tasks.boxes_layout import open_boxes

sys.path.append(str(Path(__file__).resolve().parents[2] / "benchmarks"))
from detect_recipe import RECIPES, one_epoch, write_dior


def test_the_synthetic_dior_is_read_whole(tmp_path: Path):
    root = write_dior(tmp_path / "DIOR", 8, 160)
    for sides in (4, 5):
        train, test = (open_boxes(root, part, sides) for part in ("train", "test"))
        assert (len(train), len(test)) == (4, 4)
        assert {i.id for i in train} == {"00001", "00003", "00005", "00007"}
        assert sum(len(i.boxes) for i in train) > 4
        assert set(train.notes.counts) <= {"no_objects", "too_small", "repeated_corner", "outside"}
    upright, oriented = (open_boxes(root, "train", sides) for sides in (4, 5))
    for a, b in zip(upright, oriented, strict=True):
        if len(a.boxes) == len(b.boxes) > 0:
            assert np.abs((a.boxes[:, :2] + a.boxes[:, 2:]) / 2 - b.boxes[:, :2]).max() < 80


@pytest.mark.slow
@pytest.mark.parametrize("recipe", RECIPES)
def test_an_epoch_of_the_recipe(tmp_path: Path, recipe: str):
    data = write_dior(tmp_path / "DIOR", 8, 160)
    small = {"image_size": 160, "neck_width": 32, "head_width": 64, "device": "cpu", "workers": 0}
    result = one_epoch(recipe, data, tmp_path / "run", "random:vit_tiny_patch16", **small)
    assert result.runs[0].steps == 1
    assert result.runs[0].images == 4
    assert (tmp_path / "run" / "evaluation" / "per_class.csv").read_text().count("\n") == 21
