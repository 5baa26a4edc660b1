"""Files that are whole or not there, folders that are held by one."""

import errno
import multiprocessing
import os
import subprocess
import sys
from pathlib import Path

import pytest

from selectivemae.core.errors import OutputError
from selectivemae.core.files import (
    atomic_folder,
    atomic_write,
    check_sums,
    locked,
    prepare_output,
    remove_temporaries,
    write_sums,
)


def test_a_write_replaces_the_whole_content(tmp_path: Path) -> None:
    for data in ("one", b"\0\xff", ""):
        atomic_write(tmp_path / "f", data)
        assert (tmp_path / "f").read_bytes() == (data.encode() if isinstance(data, str) else data)
    assert [f.name for f in tmp_path.iterdir()] == ["f"]


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_write_that_fails_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    atomic_write(tmp_path / "f", "before")

    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(os, call, fail)
    with pytest.raises(OutputError, match=r"no space left on the disk of .*/f"):
        atomic_write(tmp_path / "f", "after")
    assert [(f.name, f.read_text()) for f in tmp_path.iterdir()] == [("f", "before")]


def test_a_folder_appears_as_a_whole(tmp_path: Path) -> None:
    with atomic_folder(tmp_path / "a") as temporary:
        (temporary / "x").write_text("1")
        assert not (tmp_path / "a").exists()
    assert check_sums(tmp_path / "a") is None

    def half() -> None:
        with atomic_folder(tmp_path / "b") as temporary:
            (temporary / "x").write_text("1")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        half()
    assert [f.name for f in tmp_path.iterdir()] == ["a"]


def test_sums_find_what_is_changed_missing_or_added(tmp_path: Path) -> None:
    for name in ("x", "y"):
        (tmp_path / name).write_text(name)
    write_sums(tmp_path)
    assert check_sums(tmp_path) is None
    (tmp_path / "x").write_text("z")
    assert check_sums(tmp_path) == "x does not match its checksum"
    (tmp_path / "x").unlink()
    assert check_sums(tmp_path) == "x is missing"
    (tmp_path / "x").write_text("x")
    (tmp_path / "a").write_text("new")
    assert check_sums(tmp_path) == "a is not listed in SHA256SUMS"


def test_only_our_own_leftovers_are_removed(tmp_path: Path) -> None:
    for name in (".a.12345678.tmp", "mine.tmp", ".hidden"):
        (tmp_path / name).write_text("")
    (tmp_path / ".b.12345678.tmp").mkdir()
    remove_temporaries(tmp_path)
    assert sorted(f.name for f in tmp_path.iterdir()) == [".hidden", "mine.tmp"]


def hold(folder: Path, ready, done) -> None:
    with locked(folder):
        ready.set()
        done.wait(60)


def test_a_folder_is_held_by_one_process_and_freed_by_its_death(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    ready, done = context.Event(), context.Event()
    process = context.Process(target=hold, args=(tmp_path, ready, done))
    process.start()
    assert ready.wait(60)
    with pytest.raises(OutputError, match=f"in use by another run \\(process {process.pid}\\)"), locked(tmp_path):
        pass
    (tmp_path / "config.yaml").write_text("")
    with pytest.raises(OutputError, match="in use by another run"):
        prepare_output(tmp_path, resume=False, overwrite=True, marker="config.yaml")
    assert (tmp_path / "config.yaml").exists()  # a running run is not emptied under its feet
    process.kill()
    process.join()
    with locked(tmp_path):
        pass


def test_an_output_folder_is_made_continued_replaced_or_refused(tmp_path: Path) -> None:
    def prepare(out: Path, resume: bool = False, overwrite: bool = False) -> None:
        prepare_output(out, resume=resume, overwrite=overwrite, marker="config.yaml")

    prepare(tmp_path / "a" / "b")
    assert list((tmp_path / "a" / "b").iterdir()) == []
    (tmp_path / "a" / "notes").write_text("mine")
    with pytest.raises(OutputError, match="is not empty: continue it with --resume, replace it with --overwrite"):
        prepare(tmp_path / "a")
    with pytest.raises(OutputError, match=r"holds files but no config\.yaml"):
        prepare(tmp_path / "a", overwrite=True)
    (tmp_path / "a" / "config.yaml").write_text("")
    prepare(tmp_path / "a", resume=True)
    assert sorted(f.name for f in (tmp_path / "a").iterdir()) == ["b", "config.yaml", "notes"]
    prepare(tmp_path / "a", overwrite=True)
    assert [f.name for f in (tmp_path / "a").iterdir() if f.name != ".lock"] == []
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="is a file"):
        prepare(tmp_path / "file")
    for out in (tmp_path / "file" / "below", tmp_path / ("long" * 100), Path("/proc/nothing")):
        with pytest.raises(OutputError, match="cannot write"):
            prepare(out)


def test_core_imports_without_torch() -> None:
    code = "import sys; from selectivemae.core import config, files, order, records; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
