"""Folder stores, several stores as one, the index and its cache."""

import json
import os
import pickle
import subprocess
import sys
import time
import zipfile
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from selectivemae.core.errors import StoreError
from selectivemae.data.stores import index as index_module
from selectivemae.data.stores import open_store, open_stores
from selectivemae.data.stores.folder import FolderStore
from selectivemae.data.stores.index import Index, IndexBuilder, index_places
from selectivemae.data.stores.sources import Files
from selectivemae.data.stores.union import distinct_names


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SELECTIVEMAE_CACHE", str(tmp_path / "cache"))


def fill(root: Path, members: dict[str, bytes]) -> Path:
    for name, data in members.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    return root


def settle(root: Path) -> None:
    """Make a folder look as if it was made long ago, so that its index may be trusted."""
    for folder, _, _ in os.walk(root):
        os.utime(folder, ns=(0, 10**18))


IMAGES = {"b/2.jpg": b"two", "a/1.PNG": b"one", "a.tif": b"scene", "Z": b"bare", "b/é.webp": b"e"}


def test_a_folder_is_its_images_in_the_order_of_their_bytes(tmp_path: Path) -> None:
    root = fill(tmp_path / "set", IMAGES | {"notes.md": b"", ".DS_Store": b"", ".git/x.jpg": b"", "b/._2.jpg": b""})
    (root / "link.jpg").symlink_to(root / "a.tif")
    (root / "loop").symlink_to(root)
    os.mkfifo(root / "pipe.jpg")
    store = open_store(root)
    expected = sorted(IMAGES, key=lambda name: name.encode())
    assert [store.id(i) for i in range(len(store))] == [f"set/{name}" for name in expected]
    assert [store[i] for i in range(len(store))] == [IMAGES[name] for name in expected]
    assert sorted(store.skipped) == [
        ("link.jpg", "symlink"), ("loop", "symlink"), ("notes.md", "not_an_image"), ("pipe.jpg", "special_file"),
    ]  # fmt: skip
    assert isinstance(store, FolderStore)
    assert [store.path(i) for i in range(len(store))] == [root / name for name in expected]


def test_real_imagery(shared_data: Path) -> None:
    store = open_store(shared_data / "aid")
    oracle = sorted(str(p.relative_to(shared_data)).encode() for p in (shared_data / "aid").rglob("*.jpg"))
    assert [store.id(i).encode() for i in range(len(store))] == oracle
    for i in range(0, len(store), 500):
        assert store[i] == (shared_data / store.id(i)).read_bytes()


def test_names_that_are_no_utf8_are_read_and_can_be_printed(tmp_path: Path) -> None:
    root = tmp_path / "set"
    root.mkdir()
    with open(os.fsencode(root) + b"/caf\xe9.jpg", "wb") as file:
        file.write(b"latin")
    store = open_store(root)
    assert store[0] == b"latin"
    assert store.id(0).encode() == rb"set/caf\xe9.jpg"


@pytest.mark.parametrize("bad", ["missing", "empty", "only/text.txt"])
def test_a_folder_that_cannot_be_used(tmp_path: Path, bad: str) -> None:
    fill(tmp_path, {"only/text.txt": b"x"})
    (tmp_path / "empty").mkdir()
    target = tmp_path / bad if bad != "only/text.txt" else tmp_path / "only"
    with pytest.raises(StoreError, match=str(target)):
        open_store(target)


def test_permission_denied_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = fill(tmp_path / "set", IMAGES)
    store = open_store(root)

    normally = os.open

    def refuse(path: str | bytes, flags: int) -> int:
        if os.fsencode(path).endswith(b"/Z"):
            raise PermissionError(13, "Permission denied")
        return normally(path, flags)

    monkeypatch.setattr(os, "open", refuse)  # tests may run as a user who may read everything
    with pytest.raises(StoreError, match=r"set/Z: cannot be read \(Permission denied\)"):
        store[0]


def test_the_walk_is_cached_until_a_folder_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = fill(tmp_path / "set", IMAGES)
    settle(root)
    walks = []
    listing = os.scandir
    monkeypatch.setattr(os, "scandir", lambda path: walks.append(path) or listing(path))
    first = open_store(root)
    assert len(walks) == 3
    assert open_store(root).fingerprint == first.fingerprint
    assert len(walks) == 3
    fill(root, {"a/new.jpg": b"new"})
    changed = open_store(root)
    assert len(walks) == 6
    assert (len(changed), changed.fingerprint == first.fingerprint) == (6, False)
    open_store(root)
    assert len(walks) == 9, "a folder changed within a tick of the clock may change again unnoticed"


def test_a_folder_that_grew_is_read_anew(tmp_path: Path) -> None:
    folder = fill(tmp_path / "a", {"x.jpg": b"1"})
    settle(folder)
    assert len(open_store(folder)) == 1
    fill(folder, {"y.jpg": b"22"})
    grown = open_store(folder)
    assert [grown.id(i) for i in range(len(grown))] == ["a/x.jpg", "a/y.jpg"]
    assert grown[1] == b"22"


