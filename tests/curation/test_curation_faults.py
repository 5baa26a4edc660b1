"""What cannot be done is said in one line, and nothing half-written is left: disk full, damaged and odd sources."""

import json
import os
import struct
import subprocess
import sys
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from curation_inline import Inline
from curation_worlds import folder, save, scenery

from selectivemae.cli.main import main
from selectivemae.core.errors import ConfigError, StoreError
from selectivemae.curation import run as assembly
from selectivemae.curation.config import CurateConfig
from selectivemae.curation.corpus import verify
from selectivemae.curation.read import Chunk
from selectivemae.curation.run import curate
from selectivemae.curation.tasks import Died, Job, Outcome, Task


@pytest.fixture
def inline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(assembly, "LocalPool", Inline)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    place = tmp_path / "disk"
    place.mkdir()
    if os.geteuid() != 0:
        pytest.skip("only root can mount a small disk")
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=120k", "tmpfs", str(place)], capture_output=True).returncode:
        pytest.skip("no disk can be mounted here")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def dropped(out: Path) -> dict[str, str]:
    import pyarrow.parquet as pq

    return {r["member"]: r["reason"] for p in out.glob("g*/dropped/*") for r in pq.read_table(p).to_pylist()}


@pytest.mark.fault
def test_a_full_disk(small_disk: Path, inline: None, tmp_path: Path) -> None:
    """One line; after room is made, --resume gives a whole corpus."""
    folder(tmp_path / "one", 12)
    config = CurateConfig(sources=[str(tmp_path / "one")], out=small_disk / "c", workers=1, chunk_members=4)
    with pytest.raises(Exception, match=r"no space left|No space left") as caught:
        curate(config, quiet=True)
    assert getattr(caught.value, "exit_code", 2) == 2
    assert "\n" not in str(caught.value)
    assert not (small_disk / "c" / "corpus.json").exists()
    subprocess.run(["mount", "-o", "remount,size=40m", str(small_disk)], check=True)
    curate(config, resume=True, quiet=True)
    assert verify(small_disk / "c", deep=True) == []


@pytest.mark.parametrize(
    ("listing", "error", "complaint"),
    [
        (
            "- {name: a, path: one}\n- {name: a, path: two}",
            ConfigError,
            "'a' is given twice; names are part",
        ),
        ("- {name: a, path: [one, one]}", StoreError, "given more than once"),
        ("- {name: a, path: one, licence: {id: mit, redistribute: perhaps}}", ConfigError, "line 2: .*redistribute"),
        ("- {name: a, path: one, licenze: mit}", ConfigError, "line 2: unknown key 'licenze', did you mean 'licence'"),
        ("- {name: a, path: nowhere}", StoreError, "source a: .*nowhere"),
        ("- {name: a, path: half.zip}", StoreError, "source a: .*half.zip"),
    ],
)
def test_nothing_is_written_for_bad_sources(
    listing: str, error: type[Exception], complaint: str, tmp_path: Path, inline: None
) -> None:
    import zipfile

    folder(tmp_path / "one", 2)
    folder(tmp_path / "two", 2)
    with zipfile.ZipFile(tmp_path / "half.zip", "w") as archive:
        archive.write(tmp_path / "one/0/p0000.jpg", "a.jpg")
    (tmp_path / "half.zip").write_bytes((tmp_path / "half.zip").read_bytes()[:2000])
    (tmp_path / "s.yaml").write_text(f"sources:\n{listing}\n")
    with pytest.raises(error, match=complaint) as caught:
        curate(CurateConfig(sources=[str(tmp_path / "s.yaml")], out=tmp_path / "c"), quiet=True)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "c").exists()


