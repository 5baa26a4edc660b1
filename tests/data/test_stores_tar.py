"""Tar stores against Python's tarfile, WebDataset shards, and corpus shards against tarfile and webdataset."""

import base64
import hashlib
import io
import os
import pickle
import struct
import tarfile
import zlib
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from selectivemae.core.errors import OutputError, StoreError
from selectivemae.data.stores import Store, open_store
from selectivemae.data.stores.shards import Sample, ShardStore, id_text, index_path, verify_shard, write_shard


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SELECTIVEMAE_CACHE", str(tmp_path / "cache"))


def contents(store: Store) -> dict[str, bytes]:
    ids = [store.id(i) for i in range(len(store))]
    assert [i.encode() for i in ids] == sorted(i.encode() for i in ids)
    return {i.split("/", 1)[1]: store[k] for k, i in enumerate(ids)}


def make_tar(path: Path, members: dict[str, bytes], form: int = tarfile.PAX_FORMAT) -> Path:
    with tarfile.open(path, "w", format=form) as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


FORMS = {"ustar": tarfile.USTAR_FORMAT, "gnu": tarfile.GNU_FORMAT, "pax": tarfile.PAX_FORMAT}


@pytest.mark.parametrize("form", FORMS)
def test_formats_of_tar(tmp_path: Path, form: str) -> None:
    members = {f"{'long' * 20}/{'name' * 15}{i}.jpg": os.urandom(700 * i) for i in range(9)}
    members["bare"] = b"no extension"
    if form != "ustar":
        members |= {"deep/" * 60 + "x.png": b"deep", "Ünïcode/图.jpg": b"utf"}
    assert contents(open_store(make_tar(tmp_path / "a.tar", members, FORMS[form]))) == members


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.dictionaries(
        st.text(st.characters(blacklist_categories=["Cs"], blacklist_characters="\0/\\."), min_size=1, max_size=120),
        st.binary(max_size=600),
        min_size=1,
        max_size=6,
    ),
    st.sampled_from(["gnu", "pax"]),
)
def test_any_name_is_read_as_tarfile_reads_it(tmp_path: Path, named: dict[str, bytes], form: str) -> None:
    path = make_tar(tmp_path / "a.tar", {f"d/n{name}.jpg": data for name, data in named.items()}, FORMS[form])
    with tarfile.open(path) as oracle:
        expected = {m.name: oracle.extractfile(m).read() for m in oracle}  # type: ignore[union-attr]
    os.utime(path, ns=(0, zlib.crc32(path.read_bytes())))  # examples follow each other within a tick
    assert contents(open_store(path)) == expected


