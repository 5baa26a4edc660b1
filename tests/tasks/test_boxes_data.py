"""Layouts are recognised with their parts; canvases and targets of the same sample belong together."""

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from box_worlds import write_scene, write_world

from selectivemae.core.errors import DataError, StoreError
from selectivemae.core.order import sample_key
from selectivemae.data.batch import Position
from selectivemae.data.loader import Loader
from selectivemae.tasks.boxes_data import BoxStore, BoxStream, BoxTargets, CanvasPixels, from_canvas
from selectivemae.tasks.boxes_geometry import Geometry, place_objects
from selectivemae.tasks.boxes_layout import choose, open_boxes
from selectivemae.tasks.boxes_tiles import tiled
from selectivemae.tasks.detect.data import to_coco
from selectivemae.tasks.photometric import Photometric


@pytest.mark.parametrize(
    ("names", "part", "expected"),
    [
        (["train", "val", "test"], "train", ["train", "val"]),
        (["train", "val", "test", "trainval"], "train", ["trainval"]),
        (["train", "val"], "train", ["train"]),
        (["train", "trainval", "val"], "train", ["train"]),  # trainval would hold what is judged
        (["train", "test"], "train", ["train"]),
        (["train", "val", "test"], "test", ["test"]),
        (["train", "val"], "test", ["val"]),
    ],
)
def test_what_is_trained_on_and_what_is_judged(names, part, expected):
    assert choose(names, part, None, Path("x")) == expected
    assert choose(names, part, "val+train" if "val" in names else "train", Path("x"))[-1] == "train"


@pytest.mark.parametrize(("names", "part"), [(["train"], "test"), (["test"], "train"), ([], "test")])
def test_a_missing_part_is_named(names, part):
    with pytest.raises(DataError, match="no part called"):
        choose(names, part, None, Path("x"))
    with pytest.raises(DataError, match="no part 'nowhere'"):
        choose(names, part, "nowhere", Path("x"))


def test_folders_lists_and_coco_hold_the_same(tmp_path: Path):
    parts = write_world(tmp_path / "parts")
    lists = tmp_path / "lists"
    for i in range(4):
        write_scene(lists, f"train_{i}", i)
    for i in range(2):
        write_scene(lists, f"test_{i}", i + 100)
    (lists / "ImageSets").mkdir()
    (lists / "ImageSets" / "train.txt").write_text("".join(f"train_{i}\n" for i in range(4)))
    (lists / "ImageSets" / "val.txt").write_text("test_0.png\ntest_1.png\n")
    coco = tmp_path / "coco"
    (coco / "images").mkdir(parents=True)
    for part in ("train", "test"):
        (coco / f"{part}.json").write_text(json.dumps(to_coco(open_boxes(parts, part, 4))))
        for file in (parts / part / "images").iterdir():
            (coco / "images" / file.name).write_bytes(file.read_bytes())
    for part, count in (("train", 4), ("test", 2)):
        first = open_boxes(parts, part, 4)
        assert first.classes == ("plane", "ship")
        assert len(first) == count
        for other in (open_boxes(lists, part, 4, classes=first.classes), open_boxes(coco, part, 4)):
            assert [i.id for i in other] == [i.id for i in first]
            for a, b in zip(first, other, strict=True):
                assert np.allclose(a.boxes, b.boxes, atol=1e-9)
                assert a.labels.tolist() == b.labels.tolist()
    assert open_boxes(parts, "train", 5).items[0].boxes.shape == (2, 5)
    both = open_boxes(parts, "train", 5, "train+test")
    assert len(both) == 6
    only = open_boxes(parts, "train", 5, classes=("SHIP",))
    assert sum(len(i.boxes) for i in only) == sum((i.labels == 1).sum() for i in open_boxes(parts, "train", 5))
    assert only.notes.counts["unknown_class"] > 0


def test_what_is_no_layout_is_one_clear_line(tmp_path: Path):
    for root in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(DataError) as error:
            open_boxes(root, "train", 5)
        assert "\n" not in str(error.value)


def test_real_sets_are_recognised(shared_data: Path):
    for name, sides, train, test in (
        ("airbus_aircraft", 4, 450, 103), ("gdit_aerial_airport", 4, 804, 214), ("nepu_owod", 4, 141, 30),
        ("dota", 5, 1461, 409), ("buildings_obb_derived", 5, 143, 303),
    ):  # fmt: skip
        for part, count in (("train", train), ("test", test)):
            assert sum(len(i.boxes) for i in open_boxes(shared_data / name, part, sides)) == count
    assert len(open_boxes(shared_data / "dior_r", "train", 5, "train")) == 1


def test_a_store_of_boxes(tmp_path: Path):
    data = open_boxes(write_world(tmp_path), "train", 5)
    store = BoxStore(data)
    assert (len(store), store.id(1)) == (4, "train_1")
    assert store[1] == (tmp_path / "train" / "images" / "train_1.png").read_bytes()
    assert BoxStore(open_boxes(tmp_path, "train", 5)).fingerprint == store.fingerprint
    assert pickle.loads(pickle.dumps(store))[0] == store[0]
    assert BoxStore(open_boxes(tmp_path, "train", 4)).fingerprint != store.fingerprint
    (tmp_path / "train" / "images" / "train_1.png").unlink()
    with pytest.raises(StoreError, match="train_1"):
        store[1]


