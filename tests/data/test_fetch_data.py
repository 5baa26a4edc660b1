"""Fetching by HTTP against a local server that breaks off, lies and refuses; and who may not be fetched at all."""

import hashlib
import http.server
import os
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from selectivemae.core.errors import DataError, OutputError
from selectivemae.core.files import locked
from selectivemae.data import fetch as fetching
from selectivemae.data.catalogue import Download, Known, find
from selectivemae.data.fetch import download, fetch

CONTENT = os.urandom(300_000)
DIGEST = "md5:" + hashlib.md5(CONTENT).hexdigest()


class Server(http.server.BaseHTTPRequestHandler):
    """Serves CONTENT with ranges; ``faults`` says what goes wrong with the next requests, ``log`` what was asked."""

    def __init__(self, *args: object, faults: list[str], log: list[str], **options: object) -> None:
        self.faults, self.log = faults, log
        super().__init__(*args, **options)  # type: ignore[arg-type]

    def do_GET(self) -> None:
        fault = self.faults.pop(0) if self.faults else ""
        asked = self.headers.get("Range", "")
        self.log.append(asked)
        if fault.isdigit():
            self.send_error(int(fault))
            return
        start = int(asked.removeprefix("bytes=").rstrip("-") or 0) if fault != "no ranges" else 0
        if start >= len(CONTENT):
            self.send_error(416)
            return
        body = CONTENT[start:] if fault != "wrong" else bytes(len(CONTENT) - start)
        self.send_response(206 if start else 200)
        if fault != "no length":
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write({"cut": body[: len(body) // 2], "nothing": b""}.get(fault, body))

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Download, list[str], list[str]]]:
    """The file to fetch, the faults to come, and the ranges that were asked for."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(fetching, "_PAUSE_S", 0.001)
    faults: list[str] = []
    log: list[str] = []
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Server, faults=faults, log=log))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    url = f"http://127.0.0.1:{server.server_port}/data.zip"
    yield Download(file="data.zip", url=url, digest=DIGEST), faults, log
    server.shutdown()
    server.server_close()
    thread.join()


def silent(share: float, text: str) -> None:
    assert 0 <= share <= 1


def test_a_file_comes_once(served: tuple[Download, list[str], list[str]], tmp_path: Path) -> None:
    file, _, log = served
    for _ in range(2):
        assert download(file, tmp_path, silent).read_bytes() == CONTENT
    assert log == [""]
    (tmp_path / "data.zip").write_bytes(b"damaged")
    assert download(file, tmp_path, silent).read_bytes() == CONTENT
    assert [p.name for p in tmp_path.iterdir()] == ["data.zip"]


def test_what_breaks_off_goes_on_where_it_was(served: tuple[Download, list[str], list[str]], tmp_path: Path) -> None:
    file, faults, log = served
    faults += ["cut", "503", "cut"]
    assert download(file, tmp_path, silent).read_bytes() == CONTENT
    assert log == ["", "bytes=150000-", "bytes=150000-", "bytes=225000-"]


def test_a_later_call_goes_on(served: tuple[Download, list[str], list[str]], tmp_path: Path) -> None:
    file, faults, log = served
    faults += ["cut", *["500"] * 5]
    with pytest.raises(DataError, match=r"data\.zip: cannot be fetched \(the server says 500 .*call again"):
        download(file, tmp_path, silent)
    assert (tmp_path / ".data.zip.part").read_bytes() == CONTENT[:150_000]
    assert download(file, tmp_path, silent).read_bytes() == CONTENT
    assert log[-1] == "bytes=150000-"


def test_a_server_without_ranges_begins_anew(served: tuple[Download, list[str], list[str]], tmp_path: Path) -> None:
    file, faults, _ = served
    faults += ["cut", "no ranges"]
    assert download(file, tmp_path, silent).read_bytes() == CONTENT


def test_a_part_that_is_the_whole_is_taken(served: tuple[Download, list[str], list[str]], tmp_path: Path) -> None:
    (tmp_path / ".data.zip.part").write_bytes(CONTENT)
    assert download(served[0], tmp_path, silent).read_bytes() == CONTENT


def test_a_part_of_something_else_is_replaced(served: tuple[Download, list[str], list[str]], tmp_path: Path) -> None:
    (tmp_path / ".data.zip.part").write_bytes(bytes(len(CONTENT) + 9))
    assert download(served[0], tmp_path, silent).read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("faults", "message"),
    [
        (["wrong"], "is not what was published"),
        (["404"], "404 Not Found"),
        (["no length"], "does not tell the size"),
        (["nothing"] * 5, "ended early"),
    ],
)
def test_what_cannot_be_mended_is_said(
    served: tuple[Download, list[str], list[str]], tmp_path: Path, faults: list[str], message: str
) -> None:
    served[1].extend(faults)
    with pytest.raises(DataError, match=message):
        download(served[0], tmp_path, silent)
    assert not (tmp_path / "data.zip").exists()
    if message.startswith("is not"):
        assert list(tmp_path.iterdir()) == []


def test_a_data_set_comes_into_its_folder(served: tuple[Download, list[str], list[str]], tmp_path: Path) -> None:
    entry = find("loveda").model_copy(update={"files": (served[0],)})
    folder = fetch(entry, tmp_path / "new" / "root", silent)
    assert folder == tmp_path / "new" / "root" / "loveda"
    assert (folder / "data.zip").read_bytes() == CONTENT
    with locked(folder), pytest.raises(OutputError, match="in use"):
        fetch(entry, tmp_path / "new" / "root", silent)


def test_a_full_disk_is_noticed_before(
    served: tuple[Download, list[str], list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Usage:
        free = 1000

    monkeypatch.setattr(fetching.shutil, "disk_usage", lambda folder: Usage)
    with pytest.raises(OutputError, match="are free"):
        download(served[0], tmp_path, silent)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["aid", "dior", "dota", "hrsc2016", "millionaid"])
def test_what_only_a_person_can_fetch_is_said(name: str, tmp_path: Path) -> None:
    entry: Known = find(name)
    with pytest.raises(DataError) as caught:
        fetch(entry, tmp_path, silent)
    message = str(caught.value)
    assert entry.by_hand in message
    assert entry.layout in message
    assert "\n" not in message
    assert list(tmp_path.iterdir()) == []