def test_members_that_are_no_samples(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as archive:
        for name, kind in {
            "./": tarfile.DIRTYPE,
            "./a.jpg": tarfile.REGTYPE,
            "notes.txt": tarfile.REGTYPE,
            "./._a.jpg": tarfile.REGTYPE,
            "link.jpg": tarfile.SYMTYPE,
            "hard.jpg": tarfile.LNKTYPE,
            "pipe.jpg": tarfile.FIFOTYPE,
            "../up.jpg": tarfile.REGTYPE,
            "/etc/abs.jpg": tarfile.REGTYPE,
        }.items():
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "a.jpg"
            info.size = 4 if kind == tarfile.REGTYPE else 0
            archive.addfile(info, io.BytesIO(b"data"))
        archive.addfile(archive.getmember("./a.jpg"), io.BytesIO(b"more"))
    store = open_store(path)
    assert contents(store) == {"a.jpg": b"data"}
    assert sorted(store.skipped) == [
        ("../up.jpg", "unsafe_name"),
        ("/etc/abs.jpg", "unsafe_name"),
        ("a.jpg", "dup_member"),
        ("hard.jpg", "link"),
        ("link.jpg", "link"),
        ("notes.txt", "not_an_image"),
        ("pipe.jpg", "special_file"),
    ]


def test_webdataset_samples_are_one_image_each(tmp_path: Path) -> None:
    members = {
        "0001.jpg": b"image", "0001.json": b"{}", "0001.seg.png": b"mask",
        "0002.cls": b"1", "0002.png": b"second",
        "d.x/0003.txt": b"caption", "d.x/0003.webp": b"third",
        "scene.1.jpg": b"plain", "scene.2.jpg": b"tar",
        "LICENSE.txt": b"terms",
    }  # fmt: skip
    store = open_store(make_tar(tmp_path / "shard-000.tar", members))
    images = ["0001.jpg", "0002.png", "d.x/0003.webp", "scene.1.jpg", "scene.2.jpg"]
    assert contents(store) == {name: members[name] for name in images}
    assert store.skipped == [("0001.seg.png", "second_image"), ("LICENSE.txt", "not_an_image")]


@pytest.mark.parametrize("cut", [100, 512, 700, 1024 + 512])
def test_a_truncated_tar(tmp_path: Path, cut: int) -> None:
    path = make_tar(tmp_path / "a.tar", {"a.jpg": bytes(1000), "b.jpg": bytes(1000)})
    path.write_bytes(path.read_bytes()[: 1536 + cut])
    if cut == 512 + 1024:  # whole members, only the end mark is gone: tarfile and GNU tar take it too
        assert len(open_store(path)) == 2
    else:
        with pytest.raises(StoreError, match=r"a\.tar: ends inside .*truncated"):
            open_store(path)


def test_a_damaged_or_packed_tar(tmp_path: Path) -> None:
    raw = bytearray(make_tar(tmp_path / "a.tar", {"a.jpg": bytes(10), "b.jpg": bytes(10)}).read_bytes())
    raw[1024 + 3] ^= 1
    (tmp_path / "b.tar").write_bytes(raw)
    with pytest.raises(StoreError, match="header at byte 1,024 is damaged"):
        open_store(tmp_path / "b.tar")
    (tmp_path / "c.tar").write_bytes(b"\x1f\x8b" + bytes(600))
    with pytest.raises(StoreError, match="gzip -d"):
        open_store(tmp_path / "c.tar")
    (tmp_path / "d.tar.gz").write_bytes(b"\x1f\x8b")
    with pytest.raises(StoreError, match="gzip -d"):
        open_store(tmp_path / "d.tar.gz")


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(draw=st.data())
def test_damage_anywhere_is_a_store_error_or_harmless(tmp_path: Path, draw: st.DataObject) -> None:
    raw = bytearray(
        make_tar(tmp_path / "a.tar", {"é" * 60 + f"{i}.jpg": bytes([i]) * 50 for i in range(3)}).read_bytes()
    )
    for _ in range(draw.draw(st.integers(1, 3))):
        raw[draw.draw(st.integers(0, 5000))] = draw.draw(st.integers(0, 255))
    path = tmp_path / "damaged.tar"
    path.write_bytes(raw[: draw.draw(st.integers(1, len(raw)))])
    os.utime(path, ns=(0, int.from_bytes(hashlib.sha256(raw).digest()[:4], "big")))
    try:
        store = open_store(path)
    except StoreError as error:
        message = str(error)
    else:
        message = path.name
        assert all(len(store[i]) <= len(raw) for i in range(len(store)))
    assert path.name in message


# Corpus shards.


def make_samples(count: int, seed: str = "") -> list[Sample]:
    """Samples in an order that is not that of their ids."""
    found = []
    for i in range(count):
        identity = hashlib.blake2b(f"{seed}{i}".encode(), digest_size=16).digest()
        image = hashlib.shake_128(identity).digest(100 + 37 * i)
        suffix = ("jpg", "png", "webp")[i % 3]
        key = f"{'source' if i % 4 else 'a_very_long_source_name' * 4}-{id_text(identity)}"
        found.append(Sample(identity, key, suffix, image, {"json": b'{"n": %d}' % i} if i % 2 else {}))
    return found


@given(st.lists(st.binary(min_size=16, max_size=16), min_size=1, max_size=20))
def test_text_of_an_id_sorts_as_the_id_and_can_be_read_back(ids: list[bytes]) -> None:
    assert [id_text(i) for i in sorted(ids)] == sorted(id_text(i) for i in ids)
    assert all(base64.b32hexdecode(id_text(i).upper() + "======") == i for i in ids)
    assert all(len(id_text(i)) == 26 for i in ids)


def test_a_shard_is_a_tar_that_others_read(tmp_path: Path) -> None:
    webdataset = pytest.importorskip("webdataset")
    samples = make_samples(30)
    written = write_shard(tmp_path / "c-g0001-000000.tar", samples)
    raw = (tmp_path / "c-g0001-000000.tar").read_bytes()
    assert (written.sha256, written.size) == (hashlib.sha256(raw).hexdigest(), len(raw))
    assert [raw[at : at + size] for at, size in written.places] == [sample.image for sample in samples]
    with tarfile.open(tmp_path / "c-g0001-000000.tar") as oracle:
        assert {(m.mtime, m.uid, m.gid, m.mode, m.uname, m.gname) for m in oracle} == {(0, 0, 0, 0o644, "", "")}
    read = list(webdataset.WebDataset(str(tmp_path / "c-g0001-000000.tar"), shardshuffle=False))
    assert [(r["__key__"], r[s.suffix], r.get("json")) for r, s in zip(read, samples, strict=True)] == [
        (s.key, s.image, s.sides.get("json")) for s in samples
    ]


def test_the_side_index_has_the_format_of_the_specification(tmp_path: Path) -> None:
    samples = make_samples(11)
    written = write_shard(tmp_path / "s.tar", samples)
    raw = (tmp_path / "s.idx").read_bytes()
    assert len(raw) == 64 + 11 * (32 + 4)
    _, version, record_size, count, tar_size, prefix = struct.unpack_from("<8sIIQQ16s", raw)
    assert (version, record_size, count, tar_size, prefix.hex()) == (1, 32, 11, written.size, written.sha256[:32])
    records = [struct.unpack_from("<QIB3x16s", raw, 64 + 32 * i) for i in range(11)]
    assert [(at, size) for at, size, _, _ in records] == written.places
    assert [(kind, identity) for _, _, kind, identity in records] == [(i % 3, s.id) for i, s in enumerate(samples)]
    order = struct.unpack_from("<11I", raw, 64 + 32 * 11)
    assert [samples[i].id for i in order] == sorted(s.id for s in samples)


def test_a_shard_is_read_by_id_and_the_same_without_its_index(tmp_path: Path) -> None:
    samples = make_samples(25)
    write_shard(tmp_path / "s.tar", samples)
    verify_shard(tmp_path / "s.tar")
    store = pickle.loads(pickle.dumps(open_store(tmp_path / "s.tar")))
    assert isinstance(store, ShardStore)
    assert contents(store) == {id_text(s.id): s.image for s in samples}
    by_id = {s.id: s for s in samples}
    for i, identity in enumerate(sorted(by_id)):
        assert f"{by_id[identity].key}.{by_id[identity].suffix}".startswith(store.key(i))
    (tmp_path / "s.idx").unlink()
    assert contents(open_store(tmp_path / "s.tar")) == {f"{s.key}.{s.suffix}": s.image for s in samples}


def test_equal_samples_give_equal_bytes(tmp_path: Path) -> None:
    (tmp_path / "again").mkdir()
    for folder in (tmp_path, tmp_path / "again"):
        write_shard(folder / "s.tar", make_samples(9))
    for name in ("s.tar", "s.idx"):
        assert (tmp_path / name).read_bytes() == (tmp_path / "again" / name).read_bytes()
    assert open_store(tmp_path / "s.tar").fingerprint == open_store(tmp_path / "again" / "s.tar").fingerprint


def test_an_index_of_another_file(tmp_path: Path) -> None:
    write_shard(tmp_path / "a.tar", make_samples(6))
    write_shard(tmp_path / "b.tar", make_samples(7))
    (tmp_path / "b.idx").replace(tmp_path / "a.idx")
    with pytest.raises(StoreError, match=r"a\.idx: is the index of another file"):
        open_store(tmp_path / "a.tar")


def test_a_damaged_index(tmp_path: Path) -> None:
    write_shard(tmp_path / "a.tar", make_samples(6))
    index = tmp_path / "a.idx"
    raw = bytearray(index.read_bytes())
    index.write_bytes(raw[:-1])
    with pytest.raises(StoreError, match="is truncated"):
        open_store(tmp_path / "a.tar")
    for k in range(6):
        struct.pack_into("<Q", raw, 64 + 32 * k, 99 + k)
    index.write_bytes(raw)
    with pytest.raises(StoreError, match=r"a\.(idx|tar)"):
        open_store(tmp_path / "a.tar")[0]
    with pytest.raises(StoreError, match="are not the images"):
        verify_shard(tmp_path / "a.tar")
    index.write_bytes(b"v1.2 1000\n")  # what another tool keeps beside a tar
    assert len(open_store(tmp_path / "a.tar")) == 6


def test_verify_notices_one_changed_byte(tmp_path: Path) -> None:
    write_shard(tmp_path / "a.tar", make_samples(6))
    raw = bytearray((tmp_path / "a.tar").read_bytes())
    raw[700] ^= 1
    (tmp_path / "a.tar").write_bytes(raw)
    with pytest.raises(StoreError, match="SHA-256 differs"):
        verify_shard(tmp_path / "a.tar")


def test_a_shard_that_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    good = make_samples(3)
    for wrong in (good[0], Sample(bytes(16), "a.b", "jpg", b""), Sample(good[0].id, "other", "jpg", b"")):
        with pytest.raises(ValueError, match="repeated"):
            write_shard(tmp_path / "a.tar", [*good, wrong])
    with pytest.raises(OutputError, match="cannot be written"):
        write_shard(tmp_path / "missing" / "a.tar", good)
    assert not os.path.exists(index_path(str(tmp_path / "a.tar")))
    assert list(tmp_path.glob("*.tar")) == list(tmp_path.glob(".*tmp")) == []


def test_a_corpus_folder_is_its_shards_whatever_pictures_lie_beside(tmp_path: Path) -> None:
    corpus = tmp_path / "corpus"
    samples = {}
    for generation, shard in ((1, 0), (1, 1), (2, 0)):
        inside = f"g{generation:04d}/shards/000/c-{shard}.tar"
        (corpus / inside).parent.mkdir(parents=True, exist_ok=True)
        found = make_samples(5, inside)
        write_shard(corpus / inside, found)
        samples |= {f"{inside}/{id_text(s.id)}": s.image for s in found}
    (corpus / "g0001/review").mkdir()
    (corpus / "g0001/review/pair.png").write_bytes(b"a picture of the review page")
    (corpus / "corpus.json").write_text("{}")
    assert contents(open_store(corpus)) == samples
