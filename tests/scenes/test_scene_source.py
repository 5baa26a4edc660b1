"""Scenes as they are read: bands, stretch, no data, files without a place, and what is wrong with them."""

from pathlib import Path

import numpy as np
import pytest
import rasterio
from PIL import Image
from scene_worlds import PLACE, noise, write_scene

from selectivemae.core.errors import DataError
from selectivemae.scenes.source import Scene, open_scene
from selectivemae.scenes.windows import Area

pytestmark = pytest.mark.filterwarnings("ignore::PendingDeprecationWarning")


def pixels_of(scene: Scene) -> tuple[np.ndarray, np.ndarray]:
    with scene.reader() as read:
        return read(scene.whole, None)


def test_pixels_are_those_of_the_file(tmp_path: Path) -> None:
    pixels = noise(70, 90)
    Image.fromarray(pixels.transpose(1, 2, 0)).save(tmp_path / "a.png")
    for path in (write_scene(tmp_path / "a.tif", pixels), tmp_path / "a.png"):
        scene = open_scene(path, 3)
        assert (scene.width, scene.height, scene.limits) == (90, 70, None)
        assert (pixels_of(scene)[0] == pixels).all()
        with scene.reader() as read:
            assert (read(Area(5, 6, 40, 30), None)[0] == pixels[:, 6:36, 5:45]).all()
            assert read(scene.whole, (7, 9))[0].shape == (3, 7, 9)
    assert scene.anchor == (0, 0)
    assert not scene.placed


def test_the_absolute_place_of_parts(tmp_path: Path) -> None:
    pixels = noise(40, 40)
    whole = open_scene(write_scene(tmp_path / "a.tif", pixels), 3).anchor
    for x, y in ((3, 7), (19, 38)):
        part = write_scene(tmp_path / "b.tif", pixels[:, y:, x:], transform=PLACE @ PLACE.translation(x, y))
        assert open_scene(part, 3).anchor == (whole[0] + x, whole[1] + y)


def test_deep_samples_are_stretched_by_one_range_for_the_scene(tmp_path: Path) -> None:
    pixels = np.random.default_rng(1).integers(0, 2000, (4, 120, 80)).astype(np.uint16)
    pixels[:, :10] = 0
    path = write_scene(tmp_path / "a.tif", pixels, nodata=0)
    scene = open_scene(path, 2, bands=[4, 2])
    chosen = pixels[[3, 1]]
    empty = (chosen == 0).all(axis=0)
    low, high = np.percentile(chosen[:, ~empty], (2, 98), axis=1)
    assert np.allclose(scene.limits, (low, high))
    got, mask = pixels_of(scene)
    want = np.clip(np.rint((chosen - low[:, None, None]) * 255 / (high - low)[:, None, None]), 0, 255)
    assert (mask == empty).all()
    assert np.abs(got.astype(int) - np.where(empty, 0, want)).max() <= 1
    given, _ = pixels_of(open_scene(path, 1, bands=[1], range=(500, 1010)))
    assert (given[0] == np.where(pixels[0] == 0, 0, np.clip(np.rint((pixels[0] - 500.0) / 2), 0, 255))).all()


def test_infinite_samples_are_no_data(tmp_path: Path) -> None:
    values = np.random.default_rng(2).random((3, 30, 30)).astype(np.float32)
    values[1, 4, 5] = np.nan
    scene = open_scene(write_scene(tmp_path / "a.tif", values), 3)
    got, mask = pixels_of(scene)
    assert np.argwhere(mask).tolist() == [[4, 5]]
    assert not got[:, 4, 5].any()


@pytest.mark.parametrize(
    ("channels", "bands", "message"),
    [
        (3, None, "it has 1 band, the model takes 3; say which: --bands 1 1 1"),
        (3, [1, 1], "the model takes 3 bands, --bands names 2"),
        (3, [1, 1, 2], "--bands are from 1 to 1, got 1 1 2"),
    ],
)
def test_bands_that_do_not_do(tmp_path: Path, channels: int, bands, message: str) -> None:
    path = write_scene(tmp_path / "a.tif", noise(20, 20, 1))
    with pytest.raises(DataError, match=message):
        open_scene(path, channels, bands=bands)
    assert pixels_of(open_scene(path, 3, bands=[1, 1, 1]))[0].shape == (3, 20, 20)


