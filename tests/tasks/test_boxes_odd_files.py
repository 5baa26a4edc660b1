"""Files of others that are unusual but legal: their figures are those of the files, and no label is lost on the way."""

import contextlib
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from selectivemae.core.errors import DataError
from selectivemae.ops import rotated
from selectivemae.tasks.boxes_common import Detections, read_ids
from selectivemae.tasks.boxes_geometry import Geometry, place_objects
from selectivemae.tasks.boxes_layout import open_boxes
from selectivemae.tasks.detect.data import read_coco, read_voc
from selectivemae.tasks.detect.evaluate import evaluate_files as evaluate_detect
from selectivemae.tasks.dota_txt import read_dota
from selectivemae.tasks.oriented.data import read_submission, write_submission
from selectivemae.tasks.oriented.evaluate import evaluate_files as evaluate_oriented

SQUARE = "10 10 50 10 50 30 10 30"


def files_of_detections(folder: Path, seed: int) -> tuple[Path, Path]:
    """A COCO json with crowds, slivers, objects outside and an empty image, and results with ties, most far off."""
    rng = np.random.default_rng(seed)
    images = [{"id": 10 + i, "file_name": f"{i}.jpg", "height": 200, "width": 300} for i in range(5)]
    annotations: list[dict[str, Any]] = []
    results: list[dict[str, Any]] = []
    for image in images[1:]:
        for kind in rng.choice(["plain", "sliver", "outside", "crowd"], 9, p=[0.7, 0.1, 0.1, 0.1]):
            x, y, w, h = (float(v) for v in (*rng.uniform(0, 150, 2), *rng.uniform(8, 50, 2)))
            box = [x + 400 * (kind == "outside"), y, 0.5 if kind == "sliver" else w, h]
            own = {"image_id": image["id"], "category_id": int(rng.choice([3, 8])), "bbox": box}
            more = {"id": len(annotations) + 1, "iscrowd": int(kind == "crowd"), "area": box[2] * box[3]}
            annotations.append(own | more)
            for _ in range(int(rng.integers(0, 4))):
                moved = (np.array(box) + rng.normal(0, 2, 4)).clip(0.1)
                results.append(own | {"bbox": moved.tolist(), "score": round(float(rng.random()), 1)})
        for _ in range(130):
            box = [*rng.uniform(0, 200, 2), 30.0, 30.0]
            results.append({"image_id": image["id"], "category_id": 3, "bbox": box, "score": float(rng.random())})
    categories = [{"id": 3, "name": "plane"}, {"id": 8, "name": "ship"}, {"id": 9, "name": "unseen"}]
    truth, found = folder / "truth.json", folder / "found.json"
    truth.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
    found.write_text(json.dumps(results))
    return truth, found


@pytest.mark.parametrize("seed", [0, 1])
def test_figures_of_files_equal_pycocotools(tmp_path: Path, seed: int):
    coco, cocoeval = pytest.importorskip("pycocotools.coco"), pytest.importorskip("pycocotools.cocoeval")
    truth, found = files_of_detections(tmp_path, seed)
    with contextlib.redirect_stdout(io.StringIO()):
        reference = coco.COCO(str(truth))
        oracle = cocoeval.COCOeval(reference, reference.loadRes(str(found)), "bbox")
        oracle.params.maxDets = [1, 100, 1000]
        oracle.evaluate()
        oracle.accumulate()
    precision = np.where((p := oracle.eval["precision"][:, :, :, 0, -1]) < 0, np.nan, p)
    figures = evaluate_detect(found, truth)
    assert figures.mean["coco_ap50"] == pytest.approx(100 * np.nanmean(precision[0]), abs=1e-9)
    assert figures.mean["coco_ap"] == pytest.approx(100 * np.nanmean(precision), abs=1e-9)


