"""A corpus made again from its recipe."""

import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from curation_inline import Inline
from curation_worlds import folder, save, scenery

from selectivemae.cli.curate import app
from selectivemae.core.errors import DataError
from selectivemae.curation import rebuild as rebuilding
from selectivemae.curation import run as assembly
from selectivemae.curation.config import CurateConfig
from selectivemae.curation.corpus import read_corpus, verify
from selectivemae.curation.rebuild import rebuild
from selectivemae.curation.removal import compact, remove
from selectivemae.curation.run import add, curate


@pytest.fixture(autouse=True)
def inline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(assembly, "LocalPool", Inline)
    monkeypatch.setattr(rebuilding, "LocalPool", Inline)


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    """A corpus of two generations, without shards; the one with them lies beside it."""
    data = tmp_path / "data"
    folder(data / "one", 5)
    save(data / "one" / "twin.jpg", np.ascontiguousarray(scenery(1)[::-1]), 60)
    save(data / "one" / "scene.png", scenery(901, 1100, 700))
    folder(data / "deep" / "two", 4, first=30)
    corpus = tmp_path / "corpus"
    curate(CurateConfig(sources=[str(data / "one")], out=corpus, workers=1, shard_samples=3), quiet=True)
    add(CurateConfig(sources=[str(data / "deep/two")], out=corpus, workers=1, shard_samples=3), quiet=True)
    recipe = tmp_path / "recipe"
    shutil.copytree(corpus, recipe, ignore=shutil.ignore_patterns("shards"))
    return recipe


def test_the_same_bytes_again(recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    moved = shutil.copytree(tmp_path / "data", tmp_path / "elsewhere")
    shutil.rmtree(tmp_path / "data")
    call = ["rebuild", str(recipe), "--data", str(moved), "--data", str(moved / "deep"), "--out", str(tmp_path / "new")]
    assert app(call, result_action="return_value") == 0
    assert "as the recipe says" in capsys.readouterr().out
    assert (tmp_path / "new" / "SHA256SUMS").read_text() == (tmp_path / "corpus" / "SHA256SUMS").read_text()
    assert verify(tmp_path / "new", deep=True) == []


def test_what_was_removed_is_not_made_again(recipe: Path, tmp_path: Path) -> None:
    corpus = tmp_path / "corpus"
    remove(corpus, {_key(corpus)}, None)
    result = rebuild(corpus, [tmp_path / "data", tmp_path / "data" / "deep"], tmp_path / "new", 1)
    assert result.same
    compact(corpus)
    assert (tmp_path / "new" / "SHA256SUMS").read_text() == (corpus / "SHA256SUMS").read_text()


def _key(corpus: Path) -> str:
    return pq.read_table(next(corpus.glob("g0001/manifest/*"))).column("key")[0].as_py()


def test_missing_and_wrong_originals_are_named(recipe: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    with pytest.raises(DataError, match=r"source two: two was not found in .*--data"):
        rebuild(recipe, [data], tmp_path / "a", 1)
    assert not (tmp_path / "a" / "corpus.json").exists()
    places = [data, data / "deep"]
    original = (data / "one/0/p0003.jpg").read_bytes()
    (data / "one/0/p0003.jpg").unlink()
    save(data / "one/0/p0003.jpg", scenery(555))
    with pytest.raises(DataError, match=r"p0003\.jpg holds another picture"):
        rebuild(recipe, places, tmp_path / "b", 1)
    (data / "one/0/p0003.jpg").unlink()
    with pytest.raises(DataError, match=r"p0003\.jpg holds no such window"):
        rebuild(recipe, places, tmp_path / "b", 1, resume=True)
    (data / "one/0/p0003.jpg").write_bytes(original)
    assert rebuild(recipe, places, tmp_path / "b", 1, resume=True).same
    assert read_corpus(tmp_path / "b")["digest"] == read_corpus(recipe)["digest"]
