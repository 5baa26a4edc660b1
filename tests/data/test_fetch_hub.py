"""Fetching from the hub, through huggingface_hub, against a stand-in on the loopback interface."""

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

COMMIT = "0123456789abcdef0123456789abcdef01234567"
FILES = {f"OpticalRS-4M.{suffix}": os.urandom(20_000) for suffix in ("z01", "z02", "zip")} | {"README.md": b"# card"}


class Hub(BaseHTTPRequestHandler):
    """What of a hub a data set's download needs; ``server.served`` may differ from what is announced."""

    protocol_version = "HTTP/1.1"
    server: Any

    def reply(self, content: bytes, status: int = 200, **headers: str) -> None:
        self.send_response(status)
        for key, value in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(key.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        prefix = f"/datasets/initiacms/OpticalRS-4M/resolve/{COMMIT}/"
        if path.startswith("/api/datasets/initiacms/OpticalRS-4M"):
            siblings = [
                {"rfilename": name, "size": len(data)}
                | ({"lfs": {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 130}}
                   if name != "README.md" else {})
                for name, data in [*FILES.items(), ("../evil.txt", b"x")]
            ]  # fmt: skip
            info = {"id": "initiacms/OpticalRS-4M", "sha": COMMIT, "siblings": siblings, "private": False, "tags": []}
            self.reply(json.dumps(info).encode(), Content_Type="application/json")
        elif path.startswith(prefix) and (name := path.removeprefix(prefix)) in FILES:
            if self.command == "GET":
                self.server.log.append(name)
            etag = hashlib.sha256(FILES[name]).hexdigest()
            self.reply(self.server.served.get(name, FILES[name]), ETag=f'"{etag}"', X_Repo_Commit=COMMIT)
        else:
            self.reply(b"", 404)

    do_HEAD = do_GET  # noqa: N815

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def hub() -> Iterator[Any]:
    server: Any = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.served, server.log = {}, []
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def get(hub: Any, tmp_path: Path) -> subprocess.CompletedProcess[str]:
    """``data get`` in a process of its own, as huggingface_hub reads its address once, at import."""
    environment = os.environ | {
        "HF_ENDPOINT": f"http://127.0.0.1:{hub.server_address[1]}",
        "HF_HOME": str(tmp_path / "home"),
        "HF_HUB_OFFLINE": "0",
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "NO_PROXY": "127.0.0.1",
    }
    command = [sys.executable, "-m", "selectivemae", "data", "get", "opticalrs-4m", "--out", str(tmp_path / "root")]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)


@pytest.mark.slow
def test_a_corpus_comes_whole_and_is_mended(hub: Any, tmp_path: Path) -> None:
    folder = tmp_path / "root" / "opticalrs-4m"
    hub.served["OpticalRS-4M.z02"] = bytes(20_000)  # of the announced size, with other content
    first = get(hub, tmp_path)
    assert first.returncode == 2
    assert "OpticalRS-4M.z02 is not what was published" in first.stderr
    assert first.stderr.count("Traceback") == 0
    assert not (folder / "OpticalRS-4M.z02").exists()

    hub.served.clear()
    second = get(hub, tmp_path)
    assert second.returncode == 0, second.stderr
    assert {name: (folder / name).read_bytes() for name in FILES} == FILES
    assert hub.log.count("OpticalRS-4M.z01") == 1  # it was there and right
    assert not (tmp_path / "root" / "evil.txt").exists()
    assert f"--data opticalrs-4m --data-root {tmp_path / 'root'}" in second.stdout


def test_no_network_is_one_line(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "selectivemae", "data", "get", "ucmerced", "--out", str(tmp_path)]
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "home")}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 2
    assert len(done.stderr.strip().splitlines()) == 1
    assert "hf:torchgeo/ucmerced: cannot be fetched" in done.stderr
