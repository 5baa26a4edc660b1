"""A decoded-once copy: the same pixels, whoever packs them and however often it is interrupted."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from selectivemae.cli.main import main
from selectivemae.core.errors import ConfigError, OutputError, StoreError
from selectivemae.data import pack as packing
from selectivemae.data.decode import decode, header
from selectivemae.data.pack import pack, pixmap, shrink
from selectivemae.data.pack_config import PackConfig
from selectivemae.data.stores import open_store


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Eight images of two classes, one of them larger than the rest, and a file that is none."""
    folder = tmp_path / "images"
    for number in range(8):
        pixels = np.random.default_rng(number).integers(0, 256, (6, 8, 3), np.uint8)
        side = (160, 120) if number == 3 else (64, 48)
        path = folder / ("field" if number % 2 else "town") / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).resize(side, Image.Resampling.BICUBIC).save(path)
    (folder / "town" / "broken.jpg").write_bytes(b"\xff\xd8\xff no jpeg")
    return folder


def contents(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(out.iterdir()) if path.suffix in (".tar", ".json", ".csv")}


def test_the_pixels_are_those_of_the_files(images: Path, tmp_path: Path) -> None:
    packed = pack([str(images)], tmp_path / "pack", PackConfig(size=48, workers=0))
    assert (packed.images, packed.dropped) == (8, 1)
    store = open_store(tmp_path / "pack")
    assert len(store) == 8
    by_name = {store.id(i): decode(store[i]) for i in range(8)}
    for path in sorted(images.rglob("*.png")):
        pixels = by_name[f"pack/part-00000.tar/images/{path.parent.name}/{path.name}.ppm"]
        with Image.open(path) as image:
            whole = np.asarray(image)
            if path.name != "3.png":
                assert np.array_equal(pixels, whole)
                continue
            wanted = np.asarray(image.resize((64, 48), Image.Resampling.BICUBIC), np.int16)
        assert pixels.shape == (48, 64, 3)
        assert np.abs(pixels.astype(np.int16) - wanted).max() <= 2  # torch and Pillow round their sums differently
    assert "images/town/broken.jpg,corrupt" in (tmp_path / "pack" / "dropped.csv").read_text()


def test_whoever_packs_and_however_often(images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packing, "_PART_BYTES", 3 * 48 * 48 * 3)  # three images a part
    config = PackConfig(size=48, workers=0)
    pack([str(images)], tmp_path / "a", config)
    whole = contents(tmp_path / "a")
    assert sum(name.endswith(".tar") for name in whole) == 3
    pack([str(images)], tmp_path / "b", config.model_copy(update={"workers": 2}))
    assert contents(tmp_path / "b") == whole
    # As a kill leaves it: a part without its note, and no totals.
    (tmp_path / "b" / "part-00001.json").unlink()
    plan = json.loads((tmp_path / "b" / "pack.json").read_text())
    (tmp_path / "b" / "pack.json").write_text(
        json.dumps({k: v for k, v in plan.items() if k not in ("images", "dropped", "bytes")})
    )
    with pytest.raises(StoreError, match="not whole"):
        open_store(tmp_path / "b")
    kept = (tmp_path / "b" / "part-00000.tar").stat().st_mtime_ns
    pack([str(images)], tmp_path / "b", config, resume=True)
    assert contents(tmp_path / "b") == whole
    assert (tmp_path / "b" / "part-00000.tar").stat().st_mtime_ns == kept


def test_what_does_not_fit(images: Path, tmp_path: Path) -> None:
    pack([str(images)], tmp_path / "pack", PackConfig(size=48, workers=0))
    with pytest.raises(OutputError, match="other data or settings"):
        pack([str(images)], tmp_path / "pack", PackConfig(size=64, workers=0), resume=True)
    with pytest.raises(OutputError):
        pack([str(images)], tmp_path / "pack", PackConfig(size=48, workers=0))
    with pytest.raises(ConfigError, match="--channels"):
        pack([str(images)], tmp_path / "other", PackConfig(channels=4))
    assert main(["data", "pack", str(tmp_path / "nowhere"), "--out", str(tmp_path / "other")]) == 2
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize("channels", [1, 3])
def test_pixmaps_are_those_of_pillow(channels: int) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, channels), np.uint8)
    with Image.open(io.BytesIO(pixmap(pixels))) as image:
        assert np.array_equal(np.asarray(image).reshape(pixels.shape), pixels)
    file = io.BytesIO()
    Image.fromarray(pixels.squeeze()).save(file, "PPM")
    assert header(file.getvalue()) == (7, 5, "pixmap")
    assert np.array_equal(decode(file.getvalue(), channels), pixels)


def test_small_images_stay_as_they_are() -> None:
    pixels = np.zeros((40, 90, 3), np.uint8)
    assert shrink(pixels, 48) is pixels
    assert shrink(pixels, 20).shape == (20, 45, 3)
