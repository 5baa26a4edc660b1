"""Features in a file: what the encoder gives, whatever was interrupted, and what is wrong with bad requests."""

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from selectivemae.cli.main import main
from selectivemae.core.errors import ConfigError, DataError, OutputError
from selectivemae.models import vit
from selectivemae.probing import embed as module
from selectivemae.probing.embed import EmbedResult, embed, read_features
from selectivemae.probing.embed_config import EmbedConfig
from selectivemae.weights.load import load_encoder

NAME = "random:vit_tiny_patch8"


@pytest.fixture(autouse=True)
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    """vit_tiny of two narrow blocks."""
    torch.set_num_threads(1)
    monkeypatch.setitem(vit.SIZES, "tiny", (2, 64, 2, 32, 2))


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """11 images and one file that is none."""
    folder = tmp_path / "images"
    folder.mkdir()
    for i in range(11):
        pixels = np.random.default_rng(i).integers(0, 256, (32, 32, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{i:02}.png")
    (folder / "05x.png").write_bytes(b"no image")
    return folder


def run(
    images: Path, out: Path, *, resume: bool = False, overwrite: bool = False, seed: int = 0, **more
) -> EmbedResult:
    encoder = load_encoder(NAME, image_size=32, seed=seed)
    config = EmbedConfig.build({"data": [str(images)], "out": out, "part_size": 4, "batch_size": 3}, more)
    return embed(encoder, NAME, config, torch.device("cpu"), resume=resume, overwrite=overwrite, quiet=True)


@pytest.mark.parametrize("pool", ["mean", "token"])
def test_vectors_are_the_encoders(images: Path, tmp_path: Path, pool: str) -> None:
    out = tmp_path / "f.parquet"
    result = run(images, out, pool=pool)
    assert (result.images, result.width, result.unreadable, result.resumed) == (11, 64, 1, 0)
    ids, vectors, about = read_features(out)
    assert ids == [f"images/{i:02}.png" for i in range(11)]
    assert (about["pool"], about["architecture"], about["image_size"]) == (pool, "vit_tiny_patch8_224", "32")
    encoder = load_encoder(NAME, image_size=32)
    mean, std = (torch.tensor(encoder.pretrained_cfg[k]).reshape(3, 1, 1) for k in ("mean", "std"))
    for i, vector in enumerate(vectors):
        with Image.open(images / f"{i:02}.png") as image:
            pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1) / 255
        with torch.inference_mode():
            tokens = encoder.forward_features(((pixels - mean) / std)[None])[0]
        wanted = tokens[0] if pool == "token" else tokens[1:].mean(0)
        np.testing.assert_allclose(vector, wanted.numpy(), atol=2e-5)
    with open(f"{out}.quarantine.csv", newline="") as f:
        assert list(csv.DictReader(f)) == [{"id": "images/05x.png", "reason": "not_an_image"}]
    assert sorted(f.name for f in tmp_path.iterdir() if f.name[0] != ".") == [
        "f.parquet",
        "f.parquet.quarantine.csv",
        "images",
    ]


def test_a_stopped_run_goes_on(images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out, whole = tmp_path / "f.parquet", tmp_path / "whole.parquet"
    run(images, whole)
    written = []
    write = module._write_part

    def stop_at_second(path: Path, *rest: Any) -> None:
        if len(written) == 1:
            raise KeyboardInterrupt
        written.append(path)
        write(path, *rest)

    monkeypatch.setattr(module, "_write_part", stop_at_second)
    with pytest.raises(KeyboardInterrupt):
        run(images, out)
    monkeypatch.undo()
    monkeypatch.setitem(vit.SIZES, "tiny", (2, 64, 2, 32, 2))
    assert not out.exists()
    with pytest.raises(OutputError, match="--resume"):
        run(images, out)
    with pytest.raises(OutputError, match="other state"):
        run(images, out, resume=True, seed=1)
    with pytest.raises(OutputError, match="other pool"):
        run(images, out, resume=True, pool="token")
    result = run(images, out, resume=True)
    assert result.resumed == 4
    assert pq.read_table(out).equals(pq.read_table(whole))
    again = run(images, out, resume=True)
    assert (again.images, again.width, again.resumed) == (result.images, result.width, 12)
    with pytest.raises(OutputError, match="is there already"):
        run(images, out, resume=True, seed=1)
    with pytest.raises(OutputError, match="is there already"):
        run(images, out)
    assert run(images, out, overwrite=True).images == 11


def test_bad_requests(images: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no data given"):
        run(images, tmp_path / "f.parquet", data=[])
    with pytest.raises(ConfigError, match="must name a Parquet file"):
        run(images, tmp_path / "f.npy")
    with pytest.raises(ConfigError, match="30 is not a multiple of the patch size"):
        run(images, tmp_path / "f.parquet", image_size=30)
    with pytest.raises(OutputError, match="is no folder"):
        run(images, tmp_path / "no" / "f.parquet")
    bad = tmp_path / "bad"
    bad.mkdir()
    (bad / "1.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"none of 1 images could be read, the first \(bad/1.png\) because: empty"):
        run(bad, tmp_path / "f.parquet")
    assert not list(tmp_path.glob("f.parquet*"))
    pq.write_table(pa.table({"a": [1]}), tmp_path / "other.parquet")
    with pytest.raises(DataError, match="not id and vector"):
        read_features(tmp_path / "other.parquet")
    with pytest.raises(DataError, match="cannot read features"):
        read_features(images / "00.png")


def test_the_commands(images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "f.parquet"
    arguments = ["embed", NAME, "--data", str(images), "--out", str(out), "--quiet", "--image-size", "32"]
    assert main(arguments) == 0
    assert "11 vectors of 64; 1 could not be read" in capsys.readouterr().out
    assert main(arguments) == 2
    assert capsys.readouterr().err.startswith("selectivemae: ")
    classes = tmp_path / "classes"
    for i in range(12):
        folder = classes / f"class{i % 3}"
        folder.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (32, 32), (80 * (i % 3), i, 0)).save(folder / f"{i}.png")  # uniform images are images
    assert main(["probe", NAME, "--data", str(classes), "--image-size", "32", "--quiet"]) == 0
    text = capsys.readouterr().out
    assert "95 % intervals" in text
    assert "1-shot" in text
    assert "could not be read" not in text
