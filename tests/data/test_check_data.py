"""``check`` against manifests of known cases, and against images made with other libraries."""

import csv
import io
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from selectivemae.core.errors import StoreError
from selectivemae.data.check import as_text, bands, check, class_folders, spread
from selectivemae.data.decode import sniff


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SELECTIVEMAE_CACHE", str(tmp_path_factory.mktemp("cache")))


def encoded(mode: str = "RGB", kind: str = "PNG", size: tuple[int, int] = (48, 40), seed: int = 0) -> bytes:
    noise = np.random.default_rng(seed).integers(0, 255, (size[1], size[0], 4), np.uint8)
    out = io.BytesIO()
    Image.fromarray(noise, "RGBA").convert(mode).save(out, kind)
    return out.getvalue()


def rows(path: Path) -> list[dict[str, str]]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_odd_inputs_are_told_apart(shared_data: Path, tmp_path: Path) -> None:
    folder = tmp_path / "odd"
    shutil.copytree(shared_data / "odd_inputs", folder)
    with zipfile.ZipFile(shared_data / "odd_names.zip") as archive:
        for name in archive.namelist():
            (folder / Path(name).name).write_bytes(archive.read(name))
    found = check(str(folder))
    said = {line.split(": ")[0].partition("/")[2] for lines in found.examples.values() for line in lines}
    for row in rows(folder / "manifest.csv"):
        if row["firm"] == "yes" and row["kind"] != "hidden_file":
            assert (row["file"] in said) == (row["expect"] == "drop"), row
    assert not found.ok
    assert sum(found.faults.values()) == len(said)


def test_archives_are_judged_as_their_manifest_says(shared_data: Path) -> None:
    cases = shared_data / "zip_cases"
    for row in rows(cases / "manifest.csv"):
        found = check(str(cases / row["archive"]))
        assert found.ok == (row["expect"] == "ok"), row
        assert bool(found.damaged) == (row["expect"] == "fail"), row
        unusable = sum(found.faults.values())
        if row["expect"] == "ok":
            assert found.looked_at == int(row["members"])
        elif row["expect"] == "partial":
            assert unusable == 1
            assert found.looked_at in (int(row["members"]), int(row["members"]) - 1)  # a skipped member is no sample
        else:
            assert "missing_part.z01" in found.damaged[0] or "truncated" in found.damaged[0]


def test_damaged_archives_do_not_hide_the_others(tmp_path: Path) -> None:
    for number in range(3):
        with zipfile.ZipFile(tmp_path / f"{number}.zip", "w") as archive:
            archive.writestr("a/x.png", encoded(seed=number))
            archive.writestr("b/y.png", encoded(seed=9 + number))
    whole = (tmp_path / "1.zip").read_bytes()
    (tmp_path / "1.zip").write_bytes(whole[: len(whole) // 2])
    found = check(str(tmp_path))
    assert (found.samples, found.looked_at, found.faults) == (4, 4, {})
    assert [line.partition(":")[0] for line in found.damaged] == [str(tmp_path / "1.zip")]
    assert not found.ok


def test_what_a_folder_holds(tmp_path: Path) -> None:
    for name, data in {
        "Forest/a.png": encoded(),
        "Forest/b.jpg": encoded(kind="JPEG", size=(64, 50)),
        "River/c.png": encoded("L"),
        "River/notes.txt": b"notes",
        "River/more.zip": b"PK",
    }.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(data)
    found = check(str(tmp_path))
    assert found.ok
    assert found.kinds == {"png": 2, "jpeg": 1}
    assert found.sizes == {"48 x 40": 2, "64 x 50": 1}
    assert (found.least, found.most) == ((48, 40), (64, 50))
    assert found.bands == {"3 bands, 8 bit": 2, "1 band, 8 bit": 1}
    assert found.classes == {"Forest": 2, "River": 1}
    assert (found.other_files, found.archives_beside) == (2, 1)
    assert found.bytes == sum(p.stat().st_size for p in tmp_path.rglob("*.[pj][np]g"))
    assert "nothing is wrong" in as_text(found)


def test_threads_and_parts_find_the_same(tmp_path: Path) -> None:
    for number in range(30):
        (tmp_path / f"{number:02d}.png").write_bytes(encoded(seed=number) if number % 7 else b"no image")
    one, four = check(str(tmp_path), threads=1), check(str(tmp_path), threads=4)
    assert one == four
    assert one.faults == {"not_an_image": 5}
    shares: list[float] = []
    few = check(str(tmp_path), 10, say=lambda share, text: shares.append(share))
    assert few.looked_at == 10
    assert shares[-1] == 1
    assert shares == sorted(shares)


def test_nothing_there_and_nothing_in_it(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="absent"):
        check(str(tmp_path / "absent"))
    with pytest.raises(StoreError, match="matches nothing"):
        check(str(tmp_path / "*.tar"))
    empty = check(str(tmp_path))
    assert not empty.ok
    assert "holds no image" in empty.damaged[0]
    assert "1 containers cannot be opened" in as_text(empty)


@pytest.mark.parametrize(
    ("mode", "kind", "expected"),
    [
        ("RGB", "JPEG", "3 bands, 8 bit"),
        ("L", "JPEG", "1 band, 8 bit"),
        ("CMYK", "JPEG", "4 bands, 8 bit"),
        ("RGBA", "PNG", "4 bands, 8 bit"),
        ("P", "PNG", "palette"),
        ("1", "PNG", "1 band, 1 bit"),
        ("I;16", "PNG", "1 band, 16 bit"),
        ("RGB", "BMP", "3 bands, 8 bit"),
        ("RGB", "TIFF", "3 bands, 8 bit"),
        ("RGB", "WEBP", "3 bands, 8 bit"),
    ],
)
@pytest.mark.filterwarnings("ignore:Dataset has no geotransform")
def test_bands(mode: str, kind: str, expected: str) -> None:
    if mode == "I;16":
        out = io.BytesIO()
        Image.fromarray(np.arange(2000, dtype=np.uint16).reshape(40, 50)).save(out, kind)
        data = out.getvalue()
    else:
        data = encoded(mode, kind)
    assert bands(data, sniff(data)) == expected


@given(st.integers(1, 500), st.integers(1, 500))
def test_spread_is_even(count: int, wanted: int) -> None:
    places = list(spread(count, wanted))
    assert len(places) == min(count, wanted)
    assert len(set(places)) == len(places)
    assert places == sorted(places)
    assert set(places) <= set(range(count))
    gaps = np.diff([*places, places[0] + count])
    assert gaps.max() - gaps.min() <= 1


def test_class_folders() -> None:
    assert class_folders(["a/1.jpg", "x/b/2.jpg", "b/3.jpg"]) == {"a": 1, "b": 2}
    assert class_folders(["a/1.jpg", "a/2.jpg"]) == {}
    assert class_folders(["a/1.jpg", "2.jpg", "b/3.jpg"]) == {}
