"""Bad input to ``pretrain``: exit 2, one line, no traceback, and nothing half-written."""

import csv
import errno
import os
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from tiny_runs import SIZE, leftovers, losses, start, train, write_images

from selectivemae.cli.main import main
from selectivemae.core import files
from selectivemae.core.errors import CheckpointError, OutputError
from selectivemae.core.records import Quarantine
from selectivemae.engine import checkpoint
from selectivemae.engine.checkpoint import newest_checkpoint
from selectivemae.engine.loop import Trainer
from selectivemae.models import vit

pytestmark = pytest.mark.fault

SMALL = ["--model", "vit_tiny_patch8", "--image-size", "32", "--mask-ratio", "0.5", "--decoder-depth", "1"]
SMALL += ["--batch-size", "4", "--workers", "0", "--device", "cpu", "--quiet"]


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_images(tmp_path_factory.mktemp("images"))


@pytest.fixture(autouse=True)
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(vit.SIZES, "tiny", SIZE)
    monkeypatch.setattr("selectivemae.pretrain.run.fixed_images", lambda *_: None)


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The one line of a command that must end with exit code 2."""
    code = main(list(arguments))
    err = capsys.readouterr().err
    assert code == 2, err
    assert "Traceback" not in err
    ours = [line for line in err.splitlines() if line.startswith("selectivemae: ")]
    assert len(ours) == 1, err
    return ours[0]


def untouched(out: Path) -> bool:
    """Whether there is nothing in a folder but the lock that every run takes."""
    return not out.exists() or [f.name for f in out.iterdir()] in ([], [".lock"])


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("missing", "missing"),
        ("empty", "holds no image"),
        ("texts", "holds no image"),
        ("file.txt", "no archive"),
        ("cut.zip", "cut.zip"),
    ],
)
def test_data_that_is_none(capsys, tmp_path: Path, data: str, message: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.txt").write_text("text")
    (tmp_path / "file.txt").write_text("text")
    (tmp_path / "cut.zip").write_bytes(b"PK\x03\x04" + b"\0" * 200)
    out = tmp_path / "run"
    line = refused(capsys, "pretrain", "--data", str(tmp_path / data), "--out", str(out), *SMALL)
    assert message in line
    assert data in line
    assert not out.exists()


def test_no_decodable_image(capsys, tmp_path: Path) -> None:
    for number in range(3):
        (tmp_path / "data").mkdir(exist_ok=True)
        (tmp_path / "data" / f"{number}.jpg").write_text("<html>not found</html>")
    line = refused(capsys, "pretrain", "--data", str(tmp_path / "data"), "--out", str(tmp_path / "run"), *SMALL)
    assert "no usable image" in line
    assert "data/" in line
    assert "no supported image format" in line
    assert leftovers(tmp_path / "run") == []
    assert not (tmp_path / "run" / "checkpoints").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--image-size", "30"], "image size 30 is not a multiple of the patch size 8: use 24 or 32"),
        (["--mask-ratio", "0.5", "--reconstruction-ratio", "0.75"], "hides only 8"),
        (["--mask-ratio", "0.95"], "at least 2 are needed"),
        (["--reconstruction-ratio", "0.01"], "leaves none of 16 patches to rebuild"),
        (["--method", "mae", "--reconstruction-ratio", "0.25"], "takes no reconstruction ratio"),
        (["--model", "vit_tinny"], "did you mean 'vit_tiny_patch16'"),
        (["--order", "near-near"], "near-far-random"),
        (["--order", "near-far-random", "--phase-boundaries", "0.5", "0.4", "0.6", "0.7"], "must ascend"),
        (["--device", "quantum"], "unknown device 'quantum'"),
        (["--device", "meta"], "unknown device 'meta'"),
        (["--device", "cuda:77"], "cuda:77 is not there"),
        (["--init", "/nowhere.pth"], "/nowhere.pth"),
    ],
)
def test_settings_that_do_not_fit(capsys, images: Path, tmp_path: Path, options: list[str], message: str) -> None:
    command = ["pretrain", "--data", str(images), "--out", str(tmp_path / "run"), *SMALL]
    for option in options[::2]:
        if option in command:  # the last one given counts for people; here it is given once
            place = command.index(option)
            del command[place : place + 2]
    assert message in refused(capsys, *command, *options)
    assert untouched(tmp_path / "run")


def test_the_published_ratios_fit(images: Path, tmp_path: Path) -> None:
    ratios = {"mask_ratio": 0.85, "reconstruction_ratio": 0.25}
    assert train(images, tmp_path / "run", image_size=64, epochs=1.0, **ratios).steps == 5


def test_output_folders_that_cannot_be_used(capsys, images: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("mine")
    begin = ["pretrain", "--data", str(images), *SMALL, "--out"]
    assert "is a file" in refused(capsys, *begin, str(tmp_path / "file"))
    assert "cannot write" in refused(capsys, *begin, str(tmp_path / "file" / "below"))
    assert "cannot write" in refused(capsys, *begin, "/proc/selectivemae")
    assert "--resume" in refused(capsys, *begin, str(tmp_path / "full"))
    assert "no run of ours" in refused(capsys, *begin, str(tmp_path / "full"), "--overwrite")
    assert [f.name for f in (tmp_path / "full").iterdir()] == ["notes.txt"]
    assert (tmp_path / "full" / "notes.txt").read_text() == "mine"
    assert (tmp_path / "file").read_text() == "mine"


def long_run(images: Path, out: Path) -> None:
    step = Trainer.step

    def slow(self, batch, state) -> None:
        time.sleep(0.05)
        step(self, batch, state)

    Trainer.step = slow
    train(images, out, epochs=1000.0)


def test_two_runs_into_one_folder(capsys, images: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    process = start(long_run, images, out)
    try:
        for _ in range(1200):
            if (out / "metrics.jsonl").exists() and (out / "metrics.jsonl").stat().st_size:
                break
            time.sleep(0.05)
        for option in ("--resume", "--overwrite"):
            line = refused(capsys, "pretrain", "--data", str(images), "--out", str(out), *SMALL, option)
            assert f"in use by another run (process {process.pid})" in line
        assert losses(out)
    finally:
        process.terminate()
        process.join()
    assert newest_checkpoint(out / "checkpoints")[0] is not None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": "vit_small_patch8"}, "with model 'vit_tiny_patch8', not 'vit_small_patch8'"),
        ({"decoder_depth": 2}, "with decoder_depth 1, not 2"),
        ({"image_size": 48}, "with image_size 32, not 48"),
        ({"seed": 3}, "with seed 0, not 3"),
        (
            {"method": "mae", "mask_ratio": 0.75},
            "with method 'selectivemae', not 'mae' (also: decoder_depth, mask_ratio",
        ),
    ],
)
def test_another_run_on_resume(images: Path, tmp_path: Path, change: dict, message: str) -> None:
    out = tmp_path / "run"
    train(images, out, epochs=1.0)
    before = {f: f.read_bytes() for f in out.rglob("*") if f.is_file() and f.name != ".lock"}
    with pytest.raises(CheckpointError) as error:
        train(images, out, resume=True, **change)
    assert message in str(error.value)
    assert {f: f.read_bytes() for f in before} == before


def test_a_checkpoint_of_another_architecture(images: Path, tmp_path: Path) -> None:
    """Even where the folder's settings do not give it away."""
    out = tmp_path / "run"
    train(images, out, epochs=1.0, decoder_depth=2)
    text = (out / "config.yaml").read_text()
    (out / "config.yaml").write_text(text.replace("decoder_depth: 2", "decoder_depth: 1"))
    with pytest.raises(CheckpointError, match=r"step-00000005 does not fit the model: .*decoder_blocks\.1"):
        train(images, out, resume=True)


