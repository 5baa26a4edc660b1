"""Whole curations: what is kept and why, that it is the same however it was made, and that others can read it."""

import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import time
import zipfile
from collections import Counter
from contextlib import suppress
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from curation_worlds import folder, save, scenery
from PIL import Image

from selectivemae.core.errors import ConfigError, DataError, OutputError, StoreError
from selectivemae.curation.config import CurateConfig
from selectivemae.curation.corpus import read_corpus, verify
from selectivemae.curation.run import CurateResult, add, curate
from selectivemae.data.stores import open_store


def run(sources: list[Path], out: Path, **options) -> CurateResult:
    against = [str(path) for path in options.pop("against", [])]
    settings = {"workers": 1, "shard_samples": 12} | options
    config = CurateConfig(sources=[str(path) for path in sources], out=out, against=against, **settings)
    return curate(config, quiet=True)


def rows(corpus: Path, table: str, generation: str = "g0001") -> list[dict]:
    return [
        row for p in sorted((corpus / generation / table).glob("*.parquet")) for row in pq.read_table(p).to_pylist()
    ]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder and a zip with 12 different pictures each, and planted copies, masks and broken files."""
    root = tmp_path_factory.mktemp("world")
    folder(root / "one", 12)
    folder(root / "two", 12, first=100)
    save(root / "two" / "twin.jpg", np.ascontiguousarray(scenery(3)[::-1]), 75)  # flipped and saved anew
    save(root / "two" / "same.png", np.asarray(Image.open(root / "one/1/p0004.jpg")))  # equal pixels
    save(
        root / "one" / "mask.png",
        np.repeat(np.kron(np.eye(4), np.ones((24, 24)))[..., None] * 200, 3, 2).astype(np.uint8),
    )
    save(root / "one" / "small.jpg", scenery(900, 40, 40))
    (root / "one" / "broken.jpg").write_bytes((root / "one/0/p0000.jpg").read_bytes()[:700])
    save(root / "one" / "scene.png", scenery(901, 1100, 700))
    with zipfile.ZipFile(root / "two.zip", "w") as archive:
        for path in sorted((root / "two").rglob("*.*")):
            archive.write(path, path.relative_to(root / "two"))
        archive.writestr("notes.txt", "no image")
    return root


@pytest.fixture(scope="module")
def corpus(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("corpus") / "c"
    run([world / "one", world / "two.zip"], out)
    return out


def test_every_file_is_accounted_for(corpus: Path, world: Path) -> None:
    kept, dropped = rows(corpus, "manifest"), rows(corpus, "dropped")
    seen = {(r["source"], r["member"]) for r in [*kept, *dropped]}
    files = {("one", str(p.relative_to(world / "one"))) for p in (world / "one").rglob("*") if p.is_file()}
    with zipfile.ZipFile(world / "two.zip") as archive:
        files |= {("two", name) for name in archive.namelist()}
    assert seen == files
    why = {r["member"]: r["reason"] for r in dropped}
    assert why.pop("twin.jpg") == "near_dup"
    assert {why.pop(name) for name in ("same.png", "1/p0004.jpg") if name in why} == {"exact_dup"}
    assert why == {
        "mask.png": "label_like",
        "small.jpg": "too_small",
        "broken.jpg": "truncated",
        "notes.txt": "not_an_image",
    }


def test_dropped_copies_name_what_was_kept(corpus: Path) -> None:
    kept = {r["id"]: r for r in rows(corpus, "manifest")}
    twin = next(r for r in rows(corpus, "dropped") if r["reason"] == "near_dup")
    assert kept[twin["kept_id"]]["member"] == "0/p0003.jpg"
    assert twin["orient"] == 2
    assert twin["d64"] <= 6
    assert twin["ncc"] > 0.95
    assert kept[twin["kept_id"]]["n_dropped"] == 1


def test_large_scenes_are_cut_without_loss(corpus: Path) -> None:
    tiles = [r for r in rows(corpus, "manifest") if r["member"] == "scene.png"]
    seen = np.zeros((1100, 700), int)
    for r in tiles:
        seen[r["win_y"] : r["win_y"] + r["win_h"], r["win_x"] : r["win_x"] + r["win_w"]] += 1
    assert seen.all()
    assert {(r["width"], r["height"], r["passthrough"], r["ext"]) for r in tiles} == {(512, 512, False, "jpg")}
    whole = [r for r in rows(corpus, "manifest") if r["member"] != "scene.png"]
    assert all(r["passthrough"] for r in whole)


def test_bytes_are_passed_through_and_found_again(corpus: Path, world: Path) -> None:
    store = open_store(corpus)
    originals = {p.read_bytes() for p in (world / "one").rglob("*.jpg")} | {
        zipfile.ZipFile(world / "two.zip").read(n) for n in zipfile.ZipFile(world / "two.zip").namelist()
    }
    manifest = rows(corpus, "manifest")
    assert len(store) == len(manifest)
    passed = [r for r in manifest if r["passthrough"]]
    images = {store[i] for i in range(len(store))}
    assert len(images & originals) == len(passed)
    for r in manifest[:5]:
        tar = corpus / f"g0001/shards/000/corpus-g0001-{r['shard']:06d}.tar"
        data = tar.read_bytes()[r["offset"] : r["offset"] + r["size"]]
        assert Image.open(io.BytesIO(data)).size == (r["width"], r["height"])


def test_others_read_the_shards(corpus: Path) -> None:
    tars = sorted(str(p) for p in corpus.rglob("*.tar"))
    with tarfile.open(tars[0]) as archive:
        members = archive.getmembers()
    assert {m.mtime for m in members} == {0}
    webdataset = pytest.importorskip("webdataset")
    samples = [s for tar in tars for s in webdataset.WebDataset(tar, shardshuffle=False, empty_check=False)]
    manifest = {r["key"]: r for r in rows(corpus, "manifest")}
    assert {s["__key__"] for s in samples} == set(manifest)
    assert all(json.loads(s["json"])["source"] == manifest[s["__key__"]]["source"] for s in samples)


def sums(corpus: Path) -> str:
    return (corpus / "SHA256SUMS").read_text()


def test_the_same_however_it_was_made(corpus: Path, world: Path, tmp_path: Path) -> None:
    """Three workers, other chunks, sources in another order: the same bytes."""
    options = {"workers": 3, "chunk_members": 7}
    run([world / "two.zip", world / "one"], tmp_path / "c", **options)
    assert sums(tmp_path / "c") == sums(corpus)


@pytest.mark.slow
@pytest.mark.fault
def test_killed_runs_go_on_to_the_same_bytes(corpus: Path, world: Path, tmp_path: Path) -> None:
    """SIGKILL to the whole process group at random moments of reading and packing, then --resume."""
    out = tmp_path / "c"
    program = (
        "import sys; from pathlib import Path; from selectivemae.curation.run import curate\n"
        "from selectivemae.curation.config import CurateConfig\n"
        "if __name__ == '__main__':\n"
        f"    c = CurateConfig(sources={[str(world / 'one'), str(world / 'two.zip')]!r}, out=Path({str(out)!r}),\n"
        "        workers=2, chunk_members=5, shard_samples=12)\n"
        "    curate(c, resume=True, quiet=True)\n"
    )
    script = tmp_path / "program.py"
    script.write_text(program)
    kills = 0
    for wanted, pause in zip((0, 2, 6, 8), np.random.default_rng().uniform(0, 0.4, 4), strict=True):
        child = subprocess.Popen([sys.executable, str(script)], start_new_session=True)
        deadline = time.monotonic() + 120
        while len(list(out.rglob("*.done"))) < wanted and child.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)
        time.sleep(pause)
        with suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        kills += child.wait() == -signal.SIGKILL
        if (out / "corpus.json").exists():  # it came to its end before the blow
            break
    assert kills >= 2
    if not (out / "corpus.json").exists():
        subprocess.run([sys.executable, str(script)], check=True)
    assert sums(out) == sums(corpus)


def test_verify_finds_damage(corpus: Path, tmp_path: Path) -> None:
    assert verify(corpus, deep=True) == []
    copy = tmp_path / "c"
    subprocess.run(["cp", "-r", str(corpus), str(copy)], check=True)
    tar = next(copy.rglob("*.tar"))
    data = bytearray(tar.read_bytes())
    data[2000] ^= 1
    tar.write_bytes(data)
    (copy / "README.md").unlink()
    problems = {finding.file for finding in verify(copy)}
    assert problems == {"README.md", str(tar.relative_to(copy))}
    with pytest.raises(DataError, match="is no corpus"):
        verify(tmp_path)


def test_an_archive_inside_an_archive_is_named(world: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "outer.zip", "w") as archive:
        archive.write(world / "one/0/p0000.jpg", "a.jpg")
        archive.write(world / "two.zip", "inner.zip")
    run([tmp_path / "outer.zip"], tmp_path / "c")
    (lost,) = rows(tmp_path / "c", "dropped")
    assert (lost["member"], lost["reason"]) == ("inner.zip", "not_an_image")
    assert "give it as a source of its own" in lost["detail"]


def test_pictures_with_a_collar_are_known_again(tmp_path: Path) -> None:
    """Encoding blurs the black of a collar: the check knows the tiles all the same, and so does a later addition."""
    scene = scenery(902, 700, 1100).clip(40, 255).astype(np.uint8)
    across, down = np.meshgrid(np.arange(1100), np.arange(700))
    scene[across + 0.2 * down < 160] = 0
    save(tmp_path / "one" / "scene.png", scene)
    out = tmp_path / "c"
    run([tmp_path / "one"], out)
    kept = rows(out, "manifest")
    assert max(row["nodata"] for row in kept) > 0.1
    assert verify(out, deep=True) == []
    for row in kept:
        x, y, w, h = (row[f"win_{name}"] for name in "xywh")
        brighter = scene[y : y + h, x : x + w] * 1.06  # the collar stays black
        save(tmp_path / "two" / f"{x}-{y}.png", brighter.clip(0, 255).astype(np.uint8))
    again = add(CurateConfig(sources=[str(tmp_path / "two")], out=out, workers=1), quiet=True)
    assert (again.kept, again.dropped) == (0, {"near_dup": len(kept)})


def test_addition_leaves_the_old_alone(corpus: Path, world: Path, tmp_path: Path) -> None:
    copy = tmp_path / "c"
    subprocess.run(["cp", "-r", str(corpus), str(copy)], check=True)
    before = {p: p.read_bytes() for p in (copy / "g0001").rglob("*") if p.is_file()}
    new = folder(tmp_path / "three", 4, first=500)
    save(new / "old_twin.jpg", np.ascontiguousarray(scenery(7).swapaxes(0, 1)), 80)
    save(new / "old_same.png", np.asarray(Image.open(world / "one/2/p0008.jpg")))
    save(new / "new_twin.jpg", scenery(500), 60)
    config = CurateConfig(sources=[str(new)], out=copy, workers=1)
    result = add(config, quiet=True)
    assert (result.generation, result.kept) == (2, 4)
    assert {p: p.read_bytes() for p in before} == before
    old = {r["id"]: r["member"] for r in rows(copy, "manifest")}
    why = {r["member"]: (r["reason"], old.get(r["kept_id"])) for r in rows(copy, "dropped", "g0002")}
    assert why["old_twin.jpg"] == ("near_dup", "1/p0007.jpg")
    assert why["old_same.png"] == ("exact_dup", "2/p0008.jpg")
    assert Counter(reason for reason, _ in why.values()) == {"near_dup": 2, "exact_dup": 1}
    assert verify(copy, deep=True) == []
    assert len(open_store(copy)) == read_corpus(copy)["samples"] == len(old) + 4


def test_evaluation_twins_are_taken_out(world: Path, tmp_path: Path) -> None:
    save(tmp_path / "test" / "a.jpg", np.ascontiguousarray(scenery(5)[:, ::-1]), 70)
    save(tmp_path / "test" / "b.jpg", scenery(777))
    result = run([world / "one"], tmp_path / "c", against=[tmp_path / "test"])
    assert result.dropped["eval_overlap"] == 1
    lost = next(r for r in rows(tmp_path / "c", "dropped") if r["reason"] == "eval_overlap")
    assert lost["member"] == "2/p0005.jpg"
    assert {r["source"] for r in rows(tmp_path / "c", "manifest")} == {"one"}
    assert read_corpus(tmp_path / "c")["generations"][0]["decontaminated"]


def test_bad_requests_are_refused_in_one_line(corpus: Path, world: Path, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"source absent: .*absent"):
        run([tmp_path / "absent"], tmp_path / "c1")
    with pytest.raises(OutputError, match="not empty"):
        run([world / "one"], corpus)
    with pytest.raises(DataError, match="no source"):
        run([], tmp_path / "c2")
    with pytest.raises(OutputError, match="no finished corpus"):
        add(CurateConfig(sources=[str(world / "one")], out=tmp_path / "c3"))
    with pytest.raises(ConfigError, match="--out"):
        curate(CurateConfig(sources=[str(world / "one")]))
    assert not any((tmp_path / name / "corpus.json").exists() for name in ("c1", "c2", "c3"))
