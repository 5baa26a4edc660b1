"""Known data sets: the table's own rules, names to places, and paths to names."""

import hashlib
from pathlib import Path

import pytest

from selectivemae.core.errors import ConfigError, DataError
from selectivemae.data.catalogue import find, known, recognise, resolve, resolve_all, table

# One path of each data set's published layout, written by hand after the publishers' own pages.
PUBLISHED = {
    "millionaid": "train/agriculture_land/arable_land/dry_field/P0014374.jpg",
    "aid": "AID/BareLand/bareland_144.jpg",
    "resisc45": "NWPU-RESISC45/baseball_diamond/baseball_diamond_012.jpg",
    "ucmerced": "UCMerced_LandUse/Images/tenniscourt/tenniscourt99.tif",
    "eurosat": "ds/images/remote_sensing/otherDatasets/sentinel_2/tif/SeaLake/SeaLake_17.tif",
    "dior": "JPEGImages-trainval/00001.jpg",
    "dior-r": "JPEGImages-test/23463.jpg",
    "dota": "train/images/P0706.png",
    "hrsc2016": "FullDataSet/AllImages/100000001.bmp",
    "loveda": "Train/Rural/images_png/12.png",
    "spacenet1": "3band/3band_AOI_1_RIO_img63.tif",
}


def test_the_table_is_sound() -> None:
    names = [entry.name for entry in known()]
    assert len(set(names)) == len(names)
    for entry in known():
        assert set(entry.unverified) <= type(entry).model_fields.keys()
        assert bool(entry.by_hand) != bool(entry.hub or entry.files), entry.name  # one way to get it, always
        assert entry.hub or all(file.url for file in entry.files)
        for file in entry.files:
            kind, _, digest = file.digest.partition(":")
            assert len(bytes.fromhex(digest)) == hashlib.new(kind).digest_size
            assert file.url.startswith("https://") or (entry.hub and not file.url)
            assert "/" not in file.file
        assert entry.name in table()
        assert entry.licence in table()


def test_digests_agree_with_the_specification(shared_spec: Path) -> None:
    text = (shared_spec / "downstream.md").read_text()
    assert all(file.digest.removeprefix("md5:")[:8] in text for file in find("loveda").files)


@pytest.mark.parametrize(("name", "path"), PUBLISHED.items())
def test_a_published_path_is_recognised_and_no_other(name: str, path: str) -> None:
    same_images = {"dior": {"dior", "dior-r"}, "dior-r": {"dior", "dior-r"}}
    assert set(recognise([path] * 10)) == same_images.get(name, {name})
    assert recognise([path] * 8 + ["x.jpg"] * 2) == []
    assert recognise([path] * 9 + ["x.jpg"]) != []


def test_nothing_is_recognised_in_nothing() -> None:
    assert recognise([]) == []


@pytest.mark.parametrize(
    ("name", "folder", "made", "expected"),
    [
        ("aid", "AID", ["Airport/"], [""]),
        ("aid", "aid", ["AID/Airport/"], ["AID"]),
        ("resisc45", "NWPU-RESISC45", ["airplane/"], [""]),
        ("resisc45", "resisc45", ["NWPU-RESISC45.zip"], ["NWPU-RESISC45.zip"]),
        ("dior-r", "DIOR", ["JPEGImages-test/", "JPEGImages-trainval/"], ["JPEGImages-test", "JPEGImages-trainval"]),
        ("dota", "DOTA v1.0", ["train/images/", "train/labelTxt/", "val/images/"], ["train/images", "val/images"]),
        ("LoveDA", "loveda", ["Train/Rural/images_png/", "Train/Rural/masks_png/"], ["Train/Rural/images_png"]),
        ("opticalrs-4m", "OpticalRS_4M", ["x/O.z01", "x/O.zip", "teaser.png"], ["x/O.zip"]),
        ("opticalrs-4m", "opticalrs-4m", ["O.zip.001", "O.zip.002"], ["O.zip.001"]),
        ("opticalrs-4m", "opticalrs-4m", ["unpacked/"], [""]),
    ],
)
def test_names_become_places(tmp_path: Path, name: str, folder: str, made: list[str], expected: list[str]) -> None:
    for one in made:
        place = tmp_path / folder / one
        (place if one.endswith("/") else place.parent).mkdir(parents=True, exist_ok=True)
        if not one.endswith("/"):
            place.touch()
    assert resolve(name, tmp_path) == [str(tmp_path / folder / one) for one in expected]


def test_the_folder_of_the_name_itself_comes_first(tmp_path: Path) -> None:
    for folder in ("DIOR", "dior-r"):
        (tmp_path / folder / "JPEGImages").mkdir(parents=True)
    assert resolve("dior-r", tmp_path) == [str(tmp_path / "dior-r" / "JPEGImages")]
    assert resolve("dior", tmp_path) == [str(tmp_path / "DIOR" / "JPEGImages")]


def test_what_is_not_there_is_said_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"has no folder aid .*by hand from the CAPTAIN"):
        resolve("aid", tmp_path)
    with pytest.raises(DataError, match=r"has no folder ucmerced .*data get ucmerced"):
        resolve("ucmerced", tmp_path / "absent")
    (tmp_path / "loveda").mkdir()
    (tmp_path / "loveda" / "Train.zip").touch()  # images and masks together: not to be trained on as it is
    with pytest.raises(DataError, match=r"not laid out as expected .*unpack the zips"):
        resolve("loveda", tmp_path)
    with pytest.raises(ConfigError, match="did you mean 'loveda'"):
        find("lovda")


def test_paths_stay_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert resolve_all(["images", "s3://x/{0..9}.tar"], None) == ["images", "s3://x/{0..9}.tar"]
    with pytest.raises(ConfigError, match="--data-root"):
        resolve_all(["aid"], None)
    (tmp_path / "aid").mkdir()
    assert resolve_all(["aid"], None) == ["aid"]
    (tmp_path / "root" / "AID").mkdir(parents=True)
    assert resolve_all(["x", "AID"], tmp_path / "root") == ["x", str(tmp_path / "root" / "AID")]


def test_shared_samples_are_found_by_name(shared_data: Path) -> None:
    for name in ("aid", "ucmerced", "dior-r"):
        places = [Path(place) for place in resolve(name, shared_data)]
        images = [p.relative_to(shared_data).as_posix() for place in places for p in place.rglob("*.jpg")]
        assert name in recognise(images)
