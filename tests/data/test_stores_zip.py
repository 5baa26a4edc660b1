"""Zip stores against Python's zipfile, the shared archive cases, the zip program, and archives made to harm."""

import csv
import hashlib
import os
import pickle
import shutil
import struct
import subprocess
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from selectivemae.core.errors import StoreError
from selectivemae.data.stores import Store, open_store, zipdir
from selectivemae.data.stores.sources import Files, LocalFile, Parts

T = TypeVar("T")


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SELECTIVEMAE_CACHE", str(tmp_path / "cache"))


def contents(store: Store) -> dict[str, bytes]:
    """Path inside -> bytes, having checked that ids are sorted."""
    ids = [store.id(i) for i in range(len(store))]
    assert [i.encode() for i in ids] == sorted(i.encode() for i in ids)
    return {i.split("/", 1)[1]: store[k] for k, i in enumerate(ids)}


def rows(path: Path) -> list[dict[str, str]]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def attempt(action: Callable[[], T], *words: str) -> T | None:
    """What the action gives, or None after a StoreError that has all ``words``."""
    try:
        return action()
    except StoreError as error:
        message = str(error)
    assert all(word in message for word in words), message
    return None


def make_zip(path: Path, members: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


@pytest.fixture(scope="module")
def cases(shared_data: Path) -> Path:
    return shared_data / "zip_cases"


def test_every_shared_case_is_judged_as_its_manifest_says(cases: Path) -> None:
    sums = {row["member"]: row["sha256"] for row in rows(cases / "members.csv")}
    for row in rows(cases / "manifest.csv"):
        path, members, expect = cases / row["archive"], int(row["members"]), row["expect"]
        if expect == "fail":
            with pytest.raises(StoreError, match=row["archive"]):
                open_store(path)
            continue
        store = open_store(path)
        damaged = []
        for i in range(len(store)):
            member = store.id(i).split("/", 1)[1]
            data = attempt(lambda store=store, i=i: store[i], member, path.name)
            if data is None:
                damaged.append(member)
            else:
                assert hashlib.sha256(data).hexdigest() == sums[member]
        assert len(store) + len(store.skipped) == members
        assert bool(damaged or store.skipped) == (expect == "partial"), row["archive"]


def test_what_the_cases_skip_and_why(cases: Path) -> None:
    assert open_store(cases / "traversal.zip").skipped == [("../evil.jpg", "unsafe_name")]
    assert open_store(cases / "encrypted.zip").skipped == [("images/BareLand/bareland_144.jpg", "encrypted")]
    with pytest.raises(StoreError, match=r"missing_part\.z01, is missing"):
        open_store(cases / "missing_part.zip")
    with pytest.raises(StoreError, match="truncated"):
        open_store(cases / "truncated.zip")


def test_packing_changes_neither_ids_inside_nor_fingerprint(cases: Path) -> None:
    plain, split, cut = (open_store(cases / name) for name in ("plain.zip", "split.z01", "bytes.zip.002"))
    assert plain.fingerprint == split.fingerprint == cut.fingerprint
    assert contents(plain) == contents(split) == contents(cut)
    assert [store.id(0).split("/")[0] for store in (plain, split, cut)] == ["plain.zip", "split.zip", "bytes.zip"]


@pytest.mark.parametrize("number", [1, 2, 3])
def test_a_missing_piece_of_a_byte_split_is_named(cases: Path, tmp_path: Path, number: int) -> None:
    for k in {1, 2, 3} - {number}:
        shutil.copy(cases / f"bytes.zip.00{k}", tmp_path)
    with pytest.raises(StoreError, match=f"bytes.zip.00{number}" if number < 3 else "last part"):
        open_store(tmp_path / "bytes.zip")


@pytest.mark.skipif(shutil.which("zip") is None, reason="the zip program is not installed")
def test_archive_split_by_the_zip_program(tmp_path: Path) -> None:
    members = {f"class{i % 3}/{i:03d}.jpg": os.urandom(3000) for i in range(60)}
    for name, data in members.items():
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / name).write_bytes(data)
    subprocess.run(["zip", "-q", "-r", "-s", "64k", "../out.zip", "."], cwd=tmp_path / "in", check=True)
    assert {p.name for p in tmp_path.glob("out.z*")} == {"out.z01", "out.z02", "out.zip"}
    assert contents(open_store(tmp_path / "out.zip")) == members
    (tmp_path / "out.z02").unlink()
    with pytest.raises(StoreError, match=r"part 2 of 3, out\.z02"):
        open_store(tmp_path / "out.zip")


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_methods_of_compression(tmp_path: Path, method: int) -> None:
    members = {f"{i}.png": bytes(range(256)) * i + os.urandom(i) for i in range(12)}
    assert contents(open_store(make_zip(tmp_path / "a.zip", members, method))) == members


