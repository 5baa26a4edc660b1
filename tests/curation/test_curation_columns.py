"""Parquet files and WebDataset shards as sources, and the fields of the sources file that reach into them."""

import hashlib
import io
import json
import pickle
import tarfile
from datetime import datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from curation_inline import Inline
from curation_worlds import save, scenery
from PIL import Image

from selectivemae.core.errors import ConfigError, StoreError
from selectivemae.curation import run as assembly
from selectivemae.curation.config import CurateConfig
from selectivemae.curation.run import curate
from selectivemae.curation.sources import read_sources
from selectivemae.data.stores import open_store
from selectivemae.data.stores.fields import fields


@pytest.fixture(autouse=True)
def inline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(assembly, "LocalPool", Inline)


def jpeg(number: int) -> bytes:
    out = io.BytesIO()
    Image.fromarray(scenery(number)).save(out, "JPEG", quality=92)
    return out.getvalue()


def make(tmp_path: Path, listing: str, name: str = "c") -> list[dict]:
    (tmp_path / "sources.yaml").write_text(listing)
    out = tmp_path / name
    curate(CurateConfig(sources=[str(tmp_path / "sources.yaml")], out=out, workers=1, review=0), quiet=True)
    return [row for p in sorted(out.glob("g*/manifest/*")) for row in pq.read_table(p).to_pylist()]


def parquet(path: Path, named: bool = True) -> Path:
    images = [jpeg(n) for n in range(5)]
    column = [{"bytes": b, "path": f"x/{n}.jpg"} for n, b in enumerate(images)] if named else images
    table = pa.table(
        {
            "image": column,
            "label": ["a", "b", "a", None, "b"],
            "gsd": [0.5, 1.0, 0.5, 0.5, 2.0],
            "day": ["2020-01-02"] * 5,
        }
    )
    pq.write_table(table, path, row_group_size=2)
    return path


@pytest.mark.parametrize("named", [True, False])
def test_a_parquet_file_is_a_store(tmp_path: Path, named: bool) -> None:
    store = open_store(parquet(tmp_path / "d.parquet", named))
    ids = [f"d.parquet/x/{n}.jpg" if named else f"d.parquet/row-{n:09d}" for n in range(5)]
    assert [store.id(i) for i in range(len(store))] == ids
    again = pickle.loads(pickle.dumps(store))
    assert [again[i] for i in (4, 0, 3, 1, 2)] == [jpeg(n) for n in (4, 0, 3, 1, 2)]
    assert fields(store, 4) == {"label": "b", "gsd": 2.0, "day": "2020-01-02"}


def test_columns_of_a_parquet_file(tmp_path: Path) -> None:
    parquet(tmp_path / "d.parquet")
    rows = make(
        tmp_path,
        "sources:\n- {name: d, path: d.parquet, kind: parquet, category: {column: label, map: {b: bridge}},\n"
        "   gsd_m: {column: gsd}, date: {column: day}}\n",
    )
    found = {r["member"]: (r["category"], r["gsd_m"], r["datetime"]) for r in rows}
    day = datetime(2020, 1, 2)
    assert found == {
        "x/0.jpg": ("a", 0.5, day),
        "x/1.jpg": ("bridge", 1.0, day),
        "x/2.jpg": ("a", 0.5, day),
        "x/3.jpg": (None, 0.5, day),
        "x/4.jpg": ("bridge", 2.0, day),
    }


def test_what_stands_beside_an_image_in_a_webdataset(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "w.tar", "w") as archive:
        for number in range(4):
            sides = {"json": json.dumps({"kind": f"k{number % 2}"}).encode(), "jpg": jpeg(number), "cls": b"7\n"}
            for suffix, data in sorted(sides.items()):
                info = tarfile.TarInfo(f"deep/s{number}.{suffix}")
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
    store = open_store(tmp_path / "w.tar")
    assert fields(store, 1) == {"kind": "k1", "cls": "7"}
    rows = make(tmp_path, "sources:\n- {name: w, path: w.tar, kind: webdataset, category: {column: kind}}\n")
    assert {r["member"]: r["category"] for r in rows} == {f"deep/s{n}.jpg": f"k{n % 2}" for n in range(4)}
    inner = open_store(tmp_path / "c")
    assert {fields(inner, i)["category"] for i in range(len(inner))} == {"k0", "k1"}


def test_damaged_and_odd_parquet_files(tmp_path: Path) -> None:
    path = parquet(tmp_path / "d.parquet")
    pq.write_table(pa.table({"picture": [b"x"]}), tmp_path / "odd.parquet")
    with pytest.raises(StoreError, match=r"no column 'image'.*picture"):
        open_store(tmp_path / "odd.parquet")
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(StoreError, match="no whole Parquet file"):
        open_store(path)


