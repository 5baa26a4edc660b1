"""``predict`` and ``embed --image`` as users call them, with small models of every task."""

import base64
import csv
import json
from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch
from PIL import Image

from selectivemae.cli.main import main
from selectivemae.models import vit
from selectivemae.tasks.boxes_model import build_detector, save_detector
from selectivemae.tasks.classify.model import build_classifier, save_classifier
from selectivemae.tasks.segment.model import Shape, build_segmenter, save_segmenter

pytestmark = pytest.mark.filterwarnings("ignore::PendingDeprecationWarning")
WEIGHTS = "random:vit_tiny_patch16"


@pytest.fixture(autouse=True)
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    """vit_tiny of four narrow blocks."""
    torch.set_num_threads(1)
    monkeypatch.setitem(vit.SIZES, "tiny", (4, 32, 2, 32, 2))


@pytest.fixture
def scene(tmp_path: Path) -> Path:
    """A GeoTIFF of 100 x 130 random pixels."""
    pixels = np.random.default_rng(0).integers(0, 256, (3, 100, 130), dtype=np.uint8)
    with rasterio.open(
        tmp_path / "scene.tif",
        "w",
        driver="GTiff",
        width=130,
        height=100,
        count=3,
        dtype="uint8",
        crs="EPSG:32631",
        transform=rasterio.Affine(2, 0, 4e5, 0, -2, 5e6),
        photometric="rgb",
    ) as out:
        out.write(pixels)
    return tmp_path / "scene.tif"


def predict(*arguments: object) -> int:
    return main(["predict", *map(str, arguments), "--quiet", "--device", "cpu"])


def classifier(tmp_path: Path) -> Path:
    run = tmp_path / "run"
    run.mkdir()
    built = build_classifier(WEIGHTS, ("field", "town"), image_size=32)
    save_classifier(run / "model.safetensors", built)
    return run


