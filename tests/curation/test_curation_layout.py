"""A corpus on disk against its specification, read by other tools; and its report against plain counting."""

import io
import json
import tarfile
from collections import Counter
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from curation_inline import Inline
from curation_worlds import folder, save, scenery
from PIL import Image

from selectivemae.core.statistics import wilson
from selectivemae.curation import run as assembly
from selectivemae.curation.accounts import write_quarantine
from selectivemae.curation.config import CurateConfig
from selectivemae.curation.corpus import verify
from selectivemae.curation.engine import Quarantined
from selectivemae.curation.removal import remove
from selectivemae.curation.run import add, curate
from selectivemae.curation.scan import scan, settled_sources
from selectivemae.data.stores import open_store
from selectivemae.ops.crc32c import crc32c
from selectivemae.reports.corpus import write_corpus_report
from selectivemae.reports.corpus_figures import corpus_figures

TYPES = {
    "id": pa.binary(16),
    "key": pa.string(),
    "shard": pa.uint32(),
    "offset": pa.uint64(),
    "size": pa.uint32(),
    "container": pa.string(),
    "member": pa.string(),
    **dict.fromkeys(("win_x", "win_y", "win_w", "win_h", "scene_w", "scene_h", "flags", "crc32c"), pa.uint32()),
    "resize": pa.float32(),
    "gsd_m": pa.float32(),
    "transform": pa.list_(pa.float64(), 6),
    "lon_min": pa.float64(),
    "datetime": pa.timestamp("ms"),
    "passthrough": pa.bool_(),
    "file_sha256": pa.binary(32),
    "content_id": pa.binary(32),
    "h64": pa.uint64(),
    "h256": pa.binary(32),
    **dict.fromkeys(("std", "entropy", "flat_share", "noise", "nodata", "saturated", "cloud", "blur"), pa.float32()),
    "dup_group": pa.uint64(),
    "n_dropped": pa.uint16(),
    "generation": pa.uint16(),
}
DROPPED = ["reason", "stat", "value", "threshold", "kept_id", "d64", "d256", "ncc", "orient", "rule_version"]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two generations with copies, a dull picture, a mask, an evaluation set with a twin, dates and categories."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(assembly, "LocalPool", Inline)
        root = tmp_path_factory.mktemp("layout")
        folder(root / "one", 9)
        save(root / "one" / "dull.png", (scenery(70) // 200 + 100).astype(np.uint8))
        save(root / "one" / "noise.png", np.random.default_rng(1).integers(0, 256, (96, 96, 3), np.uint8))
        save(root / "two" / "a" / "twin.jpg", np.ascontiguousarray(scenery(1)[:, ::-1]), 70)
        save(root / "two" / "a" / "late.jpg", scenery(60))
        save(root / "test" / "t.jpg", scenery(4), 70)
        (root / "s.yaml").write_text(
            "categories: [a, b]\nsources:\n"
            f"- {{name: one, path: {root / 'one'}, date: 2020-02, licence: {{id: mit, redistribute: false}}}}\n"
        )
        (root / "t.yaml").write_text(
            "categories: [a, b]\nsources:\n"
            f"- {{name: two, path: {root / 'two'}, category: {{regex: '(?P<c>[^/]+)/'}}, date: '2021-03-04'}}\n"
        )
        out = root / "corpus"
        shared: dict[str, Any] = {"out": out, "workers": 1, "against": [str(root / "test")]}
        curate(CurateConfig(sources=[str(root / "s.yaml")], **shared), quiet=True)
        add(CurateConfig(sources=[str(root / "t.yaml")], **shared), quiet=True)
        return out


def rows(corpus: Path, table: str) -> list[dict[str, Any]]:
    return [row for path in sorted(corpus.glob(f"g*/{table}/*.parquet")) for row in pq.read_table(path).to_pylist()]


def test_names_and_columns(corpus: Path) -> None:
    for name in ("corpus.json", "eval_overlap.parquet", "SHA256SUMS", "README.md", "LICENSES.md", "g0001/hashes.npy"):
        assert (corpus / name).is_file(), name
    assert (corpus / "g0001/shards/000/corpus-g0001-000000.tar").is_file()
    schema = pq.read_schema(corpus / "g0001/manifest/part-00000.parquet")
    assert {name: schema.field(name).type for name in TYPES} == TYPES
    assert schema.names[:3] == ["id", "key", "shard"]
    assert set(DROPPED) < set(pq.read_schema(corpus / "g0001/dropped/part-00000.parquet").names)
    assert {row["rule_version"] for row in rows(corpus, "dropped")} == {1}
    sums = (corpus / "SHA256SUMS").read_text()
    assert "  eval_overlap.parquet\n" in sums
    assert not any(name in sums for name in ("work.json", "report", "quarantine.jsonl"))
    assert verify(corpus, deep=True) == []


def test_members_of_the_shards(corpus: Path) -> None:
    found = {row["key"]: row for row in rows(corpus, "manifest")}
    seen = 0
    for path in sorted(corpus.glob("g*/shards/*/*.tar")):
        with tarfile.open(path) as archive:
            for member in archive:
                assert (member.mtime, member.uid, member.gid, member.mode) == (0, 0, 0, 0o644)
                assert (member.uname, member.gname, member.pax_headers) == ("", "", {})
                key, _, suffix = member.name.partition(".")
                file = archive.extractfile(member)
                assert file is not None
                data = file.read()
                if suffix == "json":
                    assert len(data) <= 400
                    day = {"one": "2020-02", "two": "2021-03-04"}[found[key]["source"]]
                    assert json.loads(data)["datetime"] == day
                    continue
                assert (crc32c(data), len(data), member.offset_data) == tuple(
                    found[key][name] for name in ("crc32c", "size", "offset")
                )
                seen += 1
    assert seen == len(found) == 9
    assert {row["datetime"] for row in found.values()} == {datetime(2020, 2, 1), datetime(2021, 3, 4)}


def test_twins_of_evaluation_images(corpus: Path) -> None:
    (twin,) = pq.read_table(corpus / "eval_overlap.parquet").to_pylist()
    lost = next(row for row in rows(corpus, "dropped") if row["reason"] == "eval_overlap")
    assert (twin["set"], twin["image"], twin["generation"]) == ("test", "test/t.jpg", 1)
    assert (twin["source"], twin["member"], twin["id"]) == ("one", "1/p0004.jpg", lost["id"])
    assert (twin["image_id"], twin["d64"]) == (lost["kept_id"], lost["d64"])


def test_figures_are_what_one_counts(corpus: Path) -> None:
    write_corpus_report(corpus)
    figures = json.loads((corpus / "report.json").read_text())
    kept, lost = rows(corpus, "manifest"), rows(corpus, "dropped")
    assert (figures["samples"], figures["left_out"]) == (len(kept), len(lost)) == (9, 4)
    for line in figures["funnel"]:
        mine = [row for row in lost if row["source"] == line["source"]]
        assert line["dropped"] == Counter(row["reason"] for row in mine)
        assert line["files"] == line["kept"] + len(mine)
        assert line["usable"] == line["files"] - sum(row["win_w"] == 0 for row in mine)
    assert figures["duplicates"] == {"sources": ["one", "two"], "matrix": [[0, 0], [1, 0]], "reasons": {"near_dup": 1}}
    twin = next(row for row in kept if row["member"] == "1/p0001.jpg")
    assert figures["groups"] == [{"key": twin["key"], "left_out": 1, "members": ["two/a/twin.jpg"]}]
    (test,) = figures["evaluation"]
    assert test == {"set": "test", "images": 1, "with_twin": 1, "twins_by_source": {"one": 1}}
    for name in ("entropy", "width", "quality"):
        shown = figures["histograms"][name]
        values = np.clip([row[name] for row in kept], shown["edges"][0], shown["edges"][-1])
        assert sum(shown["counts"]) == len(kept)
        edges = np.array(shown["edges"])
        top = int(np.argmax(shown["counts"]))
        inside = (values >= edges[top] * (1 - 1e-5)) & (values <= edges[top + 1] * (1 + 1e-5))
        assert inside.sum() >= shown["counts"][top]
    assert figures["categories"] == {"counts": {"a": 1}, "wanted": ["a", "b"], "missing": ["b"]}
    assert figures["months"] == {"2020-02": 8, "2021-03": 1}
    difference = figures["difference"]
    assert (difference["before"], difference["added"], difference["dropped"]) == (8, 1, {"near_dup": 1})
    assert [row["source"] for row in figures["licences"]] == ["one", "two"]  # the strictest first
    assert len(figures["work"]["generations"]) == 2
    assert figures["work"]["quarantine"] == []


def test_channels_are_those_of_the_pixels(corpus: Path) -> None:
    pixels = []
    for path in sorted(corpus.glob("g*/shards/*/*.tar")):
        with tarfile.open(path) as archive:
            for member in archive:
                file = archive.extractfile(member)
                assert file is not None
                if not member.name.endswith(".json"):
                    pixels.append(np.asarray(Image.open(io.BytesIO(file.read())).convert("RGB")).reshape(-1, 3))
    every = np.concatenate(pixels) / 255
    found = corpus_figures(corpus)["channels"]
    np.testing.assert_allclose(found["mean"], every.mean(axis=0), atol=1e-4)
    np.testing.assert_allclose(found["std"], every.std(axis=0), atol=1e-4)


def test_pictures_of_what_was_left_out(corpus: Path) -> None:
    found = {row["reason"]: row for row in rows(corpus, "sheets")}
    assert set(found) == {"uniform", "noise", "near_dup", "eval_overlap"}
    noise = np.asarray(Image.open(io.BytesIO(found["noise"]["image"])).convert("RGB")).astype(int)
    original = np.random.default_rng(1).integers(0, 256, (96, 96, 3), np.uint8).astype(int)
    assert np.corrcoef(noise.mean(axis=2).ravel(), original.mean(axis=2).ravel())[0, 1] > 0.85
    page = write_corpus_report(corpus).read_text()
    assert "noise: left out" in page
    assert "noise: kept" in page


def test_nothing_is_left_of_a_removed_image(corpus: Path) -> None:
    """Last, for it changes the corpus: pictures of its copies go as well."""
    kept = next(row for row in rows(corpus, "manifest") if row["member"] == "1/p0001.jpg")
    assert any(row["kept_id"] == kept["id"] for row in rows(corpus, "sheets"))
    assert remove(corpus, {kept["key"]}, None) == 1
    assert not any(row["kept_id"] == kept["id"] for row in rows(corpus, "sheets"))
    assert verify(corpus) == []
    assert corpus_figures(corpus)["samples"] == 8


def test_files_that_killed_their_workers_are_listed(corpus: Path, tmp_path: Path) -> None:
    found = scan(settled_sources(CurateConfig(sources=[str(corpus.parent / "one")])), CurateConfig())
    chunk = found[0].chunks[0]
    member = open_store(chunk.path).id(2).removeprefix("one/")
    path = tmp_path / "quarantine.jsonl"
    write_quarantine(path, 1, [], {chunk.name: chunk})
    assert not path.exists()
    for _ in range(2):  # an addition that is repeated lists it once
        write_quarantine(path, 1, [Quarantined(chunk.name, 2, "oom", "killed")], {chunk.name: chunk})
    line = {"generation": 1, "source": "one", "container": "one", "member": member, "reason": "oom", "stderr": "killed"}
    assert [json.loads(text) for text in path.read_text().splitlines()] == [line]


def test_wilson_interval() -> None:
    """Against the roots of the equation that defines it: |p - share| = z * sqrt(p (1 - p) / n)."""
    share = 190 / 200
    low, high = wilson(190, 200)
    for bound in (low, high):
        assert abs(abs(share - bound) - 1.96 * (bound * (1 - bound) / 200) ** 0.5) < 1e-12
    assert low < share < high
