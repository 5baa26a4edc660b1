"""Folders of synthetic scenes, read back with other people's readers and by the plainest parsers."""

import csv
import hashlib
import json
import os
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest
from faster_coco_eval import COCO
from PIL import Image
from shapely.geometry import Polygon

from selectivemae.core.errors import ConfigError, OutputError
from selectivemae.data.synthetic import CLASSES, LAND, OBJECTS, scene, write_scenes

SOME = ("parking", "harbour", "dunes")


def digests(folder: Path) -> dict[str, str]:
    files = sorted(f for f in folder.rglob("*") if f.is_file())
    return {str(f.relative_to(folder)): hashlib.sha256(f.read_bytes()).hexdigest() for f in files}


def test_class_folders_and_their_split(tmp_path):
    write_scenes(tmp_path / "a", 6, 48, seed=3)
    with open(tmp_path / "a/split.csv", newline="") as f:
        rows = list(csv.DictReader(f))
    assert len(rows) == 6 * len(CLASSES)
    for label in CLASSES:
        mine = [row for row in rows if row["label"] == label]
        assert [row["file"] for row in mine] == [f"{label}/{i:06d}.jpg" for i in range(1, 7)]
        assert [row["split"] for row in mine].count("test") == 2
    images = {f.relative_to(tmp_path / "a").as_posix() for f in (tmp_path / "a").rglob("*.jpg")}
    assert images == {row["file"] for row in rows}
    stored = np.asarray(Image.open(tmp_path / "a/river/000005.jpg"), float)
    drawn = scene(3, 4, "river", 48).image
    assert stored.shape == drawn.shape
    assert np.abs(stored - drawn).mean() < 6


@pytest.mark.slow  # starts two interpreters
def test_files_do_not_depend_on_the_number_of_workers(tmp_path):
    for workers in (1, 2):
        write_scenes(tmp_path / str(workers), 2, 32, seed=1, layout="detection", classes=SOME, workers=workers)
    assert digests(tmp_path / "1") == digests(tmp_path / "2")


def test_detection_files_tell_the_same_boxes(tmp_path):
    out = tmp_path / "boxes"
    write_scenes(out, 3, 160, seed=2, layout="detection", classes=SOME)
    assert (out / "classes.txt").read_text().split() == list(OBJECTS)
    counted = 0
    for split in ("train", "test"):
        coco = COCO(str(out / f"{split}.json"))
        assert len(coco.getImgIds()) == {"train": 6, "test": 3}[split]
        names = {c["id"]: c["name"] for c in coco.loadCats(coco.getCatIds())}
        for image in coco.loadImgs(coco.getImgIds()):
            path = out / image["file_name"]
            assert Image.open(path).size == (image["width"], image["height"]) == (160, 160)
            entries = coco.loadAnns(coco.getAnnIds(imgIds=image["id"]))
            objects = ET.parse(out / split / "Annotations" / f"{path.stem}.xml").getroot().findall("object")
            text = (out / split / "labelTxt" / f"{path.stem}.txt").read_text().splitlines()
            assert text[0].startswith("imagesource:")
            assert float(text[1].removeprefix("gsd:")) > 0
            lines = [line.split() for line in text[2:]]
            assert len(entries) == len(objects) == len(lines)
            for entry, node, line in zip(entries, objects, lines, strict=True):
                assert names[entry["category_id"]] == node.findtext("name") == line[8]
                corners = [float(node.findtext(f"bndbox/{k}", "")) for k in ("xmin", "ymin", "xmax", "ymax")]
                x, y, w, h = entry["bbox"]
                assert np.allclose([x, y, x + w, y + h], corners, atol=0.03)
                hull = Polygon(np.array(line[:8], float).reshape(4, 2)).bounds
                assert np.allclose(np.clip(hull, 0, 160), corners, atol=0.03)
                assert entry["area"] == pytest.approx(w * h, abs=0.01)
                counted += 1
    assert counted > 50


def test_segmentation_masks_lie_beside_their_images(tmp_path):
    out = tmp_path / "land"
    write_scenes(out, 3, 40, layout="segmentation", classes=["river"])
    assert (out / "classes.txt").read_text().split() == list(LAND)
    masks = sorted(out.glob("*/masks/*.png"))
    assert [m.stem for m in masks] == [i.stem for i in sorted(out.glob("*/images/*.jpg"))]
    assert len(masks) == 3
    stored = np.asarray(Image.open(next(out.glob("*/masks/river_000002.png"))))
    assert np.array_equal(stored, scene(0, 1, "river", 40).mask)


def test_what_is_there_is_never_touched_and_nothing_half_done_stays(tmp_path, monkeypatch):
    out = tmp_path / "mine"
    out.mkdir()
    (out / "note.txt").write_text("keep")
    with pytest.raises(OutputError, match="exists already"):
        write_scenes(out, 1, 32, classes=SOME)
    assert (out / "note.txt").read_text() == "keep"

    def full(*_: object, **__: object) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(Image.Image, "save", full)
    with pytest.raises(OutputError, match="no space left on the disk"):
        write_scenes(tmp_path / "new", 1, 32, classes=SOME)
    assert [f.name for f in tmp_path.iterdir()] == ["mine"]


def test_settings_out_of_range_are_refused(tmp_path):
    for per_class, share, workers in ((0, 0.5, 1), (1, 1.5, 1), (1, 0.5, 0)):
        with pytest.raises(ConfigError, match="at least 1 scene"):
            write_scenes(tmp_path / "x", per_class, test_share=share, workers=workers)
    with pytest.raises(ConfigError, match="layout"):
        write_scenes(tmp_path / "x", 1, layout="boxes")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ConfigError, match="no synthetic scene class"):
        write_scenes(tmp_path / "x", 1, classes=["moon"])
    assert not list(tmp_path.iterdir())


def test_empty_splits_are_valid_documents(tmp_path):
    write_scenes(tmp_path / "all", 1, 32, layout="detection", classes=["dunes"], test_share=0)
    assert json.loads((tmp_path / "all/test.json").read_text())["images"] == []
