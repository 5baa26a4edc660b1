"""Taking images out: hidden at once, their bytes away after compact, and the corpus whole at every step."""

import hashlib
import json
import os
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from curation_worlds import folder, save, scenery

from selectivemae.cli.curate import app
from selectivemae.core.errors import DataError, OutputError
from selectivemae.curation import removal
from selectivemae.curation.config import CurateConfig
from selectivemae.curation.corpus import read_corpus, verify
from selectivemae.curation.removal import compact, remove
from selectivemae.curation.run import add, curate
from selectivemae.data.stores import open_store
from selectivemae.data.stores.shards import bury, read_records, verify_shard


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("removal")
    folder(root / "one", 8)
    folder(root / "two", 5, first=50)
    out = root / "corpus"
    config = CurateConfig(sources=[str(root / "one"), str(root / "two")], out=out, workers=1, shard_samples=5)
    curate(config, quiet=True)
    return out


@pytest.fixture
def corpus(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "corpus"))


def rows(corpus: Path, table: str = "manifest") -> list[dict]:
    return [row for p in sorted(corpus.glob(f"g*/{table}/*.parquet")) for row in pq.read_table(p).to_pylist()]


def names(corpus: Path) -> set[str]:
    store = open_store(corpus)
    return {store.id(i).rpartition("/")[2] for i in range(len(store))}


def in_tars(corpus: Path) -> set[str]:
    found = set()
    for path in corpus.glob("g*/shards/*/*.tar"):
        with tarfile.open(path) as archive:
            found |= {name.split(".")[0] for name in archive.getnames()}
    return found


