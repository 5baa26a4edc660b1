"""The commands ``data`` and ``bench data``: exit codes, machine-readable results, known names as ``--data``."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from selectivemae.cli.main import main
from selectivemae.core.order import sample_key
from selectivemae.data.augment import RandomCrop, resample
from selectivemae.data.bench import DataCost, meaning, reference
from selectivemae.data.decode import decode


@pytest.fixture
def images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A root of data sets with a small AID of smooth scenes."""
    monkeypatch.setenv("SELECTIVEMAE_CACHE", str(tmp_path / "cache"))
    draw = np.random.default_rng(0)
    for name in ("Beach", "Pond"):
        folder = tmp_path / "root" / "AID" / name
        folder.mkdir(parents=True)
        for number in range(1, 5):
            coarse = Image.fromarray(draw.integers(0, 255, (9, 9, 3), np.uint8))
            coarse.resize((80, 64), Image.Resampling.BICUBIC).save(folder / f"{name.lower()}_{number}.jpg", quality=90)
    return tmp_path / "root"


def test_list(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "list", "--json"]) == 0
    entries = json.loads(capsys.readouterr().out)
    assert {"opticalrs-4m", "opticalrs-13m", "aid", "dior-r", "spacenet1"} <= {entry["name"] for entry in entries}
    assert all(entry["licence"] and entry["source"] and entry["layout"] and entry["how"] for entry in entries)
    assert main(["data", "list"]) == 0
    assert "CC BY-NC-SA 4.0" in capsys.readouterr().out


def test_check_ends_with_its_verdict(images: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "check", str(images / "AID"), "--json"]) == 0
    printed = capsys.readouterr()
    found = json.loads(printed.out)
    assert (found["ok"], found["samples"], found["looks_like"]) == (True, 8, ["aid"])
    assert found["classes"] == {"Beach": 4, "Pond": 4}
    assert printed.err == ""
    (images / "damaged").mkdir()
    (images / "damaged" / "pond_9.jpg").write_bytes(b"\xff\xd8\xff no more")
    assert main(["data", "check", str(images / "damaged")]) == 1
    assert "pond_9.jpg" in capsys.readouterr().out
    assert main(["data", "check", str(images / "absent")]) == 2
    assert main(["data", "check", str(images / "AID"), "--sample", "0"]) == 2


def test_get_says_what_only_a_person_can_do(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "get", "aid", "--out", str(tmp_path)]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    assert "CAPTAIN" in lines[0]
    assert main(["data", "get", "aids", "--out", str(tmp_path)]) == 2
    assert "did you mean 'aid'" in capsys.readouterr().err


def test_bench_data(images: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--rounds", "2", "--seconds", "0.1", "--workers", "0", "--batch-size", "4", "--image-size", "32"]
    where = ["--data", "aid", "--data-root", str(images), "--device", "cpu"]
    assert main(["bench", "data", *where, *options, "--needs", "1e9", "--json"]) == 0
    cost = json.loads(capsys.readouterr().out)
    assert (cost["samples"], cost["workers"], cost["unusable"]) == (8, 0, 0)
    assert sum(cost["shares"].values()) == pytest.approx(1)
    assert set(cost["shares"]) == {"read", "decode", "judge", "resize", "transfer"}
    sizes = [path.stat().st_size for path in images.rglob("*.jpg")]
    per_image = cost["worker_bytes_per_s"] / cost["worker_images_per_s"]
    assert per_image == pytest.approx(sum(sizes) / len(sizes))
    assert "would wait 100 % of the time" in cost["meaning"]
    assert main(["bench", "data"]) == 2
    assert main(["bench", "data", *where, "--device", "cuda:99"]) == 2


def test_the_reference_does_the_same_work() -> None:
    """Both paths make the same picture of the same box, or their rates could not be compared."""
    out = io.BytesIO()
    noise = np.random.default_rng(1).integers(0, 255, (12, 15, 3), np.uint8)
    Image.fromarray(noise).resize((150, 120), Image.Resampling.BICUBIC).save(out, "JPEG", quality=95)
    keys = sample_key(0, 0, np.arange(6))
    boxes, turns = RandomCrop()(keys, np.full(6, 150), np.full(6, 120))
    assert set(turns.tolist()) == {0, 1}
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    for box, turn in zip(boxes, turns, strict=True):
        theirs = reference(out.getvalue(), box, 64, int(turn)).permute(1, 2, 0).numpy() * std + mean
        ours = resample(decode(out.getvalue()), box, 64, int(turn)).permute(1, 2, 0).numpy()
        assert np.abs(theirs * 255 - ours).mean() < 0.5


def test_what_the_figures_mean() -> None:
    cost = DataCost(
        samples=9, image_size=224, device="cpu", worker_images_per_s=200, worker_bytes_per_s=1, unusable=0,
        reference_images_per_s=100, ratio=2, shares={}, workers=2, total_images_per_s=400, total_bytes_per_s=1,
        needs=None,
    )  # fmt: skip
    assert "--needs" in meaning(cost)
    enough, short = (meaning(DataCost(**{**vars(cost), "needs": needs})) for needs in (200.0, 1000.0))
    assert "enough, 2.0x" in enough
    assert "wait 60 % of the time" in short
    assert "about 5 cores" in short