def test_changed_data_on_resume(images: Path, tmp_path: Path) -> None:
    data, out = tmp_path / "data", tmp_path / "run"
    shutil.copytree(images, data)
    train(data, out, epochs=1.0)
    (data / "part1" / "new.jpg").write_bytes((data / "part0" / "000.jpg").read_bytes())
    with pytest.raises(CheckpointError, match=r"the data changed since .* \(20 samples then, 21 now\)"):
        train(data, out, resume=True)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 6 MB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", str(disk)]
    if os.geteuid() or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("only root can mount a small disk here")
    yield disk
    subprocess.run(["umount", "--lazy", str(disk)], check=True)


@pytest.mark.parametrize("left", [0, 900_000])
def test_a_full_disk_at_a_checkpoint(capsys, images: Path, tmp_path: Path, small_disk: Path, left: int) -> None:
    """The disk fills up while training: the checkpoint before stays whole, and training goes on once there is room."""
    out = small_disk / "run"
    train(images, out, epochs=2.0, keep=1)
    ballast = small_disk / "ballast"
    with open(ballast, "wb", buffering=0) as f, suppress(OSError):
        while True:
            f.write(b"\0" * 4096)
    if left:
        os.truncate(ballast, ballast.stat().st_size - left)
    line = refused(capsys, "pretrain", "--out", str(out), *SMALL, "--epochs", "5", "--resume")
    assert "no space left on the disk" in line
    ballast.unlink()
    found, problems = newest_checkpoint(out / "checkpoints")
    assert found is not None
    assert (found.state["step"], problems) == (10, [])
    assert train(images, out, resume=True, keep=1).steps == 25
    assert leftovers(out) == []


