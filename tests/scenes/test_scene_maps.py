"""Class maps: right pixel by pixel, the same whole and in parts, georeference kept, valid COGs, continued exactly."""

import json
import subprocess
from pathlib import Path

import numpy as np
import pytest
import rasterio
import shapely
import torch
from affine import Affine
from scene_worlds import PLACE, UTM, PixelPredictor, PlacePredictor, noise, write_scene

from selectivemae.core.errors import ConfigError, DataError, OutputError
from selectivemae.scenes import canvas, maps
from selectivemae.scenes.config import PredictConfig
from selectivemae.scenes.run import SceneResult, map_classes

pytestmark = pytest.mark.filterwarnings("ignore::PendingDeprecationWarning")


def run(image: Path, out: Path, predictor=None, *, resume=False, overwrite=False, **more) -> SceneResult:
    config = PredictConfig.build({"image": image, "out": out, "batch_size": 3}, more)
    return map_classes([predictor or PixelPredictor()], config, "model", resume=resume, overwrite=overwrite, quiet=True)


def read(path: Path) -> np.ndarray:
    with rasterio.open(path) as raster:
        return raster.read(1)


def test_the_map_is_that_of_the_pixels_and_lies_where_the_scene_lies(tmp_path: Path) -> None:
    pixels = noise(150, 190)
    image = write_scene(tmp_path / "a.tif", pixels)
    result = run(image, tmp_path / "map.tif", probabilities=True)
    assert [path.name for path in result.out] == ["map.tif", "map.probabilities.tif", "map.preview.png"]
    assert all(path.is_file() for path in result.out)
    assert not list(tmp_path.glob("*.parts"))
    with rasterio.open(tmp_path / "map.tif") as made:
        assert (made.read(1) == pixels.argmax(axis=0)).all()
        assert (made.crs, made.transform, made.nodata) == (UTM, PLACE, 255)
        assert json.loads(made.tags()["CLASSES"])["2"] == "water"
        assert made.colormap(1)[0][:3] == (200, 200, 200)
    with rasterio.open(tmp_path / "map.probabilities.tif") as made:
        want = torch.from_numpy(pixels).float().div(50).softmax(dim=0).numpy()
        assert np.abs(made.read() * made.scales[0] - want).max() < 0.6 / 254
        assert made.descriptions == PixelPredictor.classes


def test_parts_of_a_scene_are_the_whole(tmp_path: Path) -> None:
    """Quarters, as --area and as files of their own with the overlap that windows need."""
    pixels = noise(300, 340, seed=1)
    image = write_scene(tmp_path / "a.tif", pixels)
    run(image, tmp_path / "whole.tif", PlacePredictor())
    whole = read(tmp_path / "whole.tif")
    assert len(np.unique(whole)) == 3
    margin = 64  # a window: within, no window of the part looks beyond it
    for number, (x, y) in enumerate([(0, 0), (170, 0), (0, 150), (170, 150)]):
        out = tmp_path / f"area{number}.tif"
        run(image, out, PlacePredictor(), area=(x, y, 170, 150))
        assert (read(out) == whole[y : y + 150, x : x + 170]).all()
        with rasterio.open(out) as made:
            assert made.transform == PLACE @ Affine.translation(x, y)
        left, top = max(x - margin, 0), max(y - margin, 0)
        right, bottom = min(x + 170 + margin, 340), min(y + 150 + margin, 300)
        own = write_scene(
            tmp_path / f"file{number}.tif",
            pixels[:, top:bottom, left:right],
            transform=PLACE @ Affine.translation(left, top),
        )
        run(own, out, PlacePredictor(), overwrite=True)
        assert (read(out)[y - top : y - top + 150, x - left : x - left + 170] == whole[y : y + 150, x : x + 170]).all()


def test_one_window_is_one_shot(tmp_path: Path) -> None:
    pixels = noise(64, 64, seed=2)
    run(write_scene(tmp_path / "a.tif", pixels), tmp_path / "map.tif", PlacePredictor())
    want = PlacePredictor().scores(torch.from_numpy(pixels)[None])[0].argmax(dim=0).numpy()
    assert (read(tmp_path / "map.tif") == want).all()