def test_a_copy_has_the_same_fingerprint_and_other_content_another(tmp_path: Path) -> None:
    prints = [open_store(fill(tmp_path / "one" / "set", IMAGES)).fingerprint]
    time.sleep(0.02)
    prints += [open_store(fill(tmp_path / name / "set", IMAGES)).fingerprint for name in ("two", "three")]
    assert len(set(prints)) == 1
    for k, change in enumerate([{"Z": b"longer"}, {"new.jpg": b""}]):
        prints.append(open_store(fill(tmp_path / f"more{k}" / "set", IMAGES | change)).fingerprint)
    assert len(set(prints)) == 3


def test_a_file_written_anew_is_noticed_and_forgotten_by_the_next_opening(tmp_path: Path) -> None:
    root = fill(tmp_path / "set", IMAGES)
    settle(root)
    store = open_store(root)
    (root / "Z").write_bytes(b"BARE")
    os.utime(root / "Z", ns=(0, 5))
    with pytest.raises(StoreError, match="set/Z: changed since it was indexed"):
        store[0]
    again = open_store(root)
    assert again[0] == b"BARE"


def test_indexes_lie_beside_the_data_or_in_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SELECTIVEMAE_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    root = fill(tmp_path / "data" / "set", IMAGES)
    settle(root)
    beside, cached = index_places(str(root))
    assert cached.startswith(str(tmp_path / "xdg" / "selectivemae"))
    open_store(root)
    assert os.path.exists(beside)
    assert not os.path.exists(cached)
    os.unlink(beside)
    os.mkdir(beside)  # nothing can be written there, as on a read-only disk, even by an administrator
    open_store(root)
    assert os.path.exists(cached)
    os.unlink(cached)
    monkeypatch.setenv("XDG_CACHE_HOME", str(root / "Z"))
    with pytest.raises(StoreError, match="set SELECTIVEMAE_CACHE"):
        open_store(root)


@pytest.mark.parametrize("damage", [b"", b"short", b"SMAEIX01" + bytes(120), b"SMAEIX99" + bytes(500)])
def test_a_damaged_index_is_built_anew(tmp_path: Path, damage: bytes) -> None:
    root = fill(tmp_path / "set", IMAGES)
    settle(root)
    open_store(root)
    place = Path(index_places(str(root))[1])
    place.write_bytes(damage)
    assert len(open_store(root)) == len(IMAGES)
    place.write_bytes(place.read_bytes()[:-1])
    assert len(open_store(root)) == len(IMAGES)


