"""Readers of upright boxes: known contents of real files, hand-made bad ones, and round trips."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from selectivemae.core.errors import DataError
from selectivemae.tasks.boxes_common import Detections, read_ids
from selectivemae.tasks.detect import data

OBJECT = (
    "<object><name>{}</name><bndbox><xmin>{}</xmin><ymin>{}</ymin><xmax>{}</xmax><ymax>{}</ymax></bndbox>{}</object>"
)


def voc(folder: Path, id: str, *objects: tuple, size: tuple[int, int] | None = (50, 60)) -> None:
    """An XML file; objects are (name, x1, y1, x2, y2[, difficult]); size is (height, width)."""
    folder.mkdir(parents=True, exist_ok=True)
    body = "".join(OBJECT.format(*o[:5], f"<difficult>{o[5]}</difficult>" if len(o) > 5 else "") for o in objects)
    head = f"<size><width>{size[1]}</width><height>{size[0]}</height></size>" if size else ""
    (folder / f"{id}.xml").write_text(f"<annotation>{head}{body}</annotation>")


def picture(folder: Path, id: str, height: int = 50, width: int = 60) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (width, height)).save(folder / f"{id}.png")


def test_voc_reads_boxes_as_they_are_and_matches_class_names_without_case(tmp_path: Path):
    voc(tmp_path / "xml", "b", ("Ship", 1, 2, 11, 22), ("plane", 5.5, 6, 90, 40, 1))
    voc(tmp_path / "xml", "a", ("PLANE", 3, 3, 9, 9))
    found = data.read_voc(tmp_path / "xml", classes=("plane", "ship"))
    assert [i.id for i in found] == ["a", "b"]
    assert found.items[1].boxes.tolist() == [[1, 2, 11, 22], [5.5, 6, 90, 40]]
    assert found.items[1].labels.tolist() == [1, 0]
    assert found.items[1].difficult.tolist() == [False, True]
    assert found.items[1].size == (50, 60)
    assert found.notes.counts == {}
    assert (
        data.read_voc(tmp_path / "xml").classes == ("PLANE", "Ship")
        or "plane" in data.read_voc(tmp_path / "xml").classes
    )


def test_every_bad_object_and_file_is_left_out_and_named(tmp_path: Path):
    xml, images = tmp_path / "xml", tmp_path / "images"
    good = ("ship", 1, 1, 20, 20)
    bad = [(9, 1, 2, 20), (1, 1, 1.5, 20), (60, 1, 70, 20), ("nan", 1, 5, 20), ("x", 1, 5, 20)]
    across = ("ship", -5, -5, 20, 20)
    voc(xml, "objects", good, *(("ship", *b) for b in bad), ("dragon", 1, 1, 20, 20), across)
    voc(xml, "empty")
    voc(xml, "no_size", good, size=None)
    voc(xml, "other_size", good, size=(500, 600))
    voc(xml, "lonely", good)
    (xml / "broken.xml").write_text("<annotation><object>")
    (xml / "zero.xml").write_text("")
    for id in ("objects", "empty", "no_size", "other_size", "broken", "zero", "unlabelled"):
        picture(images, id)
    voc(xml, "torn", good)
    (images / "torn.jpg").write_bytes(b"\xff\xd8 not an image")
    found = data.read_voc(xml, images, classes=["ship"])
    assert [i.id for i in found] == ["empty", "no_size", "objects"]
    assert found.items[2].boxes.tolist() == [[1, 1, 20, 20], [-5, -5, 20, 20]]
    assert found.items[1].size == (50, 60)
    assert found.notes.counts == {
        "inverted": 1, "too_small": 1, "outside": 1, "not_finite": 1, "bad_object": 1, "unknown_class": 1,
        "no_objects": 1, "other_size": 1, "no_image": 1, "no_labels": 1, "unreadable": 3,
    }  # fmt: skip
    assert "objects.xml object 2" in str(found.notes)
    assert [i.id for i in found.for_training()] == ["no_size", "objects"]
    assert len(found.for_training(min_side=51)) == 0


def test_labels_without_a_stated_size_that_lie_outside_belong_to_another_size(tmp_path: Path):
    voc(tmp_path / "xml", "a", ("ship", 100, 100, 200, 200), size=None)
    voc(tmp_path / "xml", "b", ("ship", 1, 1, 20, 20), size=None)
    for id in "ab":
        picture(tmp_path / "images", id)
    found = data.read_voc(tmp_path / "xml", tmp_path / "images")
    assert [i.id for i in found] == ["b"]
    assert found.notes.counts["other_size"] == 1


@pytest.mark.parametrize(
    ("folder", "options"),
    [
        ("nowhere", {}),
        ("xml", {"ids": ["other"]}),
        ("xml", {"classes": ["ship", "Ship"]}),
        ("xml", {"images": Path("/no")}),
    ],
)
def test_hopeless_input_is_one_clear_error(tmp_path: Path, folder: str, options: dict):
    voc(tmp_path / "xml", "a", ("ship", 1, 1, 20, 20))
    with pytest.raises(DataError) as error:
        data.read_voc(tmp_path / folder, **options)
    assert "\n" not in str(error.value)


def test_coco_round_trip_and_crowds(tmp_path: Path):
    voc(tmp_path / "xml", "a", ("ship", 1, 2, 11, 22), ("plane", 5, 6, 30, 40, 1))
    voc(tmp_path / "xml", "b")
    first = data.read_voc(tmp_path / "xml", classes=("plane", "ship"))
    (tmp_path / "coco.json").write_text(json.dumps(data.to_coco(first)))
    second = data.read_coco(tmp_path / "coco.json")
    assert second.classes == first.classes
    for one, other in zip(first, second, strict=True):
        assert (one.id, one.size, one.boxes.tolist()) == (other.id, other.size, other.boxes.tolist())
        assert (one.labels.tolist(), one.difficult.tolist()) == (other.labels.tolist(), other.difficult.tolist())


def test_coco_with_ids_of_its_own_and_bad_entries(tmp_path: Path):
    document = {
        "categories": [{"id": 7, "name": "b"}, {"id": 3, "name": "a"}],
        "images": [{"id": "x", "file_name": "sub/one.jpg", "height": 20, "width": 30}],
        "annotations": [
            {"id": 1, "image_id": "x", "category_id": 7, "bbox": [1, 2, 3, 4]},
            {"id": 2, "image_id": "x", "category_id": 9, "bbox": [1, 2, 3, 4]},
            {"id": 3, "image_id": "y", "category_id": 7, "bbox": [1, 2, 3, 4]},
            {"id": 4, "image_id": "x", "category_id": 7, "bbox": [1, 2, 3]},
        ],
    }
    path = tmp_path / "coco.json"
    path.write_text(json.dumps(document))
    found = data.read_coco(path)
    assert found.classes == ("a", "b")
    assert found.items[0].id == "one"
    assert found.items[0].boxes.tolist() == [[1, 2, 4, 6]]
    assert found.items[0].labels.tolist() == [1]
    assert found.notes.counts == {"unknown_class": 1, "bad_object": 2}
    for text in ("{}", "[]", "{", '{"categories": 1, "images": [], "annotations": []}'):
        path.write_text(text)
        with pytest.raises(DataError, match=r"coco\.json"):
            data.read_coco(path)


def test_results_round_trip_and_refuse_strangers(tmp_path: Path):
    voc(tmp_path / "xml", "a", ("ship", 1, 2, 11, 22))
    voc(tmp_path / "xml", "b", ("ship", 1, 2, 11, 22))
    truth = data.read_voc(tmp_path / "xml")
    found = {"b": Detections(np.array([[1.0, 2, 3, 5]]), np.array([0.25]), np.array([0]))}
    path = tmp_path / "results.json"
    path.write_text(json.dumps(data.to_results(truth, found)))
    again = data.read_results(path, {1: "a", 2: "b"}, {0: 0})
    assert list(again) == ["b"]
    assert again["b"].boxes.tolist() == [[1, 2, 3, 5]]
    assert again["b"].scores.tolist() == [0.25]
    good = {"image_id": 1, "category_id": 0, "bbox": [1, 2, 3, 4], "score": 0.5}
    for wrong in ({"image_id": 9}, {"category_id": 4}, {"bbox": [1, 2]}, {"score": float("nan")}):
        path.write_text(json.dumps([good, good | wrong]))
        with pytest.raises(DataError, match="entry 1"):
            data.read_results(path, {1: "a", 2: "b"}, {0: 0})


def test_airbus_table_with_bad_rows(tmp_path: Path):
    path = tmp_path / "annotations.csv"
    path.write_text(
        "id,image_id,geometry,class\n"
        '1,a.jpg,"[(5, 6), (25, 6), (25, 36), (5, 36), (5, 6)]",Airplane\n'
        '2,a.jpg,"[(5, 6), (25, nan), (25, 36), (5, 36), (5, 6)]",Airplane\n'
        '3,a.jpg,"[(5, 6)]",Airplane\n4,a.jpg,,Airplane\n'
        '5,b.jpg,"[(5, 6), (25, 6), (25, 36), (5, 36), (5, 6)]",Truncated_airplane\n'
    )
    found = data.read_airbus(path)
    assert found.classes == ("Airplane", "Truncated_airplane")
    assert found.items[0].boxes.tolist() == [[5, 6, 25, 36]]
    assert found.notes.counts == {"bad_object": 2, "not_finite": 1, "no_size": 2}


def test_real_sets_hold_what_their_notes_say(shared_data: Path):
    root = shared_data / "airbus_aircraft"
    found = data.read_airbus(root / "annotations.csv", root / "images")
    counts = np.bincount(np.concatenate([i.labels for i in found]))
    assert (len(found), dict(zip(found.classes, counts.tolist(), strict=True))) == (
        103,
        {"Airplane": 542, "Truncated_airplane": 11},
    )
    with (root / "annotations.csv").open() as file:
        assert sum(1 for _ in csv.DictReader(file)) == counts.sum()
    root = shared_data / "nepu_owod"
    found = data.read_voc(root / "Annotations", root / "JPEGImages")
    assert (len(found), sum(len(i.boxes) for i in found)) == (27, 171)
    assert found.notes.counts == {}
    assert len(data.read_voc(root / "Annotations", root / "JPEGImages", ids=read_ids(root / "val.txt"))) == 5


def test_real_dior_is_parsed(shared_data: Path):
    root = shared_data / "dior_r"
    found = data.read_dior(root, ["00001"])
    assert found.items[0].boxes.tolist() == [[133, 237, 684, 672]]
    assert found.classes[found.items[0].labels[0]] == "golffield"
    labels = data.read_voc(root / "labels_only" / "Horizontal Bounding Boxes", classes=data.DIOR_CLASSES)
    assert (len(labels), sum(len(i.boxes) for i in labels)) == (40, 139)