def test_a_scene_smaller_than_a_window_is_mirrored(tmp_path: Path) -> None:
    pixels = noise(20, 7, seed=3)
    run(write_scene(tmp_path / "a.tif", pixels), tmp_path / "map.tif", PlacePredictor())
    padded = np.pad(pixels, ((0, 0), (0, 44), (0, 57)), mode="reflect")
    want = PlacePredictor().scores(torch.from_numpy(padded)[None])[0].argmax(dim=0).numpy()
    assert (read(tmp_path / "map.tif") == want[:20, :7]).all()


def test_narrow_columns_of_work_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image = write_scene(tmp_path / "a.tif", noise(130, 300, seed=4))
    run(image, tmp_path / "a_map.tif", PlacePredictor())
    monkeypatch.setattr(maps, "_SUMS_BYTES", 1)
    monkeypatch.setattr(maps, "BLOCK", 64)
    run(image, tmp_path / "b_map.tif", PlacePredictor())
    assert (tmp_path / "a_map.tif").read_bytes() == (tmp_path / "b_map.tif").read_bytes()


def test_an_interrupted_map_goes_on_to_the_same_bytes(tmp_path: Path) -> None:
    image = write_scene(tmp_path / "a.tif", noise(300, 200, seed=5))
    run(image, tmp_path / "whole.tif", PlacePredictor())

    class Stopped(PlacePredictor):
        calls = 0

        def scores(self, images):
            Stopped.calls += 1
            if Stopped.calls > 6:
                raise KeyboardInterrupt
            return super().scores(images)

    out = tmp_path / "map.tif"
    with pytest.raises(KeyboardInterrupt):
        run(image, out, Stopped())
    assert not out.exists()
    assert json.loads((tmp_path / "map.tif.parts" / "done.json").read_text())[0] > 0
    with pytest.raises(OutputError, match="--resume"):
        run(image, out, PlacePredictor())
    with pytest.raises(OutputError, match="other overlap"):
        run(image, out, PlacePredictor(), resume=True, overlap=8)
    with pytest.raises(OutputError, match="other probabilities"):
        run(image, out, PlacePredictor(), resume=True, probabilities=True)
    result = run(image, out, PlacePredictor(), resume=True)
    assert result.windows < 5 * 7
    assert out.read_bytes() == (tmp_path / "whole.tif").read_bytes()
    with pytest.raises(OutputError, match="--overwrite"):
        run(image, out, PlacePredictor())


def test_the_map_is_a_cloud_optimised_geotiff(tmp_path: Path) -> None:
    """As GDAL's own programs see it: tiles, overviews of which the smallest fits a tile, layout COG."""
    image = write_scene(tmp_path / "a.tif", noise(1100, 700, seed=6))
    run(image, tmp_path / "map.tif", PixelPredictor(size=256))
    try:
        said = subprocess.run(["gdalinfo", "-json", tmp_path / "map.tif"], capture_output=True, text=True, check=True)
    except FileNotFoundError:
        pytest.skip("gdalinfo is not on this machine")
    info = json.loads(said.stdout)
    assert info["metadata"]["IMAGE_STRUCTURE"]["LAYOUT"] == "COG"
    assert info["metadata"]["IMAGE_STRUCTURE"]["COMPRESSION"] == "DEFLATE"
    assert info["bands"][0]["block"] == [512, 512]
    assert [level["size"] for level in info["bands"][0]["overviews"]] == [[350, 550], [175, 275]]
    assert info["bands"][0]["colorInterpretation"] == "Palette"
    assert info["geoTransform"] == list(PLACE.to_gdal())


def test_no_data_stays_no_data(tmp_path: Path) -> None:
    pixels = noise(200, 200, seed=7) | 1
    pixels[:, 30:190, :150] = 0
    image = write_scene(tmp_path / "a.tif", pixels, nodata=0)
    result = run(image, tmp_path / "map.tif")
    found = read(tmp_path / "map.tif")
    assert ((found == 255) == (pixels == 0).all(axis=0)).all()
    assert (found == np.where(found == 255, 255, pixels.argmax(axis=0))).all()
    full = run(image, tmp_path / "full.tif", nodata=256)
    assert result.windows < full.windows  # windows without data are not asked about
    empty = write_scene(tmp_path / "empty.tif", np.zeros((3, 80, 80), np.uint8), nodata=0)
    with pytest.raises(DataError, match="no pixel of it has data"):
        run(empty, tmp_path / "nothing.tif")
    assert not list(tmp_path.glob("nothing*"))