def test_an_index_replaced_by_an_equal_one_goes_on_and_by_another_stops(tmp_path: Path) -> None:
    root = fill(tmp_path / "set", IMAGES)
    store = open_store(root)
    other = pickle.loads(pickle.dumps(store))
    open_store(root)  # another process indexes the same folder
    assert other.id(0) == store.id(0)
    third = pickle.loads(pickle.dumps(store))
    fill(root, {"new.jpg": b"new"})
    open_store(root)
    with pytest.raises(StoreError, match="indexed anew while in use"):
        third.id(0)
    assert store.id(0) == "set/Z"


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.binary(max_size=9), st.integers(0, 2**64 - 1)), max_size=30))
def test_an_index_gives_back_what_went_in(tmp_path: Path, found: list[tuple[bytes, int]]) -> None:
    builder = IndexBuilder("label")
    expected: dict[bytes, int] = {}
    for stem, number in found:
        name = b"n" + stem.replace(b"/", b"").replace(b"\0", b"").replace(b"\\", b"") + b".jpg"
        builder.add(name, number, number // 2, number // 3, number // 5, number % 65536)
        expected.setdefault(name, number)
    builder.write(str(tmp_path / "index"), "00" * 32)
    index = Index.load(str(tmp_path / "index"), Files())
    assert index is not None
    rows = [index.record(i) for i in range(index.count)]
    assert [(index.name(row), row[1:5], row.method) for row in rows] == [
        (name, (n, n // 2, n // 3, n // 5), n % 65536) for name, n in sorted(expected.items())
    ]
    assert len(index.tail()["skipped"]) == len(found) - len(expected)
    for outside in (-1, index.count):
        with pytest.raises(IndexError):
            index.record(outside)


def test_progress_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index_module, "_REPORT_EVERY", 2)
    told: list[tuple[str, int]] = []
    open_store(fill(tmp_path / "set", IMAGES), lambda name, entries: told.append((name, entries)))
    assert told == [("set", 2), ("set", 4), ("set", 5)]


def test_threads_read_the_same_and_few_files_stay_open(tmp_path: Path) -> None:
    root = tmp_path / "zips"
    root.mkdir()
    for k in range(12):
        with zipfile.ZipFile(root / f"{k:02d}.zip", "w", zipfile.ZIP_DEFLATED) as archive:
            for i in range(20):
                archive.writestr(f"{i:02d}.jpg", f"{k} {i}" * 99)
    store = open_store(root)
    files = Files(limit=3)
    for part in store.stores:  # type: ignore[attr-defined]
        part.index.__dict__["files"] = part.parts.sources[0].__dict__["files"] = files
    with ThreadPoolExecutor(8) as pool:
        read = list(pool.map(store.__getitem__, [i * 77 % 240 for i in range(960)]))
    assert read == [f"{i * 77 % 240 // 20} {i * 77 % 20}".encode() * 99 for i in range(960)]
    assert len(files._open) == 3


def test_several_stores_are_one_sorted_by_id(tmp_path: Path) -> None:
    for name in ("a", "a-b", "a.b", "B", "ä"):
        fill(tmp_path / name, {f"{i}.jpg": f"{name}{i}".encode() for i in (3, 1, 2)})
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("x.jpg", b"zipped")
    paths = [tmp_path / name for name in ("ä", "a", "a.zip", "B", "a.b", "a-b")]
    store = open_stores(paths)
    ids = [store.id(i) for i in range(len(store))]
    assert len(ids) == 16
    assert ids == sorted(ids, key=str.encode)
    assert store[ids.index("a-b/2.jpg")] == b"a-b2"
    assert store[ids.index("a.zip/x.jpg")] == b"zipped"
    assert open_stores(paths[::-1]).fingerprint == store.fingerprint
    copy = pickle.loads(pickle.dumps(store))
    assert [copy[i] for i in range(16)] == [store[i] for i in range(16)]
    for outside in (-1, 16):
        with pytest.raises(IndexError):
            store[outside]


def test_a_folder_of_archives_and_empty_ones_among_them(tmp_path: Path) -> None:
    root = fill(tmp_path / "set", {"README.md": b""})
    for name, member in (("train/one.zip", "1.jpg"), ("labels.zip", "1.txt"), ("two.zip", "2.jpg")):
        (root / name).parent.mkdir(exist_ok=True)
        with zipfile.ZipFile(root / name, "w") as archive:
            archive.writestr(member, member)
    store = open_store(root)
    assert [store.id(i) for i in range(len(store))] == ["set/train/one.zip/1.jpg", "set/two.zip/2.jpg"]
    assert store.skipped == [("1.txt", "not_an_image")]
    assert [store[0], store[1]] == [b"1.jpg", b"2.jpg"]


@settings(max_examples=200)
@given(st.lists(st.lists(st.sampled_from(["a", "b", "a-b"]), min_size=1, max_size=4), min_size=1, max_size=5))
def test_names_tell_sources_apart_and_keep_ids_together(steps: list[list[str]]) -> None:
    origins = ["/" + "/".join(path) for path in steps]
    nested = any(a != b and b.startswith(a + "/") for a in origins for b in origins)
    if len(set(origins)) < len(origins):
        with pytest.raises(StoreError, match="more than once"):
            distinct_names(origins)
        return
    try:
        names = distinct_names(origins)
    except StoreError:
        assert nested
        return
    assert all(f"{origin}/".endswith(f"/{name}/") for origin, name in zip(origins, names, strict=True))
    ids = sorted((f"{name}/{inside}".encode(), name) for name in names for inside in ("", "a/x", "b", "~"))
    owners = [name for _, name in ids]
    assert sum(a != b for a, b in pairwise(owners)) == len(names) - 1


def test_a_store_reads_in_another_process_without_torch(tmp_path: Path) -> None:
    root = fill(tmp_path / "set", IMAGES)
    (tmp_path / "store.pickle").write_bytes(pickle.dumps(open_store(root)))
    assert (tmp_path / "store.pickle").stat().st_size < 1000
    code = (
        "import pickle, sys, json; store = pickle.load(open(sys.argv[1], 'rb'));"
        "print(json.dumps([store[0].decode(), store.id(0), 'torch' in sys.modules]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "store.pickle")], capture_output=True, text=True, check=True
    )
    assert json.loads(done.stdout) == ["bare", "set/Z", False]


def test_patterns_and_ranges(tmp_path: Path) -> None:
    for k in range(12):
        fill(tmp_path / f"part-{k:03d}", {"x.jpg": b"%d" % k})
    store = open_store(tmp_path / "part-{002..010}")
    assert [store[i] for i in range(len(store))] == [b"%d" % k for k in range(2, 11)]
    assert len(open_store(tmp_path / "part-*")) == 12
    with pytest.raises(StoreError, match="matches nothing"):
        open_store(tmp_path / "absent-*")
    with pytest.raises(StoreError, match="more than once"):
        open_stores([tmp_path / "part-000", tmp_path / "part-00*"])


def test_what_is_no_container_is_refused(tmp_path: Path) -> None:
    fill(tmp_path, {"picture.jpg": b"\xff\xd8", "set.7z": b"7z"})
    with pytest.raises(StoreError, match="give a folder, zip, tar or Parquet file"):
        open_store(tmp_path / "picture.jpg")
    with pytest.raises(StoreError, match="7z x"):
        open_store(tmp_path / "set.7z")


def test_an_unsettled_archive_is_indexed_again(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    for data in (b"one", b"two"):
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("a.jpg", data)
        os.utime(path, ns=(0, time.time_ns()))
        assert open_store(path)[0] == data