def test_removed_images_are_hidden_then_gone(corpus: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = read_corpus(corpus)
    everything = rows(corpus)
    victim = everything[3]["key"]
    tars = {p: p.read_bytes() for p in corpus.glob("g*/shards/*/*.tar")}
    assert remove(corpus, {victim}, None) == 1
    assert verify(corpus, deep=True) == []
    assert {p: p.read_bytes() for p in tars} == tars
    assert victim in in_tars(corpus)
    assert names(corpus) == {r["key"].split("-")[1] for r in everything if r["key"] != victim}
    assert read_corpus(corpus)["digest"] != before["digest"]
    with pytest.raises(DataError, match="holds no image"):
        remove(corpus, {victim}, None)
    digest = read_corpus(corpus)["digest"]
    assert app(["compact", str(corpus)], result_action="return_value") is None
    assert "1 shard written anew" in capsys.readouterr().out
    assert verify(corpus, deep=True) == []
    assert read_corpus(corpus)["digest"] == digest
    assert in_tars(corpus) == {r["key"] for r in everything} - {victim}
    store = open_store(corpus)
    passed = {r["file_sha256"] for r in everything if r["key"] != victim}
    assert {hashlib.sha256(store[i]).digest() for i in range(len(store))} == passed
    assert [r["reason"] for r in rows(corpus, "dropped") if r["id"] == everything[3]["id"]] == ["removed"]
    assert compact(corpus).rewritten == 0


def test_empty_shards_go(corpus: Path) -> None:
    total = len(rows(corpus))
    of_two = [r for r in rows(corpus) if r["source"] == "two"]
    assert remove(corpus, set(), "two") == len(of_two) == 5
    victims = {r["key"] for r in rows(corpus) if r["shard"] == 0}
    remove(corpus, victims, None)
    assert verify(corpus, deep=True) == []
    result = compact(corpus)
    assert result.deleted == 1
    assert not list(corpus.glob("g0001/shards/000/*-000000.*"))
    assert verify(corpus, deep=True) == []
    assert len(open_store(corpus)) == total - 5 - len(victims)
    assert read_corpus(corpus)["generations"][0]["shards"] == len(list(corpus.glob("g*/shards/*/*.tar")))


def test_interrupted_removal_is_given_again(corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A kill after each write in turn: the same command ends in the same corpus."""
    keys = {rows(corpus)[0]["key"], rows(corpus)[-1]["key"]}
    whole = Path(shutil.copytree(corpus, corpus.parent / "whole"))
    remove(whole, keys, None)
    for step in range(1, 4):
        broken = Path(shutil.copytree(corpus, corpus.parent / f"broken{step}"))
        left = [step]

        def dies(do, left=left):
            def wrapped(*arguments):
                if not left[0]:
                    raise KeyboardInterrupt
                left[0] -= 1
                return do(*arguments)

            return wrapped

        with monkeypatch.context() as patch:
            for name in ("write_hashes", "bury", "restate"):
                patch.setattr(removal, name, dies(getattr(removal, name)))
            with pytest.raises(KeyboardInterrupt):
                remove(broken, keys, None)
        remove(broken, keys, None)
        assert (broken / "SHA256SUMS").read_text() == (whole / "SHA256SUMS").read_text()


def test_interrupted_compact_goes_on(corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    remove(corpus, {r["key"] for r in rows(corpus)[::4]}, None)
    whole = Path(shutil.copytree(corpus, corpus.parent / "whole"))
    compact(whole)
    moves = [2]

    def replace(a: str, b: str) -> None:
        if Path(a).parent.name == "compact" and not Path(a).name.startswith("."):  # a move out of the staging folder
            if not moves[0]:
                raise KeyboardInterrupt
            moves[0] -= 1
        real(a, b)

    real = os.replace
    with monkeypatch.context() as patch:
        patch.setattr(removal.os, "replace", replace)
        with pytest.raises(KeyboardInterrupt):
            compact(corpus)
    with pytest.raises(OutputError, match="curate compact was interrupted"):
        remove(corpus, {"x"}, None)
    with pytest.raises(OutputError, match="curate compact was interrupted"):
        add(CurateConfig(sources=[str(corpus)], out=corpus), quiet=True)
    compact(corpus)
    assert verify(corpus, deep=True) == []
    assert (corpus / "SHA256SUMS").read_text() == (whole / "SHA256SUMS").read_text()
    assert not (corpus / ".work").exists()


def test_what_was_removed_stays_out(corpus: Path, tmp_path: Path) -> None:
    """An addition does not bring a removed picture back, under whatever name it comes."""
    victim = next(r for r in rows(corpus) if r["member"] == "0/p0003.jpg")
    remove(corpus, {victim["key"]}, None)
    save(tmp_path / "again" / "other_name.jpg", scenery(3))
    save(tmp_path / "again" / "new.jpg", scenery(700))
    result = add(CurateConfig(sources=[str(tmp_path / "again")], out=corpus, workers=1), quiet=True)
    assert (result.kept, result.dropped) == (1, {"removed": 1})
    assert verify(corpus, deep=True) == []


def test_tombstones_of_a_shard(corpus: Path) -> None:
    tar = sorted(corpus.glob("g*/shards/*/*.tar"))[0]
    ids = [identity.tobytes() for identity in read_records(tar).places["id"]]
    fingerprints = {open_store(tar).fingerprint}
    assert bury(tar, {ids[1], b"\0" * 16}) == 1
    assert bury(tar, {ids[1]}) == 0
    fingerprints.add(open_store(tar).fingerprint)
    assert bury(tar, {ids[0]}) == 1
    fingerprints.add(open_store(tar).fingerprint)
    assert len(fingerprints) == 3
    verify_shard(tar)
    assert [identity.tobytes() for identity in read_records(tar).present["id"]] == ids[2:]
    index = tar.with_suffix(".idx")
    data = bytearray(index.read_bytes())
    data[-4:] = np.uint32(1).tobytes()  # points at a removed sample
    index.write_bytes(data)
    with pytest.raises(DataError, match="order by id"):
        verify_shard(tar)


def test_json_of_remove(corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "keys.txt").write_text(rows(corpus)[0]["key"])
    app(["remove", str(corpus), "--ids", str(tmp_path / "keys.txt"), "--json"], result_action="return_value")
    assert json.loads(capsys.readouterr().out)["removed"] == 1
    app(["compact", str(corpus), "--json"], result_action="return_value")
    assert json.loads(capsys.readouterr().out)["rewritten"] == 1