def test_detections_that_name_their_category_need_no_number(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    """``predict`` counts the classes of its model from 0; a COCO json has numbers of its own."""
    truth, _ = files_of_detections(tmp_path, 0)
    document = json.loads(truth.read_text())
    names = {3: ("Plane", 1), 8: ("ship", 0)}
    perfect = [
        {"image_id": str(a["image_id"] - 10), "bbox": a["bbox"], "score": 0.9}
        | dict(zip(("category", "category_id"), names[a["category_id"]], strict=True))
        for a in document["annotations"] if not a["iscrowd"]
    ]  # fmt: skip
    perfect.append(perfect[0] | {"category": "dragon"})
    (tmp_path / "named.json").write_text(json.dumps(perfect))
    figures = evaluate_detect(tmp_path / "named.json", truth)
    assert figures.mean["coco_ap50"] == pytest.approx(100)
    assert "1 detections of dragon do not count" in caplog.text
    del perfect[0]["category"]
    (tmp_path / "named.json").write_text(json.dumps(perfect))
    with pytest.raises(DataError, match=r"entry 0: category \d is not in the ground truth \(3, 8, 9\)"):
        evaluate_detect(tmp_path / "named.json", truth)


def test_images_of_voc_files_may_be_numbers(tmp_path: Path):
    xml = "<annotation>{}</annotation>"
    box = "<object><name>a</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>9</xmax><ymax>9</ymax></bndbox></object>"
    for id in ("00007", "000012"):
        (tmp_path / f"{id}.xml").write_text(xml.format(box))
    (tmp_path / "13.xml").write_text(xml.format(""))
    found = [{"image_id": i, "category_id": 0, "bbox": [1, 1, 8, 8], "score": 0.5} for i in (7, "000012")]
    (tmp_path / "found.json").write_text(json.dumps(found))
    assert evaluate_detect(tmp_path / "found.json", tmp_path).mean["coco_ap50"] == pytest.approx(100)
    (tmp_path / "found.json").write_text("[]")
    assert evaluate_detect(tmp_path / "found.json", tmp_path).mean["coco_ap50"] == 0


def test_coco_images_in_folders_with_equal_names(tmp_path: Path):
    for folder in ("a", "b"):
        (tmp_path / "images" / folder).mkdir(parents=True)
        Image.new("RGB", (40, 30)).save(tmp_path / "images" / folder / "1.png")
    names = ["a/1.png", "b/1.png"]
    images = [{"id": i, "file_name": name, "width": 40, "height": 30} for i, name in enumerate(names)]
    annotations = [{"id": i, "image_id": i, "category_id": 1, "bbox": [i, 0, 5, 5]} for i in range(2)]
    document = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "x"}]}
    (tmp_path / "train.json").write_text("\ufeff" + json.dumps(document), encoding="utf-8")
    found = open_boxes(tmp_path, "train", 4, "train")
    assert [(i.id, i.image, i.boxes[0, 0]) for i in found] == [
        (f"{f}/1", tmp_path / "images" / f / "1.png", n) for n, f in enumerate("ab")
    ]
    assert [i.id for i in read_coco(tmp_path / "train.json")] == ["a/1", "b/1"]


@pytest.mark.parametrize("text", [
    f"imagesource:GoogleEarth\r\ngsd:0.14\r\n{SQUARE} small vehicle 1\r\n{SQUARE} ship 0\r\n",
    f"\ufeff{SQUARE.replace(' ', ',')},Small Vehicle,1\n{SQUARE.replace(' ', ', ')}, ship, 0",
    f"gsd:null\n{SQUARE.replace(' ', chr(9))}\tsmall vehicle\t2\n\n  {SQUARE}  ship",
])  # fmt: skip
def test_label_texts_with_commas_tabs_marks_and_spaces(tmp_path: Path, text: str):
    (tmp_path / "scene 1.txt").write_bytes(text.encode())
    (found,) = read_dota(tmp_path, classes=("small vehicle", "ship"))
    assert np.allclose(found.boxes, [[30, 20, 40, 20, 0]] * 2)
    assert (found.labels.tolist(), found.difficult.tolist()) == ([0, 1], [True, False])