@pytest.mark.parametrize("rotation", [0.0, 25.0])
def test_every_box_of_the_stream_lies_on_its_object(tmp_path: Path, rotation: float):
    """The middle of each box has the colour of its class, whatever flip, turn and resizing came before."""
    data = open_boxes(write_world(tmp_path, size=(60, 80)), "train", 5)
    geometry = Geometry(96, "all", rotation)
    pixels = CanvasPixels(BoxStore(data), geometry, 3, (124, 116, 104))
    seen = 0
    with Loader(pixels, 4, 7) as loader:
        stream = BoxStream(loader, data, geometry, torch.device("cpu")).batches(Position())
        for _ in range(3):
            batch, _ = next(stream)
            for image, boxes, labels in zip(batch.images, batch.targets.boxes, batch.targets.labels, strict=True):
                for box, label in zip(boxes, labels, strict=True):
                    x, y = int(box[0]), int(box[1])
                    red, green = image[0, y, x].item(), image[1, y, x].item()
                    assert (red > green) == (label == 0), (red, green)
                    assert abs(red - green) > 80
                    seen += 1
        stream.close()
    assert seen > 12
    parts = batch.targets.split(3)
    assert [len(p.boxes) for p in parts] == [3, 1]
    assert isinstance(parts[0], BoxTargets)
    assert torch.equal(parts[1].boxes[0], batch.targets.boxes[3])


def test_tiles_are_cut_from_the_scene_when_they_are_read(tmp_path: Path):
    data = open_boxes(write_world(tmp_path, size=(60, 100)), "train", 5)
    tiles = tiled(data, 48, 8)
    whole, parts = (CanvasPixels(BoxStore(d), Geometry(c), 3, (0, 0, 0)) for d, c in ((data, 100), (tiles, 48)))
    scene, tile = np.zeros((1, 100, 100, 3), np.uint8), np.zeros((1, 48, 48, 3), np.uint8)
    reasons = np.zeros(1, "S24")
    whole.fill(np.array([0]), np.zeros(1, np.int64), scene, reasons)
    for number, item in enumerate(tiles.items[:6]):
        parts.fill(np.array([number]), np.zeros(1, np.int64), tile, reasons)
        assert not reasons[0]
        x, y, w, h = item.window
        assert np.array_equal(tile[0, :h, :w], scene[0, y : y + h, x : x + w])


def test_unreadable_and_changed_images_have_a_reason_and_no_targets(tmp_path: Path):
    data = open_boxes(write_world(tmp_path), "train", 4)
    folder = tmp_path / "train" / "images"
    (folder / "train_0.png").write_bytes((folder / "train_0.png").read_bytes()[:900])
    write_scene(tmp_path / "other", "x", 0, (32, 32))
    (folder / "train_2.png").write_bytes((tmp_path / "other" / "images" / "x.png").read_bytes())
    geometry, bad = Geometry(64), []
    pixels = CanvasPixels(BoxStore(data), geometry, 3, (0, 0, 0))
    with Loader(pixels, 4, 0, on_bad=lambda id, reason: bad.append((id, reason))) as loader:
        batch, _ = next(BoxStream(loader, data, geometry, torch.device("cpu")).batches(Position()))
    assert sorted(bad) == [("train_0", "truncated"), ("train_2", "other_size")]
    for index, weight, boxes in zip(batch.index.tolist(), batch.weight.tolist(), batch.targets.boxes, strict=True):
        assert weight == (0 if index in (0, 2) else 1)
        assert len(boxes) == (0 if index in (0, 2) else 2)
    assert "its size is not what it was" in pixels.explain(2)
    assert pixels.explain(1) == "it can be read now"


def test_detections_go_back_to_their_image(tmp_path: Path):
    data = open_boxes(write_world(tmp_path, size=(50, 90)), "train", 5)
    item = data.items[0]
    place = Geometry(128, "all", 20.0).place(int(sample_key(1, 2, np.array([3]))[0]), (50, 90))
    moved, stays = place_objects(item.boxes, place)
    count = len(moved)
    back = from_canvas(torch.from_numpy(moved), torch.ones(count), torch.zeros(count, dtype=torch.int64), place)
    # Of 90 x 50 pixels both scales are nearly one, so that rectangles come back as they were.
    assert np.allclose(back.boxes[:, :4], item.boxes[stays][:, :4], atol=0.2)


def test_photometric_distortion_is_a_function_of_the_key_and_keeps_grey_grey():
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (24, 24, 3), np.uint8)
    change = Photometric()
    assert np.array_equal(change(pixels, 5), change(pixels, 5))
    kinds = {change(pixels, key).tobytes() for key in range(40)}
    assert 30 < len(kinds) < 40  # all four are left out for one in sixteen
    assert np.array_equal(Photometric(probability=0.0)(pixels, 3), pixels)
    grey = np.repeat(pixels[..., :1], 3, axis=2)
    for key in range(8):
        out = change(grey, key)
        assert (out == out[..., :1]).all()
    only = Photometric(probability=1.0, contrast=0, saturation=0, hue=0)
    shifts = (only(np.full((4, 4, 3), 128, np.uint8), key) for key in range(300))
    values = np.array([int(shift[0, 0, 0]) - 128 for shift in shifts])
    assert values.min() >= -32
    assert values.max() <= 32
    assert abs(values.mean()) < 4
    turned = Photometric(probability=1.0, brightness=0, contrast=0, saturation=0)(pixels, 11)
    assert np.abs(turned.max(axis=2).astype(int) - pixels.max(axis=2)).max() <= 1  # a hue keeps value and saturation
    assert change(pixels[..., :2], 4).shape == (24, 24, 2)