@pytest.mark.parametrize("call", ["save_file", "replace"])
def test_no_space_at_a_checkpoint(images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    out, write = tmp_path / "run", checkpoint.save_checkpoint

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def save(root: Path, step: int, *rest) -> Path:
        if step == 10:
            monkeypatch.setattr(*((checkpoint, "save_file") if call == "save_file" else (files.os, "replace")), full)
        return write(root, step, *rest)

    monkeypatch.setattr("selectivemae.engine.hooks.checkpoint.save_checkpoint", save)
    with pytest.raises(OutputError, match=r"no space left on the disk of .*step-00000010"):
        train(images, out)
    monkeypatch.undo()
    found, problems = newest_checkpoint(out / "checkpoints")
    assert found is not None
    assert (found.state["step"], problems, leftovers(out)) == (5, [], [])
    assert train(images, out, resume=True).steps == 25


# Dropped by policies of curation (too small, too flat, odd shape, no content); pre-training takes what decodes.
POLICY = {"elongated.jpg", "noise.png", "thumb20.jpg", "low_contrast.png", "no_extension", "onebit.png", "animated.gif"}


def test_odd_files_are_judged_counted_and_named(shared_data: Path, tmp_path: Path) -> None:
    data = tmp_path / "odd_inputs"
    shutil.copytree(shared_data / "odd_inputs", data)
    with zipfile.ZipFile(shared_data / "odd_names.zip") as archive:
        for info in archive.infolist():
            name = Path(info.filename).name
            if name and not info.is_dir():
                (data / name).write_bytes(archive.read(info))
    rows = list(csv.DictReader((data / "manifest.csv").read_text(encoding="utf-8").splitlines()))
    (data / "manifest.csv").unlink()
    (data / "SOURCE.md").unlink()
    assert {r["file"] for r in rows} <= {f.name for f in data.iterdir()}
    assert train(data, tmp_path / "run", epochs=2.0).steps > 0
    found = {
        id.rpartition("/")[2]: why for id, (why, _) in Quarantine(tmp_path / "run" / "quarantine.csv").rows.items()
    }
    must = {r["file"] for r in rows if r["expect"] == "drop" and r["firm"] == "yes" and not r["file"].startswith(".")}
    may = {r["file"] for r in rows if r["firm"] == "no"}
    assert must - found.keys() == set()
    assert found.keys() - must <= may
    assert all(found.values())
    assert may == POLICY


@pytest.mark.slow
def test_signals_of_a_shell(images: Path, tmp_path: Path) -> None:
    """The program itself, as people run it: SIGTERM, then a resume and Ctrl-C, then a resume to the end."""
    out = tmp_path / "run"
    command = [sys.executable, "-m", "selectivemae", "pretrain", "--data", str(images), "--out", str(out), "--resume"]
    command += ["--model", "vit_tiny_patch16", "--image-size", "32", "--mask-ratio", "0.5", "--decoder-depth", "1"]
    command += ["--batch-size", "4", "--workers", "0", "--device", "cpu", "--epochs"]
    for number, code in ((signal.SIGTERM, 143), (signal.SIGINT, 130)):
        known = len(losses(out)) if out.exists() else 0
        process = subprocess.Popen([*command, "400"], stderr=subprocess.PIPE, text=True)
        for _ in range(2400):
            if (out / "metrics.jsonl").exists() and len(losses(out)) > known:
                break
            time.sleep(0.05)
        process.send_signal(number)
        _, err = process.communicate(timeout=300)
        assert process.returncode == code, err
        assert "Traceback" not in err
        said = [line for line in err.splitlines() if line.startswith("selectivemae: ")]
        assert len(said) == 1
        assert "continue with --resume" in said[0]
    done = len(losses(out))
    last = subprocess.run([*command, str((done + 1.5) / 5)], capture_output=True, check=False)
    assert last.returncode == 0
    assert len(losses(out)) == done + 2
