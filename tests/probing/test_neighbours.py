"""Nearest neighbours: those of a brute-force search, however the file is cut into blocks; the query's own features."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from selectivemae.cli.main import main
from selectivemae.core.errors import ConfigError, DataError
from selectivemae.data.stores import open_store
from selectivemae.models import vit
from selectivemae.probing import neighbours as module
from selectivemae.probing.embed import embed, open_features, read_features
from selectivemae.probing.embed_config import EmbedConfig
from selectivemae.probing.neighbours import describe_image, nearest, place_of, vector_of
from selectivemae.weights.load import load_encoder

NAME = "random:vit_tiny_patch8"


@pytest.fixture(scope="module")
def features(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Features of 11 images of noise, in three parts."""
    torch.set_num_threads(1)
    root = tmp_path_factory.mktemp("neighbours")
    (root / "images" / "odd names").mkdir(parents=True)
    for i in range(11):
        pixels = np.random.default_rng(i).integers(0, 256, (32, 32, 3), dtype=np.uint8)
        folder = root / "images" / ("odd names" if i % 2 else "")
        Image.fromarray(pixels).save(folder / f"{i:02} é.png")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(vit.SIZES, "tiny", (2, 64, 2, 32, 2))
        config = EmbedConfig(data=[str(root / "images")], out=root / "f.parquet", image_size=32, part_size=4)
        embed(load_encoder(NAME), NAME, config, torch.device("cpu"), quiet=True)
    return root / "f.parquet"


@pytest.fixture(autouse=True)
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    """vit_tiny of two narrow blocks."""
    monkeypatch.setitem(vit.SIZES, "tiny", (2, 64, 2, 32, 2))


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), top=st.integers(1, 15), rows=st.integers(1, 12))
def test_the_same_as_a_sort_of_all(features: Path, seed: int, top: int, rows: int) -> None:
    ids, vectors, _ = read_features(features)
    query = np.random.default_rng(seed).normal(size=vectors.shape[1]).astype(np.float32)
    cosine = vectors @ query / np.linalg.norm(vectors, axis=1) / np.linalg.norm(query)
    order = np.argsort(-cosine, kind="stable")[:top]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "BLOCK", rows * vectors.shape[1])
        found = nearest(features, query, top)
    assert [one.id for one in found] == [ids[i] for i in order]
    np.testing.assert_allclose([one.similarity for one in found], cosine[order], atol=1e-6)


def test_an_image_of_the_file_is_its_own_nearest(features: Path) -> None:
    ids, vectors, _ = read_features(features)
    _, about = open_features(features)
    store = open_store(features.parent / "images")
    for row, name in enumerate(ids):
        own = vector_of(features, name)
        assert own is not None
        np.testing.assert_array_equal(own, vectors[row])
        assert nearest(features, own, 1)[0].id == name
        assert place_of(store, name) == row
    image = features.parent / ids[0]
    np.testing.assert_allclose(
        describe_image(image, load_encoder(NAME), about, torch.device("cpu")), vectors[0], atol=1e-5
    )
    assert vector_of(features, "images/nothing.png") is None
    assert place_of(store, "images/nothing.png") is None
    assert place_of(store, "zzz") is None


def test_what_cannot_be_searched_is_said(features: Path, tmp_path: Path) -> None:
    width = read_features(features)[1].shape[1]
    with pytest.raises(DataError, match="zero or not finite"):
        nearest(features, np.zeros(width, np.float32), 3)
    with pytest.raises(DataError, match="the query has 3"):
        nearest(features, np.ones(3, np.float32), 3)
    _, about = open_features(features)
    with pytest.raises(ConfigError, match="not those that made the features"):
        describe_image(tmp_path / "x.png", load_encoder(NAME, seed=1), about, torch.device("cpu"))
    (tmp_path / "x.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"x\.png cannot be used as an image"):
        describe_image(tmp_path / "x.png", load_encoder(NAME), about, torch.device("cpu"))


@pytest.mark.parametrize("kind", ["html", "png"])
def test_the_command_prints_and_draws(features: Path, tmp_path: Path, capsys: Any, kind: str) -> None:
    ids = read_features(features)[0]
    query, out = features.parent / ids[3], tmp_path / f"sheet.{kind}"
    assert main(["inspect", str(features), "--query", str(query), "--top", "5", "--out", str(out)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"1.0000  {ids[3]}"
    assert len(lines) == 6
    if kind == "png":
        with Image.open(out) as sheet:
            assert sheet.width > 5 * 160
            assert len(np.unique(np.asarray(sheet))) > 100
    else:
        page = out.read_text()
        assert page.count("data:image/jpeg") == 6
        assert ids[3] in page


def test_the_command_by_id_in_words_and_about_the_file(features: Path, tmp_path: Path, capsys: Any) -> None:
    ids = read_features(features)[0]
    assert main(["inspect", str(features), "--query", ids[2], "--top", "2", "--text"]) == 0
    assert capsys.readouterr().out.startswith(f"1.0000  {ids[2]}\n")
    assert not features.with_name("f.parquet.neighbours.html").exists()
    assert main(["inspect", str(features)]) == 0
    words = capsys.readouterr().out
    assert "11" in words
    assert json.dumps([str(features.parent / "images")]) in words
    for wrong, message in (
        (["--query", "nothing"], "neither an image file nor an id"),
        (["--query", ids[0], "--top", "0"], "--top must be from 1"),
        (["--query", ids[0], "--out", str(tmp_path / "x.gif")], r".html or a .png"),
        (["--query", ids[0], "--data", "/nowhere"], "name them by --data"),
        (["--out", str(tmp_path / "x.png")], "go with --query"),
    ):
        assert main(["inspect", str(features), *wrong]) == 2
        assert message in capsys.readouterr().err
