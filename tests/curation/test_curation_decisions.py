"""People's word about pairs, and what the places on Earth say."""

import io
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from curation_inline import Inline
from curation_worlds import folder, save, scenery
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from selectivemae.core.errors import ConfigError
from selectivemae.curation import run as assembly
from selectivemae.curation.config import CurateConfig
from selectivemae.curation.confirm import PRESETS, confirmed, doubt
from selectivemae.curation.corpus import verify
from selectivemae.curation.decisions import read_decisions
from selectivemae.curation.ground import Ground, covered, other_date, same_ground
from selectivemae.curation.removal import remove
from selectivemae.curation.run import add, curate


@pytest.fixture(autouse=True)
def inline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(assembly, "LocalPool", Inline)


def make(out: Path, *sources: Path, against: tuple[Path, ...] = (), **options) -> Path:
    paths = [str(path) for path in sources]
    config = CurateConfig(sources=paths, against=[str(path) for path in against], out=out, workers=1, **options)
    curate(config, quiet=True)
    return out


def rows(corpus: Path, table: str) -> list[dict]:
    return [row for p in sorted(corpus.glob(f"g*/{table}/*.parquet")) for row in pq.read_table(p).to_pylist()]


def kept(corpus: Path) -> set[str]:
    return {row["member"] for row in rows(corpus, "manifest")}


def write(path: Path, *lines: tuple[str, str, str]) -> Path:
    text = [json.dumps({"left": a, "right": b, "decision": word}) for a, b, word in lines]
    path.write_text("\n".join(text))
    return path


@pytest.fixture
def world(tmp_path: Path) -> Path:
    folder(tmp_path / "one", 6)
    save(tmp_path / "one" / "twin.jpg", np.ascontiguousarray(scenery(1)[::-1]), 60)
    return tmp_path / "one"


def test_decisions_are_replayed(world: Path, tmp_path: Path) -> None:
    first = make(tmp_path / "first", world)
    assert kept(first) == {f"{n % 3}/p{n:04d}.jpg" for n in range(6)}
    (pair,) = [row for row in rows(first, "review") if row["confirmed"]]
    assert {pair["left_name"], pair["right_name"]} == {"one/twin.jpg", "one/1/p0001.jpg"}
    assert pair["outcome"] == "one goes"
    left, right = (np.asarray(Image.open(io.BytesIO(pair[f"{side}_image"]))).astype(int) for side in ("left", "right"))
    assert np.abs(left - right).mean() < 8  # turned to lie on each other
    other = {row["member"]: row["key"] for row in rows(first, "manifest")}
    words = write(
        tmp_path / "d.jsonl",
        (pair["left_key"], pair["right_key"], "different"),
        (other["2/p0002.jpg"], other["0/p0003.jpg"], "same"),
        ("gone-" + "0" * 26, other["2/p0002.jpg"], "same"),  # of an image that is not here any more
    )
    second = make(tmp_path / "second", world, decisions=words)
    assert "twin.jpg" in kept(second)
    assert len(kept(second) & {"2/p0002.jpg", "0/p0003.jpg"}) == 1
    lost = next(row for row in rows(second, "dropped") if row["reason"] == "near_dup")
    assert lost["ncc"] < 0.5
    assert {row["basis"] for row in rows(second, "pairs")} >= {"decision"}
    assert verify(second, deep=True) == []
    third = make(tmp_path / "third", world, decisions=write(tmp_path / "e.jsonl", *_lines(second)))
    assert (third / "SHA256SUMS").read_text() == (second / "SHA256SUMS").read_text()


def _lines(corpus: Path) -> list[tuple[str, str, str]]:
    text = (corpus / "g0001/config/decisions.jsonl").read_text().splitlines()
    return [(e["right"], e["left"], e["decision"]) for e in map(json.loads, reversed(text))]