def zstd_zip(path: Path, packed: bytes, data: bytes) -> Path:
    """A zip of one member ``a.jpg`` by method 93, which zipfile cannot write: stored, then its headers relabelled."""
    make_zip(path, {"a.jpg": packed}, zipfile.ZIP_STORED)
    raw = bytearray(path.read_bytes())
    entry = raw.rindex(b"PK\1\2")
    for at, crc_at in ((8, 14), (entry + 10, entry + 16)):
        struct.pack_into("<H", raw, at, zipdir.ZSTANDARD)
        struct.pack_into("<L", raw, crc_at, zlib.crc32(data))
        struct.pack_into("<L", raw, crc_at + 8, len(data))
    path.write_bytes(raw)
    return path


def test_zstd_where_there_is_one(tmp_path: Path) -> None:
    zstandard = pytest.importorskip("zstandard")
    data = b"pixels" * 999
    assert contents(open_store(zstd_zip(tmp_path / "a.zip", zstandard.compress(data), data))) == {"a.jpg": data}
    broken = open_store(zstd_zip(tmp_path / "b.zip", b"no zstd at all", data))
    with pytest.raises(StoreError, match=r"a\.jpg is damaged"):
        broken[0]


def test_zstd_where_there_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zipdir, "zstandard_module", lambda: None)
    with pytest.raises(StoreError, match="install the package zstandard"):
        open_store(zstd_zip(tmp_path / "a.zip", b"packed", b"data"))


def test_zip64_records_and_fields(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zipfile, "ZIP64_LIMIT", 100)
    monkeypatch.setattr(zipfile, "ZIP_FILECOUNT_LIMIT", 3)
    members = {f"{i:02d}.jpg": os.urandom(150 + i) for i in range(20)}
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for name, data in members.items():
            with archive.open(name, "w", force_zip64=True) as file:
                file.write(data)
    assert contents(open_store(tmp_path / "a.zip")) == members
    raw = bytearray((tmp_path / "a.zip").read_bytes())
    struct.pack_into("<HHLL", raw, raw.rindex(b"PK\5\6") + 8, 0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF)
    (tmp_path / "b.zip").write_bytes(raw)
    assert contents(open_store(tmp_path / "b.zip")) == members


def test_bytes_before_and_a_comment_after_the_archive(tmp_path: Path) -> None:
    members = {"a.jpg": b"one", "b.jpg": b"two"}
    path = make_zip(tmp_path / "a.zip", members)
    with zipfile.ZipFile(path, "a") as archive:
        archive.comment = b"a comment"
    path.write_bytes(b"#!/bin/sh self-extracting\n" + path.read_bytes())
    with zipfile.ZipFile(path) as oracle:
        assert {name: oracle.read(name) for name in oracle.namelist()} == members
    assert contents(open_store(path)) == members
    comment = b"PK\5\6 is no end record though it looks like one"
    raw = path.read_bytes().replace(struct.pack("<H", 9) + b"a comment", struct.pack("<H", len(comment)) + comment)
    (tmp_path / "b.zip").write_bytes(raw)
    assert contents(open_store(tmp_path / "b.zip")) == members


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.dictionaries(
        st.text(st.characters(blacklist_categories=["Cs"], blacklist_characters="\0/\\"), min_size=1, max_size=12),
        st.binary(max_size=40),
        min_size=1,
        max_size=8,
    )
)
def test_any_name_is_read_as_zipfile_reads_it(tmp_path: Path, named: dict[str, bytes]) -> None:
    path = make_zip(tmp_path / "a.zip", {f"d/n{name}.jpg": data for name, data in named.items()})
    with zipfile.ZipFile(path) as oracle:
        expected = {name: oracle.read(name) for name in oracle.namelist()}
    os.utime(path, ns=(0, zlib.crc32(path.read_bytes())))  # examples replace each other within a tick of the clock
    assert contents(open_store(path)) == expected


