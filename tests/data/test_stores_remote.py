"""Stores behind URLs: a local HTTP server with range requests, and fsspec's file system in memory."""

import http.server
import io
import os
import pickle
import tarfile
import threading
import zipfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import fsspec
import pytest

from selectivemae.core.errors import StoreError
from selectivemae.data.stores import Store, open_store, open_stores, remote
from selectivemae.data.stores.remote import RemoteFile
from selectivemae.data.stores.shards import Sample, id_text, write_shard

MEMBERS = {f"class/{i:02d}.jpg": os.urandom(3000 + i) for i in range(20)}
SAMPLES = [Sample(bytes([255 - i] * 16), f"key-{i}", "jpg", os.urandom(500 + i)) for i in range(9)]


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SELECTIVEMAE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(remote, "_PAUSE_S", 0.001)


class Server(http.server.SimpleHTTPRequestHandler):
    """Serves a folder with range requests; ``faults`` says what to do wrong with the next GETs."""

    protocol_version = "HTTP/1.1"

    def __init__(self, *args: object, faults: list[str], log: list[str], **options: object) -> None:
        self.faults, self.log = faults, log
        super().__init__(*args, **options)  # type: ignore[arg-type]

    def do_GET(self) -> None:
        fault = self.faults.pop(0) if self.faults else ""
        path = Path(self.translate_path(self.path.partition("?")[0]))
        if not path.is_file() or fault.isdigit():
            self.log += [fault] if fault else []
            self.send_error(int(fault) if fault else 404)
            return
        self.log.append(self.headers.get("Range", ""))
        if fault == "garbled":
            self.wfile.write(b"no HTTP at all\r\n\r\n")
            self.close_connection = True
            return
        data = path.read_bytes()
        first, _, last = self.headers.get("Range", "bytes=0-").removeprefix("bytes=").partition("-")
        body = data[int(first) : int(last) + 1 if last else None] if fault != "no ranges" else data
        self.send_response(206 if fault != "no ranges" else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: len(body) // 2] if fault == "cut" else body)
        if fault == "cut":
            self.close_connection = True

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[str, Path, list[str], list[str]]]:
    """URL and folder of a server, its faults to come and the ranges it was asked for."""
    pytest.importorskip("aiohttp")
    folder = tmp_path / "served"
    folder.mkdir()
    faults: list[str] = []
    log: list[str] = []
    server = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), partial(Server, directory=str(folder), faults=faults, log=log)
    )
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", folder, faults, log
    server.shutdown()
    server.server_close()
    thread.join()