def test_a_rotated_scene_without_crs(tmp_path: Path) -> None:
    turned = Affine.translation(1000, 2000) @ Affine.rotation(30) @ Affine.scale(2, -2)
    pixels = noise(90, 100, seed=8)
    image = write_scene(tmp_path / "a.tif", pixels, crs=None, transform=turned)
    result = run(image, tmp_path / "map.tif")
    assert any("coordinate system" in note for note in result.notes)
    with rasterio.open(tmp_path / "map.tif") as made:
        assert np.allclose(made.transform, turned)
        assert made.crs is None
        assert (made.read(1) == pixels.argmax(axis=0)).all()


def test_tiles_of_a_classifier(tmp_path: Path) -> None:
    class Tiles(PixelPredictor):
        def scores(self, images):
            return images.float().mean(dim=(2, 3)) / 10

    pixels = np.zeros((3, 100, 150), np.uint8)
    pixels[1, :32, :32], pixels[2, 32:, 96:], pixels[0, 64:, :96] = 255, 255, 255
    image = write_scene(tmp_path / "a.tif", pixels)
    run(image, tmp_path / "map.tif", Tiles(size=32, task="classify"))
    with rasterio.open(tmp_path / "map.tif") as made:
        assert made.shape == (4, 5)
        assert made.transform == PLACE @ Affine.scale(32)
        assert (made.read(1)[1:, 3:] == 2).all()
        assert made.read(1)[0, 0] == 1
    run(image, tmp_path / "fine.tif", Tiles(size=32, task="classify"), overlap=24)
    with rasterio.open(tmp_path / "fine.tif") as made:
        assert made.shape == (13, 19)
        assert made.read(1)[8, 15] == 2
    run(image, tmp_path / "part.tif", Tiles(size=32, task="classify"), overlap=24, area=(64, 32, 70, 68))
    with rasterio.open(tmp_path / "part.tif") as part, rasterio.open(tmp_path / "fine.tif") as made:
        assert (part.read(1) == made.read(1)[4:13, 8:17]).all()
    with pytest.raises(ConfigError, match="--area must begin at multiples of 32"):
        run(image, tmp_path / "no.tif", Tiles(size=32, task="classify"), area=(3, 0, 64, 64))
    with pytest.raises(ConfigError, match="may be 0, 16, 24, 28"):
        run(image, tmp_path / "no.tif", Tiles(size=32, task="classify"), overlap=5)


@pytest.mark.parametrize("suffix", [".gpkg", ".geojson"])
def test_polygons_are_the_regions_of_the_map(tmp_path: Path, suffix: str) -> None:
    import pyogrio.raw
    from pyproj import Transformer

    pixels = np.zeros((3, 150, 200), np.uint8)
    pixels[0] = 200
    for band, y, x in ((1, slice(10, 80), slice(20, 180)), (2, slice(100, 140), slice(50, 60))):
        pixels[:, y, x] = 0
        pixels[band, y, x] = 255
    pixels[:, 30:40, 100:110] = [[[200]], [[0]], [[0]]]  # a hole
    pixels[1, 145, 3] = 255
    pixels[0, 145, 3] = 0
    out = tmp_path / f"things{suffix}"
    result = run(write_scene(tmp_path / "a.tif", pixels), out, min_pixels=2)
    meta, _, geometry, (names, counts) = pyogrio.raw.read(out)
    assert result.objects == len(geometry) == 2
    found = dict(zip(names, shapely.from_wkb(geometry), strict=True))
    assert dict(zip(names, counts, strict=True)) == {"road": 70 * 160 - 100, "water": 400}
    corner = PLACE @ (20, 10), PLACE @ (180, 80)
    want = shapely.box(corner[0][0], corner[1][1], corner[1][0], corner[0][1])
    if suffix == ".geojson":
        assert "4326" in meta["crs"] or "CRS84" in meta["crs"]
        longitude_latitude = Transformer.from_crs(UTM.to_wkt(), "OGC:CRS84", always_xy=True)
        corners = [longitude_latitude.transform(*point) for point in want.exterior.coords]
        assert shapely.hausdorff_distance(shapely.Polygon(corners), shapely.Polygon(found["road"].exterior)) < 1e-6
    else:
        assert shapely.Polygon(found["road"].exterior).equals(want)
        assert len(found["road"].interiors) == 1
        assert "32631" in meta["crs"]
    only = run(tmp_path / "a.tif", tmp_path / f"only{suffix}", only=["water"])
    assert only.objects == 1
    with pytest.raises(ConfigError, match="--only lake"):
        run(tmp_path / "a.tif", tmp_path / f"none{suffix}", only=["lake"])