@pytest.mark.parametrize(
    ("listing", "complaint"),
    [
        ("sources:\n- {name: d, path: d.parquet, kind: zip}", "is a parquet, not a zip"),
        ("sources:\n- {name: d, path: d.parquet, category: {column: lable}}", r"no column 'lable' \(columns: image"),
        ("sources:\n- {name: d, path: folder, category: {column: x}}", "a folder has no columns"),
    ],
)
def test_containers_that_do_not_fit(tmp_path: Path, listing: str, complaint: str) -> None:
    parquet(tmp_path / "d.parquet")
    save(tmp_path / "folder" / "a.jpg", scenery(1))
    with pytest.raises(StoreError, match=complaint):
        make(tmp_path, listing)
    assert not list((tmp_path / "c").glob("g*"))


def test_checksums(tmp_path: Path) -> None:
    path = parquet(tmp_path / "d.parquet")
    listing = "sources:\n- {name: d, path: d.parquet, checksum: sums.txt}\n"
    sums = tmp_path / "sums.txt"
    sums.write_text(f"{hashlib.sha256(path.read_bytes()).hexdigest()}  d.parquet\n")
    assert len(make(tmp_path, listing)) == 5
    sums.write_text(f"{'0' * 64}  d.parquet\n")
    with pytest.raises(StoreError, match=r"d\.parquet does not match its sum in .*sums\.txt; fetch it again"):
        make(tmp_path, listing, "d")
    sums.write_text(f"{'0' * 64}  other.parquet\n")
    with pytest.raises(StoreError, match="is not listed"):
        make(tmp_path, listing, "d")
    sums.write_text("nonsense\n")
    with pytest.raises(ConfigError, match=r"sums\.txt, line 1"):
        make(tmp_path, listing, "d")


def test_scenes_are_scaled_down_never_up(tmp_path: Path) -> None:
    save(tmp_path / "f" / "large.png", scenery(1, 300, 400))
    save(tmp_path / "f" / "small.png", scenery(2, 100, 120))
    rows = make(tmp_path, "sources:\n- {name: f, path: f, slice: {max_side: 200}}\n")
    found = {r["member"]: (r["width"], r["height"], r["resize"], r["passthrough"]) for r in rows}
    assert found == {"large.png": (200, 150, 0.5, False), "small.png": (120, 100, 1.0, True)}
    rows = make(tmp_path, "sources:\n- {name: f, path: f, gsd_m: 0.25, slice: {target_gsd: 0.5}}\n", "d")
    assert {(r["width"], r["gsd_m"], r["resize"]) for r in rows if r["member"] == "large.png"} == {(200, 0.5, 0.5)}
    reduced = np.asarray(Image.fromarray(scenery(1, 300, 400)).reduce(2)).astype(int)
    store = open_store(tmp_path / "d")
    pictures = [np.asarray(Image.open(io.BytesIO(store[i]))).astype(int) for i in range(len(store))]
    assert min(np.abs(p - reduced).mean() for p in pictures if p.shape == reduced.shape) < 2


def test_grey_pictures_can_be_left_out(tmp_path: Path) -> None:
    save(tmp_path / "f" / "colour.jpg", scenery(1))
    grey = np.repeat(scenery(2)[..., :1], 3, axis=2)
    save(tmp_path / "f" / "grey.png", grey)
    assert {r["member"] for r in make(tmp_path, "sources:\n- {name: f, path: f}\n")} == {"colour.jpg", "grey.png"}
    rows = make(tmp_path, "defaults: {grey: drop, licence_policy: warn}\nsources:\n- {name: f, path: f}\n", "d")
    assert {r["member"] for r in rows} == {"colour.jpg"}


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("kind: rar", "line 2: sources.0.kind"),
        ("date: yesterday", "line 2: .*YYYY-MM-DD"),
        ("gsd_m: -1.0", "line 2: .*more than 0"),
        ("category: {colum: x}", "line 2: unknown key 'colum'"),
        ("slice: {max_sid: 3}", "unknown key 'max_sid'.*max_side"),
        ("licence: [mit]", "line 2: sources.0.licence"),
        ("category: 7", "line 2: sources.0.category"),
    ],
)
def test_bad_fields_are_named_with_their_line(tmp_path: Path, line: str, complaint: str) -> None:
    path = tmp_path / "s.yaml"
    path.write_text(f"sources:\n- {{name: a, path: x, {line}}}\n")
    with pytest.raises(ConfigError, match=complaint):
        read_sources(path)