def test_decisions_of_an_addition(world: Path, tmp_path: Path) -> None:
    corpus = make(tmp_path / "c", world)
    keys = {row["member"]: row["key"] for row in rows(corpus, "manifest")}
    save(tmp_path / "new" / "copy.jpg", scenery(4), 50)
    save(tmp_path / "new" / "fresh.jpg", scenery(800))
    trial = make(tmp_path / "trial", tmp_path / "new")
    new = {row["member"]: row["key"] for row in rows(trial, "manifest")}
    words = write(
        tmp_path / "d.jsonl",
        (keys["1/p0004.jpg"], new["copy.jpg"], "keep_both"),
        (new["fresh.jpg"], keys["2/p0005.jpg"], "same"),
    )
    config = CurateConfig(sources=[str(tmp_path / "new")], out=corpus, workers=1, decisions=words)
    result = add(config, quiet=True)
    assert (result.kept, result.dropped) == (1, {"near_dup": 1})
    assert "copy.jpg" in kept(corpus)
    assert verify(corpus) == []


def test_an_evaluation_twin_can_be_pardoned(world: Path, tmp_path: Path) -> None:
    save(tmp_path / "test" / "a.jpg", np.ascontiguousarray(scenery(5)[:, ::-1]), 70)
    first = make(tmp_path / "first", world, against=(tmp_path / "test",))
    assert "2/p0005.jpg" not in kept(first)
    pair = next(row for row in rows(first, "review") if row["outcome"] == "goes: in an evaluation set")
    words = write(tmp_path / "d.jsonl", (pair["left_key"], pair["right_key"], "different"))
    second = make(tmp_path / "second", world, against=(tmp_path / "test",), decisions=words)
    assert "2/p0005.jpg" in kept(second)


def test_pictures_of_removed_images_go_at_once(world: Path, tmp_path: Path) -> None:
    corpus = make(tmp_path / "c", world)
    keys = {row["member"]: row["key"] for row in rows(corpus, "manifest")}
    assert any(keys["1/p0001.jpg"] in (row["left_key"], row["right_key"]) for row in rows(corpus, "review"))
    remove(corpus, {keys["1/p0001.jpg"]}, None)
    assert not any(keys["1/p0001.jpg"] in (row["left_key"], row["right_key"]) for row in rows(corpus, "review"))
    assert verify(corpus) == []


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("no json", "line 2: is no object"),
        ('{"left": "a-1", "right": "b-2", "decision": "same"}', "'a-1' is no key"),
        ('{"left": "KEY", "right": "KEY", "decision": "same"}', "against itself"),
        ('{"left": "KEY", "right": "OTHER", "decision": "sam"}', "unknown decision 'sam'.*same"),
        ('{"left": "OTHER", "right": "KEY", "decision": "different"}', "were 'same' on an earlier line"),
    ],
)
def test_bad_lines_are_named(line: str, complaint: str, tmp_path: Path) -> None:
    key, other = "a-" + "0" * 26, "b-" + "1" * 25 + "0"
    path = write(tmp_path / "d.jsonl", (key, other, "same"))
    path.write_text(path.read_text() + "\n" + line.replace("KEY", key).replace("OTHER", other))
    with pytest.raises(ConfigError, match=complaint):
        read_decisions(path)


@given(st.integers(0, 128), st.floats(0, 1), st.sampled_from(sorted(PRESETS)))
def test_doubt_is_the_way_to_the_other_verdict(bits: int, likeness: float, name: str) -> None:
    """Against a search of a grid of changes: nothing below the doubt turns the verdict, a little more does."""
    preset = PRESETS[name]

    def verdict(b: float, c: np.ndarray) -> np.ndarray:
        close = (b <= preset.distance256) & (c >= preset.correlation)
        return close | (c >= preset.sure_correlation)

    one = np.array([bits], np.uint16), np.array([likeness])
    value = float(doubt(preset, *one)[0])
    now = bool(verdict(bits, np.array([likeness]))[0])
    if bits <= preset.far256:
        assert now == bool(confirmed(preset, np.array([True]), *one)[0])

    def turns(step: float) -> bool:
        moves = np.array([(b, c) for b in (-1, 0, 1) for c in (-1, 0, 1)])
        return any(bool(verdict(bits + 128 * step * b, np.array([likeness + step * c]))[0]) != now for b, c in moves)

    if bits <= preset.far256:
        assert turns(value + 1e-6)
        assert value < 1e-6 or not turns(value - 1e-6)