@pytest.mark.parametrize("name", [b"caf\x82.jpg", "café.jpg".encode()], ids=["code page 437", "unmarked UTF-8"])
def test_names_without_the_utf8_flag_are_of_code_page_437(tmp_path: Path, name: bytes) -> None:
    path = make_zip(tmp_path / "a.zip", {"x" * len(name): b"data"})
    path.write_bytes(path.read_bytes().replace(b"x" * len(name), name))
    with zipfile.ZipFile(path) as oracle:
        assert list(contents(open_store(path))) == oracle.namelist()


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_members_that_are_no_samples(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for name in ["b.JPG", "a.jpg", "a.jpg", "noextension", "notes.txt", ".DS_Store", "__MACOSX/._a.jpg", "folder/"]:
            archive.writestr(name, name + str(len(archive.namelist())))
        for name in ["/etc/a.jpg", "x/../../a.jpg", "C:/a.jpg", "..\\a.jpg"]:
            archive.writestr(name, b"out")
    store = open_store(path)
    assert contents(store) == {"a.jpg": b"a.jpg1", "b.JPG": b"b.JPG0", "noextension": b"noextension3"}
    assert sorted(store.skipped) == sorted(
        [("a.jpg", "dup_member"), ("notes.txt", "not_an_image")]
        + [(name, "unsafe_name") for name in ["/etc/a.jpg", "x/../../a.jpg", "C:/a.jpg", "..\\a.jpg"]]
    )


def test_a_bomb_is_refused_by_what_it_declares_and_stopped_when_it_lies(tmp_path: Path) -> None:
    path = make_zip(tmp_path / "a.zip", {"bomb.jpg": bytes(5_000_000), "good.jpg": b"good"})
    raw = bytearray(path.read_bytes())
    entry = raw.index(b"PK\1\2")
    struct.pack_into("<L", raw, entry + 24, (1 << 30) + 1)
    path.write_bytes(raw)
    store = open_store(path)
    assert store.skipped == [("bomb.jpg", "bomb")]
    assert contents(store) == {"good.jpg": b"good"}
    struct.pack_into("<L", raw, entry + 24, 1000)
    (tmp_path / "b.zip").write_bytes(raw)
    lying = open_store(tmp_path / "b.zip")
    with pytest.raises(StoreError, match=r"bomb\.jpg is damaged \(unpacks to more than 1,000 bytes\)"):
        lying[0]


def test_an_archive_without_images_says_what_it_holds(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="holds no image \\(2 not_an_image\\)"):
        open_store(make_zip(tmp_path / "a.zip", {"a.txt": b"", "b.xml": b""}))


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(draw=st.data())
def test_damage_anywhere_is_a_store_error_or_harmless(tmp_path: Path, draw: st.DataObject) -> None:
    members = {f"{i}.jpg": bytes([i]) * 50 for i in range(4)}
    raw = bytearray(make_zip(tmp_path / "a.zip", members).read_bytes())
    for _ in range(draw.draw(st.integers(1, 3))):
        raw[draw.draw(st.integers(0, len(raw) - 1))] = draw.draw(st.integers(0, 255))
    raw = raw[: draw.draw(st.integers(len(raw) - 30, len(raw)))]
    source = tmp_path / "damaged.zip"
    source.write_bytes(raw)
    os.utime(source, ns=(0, zlib.crc32(raw)))
    store = attempt(lambda: open_store(source), "damaged.zip")
    if store is None:
        return
    for i in range(len(store)):
        data = attempt(lambda i=i: store[i], "damaged.zip")
        assert data in {None, b"", *members.values()}


def test_an_archive_rewritten_under_a_running_job(tmp_path: Path) -> None:
    path = make_zip(tmp_path / "a.zip", {"a.jpg": b"one"})
    store = open_store(path)
    other = pickle.loads(pickle.dumps(store))
    assert store[0] == b"one"
    make_zip(path, {"a.jpg": b"another"})
    for changed in (store, other):
        with pytest.raises(StoreError, match=r"a\.zip: changed while in use"):
            changed[0]
    assert open_store(path)[0] == b"another"


def test_parts_read_like_the_joined_bytes(tmp_path: Path) -> None:
    pieces = [os.urandom(n) for n in (5, 0, 17, 1)]
    files = Files(limit=2)
    for i, piece in enumerate(pieces):
        (tmp_path / str(i)).write_bytes(piece)
    parts = Parts([LocalFile.at(tmp_path / str(i), files) for i in range(4)])
    whole = b"".join(pieces)
    assert all(parts.read(a, b - a) == whole[a:b] for a in range(24) for b in range(a, 24))
    with pytest.raises(StoreError, match="truncated"):
        parts.read(20, 10)
