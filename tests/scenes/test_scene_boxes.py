"""Boxes of scenes: each object once, the same in parts, right on the ground; suppression against the plain one."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scene_worlds import PLACE, PixelPredictor, write_scene
from scipy import ndimage

from selectivemae.core.errors import DataError, OutputError
from selectivemae.ops import boxes as upright
from selectivemae.ops import rotated
from selectivemae.scenes.boxes import Search, find_boxes, merge
from selectivemae.scenes.config import PredictConfig
from selectivemae.scenes.run import map_boxes
from selectivemae.scenes.stream import Cut

pytestmark = pytest.mark.filterwarnings("ignore::PendingDeprecationWarning")


class BlobPredictor(PixelPredictor):
    """Finds the bright blobs of the red (ships) and green (planes) bands, cut ones too; larger ones score higher."""

    def __init__(self, sides: int = 4) -> None:
        super().__init__(size=64, task="detect" if sides == 4 else "oriented", classes=("ship", "plane"))
        self.sides = sides

    def boxes(self, images):
        out = []
        for image in images.numpy():
            rows = []
            for label in (0, 1):
                marked, _ = ndimage.label(image[label] > 128)
                for y, x in ndimage.find_objects(marked):
                    area = (y.stop - y.start) * (x.stop - x.start)
                    rows.append([x.start, y.start, x.stop, y.stop, min(area / 400, 1), label])
            table = torch.tensor(rows, dtype=torch.float32).reshape(-1, 6)
            boxes = table[:, :4] if self.sides == 4 else rotated.from_upright(table[:, :4])
            out.append((boxes, table[:, 4], table[:, 5].long()))
        return out


@pytest.fixture
def world(tmp_path: Path) -> tuple[Path, set[tuple[int, ...]]]:
    """A scene of 60 objects up to 14 pixels long, apart from each other, and their boxes with classes."""
    random = np.random.default_rng(3)
    pixels, truth = np.zeros((3, 260, 330), np.uint8), set()
    for cell in random.permutation(15 * 18)[:60]:
        y, x = divmod(int(cell), 18)
        height, width, label = (int(v) for v in random.integers((5, 5, 0), (15, 15, 2)))
        top, left = y * 17 + 1, x * 18 + 2
        pixels[label, top : top + height, left : left + width] = 255
        truth.add((left, top, left + width, top + height, label))
    return write_scene(tmp_path / "a.tif", pixels), truth


@pytest.mark.parametrize("sides", [4, 5])
def test_each_object_is_found_once_and_whole(world, tmp_path: Path, sides: int) -> None:
    import pyogrio.raw
    import shapely

    image, truth = world
    config = PredictConfig.build({"image": image, "out": tmp_path / "b.gpkg", "overlap": 32, "min_score": 0.0})
    result = map_boxes([BlobPredictor(sides)], config, "model", {}, quiet=True)
    assert result.objects == len(truth)
    assert (tmp_path / "b.preview.png").is_file()
    _, _, geometry, (names, scores) = pyogrio.raw.read(tmp_path / "b.gpkg")
    found = set()
    for polygon, name in zip(shapely.from_wkb(geometry), names, strict=True):
        corners = np.array([~PLACE @ point for point in polygon.exterior.coords])
        (x1, y1), (x2, y2) = corners.min(axis=0), corners.max(axis=0)
        found.add((*(round(v) for v in (x1, y1, x2, y2)), ("ship", "plane").index(name)))
    assert found == truth
    assert (np.diff(scores) <= 0).all()


def test_parts_find_what_the_whole_finds(world) -> None:
    from selectivemae.core.progress import ProgressLine
    from selectivemae.scenes.source import open_scene
    from selectivemae.scenes.stream import Clock
    from selectivemae.scenes.windows import Area

    image, truth = world
    scene = open_scene(image, 3)
    found: list[tuple] = []
    with ProgressLine("", quiet=True) as line:
        for area in (Area(0, 0, 165, 130), Area(165, 0, 165, 130), Area(0, 130, 165, 130), Area(165, 130, 165, 130)):
            part = find_boxes([BlobPredictor()], Search(scene, area, Cut(64, 32, 4), 0.0, 0.3), Clock(), line)
            found += [(*map(round, box), label) for box, label in zip(part.boxes.tolist(), part.labels, strict=True)]
    assert len(found) == len(truth)
    assert set(found) == truth


def test_a_stopped_search_goes_on(world, tmp_path: Path) -> None:
    image, _ = world

    class Stopped(BlobPredictor):
        left = 12

        def boxes(self, images):
            Stopped.left -= 1
            if Stopped.left < 0:
                raise KeyboardInterrupt
            return super().boxes(images)

    def write(out: Path, found, scene, classes) -> None:
        out.write_text(json.dumps([found.boxes.tolist(), found.scores.tolist()]))

    def run(predictor, name: str, **manner) -> int:
        config = PredictConfig.build({"image": image, "out": tmp_path / name, "min_score": 0.0, "batch_size": 2})
        return map_boxes([predictor], config, "model", {".json": write}, quiet=True, **manner).windows

    windows = run(BlobPredictor(), "whole.json")
    with pytest.raises(KeyboardInterrupt):
        run(Stopped(), "a.json")
    with pytest.raises(OutputError, match="--resume"):
        run(BlobPredictor(), "a.json")
    assert run(BlobPredictor(), "a.json", resume=True) < windows
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "whole.json").read_bytes()


def test_nothing_to_find(tmp_path: Path) -> None:
    dark = write_scene(tmp_path / "a.tif", np.zeros((3, 100, 100), np.uint8))
    config = PredictConfig.build({"image": dark, "out": tmp_path / "b.geojson"})
    assert map_boxes([BlobPredictor()], config, "model", {}, quiet=True).objects == 0
    assert json.loads((tmp_path / "b.geojson").read_text())["features"] == []
    empty = write_scene(tmp_path / "c.tif", np.zeros((3, 100, 100), np.uint8), nodata=0)
    with pytest.raises(DataError, match="no pixel of it has data"):
        map_boxes([BlobPredictor()], config.model_copy(update={"image": empty}), "model", {}, overwrite=True)


@settings(max_examples=30)
@given(st.integers(0, 10**6), st.sampled_from([4, 5]))
def test_merging_is_greedy_suppression(seed: int, sides: int) -> None:
    """Each box its own window: the suppression of ``ops``; and in any order."""
    random = np.random.default_rng(seed)
    corner, side = random.uniform(0, 60, (40, 2)), random.uniform(5, 30, (40, 2))
    boxes = np.concatenate([corner, corner + side], axis=1)
    if sides == 5:
        boxes = np.concatenate([corner, side, random.uniform(-1.5, 1.5, (40, 1))], axis=1)
    values = torch.from_numpy(boxes)
    scores, labels = torch.from_numpy(random.permutation(40) / 40), torch.from_numpy(random.integers(0, 2, 40))
    plain = (upright if sides == 4 else rotated).nms(values, scores, 0.3, labels)
    assert merge(values, scores, labels, torch.arange(40), 0.3).tolist() == plain.tolist()
    order = torch.from_numpy(random.permutation(40))
    again = merge(values[order], scores[order], labels[order], torch.arange(40), 0.3)
    assert order[again].tolist() == plain.tolist()
    assert len(merge(values, scores, labels, torch.zeros(40), 0.3)) == 40  # a window has settled its own boxes