def boxes(draw: np.random.Generator, count: int) -> Ground:
    corner = draw.integers(0, 12, (count, 2)) / 4
    size = draw.integers(1, 9, (count, 2)) / 4
    bounds = np.concatenate([corner, corner + size], axis=1)
    bounds[draw.random(count) < 0.2] = np.nan
    return Ground(bounds, draw.choice([0.5, 0.55, 1.0], count), pa.chunked_array([pa.nulls(count, pa.string())]))


@given(st.integers(0, 10**6))
def test_places_against_brute_force(seed: int) -> None:
    draw = np.random.default_rng(seed)
    left, right = boxes(draw, 20), boxes(draw, 15)
    same, half = set(), set()
    for i, a in enumerate(left.bounds):
        for j, b in enumerate(right.bounds):
            width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
            if not (width > 0 and height > 0) or np.isnan([*a, *b]).any():
                continue
            areas = [(c[2] - c[0]) * (c[3] - c[1]) for c in (a, b)]
            alike = abs(np.log2(left.gsd[i] / right.gsd[j])) < 0.25
            if alike and width * height >= 0.9 * (sum(areas) - width * height):
                same.add((i, j))
            if width * height >= 0.5 * min(areas):
                half.add((i, j))
    assert set(zip(*(c.tolist() for c in same_ground(left, right)), strict=True)) == same
    assert set(zip(*(c.tolist() for c in covered(left, right)), strict=True)) == half


@pytest.mark.parametrize(
    ("a", "b", "other"),
    [
        ("2020-01-01", "2020-01-02", False),
        ("2020-01-01", "2020-01-03", True),
        ("2020-01", "2020-02", True),
        ("2020", "2020-02-01", False),
        ("2020-13-40", "2020-13-41", True),
        (None, "2020", None),
        ("", "", None),
    ],
)
def test_dates(a: str | None, b: str | None, other: bool | None) -> None:
    assert other_date(a, b) is other


def geotiff(path: Path, pixels: np.ndarray, west: float = 30.0) -> None:
    rasterio = pytest.importorskip("rasterio")
    from rasterio.transform import from_origin

    path.parent.mkdir(parents=True, exist_ok=True)
    height, width, bands = pixels.shape
    with rasterio.open(
        path, "w", "GTiff", width, height, bands, "EPSG:4326", from_origin(west, 10.0, 1e-5, 1e-5), "uint8"
    ) as out:
        out.write(pixels.transpose(2, 0, 1))


def test_places_on_earth_end_to_end(tmp_path: Path) -> None:
    """A copy shifted by 3 % is found by its place; another date of the same ground stays; evaluation ground goes."""
    world = scenery(11, 200, 200)
    geotiff(tmp_path / "geo" / "a_20200101.tif", world[:180, :180])
    geotiff(tmp_path / "geo" / "b_20200101.tif", world[5:185, 5:185])
    geotiff(tmp_path / "geo" / "c_20210101.tif", world[:180, :180] // 2 + 60)
    geotiff(tmp_path / "geo" / "d_20200101.tif", scenery(12, 180, 180), west=40.0)
    geotiff(tmp_path / "test" / "e.tif", scenery(13, 180, 180), west=40.0 + 40e-5)
    listing = tmp_path / "sources.yaml"
    listing.write_text(
        "sources:\n- {name: geo, path: geo, date: {regex: '_(?P<y>\\d{4})(?P<m>\\d\\d)(?P<d>\\d\\d)'}}\n"
        "- {name: test, path: test, split_role: eval}\n"
    )
    corpus = make(tmp_path / "c", listing)
    why = {row["member"]: row["reason"] for row in rows(corpus, "dropped")}
    (shifted,) = why.keys() & {"a_20200101.tif", "b_20200101.tif"}
    assert why == {shifted: "same_footprint", "d_20200101.tif": "eval_overlap"}
    assert kept(corpus) == {"a_20200101.tif", "b_20200101.tif", "c_20210101.tif"} - {shifted}
    assert all(row["flags"] == 1 for row in rows(corpus, "manifest"))
    (tmp_path / "geo" / "b_20200101.tif").unlink()
    assert {"a_20200101.tif", "c_20210101.tif"} == kept(make(tmp_path / "d", listing))
    single = make(tmp_path / "e", listing, temporal="drop")
    assert len(kept(single)) == 1
    assert {row["reason"] for row in rows(single, "dropped")} == {"near_dup", "eval_overlap"}
