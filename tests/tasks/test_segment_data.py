"""Reading of images with masks: layouts, codings, parts, footprints, and what can be wrong with them."""

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shapely
from PIL import Image
from segment_worlds import NAMES, save, scene, write_pairs

from selectivemae.core.errors import ConfigError, DataError, DecodeError
from selectivemae.tasks.segment.augment import PairAugment
from selectivemae.tasks.segment.classes import IGNORED, KNOWN, read_classes
from selectivemae.tasks.segment.config import MaskSettings
from selectivemae.tasks.segment.data import PairPixels, Pairs, open_pairs, read_bands, rows_of, training_places
from selectivemae.tasks.segment.masks import decode_mask, rasterise


def opened(root: Path, **settings: Any) -> Pairs:
    return open_pairs(MaskSettings.build({"data": str(root)}, settings))


def parts(pairs: Pairs) -> dict[str, int]:
    return dict(zip(pairs.layout.names, pairs.layout.part.tolist(), strict=True))


def test_plain_folders_and_a_draw(tmp_path: Path) -> None:
    pairs = opened(write_pairs(tmp_path))
    assert pairs.classes.names == NAMES
    assert sorted(parts(pairs).values()) == [0] * 8 + [1] * 2
    for row in range(10):
        pixels, mask = pairs.pair(row, 3)
        wanted = scene(int(pairs.layout.names[row][2:]))
        assert np.array_equal(pixels, wanted[0])
        assert np.array_equal(mask, wanted[1])
    assert parts(opened(tmp_path)) == parts(pairs) != parts(opened(tmp_path, split_seed=1))


def test_a_zip_is_read_as_the_folder_is(tmp_path: Path) -> None:
    import shutil

    root = write_pairs(tmp_path / "data", 4)
    archive = shutil.make_archive(str(tmp_path / "data"), "zip", tmp_path, "data")
    pairs = opened(Path(archive), classes=str(root / "classes.txt"))
    assert np.array_equal(pairs.mask(2), scene(2)[1])


@pytest.mark.parametrize("how", ["folders before", "folders after", "split.csv", "lists", "option"])
def test_parts(tmp_path: Path, how: str) -> None:
    root, wanted = tmp_path / "data", {}
    for i, part in enumerate(["train", "train", "val", "test"]):
        pixels, numbers = scene(i)
        for kind, array in (("images", pixels), ("labels", numbers)):
            folder = {"folders before": f"{part}/{kind}", "folders after": f"{kind}/{part}"}.get(how, kind)
            save(root / folder / f"{i}.png", array)
        wanted[i] = ["train", "val", "test"].index(part)
    (root / "classes.json").write_text(json.dumps(list(NAMES)))
    settings = {}
    if how == "lists":
        for part, lines in {"train": "0\n1\n", "val": "images/2.png\n", "test": "3.png\n"}.items():
            (root / f"{part}.txt").write_text(lines)
    if how in ("split.csv", "option"):
        table = root / "split.csv" if how == "split.csv" else tmp_path / "mine.csv"
        table.write_text("file,split\nimages/0.png,train\n1,train\nimages/2,val\n3.png,test\n")
        settings = {"split": table} if how == "option" else {}
    pairs = opened(root, **settings)
    assert {int(name[-1]): part for name, part in parts(pairs).items()} == wanted
    assert pairs.layout.names[int(rows_of(pairs, "val")[0])][-1] == "2"
    assert len(training_places(pairs, "all")) == 4
    assert len(training_places(pairs, "train")) == 2