def test_the_hint_for_bands_can_be_followed_and_a_guess_is_counted(tmp_path: Path) -> None:
    two, four = write_scene(tmp_path / "2.tif", noise(20, 20, 2)), write_scene(tmp_path / "4.tif", noise(20, 20, 4))
    with pytest.raises(DataError, match="it has 2 bands, the model takes 3; say which: --bands 1 2 2"):
        open_scene(two, 3)
    assert open_scene(two, 3, bands=[1, 2, 2]).bands == (1, 2, 2)
    with rasterio.open(four, "r+") as raster:
        raster.colorinterp = [rasterio.enums.ColorInterp.undefined] * 4
    assert (open_scene(four, 3).bands, open_scene(four, 3).surplus) == ((1, 2, 3), 1)
    assert open_scene(four, 3, bands=[3, 2, 1]).surplus == 0


@pytest.mark.parametrize("name", ["a.png", "a.webp", "p.png", "a.tif"])
def test_transparent_pixels_are_no_data(tmp_path: Path, name: str) -> None:
    pixels = np.maximum(noise(30, 40, 4), 1)
    pixels[3] = 255
    pixels[3, :, :7] = 0
    picture = Image.fromarray(np.ascontiguousarray(pixels.transpose(1, 2, 0)))
    if name == "a.tif":
        write_scene(tmp_path / name, pixels, photometric="rgb", alpha="yes")
    elif name == "p.png":  # a palette one of whose colours is transparent
        indices = np.where(pixels[3] == 0, 9, 1).astype(np.uint8)
        picture = Image.fromarray(indices, mode="P")
        picture.putpalette([value for i in range(256) for value in (i, 40, 255 - i)])
        picture.save(tmp_path / name, transparency=9)
    else:
        picture.save(tmp_path / name, lossless=True)
    scene = open_scene(tmp_path / name, 3)
    assert (pixels_of(scene)[1] == (pixels[3] == 0)).all()
    with scene.reader() as read:
        assert (read(Area(3, 5, 10, 20), None)[1] == (pixels[3, 5:25, 3:13] == 0)).all()


def test_colours_are_found_by_their_names(tmp_path: Path) -> None:
    pixels = noise(20, 20, 4)
    path = write_scene(tmp_path / "a.tif", pixels)
    with rasterio.open(path, "r+") as raster:
        names = rasterio.enums.ColorInterp
        raster.colorinterp = [names.undefined, names.blue, names.green, names.red]
    assert open_scene(path, 3).bands == (4, 3, 2)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is no file"):
        open_scene(tmp_path / "none.tif", 3)
    (tmp_path / "a.tif").write_bytes(b"II*\0 broken")
    with pytest.raises(DataError, match=r"a\.tif: the tiff cannot be read"):
        open_scene(tmp_path / "a.tif", 3)
    (tmp_path / "b.png").write_text("no image")
    with pytest.raises(DataError, match=r"b\.png"):
        open_scene(tmp_path / "b.png", 3)
    whole = write_scene(tmp_path / "c.tif", noise(300, 300)).read_bytes()
    (tmp_path / "c.tif").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"c\.tif"):
        pixels_of(open_scene(tmp_path / "c.tif", 3))


@pytest.mark.parametrize(
    ("name", "bands"),
    [
        ("spacenet_geotiff/atlanta_pan_uint16.tif", [1, 1, 1]),
        ("spacenet_geotiff/rotterdam_ms2_4band_uint16.tif", [3, 2, 1]),
        ("geotiff_samples/landsat7_8band_int16.tif", [3, 2, 1]),
        ("geotiff_samples/oam_uganda_rgb_3072x2048.tif", None),
    ],
)
def test_real_scenes(shared_data: Path, name: str, bands) -> None:
    path = shared_data / name
    scene = open_scene(path, 3, bands=bands)
    got, mask = pixels_of(scene)
    with rasterio.open(path) as raster:
        assert scene.placed
        assert raster.crs.to_wkt(version="WKT2_2019") == scene.crs
        values = raster.read(list(scene.bands))
        assert (mask == (raster.read_masks(list(scene.bands)) == 0).all(axis=0)).all()
    for band, value in zip(got, values, strict=True):
        order = np.argsort(value[~mask], kind="stable")
        assert (np.diff(band[~mask][order].astype(int)) >= 0).all()  # a stretch keeps the order
        assert 30 < band[~mask].std() < 100