def test_a_classifier(tmp_path: Path, scene: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = classifier(tmp_path)
    assert predict(run, "--image", scene, "--out", tmp_path / "map.tif") == 0
    with rasterio.open(tmp_path / "map.tif") as made:
        assert made.shape == (4, 5)
    folder = tmp_path / "images"
    folder.mkdir()
    for i in range(3):
        pixels = np.random.default_rng(i).integers(0, 256, (40, 40, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{i}.png")
    (folder / "bad.png").write_bytes(b"no image")
    assert predict(run, "--image", folder, "--out", tmp_path / "labels.csv") == 0
    assert "images/bad.png could not be read" in capsys.readouterr().out
    rows = list(csv.DictReader((tmp_path / "labels.csv").read_text().splitlines()))
    assert [row["id"] for row in rows] == ["images/0.png", "images/1.png", "images/2.png"]
    for row in rows:
        scores = {name: float(row[f"score_{name}"]) for name in ("field", "town")}
        assert row["label"] == max(scores, key=lambda name: scores[name])
        assert abs(sum(scores.values()) - 1) < 1e-4
    assert predict(run, "--image", folder / "0.png", "--out", tmp_path / "one.csv") == 0
    assert (tmp_path / "one.csv").read_text().splitlines()[1].split(",")[1:] == list(rows[0].values())[1:]
    assert predict(run, "--image", folder, "--out", tmp_path / "labels.csv") == 2
    assert "--overwrite" in capsys.readouterr().err


def test_a_segmenter(tmp_path: Path, scene: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    run.mkdir()
    shape = Shape(stride=48, head_width=16)
    colours = ((0, 0, 0), (255, 0, 0))
    segmenter = build_segmenter(WEIGHTS, ("background", "building"), colours, 64, shape)
    save_segmenter(run / "model.safetensors", segmenter)
    out = tmp_path / "map.tif"
    assert predict(run, "--image", scene, "--out", out, "--json", "--probabilities") == 0
    (told,) = json.loads(capsys.readouterr().out)
    assert [Path(path).name for path in told["out"]] == ["map.tif", "map.probabilities.tif", "map.preview.png"]
    with rasterio.open(out) as made:
        assert made.shape == (100, 130)
        assert made.colormap(1)[1][:3] == (255, 0, 0)
    assert predict(run, "--image", scene, "--out", tmp_path / "b.geojson", "--simplify", "1") == 0
    folder = tmp_path / "images"
    folder.mkdir()
    Image.fromarray(np.zeros((50, 60, 3), np.uint8)).save(folder / "a.png")
    assert predict(run, "--image", folder, "--out", tmp_path / "maps") == 0
    assert sorted(path.name for path in (tmp_path / "maps").iterdir()) == ["a.preview.png", "a.tif", "predict.json"]
    assert predict(run, "--image", folder, "--out", tmp_path / "maps") == 2
    assert "not empty" in capsys.readouterr().err
    (folder / "bad.png").write_bytes(b"no image")
    assert predict(run, "--image", folder, "--out", tmp_path / "maps", "--overwrite") == 0
    assert "left out: " in (said := capsys.readouterr().out)
    assert "bad.png" in said
    assert [path.name for path in (tmp_path / "maps").glob("*.tif*")] == ["a.tif"]
    (folder / "a.png").write_bytes(b"no image")
    assert predict(run, "--image", folder, "--out", tmp_path / "none") == 2
    assert "none of 2 images could be mapped" in capsys.readouterr().err


@pytest.mark.parametrize(("task", "suffix"), [("detect", ".json"), ("oriented", ".txt")])
def test_detectors(tmp_path: Path, scene: Path, task, suffix: str) -> None:
    run = tmp_path / "run"
    run.mkdir()
    narrow = {"neck_width": 16, "head_width": 16}
    detector = build_detector(task, WEIGHTS, ("ship", "big plane"), image_size=64, **narrow)
    save_detector(run / "model.safetensors", detector)
    assert predict(run, "--image", scene, "--out", tmp_path / "boxes.gpkg", "--min-score", 0.05) == 0
    assert (tmp_path / "boxes.preview.png").is_file()
    out = tmp_path / f"boxes{suffix}"
    assert predict(run, "--image", scene, "--out", out, "--min-score", 0.05) == 0
    import pyogrio.raw

    count = len(pyogrio.raw.read(tmp_path / "boxes.gpkg")[2])
    if task == "detect":
        rows = json.loads(out.read_text())
        assert all(set(row) == {"image_id", "category_id", "category", "bbox", "score"} for row in rows)
    else:
        rows = out.read_text().splitlines()
        assert all(len(row.split()) == 10 for row in rows)
    assert len(rows) == count
    folder = tmp_path / "images"
    folder.mkdir()
    Image.fromarray(np.zeros((50, 60, 3), np.uint8)).save(folder / "a.png")
    whole = tmp_path / ("all.json" if task == "detect" else "all")
    assert predict(run, "--image", folder, "--out", whole) == 0
    assert whole.exists()


@pytest.mark.parametrize("task", ["detect", "oriented"])
def test_boxes_of_a_folder(tmp_path: Path, task, capsys: pytest.CaptureFixture[str]) -> None:
    """Images that cannot be read are left out and named; what cannot be written is refused before the search."""
    run = tmp_path / "run"
    run.mkdir()
    detector = build_detector(task, WEIGHTS, ("ship", "big plane"), image_size=64, neck_width=16, head_width=16)
    save_detector(run / "model.safetensors", detector)
    folder = tmp_path / "images"
    folder.mkdir()
    for i, name in enumerate(("a b", "c")):
        pixels = np.random.default_rng(i).integers(0, 256, (50, 60, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{name}.png")
    for wrong in ("m.tif", "m.csv", "nowhere/m.gpkg"):
        assert predict(run, "--image", folder, "--out", tmp_path / wrong) == 2
        assert len(capsys.readouterr().err.splitlines()) == 1
    (folder / "bad.png").write_bytes(b"no image")
    assert predict(run, "--image", folder, "--out", tmp_path / "m.geojson", "--min-score", 0.05) == 0
    text = capsys.readouterr()
    assert "left out:" in text.out
    assert "bad.png" in text.out
    assert text.err == ""
    features = json.loads((tmp_path / "m.geojson").read_text())["features"]
    assert {f["properties"]["image"] for f in features} == {"a b", "c"}
    assert sorted(path.name for path in (tmp_path / "m.pictures").iterdir()) == ["a b.png", "c.png"]
    whole = tmp_path / ("all.json" if task == "detect" else "all")
    assert predict(run, "--image", folder, "--out", whole, "--min-score", 0.05, "--json") == 0
    (told,) = json.loads(capsys.readouterr().out)
    if task == "detect":
        ids = [row["image_id"] for row in json.loads(whole.read_text())]
    else:
        ids = [line.rsplit(maxsplit=9)[0] for file in whole.glob("Task1_*.txt") for line in file.open()]
    assert len(ids) == told["objects"] == len(features)
    assert set(ids) == {"a b", "c"}
    for file in folder.iterdir():
        file.write_bytes(b"no image")
    assert predict(run, "--image", folder, "--out", tmp_path / "n.gpkg") == 2
    assert "none of 3 images could be searched" in capsys.readouterr().err


def test_the_page_of_the_run_shows_the_map(tmp_path: Path, scene: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = classifier(tmp_path)
    assert predict(run, "--image", scene, "--out", tmp_path / "first.tif") == 0
    assert [path.name for path in run.iterdir()] == ["model.safetensors"]  # a model alone has no page
    (run / "config.yaml").write_text("seed: 0\n")
    assert predict(run, "--image", scene, "--out", tmp_path / "second.tif") == 0
    shown = (tmp_path / "second.preview.png").read_bytes()
    assert (run / "pictures" / "map-second.png").read_bytes() == shown
    assert base64.b64encode(shown).decode() in (run / "report.html").read_text()
    (run / "pictures" / "map-second.png").unlink()
    (run / "pictures").rmdir()
    (run / "pictures").write_text("in the way")
    capsys.readouterr()
    assert predict(run, "--image", scene, "--out", tmp_path / "third.tif") == 0
    assert "does not show the map" in capsys.readouterr().err
    assert (tmp_path / "third.tif").is_file()


def test_embed_a_scene(tmp_path: Path, scene: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["embed", WEIGHTS, "--image", str(scene), "--image-size", "64", "--quiet"]
    assert main([*arguments, "--out", str(tmp_path / "f.tif")]) == 0
    with rasterio.open(tmp_path / "f.tif") as made:
        assert (made.count, made.shape) == (32, (7, 9))
    assert main([*arguments, "--out", str(tmp_path / "heat.tif"), "--query", "400010,4999990"]) == 0
    assert main([*arguments, "--out", str(tmp_path / "west.tif"), "--query", "-43.6,-22.9"]) == 2
    assert "--query -43.6,-22.9 lies outside" in capsys.readouterr().err
    assert main([*arguments, "--out", str(tmp_path / "f.csv")]) == 2
    assert main(["embed", WEIGHTS, "--out", str(tmp_path / "f.parquet")]) == 2
    assert "--image" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--out", "m.tif"), "name the scene by --image"),
        (("--image", "none.tif", "--out", "m.tif"), "none.tif is no file"),
        (("--image", "SCENE", "--out", "m.docx"), "must be a file that ends in .tif"),
        (("--image", "SCENE", "--out", "m.tif", "--bands", "1"), "takes 3 bands, --bands names 1"),
        (("--image", "SCENE", "--out", "nowhere/m.tif"), "nowhere is no folder"),
        (("--image", "SCENE", "--out", "m.tif", "--overlap", "7"), "--overlap of tiles"),
    ],
)
def test_one_line_for_what_does_not_do(tmp_path: Path, scene: Path, monkeypatch, capsys, arguments, message) -> None:
    run = classifier(tmp_path)
    monkeypatch.chdir(tmp_path)
    before = sorted(path.name for path in tmp_path.iterdir())
    assert predict(run, *(scene if a == "SCENE" else a for a in arguments)) == 2
    err = capsys.readouterr().err
    assert message in err
    assert len(err.splitlines()) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == before