def test_a_full_disk_is_one_line_and_can_be_gone_on_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import errno
    import os

    image = write_scene(tmp_path / "a.tif", noise(200, 200, seed=9))
    with monkeypatch.context() as patch:

        def full(*_) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        patch.setattr(canvas.os, "posix_fallocate", full)
        with pytest.raises(OutputError, match=r"no space left on the disk of .*the work needs 0\.04 MB"):
            run(image, tmp_path / "map.tif")
    with monkeypatch.context() as patch:
        patch.setattr(canvas.os, "pwrite", full)
        with pytest.raises(OutputError, match="no space left"):
            run(image, tmp_path / "map.tif", resume=True)
    run(image, tmp_path / "map.tif", resume=True)
    run(image, tmp_path / "again.tif")
    assert (tmp_path / "map.tif").read_bytes() == (tmp_path / "again.tif").read_bytes()


def test_several_predictors_share_the_work(tmp_path: Path) -> None:
    image = write_scene(tmp_path / "a.tif", noise(200, 200, seed=10))
    run(image, tmp_path / "one.tif", PlacePredictor())
    config = PredictConfig.build({"image": image, "out": tmp_path / "two.tif", "batch_size": 1})
    map_classes([PlacePredictor(), PlacePredictor()], config, "model", quiet=True)
    assert (tmp_path / "one.tif").read_bytes() == (tmp_path / "two.tif").read_bytes()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"overlap": 40}, "from 0 to 32"),
        ({"area": (0, 0, 500, 10)}, "reaches beyond"),
        ({"range": (9, 3)}, "ascending"),
        ({"out": "map.png"}, "--out must be a file that ends in"),
    ],
)
def test_settings_that_do_not_do(tmp_path: Path, more: dict, message: str) -> None:
    image = write_scene(tmp_path / "a.tif", noise(80, 80))
    with pytest.raises(ConfigError, match=message):
        run(image, **({"out": tmp_path / "map.tif"} | more))
    assert [path.name for path in tmp_path.iterdir()] == ["a.tif"]


def test_the_scene_is_never_written_over(tmp_path: Path) -> None:
    image = write_scene(tmp_path / "a.tif", noise(80, 80))
    (tmp_path / "link.tif").symlink_to(image)
    (tmp_path / "map.preview.png").symlink_to(image)
    (tmp_path / "folder.tif").mkdir()
    with pytest.raises(OutputError, match="is a folder"):
        run(image, tmp_path / "folder.tif", overwrite=True)
    before = image.read_bytes()
    for out in ("a.tif", "link.tif", "map.tif"):
        with pytest.raises(ConfigError, match="is the scene itself"):
            run(image, tmp_path / out, overwrite=True)
    assert image.read_bytes() == before
    assert not list(tmp_path.glob("*.parts"))


def test_a_run_that_goes_on_is_not_overwritten(tmp_path: Path) -> None:
    image = write_scene(tmp_path / "a.tif", noise(80, 80))

    class Meanwhile(PixelPredictor):
        def scores(self, images):
            with pytest.raises(OutputError, match="in use by another run"):
                run(image, tmp_path / "map.tif", overwrite=True)
            return super().scores(images)

    run(image, tmp_path / "map.tif", Meanwhile())
    assert (read(tmp_path / "map.tif") == noise(80, 80).argmax(axis=0)).all()


def test_polygons_of_a_scene_without_transform_are_in_pixels(tmp_path: Path) -> None:
    """Also where a coordinate system is written: reprojecting columns and rows would give nonsense."""
    pixels = np.zeros((3, 40, 40), np.uint8)
    pixels[1, 10:20, 5:25] = 255
    with pytest.warns(rasterio.errors.NotGeoreferencedWarning):
        image = write_scene(tmp_path / "a.tif", pixels, transform=Affine.identity())
    run(image, tmp_path / "a.geojson", only=["road"])
    (feature,) = json.loads((tmp_path / "a.geojson").read_text())["features"]
    assert shapely.geometry.shape(feature["geometry"]).equals(shapely.box(5, 10, 25, 20))