def test_names_with_spaces_slashes_and_other_case_go_through_submission_files(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    classes = ("small vehicle", "tank/silo")
    boxes = np.array([[30.0, 20, 40, 10, 0.25], [80, 90, 30, 20, -1.2]])
    write_submission(tmp_path / "s", classes, {"scene 1 b": Detections(boxes, np.array([0.5, 0.25]), np.array([1, 0]))})
    again = read_submission(tmp_path / "s", classes)["scene 1 b"]
    assert np.allclose(again.boxes, boxes[[1, 0]], atol=0.02)
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / "P1.txt").write_text(f"{SQUARE} Ship 0\n")
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "Task1_ship.txt").write_text(f"P1 0.5 {SQUARE}\n")
    (tmp_path / "own" / "Task1_whale.txt").write_text(f"P1 0.5 {SQUARE}\n")
    assert evaluate_oriented(tmp_path / "own", tmp_path / "labels").main[1] == pytest.approx(100)
    assert "Task1_whale.txt: 1 detections do not count" in caplog.text


def test_lists_of_ids_with_spaces_and_a_mark(tmp_path: Path):
    (tmp_path / "train.txt").write_bytes("\ufeffscene 1\r\n\r\nimages/b.PNG\n c \n".encode())
    assert read_ids(tmp_path / "train.txt") == ["scene 1", "b", "c"]


def test_an_image_that_pillow_does_not_know_is_measured(tmp_path: Path):
    rasterio = pytest.importorskip("rasterio")
    (tmp_path / "xml").mkdir()
    (tmp_path / "images").mkdir()
    profile = {"driver": "GTiff", "width": 50, "height": 40, "count": 4, "dtype": "uint16"}
    with rasterio.open(tmp_path / "images" / "a.tif", "w", **profile) as file:
        file.write(np.zeros((4, 40, 50), np.uint16))
    box = "<object><name>a</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>9</xmax><ymax>9</ymax></bndbox></object>"
    (tmp_path / "xml" / "a.xml").write_text(f"<annotation>{box}</annotation>")
    assert read_voc(tmp_path / "xml", tmp_path / "images").items[0].size == (40, 50)


def test_a_folder_without_lists_is_judged_whole_and_not_trained_on(tmp_path: Path):
    for folder in ("images", "labelTxt"):
        (tmp_path / folder).mkdir()
    for id in ("a", "b"):
        Image.new("RGB", (60, 40)).save(tmp_path / "images" / f"{id}.png")
        (tmp_path / "labelTxt" / f"{id}.txt").write_text(f"{SQUARE} ship 0\n")
    assert [i.id for i in open_boxes(tmp_path, "test", 5)] == ["a", "b"]
    with pytest.raises(DataError, match=r"write lists of ids: train\.txt and val\.txt"):
        open_boxes(tmp_path, "train", 5)


def test_an_empty_list_is_named(tmp_path: Path):
    for folder in ("images", "labelTxt"):
        (tmp_path / folder).mkdir()
    for name in ("train", "val"):
        (tmp_path / f"{name}.txt").write_text("\n")
    with pytest.raises(DataError, match=r"val\.txt: no image is named there"):
        open_boxes(tmp_path, "test", 5)


@pytest.mark.parametrize("canvas", [64, 512])
def test_an_object_that_is_a_line_has_no_part_in_training(canvas: int):
    """Of such an object the midpoint code is not finite in float32."""
    boxes = np.array([[300, 300, 40, 1e-8, 0], [300, 300, 40, 20, 0.3], [300, 300, 40, 0.02, 0.3]])
    placed, stays = place_objects(boxes, Geometry(canvas).place(0, (512, 512)))
    assert stays.tolist() == [False, True, False]
    codes = rotated.encode_midpoint(torch.tensor([[20.0, 20, 60, 60]]), torch.from_numpy(placed).float())
    assert torch.isfinite(codes).all()
    assert torch.isfinite(
        rotated.encode_rotated(torch.tensor([[30.0, 30, 20, 10, 0.5]]), torch.from_numpy(placed))
    ).all()