def tar_bytes(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def contents(store: Store) -> dict[str, bytes]:
    return {store.id(i): store[i] for i in range(len(store))}


def test_a_tar_over_http_is_indexed_once_and_read_by_ranges(
    served: tuple[str, Path, list[str], list[str]], tmp_path: Path
) -> None:
    url, folder, _, log = served
    (folder / "a.tar").write_bytes(tar_bytes(MEMBERS))
    store = pickle.loads(pickle.dumps(open_store(f"{url}/a.tar")))
    assert contents(store) == {f"a.tar/{name}": data for name, data in MEMBERS.items()}
    assert "" not in log, "a whole file was asked for"
    log.clear()
    again = open_store(f"{url}/a.tar?token=secret")
    assert again.fingerprint == store.fingerprint
    assert again.id(0) == "a.tar/class/00.jpg"
    log.clear()
    assert again[3] == MEMBERS["class/03.jpg"]
    assert len(log) == 1
    (tmp_path / "a.tar").write_bytes(tar_bytes(MEMBERS))
    assert open_store(tmp_path / "a.tar").fingerprint == store.fingerprint


def test_a_tar_that_changes_on_the_server_is_indexed_again(served: tuple[str, Path, list[str], list[str]]) -> None:
    url, folder, _, _ = served
    for count in (3, 5):
        (folder / "a.tar").write_bytes(tar_bytes(dict(list(MEMBERS.items())[:count])))
        os.utime(folder / "a.tar", (count, count))
        assert len(open_store(f"{url}/a.tar")) == count


def test_shards_and_ranges_of_names_over_http(served: tuple[str, Path, list[str], list[str]]) -> None:
    url, folder, _, log = served
    write_shard(folder / "s-000.tar", SAMPLES)
    write_shard(folder / "s-001.tar", SAMPLES[:4])
    store = open_store(f"{url}/s-{{000..001}}.tar")
    expected = {f"s-000.tar/{id_text(s.id)}": s.image for s in SAMPLES}
    assert contents(store) == expected | {f"s-001.tar/{id_text(s.id)}": s.image for s in SAMPLES[:4]}
    log.clear()
    open_store(f"{url}/s-{{000..001}}.tar")
    assert log == [], "the side indexes are fetched once"


@pytest.mark.parametrize("fault", ["500", "503", "429", "cut", "garbled"])
def test_what_fails_for_a_while_is_tried_again(served: tuple[str, Path, list[str], list[str]], fault: str) -> None:
    url, folder, faults, log = served
    (folder / "a.tar").write_bytes(tar_bytes(MEMBERS))
    file = RemoteFile.at(f"{url}/a.tar")
    faults += [fault] * 4
    assert file.read(512, 3000) == MEMBERS["class/00.jpg"]
    assert len(log) == 5


@pytest.mark.parametrize(
    ("fault", "tries", "message"),
    [
        ("500", 5, "500"),
        ("cut", 5, "check server and connection"),
        ("403", 1, "403"),
        ("no ranges", 1, "answers a range with more"),
    ],
)
def test_what_goes_on_failing_is_an_error_that_names_the_url(
    served: tuple[str, Path, list[str], list[str]], fault: str, tries: int, message: str
) -> None:
    url, folder, faults, log = served
    (folder / "a.tar").write_bytes(tar_bytes(MEMBERS))
    file = RemoteFile.at(f"{url}/a.tar")
    faults += [fault] * 9
    with pytest.raises(StoreError, match=rf"{url}/a\.tar: .*{message}"):
        file.read(512, 3000)
    assert len(log) == tries


def test_a_silent_server(served: tuple[str, Path, list[str], list[str]], monkeypatch: pytest.MonkeyPatch) -> None:
    url, folder, _, _ = served
    (folder / "a.tar").write_bytes(tar_bytes(MEMBERS))
    monkeypatch.setattr(remote, "_SILENCE_S", 0.05)
    file = RemoteFile.at(f"{url}/a.tar")
    release = threading.Event()
    monkeypatch.setattr(Server, "do_GET", lambda self: release.wait(5))
    with pytest.raises(StoreError, match=r"a\.tar: cannot be read"):
        file.read(0, 10)
    release.set()


def test_what_is_not_there(served: tuple[str, Path, list[str], list[str]]) -> None:
    with pytest.raises(StoreError, match=rf"{served[0]}/absent\.tar: is not there"):
        open_store(f"{served[0]}/absent.tar")
    with pytest.raises(StoreError) as caught:
        open_store(f"{served[0]}/absent.tar?token=secret")
    assert "secret" not in str(caught.value)
    with pytest.raises(StoreError, match=r"nosuchprotocol://x/a\.tar"):
        open_store("nosuchprotocol://x/a.tar")


def test_a_side_index_that_cannot_be_looked_up_is_not_taken_for_missing(
    served: tuple[str, Path, list[str], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    url, folder, faults, _ = served
    write_shard(folder / "s.tar", SAMPLES)
    ordinary = Server.do_HEAD

    def head(self: Server) -> None:
        if ".idx" in self.path and self.faults:
            self.do_GET()  # an error, of which a HEAD gets the headers alone
        else:
            ordinary(self)

    monkeypatch.setattr(Server, "do_HEAD", head)
    faults += ["500"] * 2
    assert len(open_store(f"{url}/s.tar")) == len(SAMPLES)
    faults += ["500"] * 99
    with pytest.raises(StoreError, match=r"s\.idx: cannot be read"):
        open_store(f"{url}/s.tar")


def test_a_truncated_remote_tar(served: tuple[str, Path, list[str], list[str]]) -> None:
    url, folder, _, _ = served
    (folder / "a.tar").write_bytes(tar_bytes(MEMBERS)[:9000])
    with pytest.raises(StoreError, match=rf"{url}/a\.tar: ends inside .*truncated"):
        open_store(f"{url}/a.tar")


@pytest.fixture
def memory() -> Iterator[fsspec.AbstractFileSystem]:
    filesystem = fsspec.filesystem("memory")
    yield filesystem
    filesystem.rm("/", recursive=True)


def test_tars_shards_and_zips_in_memory(memory: fsspec.AbstractFileSystem, tmp_path: Path) -> None:
    memory.pipe("/bucket/deep/a.tar", tar_bytes(MEMBERS))
    write_shard(tmp_path / "s.tar", SAMPLES)
    for name in ("s.tar", "s.idx"):
        memory.pipe(f"/bucket/{name}", (tmp_path / name).read_bytes())
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in MEMBERS.items():
            archive.writestr(name, data)
    memory.pipe("/other/z.zip", buffer.getvalue())
    memory.pipe("/bucket/README.md", b"text")
    tars = {f"a.tar/{name}": data for name, data in MEMBERS.items()}
    shard = {f"s.tar/{id_text(s.id)}": s.image for s in SAMPLES}
    assert contents(open_store("memory://bucket")) == tars | shard
    assert contents(open_store("memory://bucket/*.tar")) == shard
    zipped = {f"z.zip/{name}": data for name, data in MEMBERS.items()}
    assert contents(open_stores(["memory://other/z.zip", "memory://bucket/deep"])) == zipped | tars
    memory.pipe("/none/a.txt", b"")
    with pytest.raises(StoreError, match="memory://none: holds no tar"):
        open_store("memory://none")