def test_members_that_cannot_be_used_are_named(tmp_path: Path, inline: None) -> None:
    """An absurd size, a band that is not there, bytes that are damaged: the rest goes on."""
    save(tmp_path / "one" / "good.jpg", scenery(1))
    head = struct.pack(">2I5B", 200_000, 200_000, 8, 2, 0, 0, 0)
    parts = [(b"IHDR", head), (b"IDAT", zlib.compress(bytes(100))), (b"IEND", b"")]
    chunks = (struct.pack(">I", len(d)) + n + d + struct.pack(">I", zlib.crc32(n + d)) for n, d in parts)
    (tmp_path / "one" / "absurd.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunks))
    (tmp_path / "one" / "cut.jpg").write_bytes((tmp_path / "one" / "good.jpg").read_bytes()[:900])
    curate(CurateConfig(sources=[str(tmp_path / "one")], out=tmp_path / "c", workers=1), quiet=True)
    assert dropped(tmp_path / "c") == {"absurd.png": "bomb", "cut.jpg": "truncated"}
    (tmp_path / "s.yaml").write_text("sources:\n- {name: a, path: one, bands: [4, 2, 1]}\n")
    curate(CurateConfig(sources=[str(tmp_path / "s.yaml")], out=tmp_path / "d", workers=1), quiet=True)
    assert dropped(tmp_path / "d")["good.jpg"] == "wrong_bands"


def test_the_command_says_it_in_one_line(tmp_path: Path) -> None:
    call = [sys.executable, "-m", "selectivemae", "curate", "run", str(tmp_path / "no"), "--out", str(tmp_path / "c")]
    done = subprocess.run(call, capture_output=True, text=True, timeout=300)
    assert done.returncode == 2
    assert len(done.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "c").exists()


class Deadly(Inline):
    """A worker that dies at member 1 of a source."""

    def run(self, job: Job, tasks: Sequence[Task], folder: Path) -> Iterator[tuple[Task, Outcome]]:
        for task in tasks:
            if isinstance(task, Chunk) and 1 in task.members and 1 not in task.skip:
                yield task, Died("worker_crash", 1, "Segmentation fault")
            else:
                yield from super().run(job, [task], folder)


@pytest.mark.parametrize(("allowed", "code"), [("0.2", 3), ("0.3", 0)])
def test_deaths_beyond_what_is_allowed_end_in_code_3(
    allowed: str, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One of four files kills its worker: the corpus is whole without it, and the exit code says so."""
    monkeypatch.setattr(assembly, "LocalPool", Deadly)
    for number in range(4):
        save(tmp_path / "one" / f"{number}.jpg", scenery(number))
    out = tmp_path / "c"
    command = ["curate", "run", str(tmp_path / "one"), "--out", str(out), "--max-quarantine", allowed, "--quiet"]
    assert main(command) == code
    said = capsys.readouterr().err
    assert said.splitlines() == [] if code == 0 else "1 of 4 files killed their worker" in said
    assert dropped(out) == {"1.jpg": "worker_crash"}
    assert verify(out, deep=True) == []


def test_others_load_the_corpus(tmp_path: Path, inline: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """``datasets`` by the card's front matter, and the manifest as a table."""
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    datasets = pytest.importorskip("datasets")
    folder(tmp_path / "one", 6)
    out = tmp_path / "c"
    curate(CurateConfig(sources=[str(tmp_path / "one")], out=out, workers=1, shard_samples=4), quiet=True)
    count = json.loads((out / "corpus.json").read_text())["samples"]
    cache = str(tmp_path / "cache")
    manifest = datasets.load_dataset(
        "parquet", data_files=str(out / "g*/manifest/*.parquet"), split="train", cache_dir=cache
    )
    assert len(manifest) == count
    samples = datasets.load_dataset(
        "webdataset", data_files={"train": str(out / "g*/shards/*/*.tar")}, split="train", cache_dir=cache
    )
    assert {s["__key__"] for s in samples} == set(manifest["key"])
    assert samples[0]["json"]["source"] == "one"
    assert samples[0]["jpg"].size == (96, 96)
    by_card = datasets.load_dataset(str(out), split="train", cache_dir=cache)
    assert len(by_card) == count
