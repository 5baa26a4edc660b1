"""Readers of rotated boxes: known contents of real files, hand-made bad ones, round trips; tiles."""

import math
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import shapely
import torch
from PIL import Image

from selectivemae.core.errors import ConfigError, DataError
from selectivemae.ops import rotated
from selectivemae.tasks import boxes_tiles as tiles
from selectivemae.tasks import dota_txt
from selectivemae.tasks.boxes_common import Detections, Labelled
from selectivemae.tasks.oriented import data

NAMES = ("x_left_top", "y_left_top", "x_right_top", "y_right_top", "x_right_bottom", "y_right_bottom", "x_left_bottom",
         "y_left_bottom")  # fmt: skip


def dota(folder: Path, id: str, *lines: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{id}.txt").write_text("\n".join(lines) + "\n")


def test_dota_lines_headers_and_bad_objects(tmp_path: Path):
    dota(
        tmp_path, "P1", "imagesource:GoogleEarth", "gsd:0.1", "", "10 10 50 10 50 30 10 30 Ship 0",
        "10 10 50 10 50 30 10 30 plane 2", "10 10 50 10 50 30 10 30 plane",
        "50 30 10 10 50 10 10 30 plane 0",  # corners out of order: the same rectangle
        "10 10 10 10 50 30 10 30 plane 0", "nan 10 50 10 50 30 10 30 plane 0", "10 10 50 10 50 30 ship 0",
        "10 10 20 20 30 30 40 40 ship 0", "10 10 50 10 50 30 10 30 kraken 0",
    )  # fmt: skip
    dota(tmp_path, "P2")
    found = dota_txt.read_dota(tmp_path, classes=("plane", "ship"))
    assert [i.id for i in found] == ["P1", "P2"]
    assert np.allclose(found.items[0].boxes, [[30, 20, 40, 20, 0]] * 4)
    assert found.items[0].labels.tolist() == [1, 0, 0, 0]
    assert found.items[0].difficult.tolist() == [False, True, False, False]
    counts = found.notes.counts
    assert counts.pop("no_size") == 2
    assert counts == {
        "crossed_corners": 1, "repeated_corner": 1, "not_finite": 1, "bad_object": 1, "too_small": 1, "no_objects": 1,
        "unknown_class": 1,
    }  # fmt: skip
    assert "P1.txt line 10" in str(found.notes)


def test_dior_r_and_hrsc_xml(tmp_path: Path):
    root = tmp_path / "dior"
    xml = root / "Annotations" / "Oriented Bounding Boxes"
    xml.mkdir(parents=True)
    (root / "ImageSets" / "Main").mkdir(parents=True)
    (root / "ImageSets" / "Main" / "train.txt").write_text("00001\n00002\n00009\n")
    corners = rotated.corners(torch.tensor([20.0, 30, 16, 8, 0.5], dtype=torch.float64)).flatten().tolist()
    fields = "".join(f"<{n}>{v}</{n}>" for n, v in zip(NAMES, corners, strict=True))
    text = f"<object><name>Expressway-Service-area</name><robndbox>{fields}</robndbox></object>"
    (xml / "00001.xml").write_text(f"<annotation>{text}</annotation>")
    (xml / "00002.xml").write_text("<annotation><object><name>ship</name></object></annotation>")
    (root / "JPEGImages").mkdir()
    for id in ("00001", "00002", "00009"):
        Image.new("RGB", (60, 50)).save(root / "JPEGImages" / f"{id}.jpg")
    found = data.read_dior_r(root, "train")
    assert np.allclose(found.items[0].boxes, [[20, 30, 16, 8, 0.5]])
    assert found.items[0].size == (50, 60)
    assert found.classes[found.items[0].labels[0]] == "expressway-service-area"
    assert found.notes.counts == {"no_labels": 1, "bad_object": 1, "no_objects": 1}

    root = tmp_path / "hrsc"
    (root / "FullDataSet" / "Annotations").mkdir(parents=True)
    values = zip(("mbox_cx", "mbox_cy", "mbox_w", "mbox_h", "mbox_ang"), (40, 30, 20, 6, -0.3), strict=True)
    box = "".join(f"<{n}>{v}</{n}>" for n, v in values)
    (root / "FullDataSet" / "Annotations" / "1.xml").write_text(
        "<HRSC_Image><Img_SizeWidth>90</Img_SizeWidth><Img_SizeHeight>70</Img_SizeHeight><HRSC_Objects>"
        f"<HRSC_Object><Class_ID>100000001</Class_ID><difficult>1</difficult>{box}</HRSC_Object></HRSC_Objects></HRSC_Image>"
    )
    found = data.read_hrsc(root, ["1"], with_images=False)
    assert np.allclose(found.items[0].boxes, [[40, 30, 20, 6, -0.3]])
    assert found.items[0].size == (70, 90)
    assert found.items[0].difficult.tolist() == [True]


def test_submission_round_trip_and_bad_lines(tmp_path: Path):
    boxes = np.array([[30.0, 20, 40, 10, 0.25], [80, 90, 30, 20, -1.2]])
    found = {"P1": Detections(boxes, np.array([0.5, 0.25]), np.array([1, 0]))}
    paths = data.write_submission(tmp_path, ("plane", "ship"), found)
    assert [p.name for p in paths] == ["Task1_plane.txt", "Task1_ship.txt"]
    assert len(paths[1].read_text().split()) == 10
    again = data.read_submission(tmp_path, ("plane", "ship"))["P1"]
    assert np.allclose(again.boxes, boxes[[1, 0]], atol=0.02)
    assert again.labels.tolist() == [0, 1]
    paths[0].write_text("P1 0.5 1 2 3 4 5 6 7 8\nP1 0.5 1 2 3\n")
    with pytest.raises(DataError, match="line 2"):
        data.read_submission(tmp_path, ("plane", "ship"))
    with pytest.raises(DataError, match="Task1"):
        data.read_submission(tmp_path / "nowhere", ("plane",))


@pytest.mark.parametrize(
    ("length", "tile", "overlap"), [(1000, 256, 56), (256, 256, 0), (100, 256, 200), (257, 256, 200)]
)
def test_tiles_cover_an_axis(length: int, tile: int, overlap: int):
    starts = tiles.starts(length, tile, overlap)
    covered = np.zeros(length, bool)
    for a, b in pairwise(starts):
        assert a < b <= a + tile - overlap
    for start in starts:
        assert start == 0 or start + tile <= length
        covered[start : start + tile] = True
    assert covered.all()
    with pytest.raises(ConfigError):
        tiles.starts(100, 64, 64)


def test_tiles_keep_objects_by_area_and_merge_back():
    rng = np.random.default_rng(0)
    n = 60
    boxes = np.stack((rng.uniform(0, 700, n), rng.uniform(0, 500, n), rng.uniform(8, 40, n), rng.uniform(4, 20, n),
                      rng.uniform(-1.5, 1.5, n)), axis=1)  # fmt: skip
    boxes = rotated.le90(torch.from_numpy(boxes)).numpy()
    scene = Labelled("S", None, (500, 700), boxes, np.arange(n), np.zeros(n, bool))
    found = {}
    for x, y in tiles.grid((500, 700), 256, 100):
        part = tiles.cut(scene, x, y, 256)
        window = shapely.box(x, y, x + 256, y + 256)
        quads = shapely.polygons(rotated.corners(torch.from_numpy(boxes)).numpy())
        share = shapely.area(shapely.intersection(quads, window)) / shapely.area(quads)
        assert part.labels.tolist() == np.flatnonzero(share >= 0.7).tolist()
        assert tiles.parse_tile_id(part.id) == ("S", x, y)
        found[part.id] = Detections(part.boxes, np.linspace(0.2, 0.9, n)[part.labels], np.asarray(part.labels))
    merged = tiles.merge(found)["S"]
    order = np.argsort(merged.labels)
    assert set(merged.labels.tolist()) == {i for f in found.values() for i in f.labels.tolist()}
    assert len(merged.labels) == len(set(merged.labels.tolist()))
    assert np.allclose(merged.boxes[order], boxes[np.sort(merged.labels)])
    assert merged.scores.tolist() == sorted(merged.scores.tolist(), reverse=True)
    with pytest.raises(DataError):
        tiles.merge({"S": next(iter(found.values()))})


def test_real_sets_hold_what_their_notes_say(shared_data: Path):
    root = shared_data / "dota"
    whole = dota_txt.read_dota(root / "full" / "labelTxt", root / "full" / "images")
    assert (len(whole), sum(len(i.boxes) for i in whole)) == (5, 818)  # 822 with the one of another size
    assert whole.notes.counts["other_size"] == 1
    assert "P2805" in str(whole.notes)
    cut = dota_txt.read_dota(root / "labelTxt", root / "images", classes=data.DOTA_CLASSES)
    assert (len(cut), sum(len(i.boxes) for i in cut)) == (50, 1870)
    assert sum(int(i.difficult.sum()) for i in cut) == 209 + 124
    assert sum(len(i.boxes) for i in dota_txt.read_dota(root / "labels_only")) == 962
    root = shared_data / "gdit_aerial_airport"
    upright = dota_txt.read_dota(root / "labelTxt", root / "images")
    assert (len(upright), sum(len(i.boxes) for i in upright)) == (68, 1018)
    assert all(np.allclose(np.sin(2 * i.boxes[:, 4]), 0, atol=0.05) for i in upright)
    root = shared_data / "buildings_obb_derived"
    houses = dota_txt.read_dota(root / "labelTxt", root / "images")
    assert (len(houses), sum(len(i.boxes) for i in houses)) == (32, 446)


def test_real_dior_r_is_parsed(shared_data: Path):
    root = shared_data / "dior_r"
    one = data.read_dior_r(root, ["00001"])
    assert np.allclose(one.items[0].boxes, [[408.5, 454.5, 551, 435, 0]])
    folder = root / "labels_only" / "Oriented Bounding Boxes"
    ids = [p.stem for p in folder.iterdir()]
    labels = data.read_dior_r(root, ids, with_images=False, annotations=folder)
    assert (len(labels), sum(len(i.boxes) for i in labels)) == (40, 139)
    assert all((i.boxes[:, 2] >= i.boxes[:, 3]).all() and (abs(i.boxes[:, 4]) <= math.pi / 2).all() for i in labels)
