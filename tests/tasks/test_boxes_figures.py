"""Files of predictions are judged by every definition under its own name; hand-made sets with known answers."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from selectivemae.cli.main import main
from selectivemae.core.errors import DataError
from selectivemae.tasks.boxes_figures import DEFINITIONS
from selectivemae.tasks.boxes_pictures import class_colour, draw_boxes
from selectivemae.tasks.detect.evaluate import evaluate_files as evaluate_detect
from selectivemae.tasks.oriented.evaluate import evaluate_files as evaluate_oriented

VOC = (
    "<annotation><size><width>99</width><height>99</height></size>{}</annotation>",
    "<object><name>{}</name><bndbox><xmin>{}</xmin><ymin>{}</ymin><xmax>{}</xmax><ymax>{}</ymax></bndbox></object>",
)


def coco(path: Path) -> Path:
    """Five objects of one class in one image, and one of another."""
    boxes = [[20 * i, 10, 10, 10] for i in range(5)]
    annotations = [{"id": i + 1, "image_id": 7, "category_id": 3, "bbox": b, "area": 100, "iscrowd": 0} for i, b in
                   enumerate(boxes)]  # fmt: skip
    annotations.append({"id": 9, "image_id": 8, "category_id": 5, "bbox": [5, 5, 30, 20], "area": 600, "iscrowd": 0})
    images = [{"id": i, "file_name": f"some/{n}.jpg", "width": 120, "height": 60} for i, n in ((7, "a"), (8, "b"))]
    categories = [{"id": 3, "name": "plane"}, {"id": 5, "name": "ship"}]
    path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
    return path


def results(path: Path) -> Path:
    """Hit, miss, hit, hit, miss: recall (.2 .2 .4 .6 .6), precision (1 .5 .67 .75 .6), the check of E.8."""
    rows = [([0, 10, 10, 10], 0.9), ([0, 40, 10, 10], 0.8), ([20, 10, 10, 10], 0.7), ([40, 10, 10, 10], 0.6),
            ([100, 40, 10, 10], 0.5)]  # fmt: skip
    out = [{"image_id": 7, "category_id": 3, "bbox": b, "score": s} for b, s in rows]
    out.append({"image_id": 8, "category_id": 5, "bbox": [5, 5, 30, 20], "score": 0.9})
    path.write_text(json.dumps(out))
    return path


def test_coco_results_against_a_coco_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    truth, found = coco(tmp_path / "truth.json"), results(tmp_path / "found.json")
    figures = evaluate_detect(found, truth, tmp_path / "out")
    row = figures.by_class["plane"]
    assert row["voc07_ap50"] == pytest.approx(54.5455, abs=1e-3)
    assert row["voc_area_ap50"] == pytest.approx(50.0)
    assert row["coco_ap50"] == pytest.approx(50.495, abs=1e-3)
    assert figures.by_class["ship"]["coco_ap50"] == pytest.approx(100)
    assert figures.mean["coco_ap50"] == pytest.approx((50.495 + 100) / 2, abs=1e-3)
    assert set(figures.mean) <= set(DEFINITIONS)
    assert json.loads((tmp_path / "out" / "figures.json").read_text())["objects"] == 6
    again = evaluate_detect(tmp_path / "out" / "predictions.json", tmp_path / "out" / "ground_truth.json")
    assert again.mean == pytest.approx(figures.mean)
    command = ["evaluate", "--task", "detect", "--predictions", str(found), "--ground-truth", str(truth)]
    assert main(command) == 0
    text = capsys.readouterr().out
    for name in figures.mean:
        assert DEFINITIONS[name] in text


def test_coco_results_against_voc_xml(tmp_path: Path):
    for id, objects in (("a", [("Ship", 5, 5, 35, 25)]), ("b", [("plane", 0, 0, 10, 10), ("ship", 50, 50, 80, 80)])):
        (tmp_path / f"{id}.xml").write_text(VOC[0].format("".join(VOC[1].format(*o) for o in objects)))
    rows = [{"image_id": "a", "category_id": 1, "bbox": [5, 5, 30, 20], "score": 0.9},
            {"image_id": "b", "category_id": 0, "bbox": [0, 0, 10, 10], "score": 0.9}]  # fmt: skip
    (tmp_path / "r.json").write_text(json.dumps(rows))
    figures = evaluate_detect(tmp_path / "r.json", tmp_path)
    assert figures.by_class["plane"]["voc_area_ap50"] == 100
    assert next(v for k, v in figures.by_class.items() if k.lower() == "ship")["voc_area_ap50"] == 50
    with pytest.raises(DataError, match="no such file"):
        evaluate_detect(tmp_path / "r.json", tmp_path / "nowhere")
    (tmp_path / "r.json").write_text(json.dumps([rows[0] | {"image_id": "z"}]))
    with pytest.raises(DataError, match="image z is not in the ground truth"):
        evaluate_detect(tmp_path / "r.json", tmp_path)


def test_submission_files_against_label_texts(tmp_path: Path):
    labels, submission = tmp_path / "labelTxt", tmp_path / "submission"
    labels.mkdir()
    submission.mkdir()
    square, other = "10 10 30 10 30 20 10 20", "50 50 70 50 70 60 50 60"
    (labels / "P1.txt").write_text(f"imagesource:x\n{square} plane 0\n{other} plane 1\n")
    (submission / "Task1_plane.txt").write_text(f"P1 0.9 {square}\nP1 0.8 {other}\nP1 0.1 80 80 90 80 90 90 80 90\n")
    figures = evaluate_oriented(submission, labels)
    assert figures.main == ("rotated_voc07_ap50", pytest.approx(100))
    assert figures.objects["plane"] == 1  # the difficult one is neither asked for nor counted
    assert "difficult objects are neither asked for nor counted" in figures.as_text()
    command = ["evaluate", "--task", "oriented", "--predictions", str(submission), "--ground-truth", str(labels)]
    assert main([*command, "--json", "--out", str(tmp_path / "out")]) == 0
    assert (tmp_path / "out" / "precision_recall.png").stat().st_size > 1000
    (submission / "Task1_plane.txt").write_text("P1 0.9 1 2 3\n")
    assert main(command) == 2


@pytest.mark.parametrize("box", [[20.0, 30.0, 60.0, 50.0], [40.0, 40.0, 40.0, 20.0, 0.0]])
def test_boxes_are_drawn_where_they_are(box: list[float], tmp_path: Path):
    pixels = np.zeros((80, 100, 3), np.uint8)
    drawn = draw_boxes(pixels, np.array([box]), [3])
    marked = (drawn == class_colour(3)).all(axis=2)
    rows, columns = marked.any(axis=1).nonzero()[0], marked.any(axis=0).nonzero()[0]
    assert abs(columns.min() - 20) <= 2
    assert abs(columns.max() - 60) <= 2
    assert abs(rows.min() - 30) <= 2
    assert abs(rows.max() - 50) <= 2
    assert not marked[33:47, 24:56].any()
    Image.fromarray(drawn).save(tmp_path / "x.png")
    assert len({class_colour(i) for i in range(20)}) == 20