def test_masks_of_0_and_255(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """SpaceNet's: 255 is building, unless 1 is and 255 says nothing."""
    for i in range(2):
        pixels, numbers = scene(i)
        save(tmp_path / "images" / f"{i}.png", pixels)
        save(tmp_path / "masks" / f"{i}.png", (numbers == 1).astype(np.uint8) * 255)
    (tmp_path / "classes.txt").write_text("ground #00ff00\nhouse #ff0000\n")
    with caplog.at_level(logging.INFO, "selectivemae"):
        logging.getLogger("selectivemae").propagate = True
        pairs = opened(tmp_path)
    assert "255 is taken for house" in caplog.text
    assert pairs.classes.colours == ((0, 255, 0), (255, 0, 0))
    assert np.array_equal(pairs.mask(0), scene(0)[1] == 1)
    save(tmp_path / "masks" / "1.png", np.where(scene(1)[1] == 2, 255, scene(1)[1] == 1).astype(np.uint8))
    assert set(np.unique(opened(tmp_path, classes="spacenet").mask(1))) == {0, 1, IGNORED}


def test_colour_codes(tmp_path: Path) -> None:
    pixels, numbers = scene(3)
    colours = np.array(KNOWN["isprs"].colours, np.uint8)
    mask = colours[numbers]
    mask[0, 0] = 0  # the eroded border is black
    for i in range(2):
        save(tmp_path / "images" / f"{i}.png", pixels)
        save(tmp_path / "masks" / f"{i}.png", mask)
    wanted = numbers.copy()
    wanted[0, 0] = IGNORED
    pairs = opened(tmp_path, classes="isprs")
    assert np.array_equal(pairs.mask(0), wanted)
    mask[5, 7] = 9, 9, 9
    save(tmp_path / "masks" / "1.png", mask)
    with pytest.raises(DataError, match=r"masks/1.png.*\[9, 9, 9\] at row 5, column 7 is none of the classes \(1 pix"):
        opened(tmp_path, classes="isprs")
    with pytest.raises(DataError, match="the classes have no colours"):
        opened(tmp_path, classes="loveda")


def test_class_files(tmp_path: Path) -> None:
    entries = "{name: a, value: 3, colour: '#010203'}", "{name: b, value: 700, colour: [4, 5, 6]}"
    (tmp_path / "c.yaml").write_text(f"classes: [{', '.join(entries)}]\nignore: [0, '#000000']\n")
    classes = read_classes(tmp_path / "c.yaml")
    assert classes.numbers(np.array([[3, 700, 0, 255]])).tolist() == [[0, 1, 255, 255]]
    assert classes.numbers(np.array([[[4, 5, 6], [0, 0, 0]]])).tolist() == [[1, 255]]
    for text, complaint in {
        "- a": "1 classes", "- a\n- a": "name 'a'", "- {name: a, value: 1}\n- {name: b}": "b has no value",
        "- {name: a, clour: red}\n- b": "entry 1 needs", "x: 1": "list of classes", "- [": "c.yaml",
        "- {name: a, colour: red}\n- b": "'red' is no colour",
    }.items():  # fmt: skip
        (tmp_path / "c.yaml").write_text(text)
        with pytest.raises(DataError, match=r"c\.yaml") as caught:
            read_classes(tmp_path / "c.yaml")
        assert complaint in str(caught.value)
    with pytest.raises(ConfigError, match="did you mean 'loveda'"):
        opened(write_pairs(tmp_path / "d", 2), classes="lovda")


def test_values_of_16_bits_palettes_and_tiffs(tmp_path: Path) -> None:
    rasterio = pytest.importorskip("rasterio")
    numbers = scene(1)[1].astype(np.uint16) * 500
    Image.fromarray(numbers).save(tmp_path / "a.png")
    assert np.array_equal(decode_mask((tmp_path / "a.png").read_bytes())[0], numbers)
    palette = Image.fromarray(scene(1)[1], mode="P")
    palette.putpalette([0, 0, 0, 255, 0, 0, 0, 0, 255])
    palette.save(tmp_path / "p.png")
    assert np.array_equal(decode_mask((tmp_path / "p.png").read_bytes())[0], scene(1)[1])
    red, blue, black = (255, 0, 0), (0, 0, 255), (0, 0, 0)
    colours, _ = decode_mask((tmp_path / "p.png").read_bytes(), (red, blue, black))
    assert np.array_equal(colours, np.array([black, red, blue])[scene(1)[1]])
    assert decode_mask((tmp_path / "p.png").read_bytes(), (red, blue))[0].ndim == 2  # some are no classes' colours
    with rasterio.open(tmp_path / "t.tif", "w", driver="GTiff", width=48, height=40, count=1, dtype="uint16",
                       nodata=500) as raster:  # fmt: skip
        raster.write(numbers, 1)
    values, valid = decode_mask((tmp_path / "t.tif").read_bytes())
    assert np.array_equal(values, numbers)
    assert valid is not None
    assert np.array_equal(valid, numbers != 500)
    Image.fromarray(scene(1)[1]).save(tmp_path / "j.jpg")
    with pytest.raises(DecodeError, match="lost its values"):
        decode_mask((tmp_path / "j.jpg").read_bytes())


def geotiff(path: Path, bands: np.ndarray, transform: Any, crs: str | None = "EPSG:32723") -> None:
    """(C, H, W) as a GeoTIFF."""
    import rasterio

    path.parent.mkdir(parents=True, exist_ok=True)
    count, height, width = bands.shape
    with rasterio.open(path, "w", driver="GTiff", width=width, height=height, count=count, dtype=bands.dtype, crs=crs,
                       transform=transform) as raster:  # fmt: skip
        raster.write(bands)


def spacenet(root: Path, crs: str | None, count: int = 3) -> tuple[Any, np.ndarray]:
    """A tree of SpaceNet v1 with one house and a black edge; the house in ``crs``, and the wanted mask."""
    import rasterio
    from rasterio.warp import transform_geom

    step = 0.5
    transform = rasterio.Affine(step, 0, 680000, 0, -step, 7459000)
    bands = np.random.default_rng(0).integers(1, 255, (3, 40, 48)).astype(np.uint8)
    bands[:, :, :5] = 0  # no data: black up to the border
    bands[:, 20, 20] = 0  # a black pixel in the middle is data
    house = shapely.Polygon([(680005.2, 7458995.1), (680012, 7458990), (680017.9, 7458984), (680004, 7458985)])
    shape = json.loads(shapely.to_geojson(house))
    member = {"crs": {"type": "name", "properties": {"name": crs}}} if crs else {}
    target = crs or "EPSG:4326"
    moved = transform_geom("EPSG:32723", target.replace("urn:ogc:def:crs:OGC:1.3:CRS84", "EPSG:4326"), shape)
    for i in range(count):
        geotiff(root / "3band" / f"3band_AOI_1_RIO_img{i}.tif", bands, transform)
        features = [{"type": "Feature", "properties": {}, "geometry": moved}] if i != 1 else []
        (root / "geojson").mkdir(exist_ok=True)
        (root / "geojson" / f"Geo_AOI_1_RIO_img{i}.geojson").write_text(
            json.dumps({"type": "FeatureCollection", "features": features} | member)
        )
    y, x = np.mgrid[:40, :48] + 0.5  # a pixel's centre decides
    inside = shapely.contains_xy(house, 680000 + x * step, 7459000 - y * step)
    wanted = inside.astype(np.uint8)
    wanted[:, :5] = IGNORED
    return bands, wanted


@pytest.mark.parametrize("crs", [None, "urn:ogc:def:crs:OGC:1.3:CRS84", "EPSG:32723", "EPSG:3857"])
def test_footprints_of_spacenet(tmp_path: Path, crs: str | None, caplog: pytest.LogCaptureFixture) -> None:
    pytest.importorskip("rasterio")
    _, wanted = spacenet(tmp_path, crs)
    logging.getLogger("selectivemae").propagate = True
    with caplog.at_level(logging.WARNING, "selectivemae"):
        pairs = opened(tmp_path)
    assert ("reprojected" in caplog.text) == (crs != "EPSG:32723")
    assert pairs.classes.names == ("background", "building")
    drawn = pairs.mask(0)
    assert (wanted == 1).sum() > 100
    assert (drawn != wanted).sum() <= (0 if crs == "EPSG:32723" else 2)  # a centre on an edge may fall either way
    assert set(np.unique(pairs.mask(1))) == {0, IGNORED}  # no footprint at all
    assert parts(pairs) == {"3band_AOI_1_RIO_img0": 0, "3band_AOI_1_RIO_img1": 0, "3band_AOI_1_RIO_img2": 1}


def test_footprints_of_odd_shapes(tmp_path: Path) -> None:
    """Holes and several parts count as they lie; what encloses nothing is passed over; other shapes are refused."""
    pytest.importorskip("rasterio")
    spacenet(tmp_path, None, 1)
    image, file = tmp_path / "3band" / "3band_AOI_1_RIO_img0.tif", tmp_path / "geo.geojson"
    outer, hole, far = (shapely.box(x, x, x + s, x + s) for x, s in ((5, 10), (7, 4), (16, 3)))  # in metres

    def drawn(*shapes: Any, crs: str = "EPSG:32723") -> np.ndarray:
        member = {"crs": {"type": "name", "properties": {"name": crs}}}
        features = [{"type": "Feature", "properties": {}, "geometry": shape} for shape in shapes]
        file.write_text(json.dumps({"type": "FeatureCollection", "features": features} | member))
        return rasterise(file, image.read_bytes())[0]

    def on_the_ground(shape: shapely.Geometry) -> Any:
        moved = shapely.transform(shape, lambda xy: np.c_[680000 + xy[:, 0], 7459000 - xy[:, 1]])
        return json.loads(shapely.to_geojson(moved))

    house = outer - hole
    y, x = (np.mgrid[:40, :48] + 0.5) / 2
    together = shapely.MultiPolygon([house, far])
    assert np.array_equal(drawn(on_the_ground(together)), shapely.contains_xy(together, x, y))
    nothing = [None, {"type": "Point", "coordinates": [1, 2]}, {"type": "Polygon", "coordinates": []}]
    nothing += [{"type": "Polygon", "coordinates": [[]]}, {"type": "Polygon", "coordinates": [[[1, 2], [3, 4]]]}]
    assert np.array_equal(drawn(*nothing, on_the_ground(house)), shapely.contains_xy(house, x, y))
    assert not drawn(*nothing).any()
    with pytest.raises(DataError, match=r"geo\.geojson: no GeoJSON of polygons .*it holds a LineString"):
        drawn({"type": "LineString", "coordinates": [[1, 2], [3, 4]]})
    with pytest.raises(DataError, match=r"geo\.geojson: cannot be reprojected from EPSG:4326 to EPSG:32723"):
        drawn(on_the_ground(house), crs="EPSG:4326")  # metres, called degrees


def test_footprints_need_a_place_on_earth(tmp_path: Path) -> None:
    rasterio = pytest.importorskip("rasterio")
    bands, _ = spacenet(tmp_path, None, 2)
    geotiff(tmp_path / "3band" / "3band_AOI_1_RIO_img1.tif", bands, rasterio.Affine.identity(), None)
    with pytest.raises(DataError, match=r"img1.geojson, mask of .*img1.tif: the image has no place on Earth"):
        opened(tmp_path)
    spacenet(tmp_path, None, 2)
    (tmp_path / "geojson" / "Geo_AOI_1_RIO_img0.geojson").write_text("{}")
    with pytest.raises(DataError, match=r"img0\.geojson: no GeoJSON of polygons"):
        opened(tmp_path)


def test_loveda(tmp_path: Path) -> None:
    for split, name in (("Train/Urban", "1"), ("Train/Rural", "2"), ("Val/Rural", "3"), ("Test/Urban", "4")):
        pixels, numbers = scene(int(name))
        save(tmp_path / split / "images_png" / f"{name}.png", pixels)
        if not split.startswith("Test"):
            save(tmp_path / split / "masks_png" / f"{name}.png", numbers)
    pairs = opened(tmp_path)
    assert pairs.classes == KNOWN["loveda"]
    assert parts(pairs) == {"Train/Rural/2": 0, "Train/Urban/1": 0, "Val/Rural/3": 1}
    assert np.array_equal(pairs.mask(0), np.where(scene(2)[1] == 0, IGNORED, scene(2)[1] - 1))
    assert [pairs.store.id(int(i))[-len("images_png/4.png") :] for i in pairs.layout.unlabelled] == ["images_png/4.png"]


def test_bands(tmp_path: Path) -> None:
    pytest.importorskip("rasterio")
    import rasterio

    bands = np.random.default_rng(1).integers(0, 200, (8, 20, 30)).astype(np.uint8)
    geotiff(tmp_path / "a.tif", bands, rasterio.Affine.identity())
    data = (tmp_path / "a.tif").read_bytes()
    assert np.array_equal(read_bands(data, 3, (5, 3, 8)), np.moveaxis(bands[[4, 2, 7]], 0, -1))
    assert np.array_equal(read_bands(data, 1, (7,)), np.moveaxis(bands[[6]], 0, -1))
    with pytest.raises(DecodeError, match="8 bands, 9 are needed"):
        read_bands(data, 3, (9, 1, 2))


@pytest.mark.parametrize(
    ("spoil", "complaint"),
    [
        (lambda root: save(root / "masks" / "a_3.png", np.zeros((7, 9), np.uint8)),
         r"masks/a_3.png, mask of data/images/a_3.png: the image has 40 rows and 48 columns, its mask 7 and 9"),
        (lambda root: save(root / "masks" / "a_3.png", np.pad(np.full((1, 1), 9, np.uint8), ((4, 35), (6, 41)))),
         r"masks/a_3.png.*value 9 at row 4, column 6 is none of the classes \(1 pixels"),
        (lambda root: (root / "masks" / "a_3.png").unlink(), "1 images have no mask: images/a_3.png"),
        (lambda root: (root / "classes.txt").unlink(), "says nothing about its classes"),
        (lambda root: (root / "split.csv").write_text("file,split\na_0,tran\n"), "line 2: split 'tran' is none, did"),
        (lambda root: (root / "split.csv").write_text("file,split\nb,val\n"), "names 1 files that are not there: b"),
        (lambda root: [f.unlink() for f in (root / "masks").iterdir()], "none of the 10 images has a mask"),
        (lambda root: (root / "images").rename(root / "photos"), "no folder of images"),
    ],
)  # fmt: skip
def test_bad_input(tmp_path: Path, spoil: Any, complaint: str) -> None:
    root = write_pairs(tmp_path / "data")
    spoil(root)
    with pytest.raises(DataError, match=complaint):
        opened(root)
    with pytest.raises(ConfigError, match="no data given"):
        open_pairs(MaskSettings())


def test_pixels_and_masks_of_a_batch(tmp_path: Path) -> None:
    root = write_pairs(tmp_path / "data")
    (root / "images" / "a_4.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    pairs = opened(root)
    task = PairPixels(pairs, PairAugment(48, (1.0, 1.0), "image", 1.0, "none", None), 3)
    index = pairs.layout.image[[0, 4, 7]]
    out, reasons = np.full((3, 48, 48, 4), 7, np.uint8), np.zeros(3, "S24")
    task.fill(index, np.array([5, 6, 7]), out, reasons)
    assert [bool(reason) for reason in reasons] == [False, True, False]
    assert not out[1, ..., :3].any()
    assert (out[1, ..., 3] == IGNORED).all()
    for place, number in ((0, 0), (2, 7)):
        pixels, numbers = scene(number)
        assert np.array_equal(out[place, :40, :, :3], pixels)
        assert np.array_equal(out[place, :40, :, 3], numbers)
        assert (out[place, 40:, :, 3] == 254).all()
    assert "png" in task.explain(int(index[1]))
    assert task.explain(int(index[0])) == "it can be read now"


@pytest.mark.parametrize(
    ("name", "settings", "counts", "values"),
    [
        ("loveda_samples", {}, [2, 1], {0, 1, 2, 3, 5, 6}),
        ("isprs_potsdam", {"classes": "isprs"}, [1, 1], {0, 1, 2, 3, 4, IGNORED}),
        ("isprs_potsdam", {"classes": "isprs", "masks": "masks_colour"}, [1, 1], {0, 1, 2, 3, 4, IGNORED}),
        ("spacenet1", {"classes": "spacenet"}, [13, 5], {0, 1}),
        ("spacenet1", {"masks": "geojson"}, [13, 5], {0, 1, IGNORED}),
    ],
)
def test_real_data_sets(shared_data: Path, name: str, settings: dict, counts: list[int], values: set[int]) -> None:
    pairs = opened(shared_data / name, **settings)
    assert np.bincount(pairs.layout.part).tolist() == counts
    assert set(np.concatenate([np.unique(pairs.mask(i)) for i in range(len(pairs.layout.image))]).tolist()) == values


def test_footprints_are_the_masks_that_others_drew(shared_data: Path) -> None:
    """The raster masks of tiles 3 to 10 were drawn from the original polygons by somebody else's program."""
    drawn = opened(shared_data / "spacenet1", masks="geojson")
    given = opened(shared_data / "spacenet1", classes="spacenet")
    rows = [i for i, name in enumerate(drawn.layout.names) if int(name.rpartition("img")[2]) <= 10]
    assert len(rows) == 8
    for row in rows:
        mine, other = drawn.mask(row), given.mask(row)
        known = mine != IGNORED
        assert (mine[known] != other[known]).mean() < 1e-3
        assert not drawn.pixels(int(drawn.layout.image[row]), 3)[~known].any()


def test_the_colours_are_the_numbers(shared_data: Path) -> None:
    by_colour = opened(shared_data / "isprs_potsdam", classes="isprs", masks="masks_colour")
    by_number = opened(shared_data / "isprs_potsdam", classes="isprs")
    for row in range(2):
        assert np.array_equal(by_colour.mask(row), by_number.mask(row))
