"""Fetching and pushing through huggingface_hub, against a stand-in for the hub on the loopback interface."""

import hashlib
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from synthetic_weights import vit

from selectivemae.weights.info import EncoderInfo, write_encoder

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub(BaseHTTPRequestHandler):
    """The few answers of a hub that a download and an upload need; files live in ``server.files``."""

    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:
        return

    def reply(self, content: bytes = b"", status: int = 200, **headers: str) -> None:
        self.send_response(status)
        for key, value in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(key.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def answer(self, value: object) -> None:
        self.reply(json.dumps(value).encode(), Content_Type="application/json")

    def body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        out = b""
        while size := int(self.rfile.readline(), 16):
            out += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return out

    @property
    def files(self) -> dict[str, bytes]:
        return self.server.files  # pyright: ignore[reportAttributeAccessIssue]

    def do_GET(self) -> None:
        path = self.path.split("?")[0]
        if "/resolve/" in path:
            name = path.split("/resolve/")[1].split("/", 1)[1]
            if name not in self.files:
                return self.reply(status=404, X_Error_Code="EntryNotFound")
            content = self.files[name]
            digest = hashlib.sha256(content).hexdigest()
            return self.reply(content, ETag=f'"{digest}"', X_Repo_Commit=COMMIT)
        if path.startswith("/api/models/"):
            entries = [{"rfilename": name} for name in self.files]
            if "/tree/" in path:
                tree = [{"type": "file", "path": n, "size": len(c), "oid": "0" * 40} for n, c in self.files.items()]
                return self.answer(tree)
            return self.answer({"id": "owner/name", "sha": COMMIT, "siblings": entries, "private": False, "tags": []})
        return self.reply(status=404)

    do_HEAD = do_GET  # noqa: N815

    def do_POST(self) -> None:
        body, host = self.body(), f"http://{self.headers['Host']}"
        if self.path.startswith("/api/repos/create"):
            return self.answer({"url": f"{host}/owner/name", "name": "owner/name", "id": "owner/name"})
        if self.path.startswith("/api/validate-yaml"):
            return self.answer({"errors": [], "warnings": []})
        if "/preupload/" in self.path:
            asked = json.loads(body)["files"]
            modes = [("lfs" if f["path"].endswith(".safetensors") else "regular", f["path"]) for f in asked]
            return self.answer({"files": [{"path": p, "uploadMode": mode, "shouldIgnore": False} for mode, p in modes]})
        if self.path.endswith("/info/lfs/objects/batch"):
            objects = json.loads(body)["objects"]
            actions = [{"upload": {"href": f"{host}/put/{o['oid']}"}} for o in objects]
            return self.answer(
                {"transfer": "basic", "objects": [{**o, "actions": a} for o, a in zip(objects, actions, strict=True)]}
            )
        if "/commit/" in self.path:
            lines = [json.loads(line) for line in body.splitlines()]
            self.server.commits.append(lines)  # pyright: ignore[reportAttributeAccessIssue]
            return self.answer(
                {"success": True, "commitOid": COMMIT, "commitUrl": f"{host}/owner/name/commit/{COMMIT}"}
            )
        return self.reply(status=404)

    def do_PUT(self) -> None:
        self.server.uploads[self.path.rsplit("/", 1)[1]] = self.body()  # pyright: ignore[reportAttributeAccessIssue]
        self.reply()


@pytest.fixture
def hub() -> Iterator[ThreadingHTTPServer]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.files, server.uploads, server.commits = {}, {}, []  # pyright: ignore[reportAttributeAccessIssue]
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()


def run(hub: ThreadingHTTPServer, home: Path, code: str) -> str:
    """Run code in a process whose hub is the stand-in (huggingface_hub reads its address once, at import)."""
    environment = {
        "HF_ENDPOINT": f"http://127.0.0.1:{hub.server_address[1]}",
        "HF_HOME": str(home),
        "HF_TOKEN": "hf_stand_in",
        "HF_HUB_OFFLINE": "0",
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "OMP_NUM_THREADS": "1",
        "NO_PROXY": "127.0.0.1",
        "PATH": "/usr/bin:/bin",
    }
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_weights_come_from_the_hub(hub: ThreadingHTTPServer, tmp_path: Path) -> None:
    write_encoder(tmp_path / "e.safetensors", vit(depth=12).state_dict(), EncoderInfo("vit_tiny_patch16_224", (64, 64)))
    content = (tmp_path / "e.safetensors").read_bytes()
    hub.files |= {"encoder.safetensors": content, "README.md": b"# a model"}  # pyright: ignore
    code = """
from selectivemae.core.errors import WeightsError
from selectivemae.weights.load import load_encoder
print(load_encoder("hf:owner/name").pretrained_cfg["input_size"])
print(load_encoder("hf:owner/name/encoder.safetensors").pretrained_cfg["input_size"])
try:
    load_encoder("hf:owner/name/absent.pth")
except WeightsError as error:
    print(error)
"""
    lines = run(hub, tmp_path / "home", code).splitlines()
    assert lines[:2] == ["(3, 64, 64)"] * 2
    assert lines[2] == "hf:owner/name: no file 'absent.pth'; its weights: encoder.safetensors"


@pytest.mark.slow
def test_a_folder_is_pushed_whole(hub: ThreadingHTTPServer, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "README.md").write_text("# a model\n")
    (folder / "model.safetensors").write_bytes(b"weights" * 100)
    code = f"""
from pathlib import Path
from selectivemae.weights.hub import push
print(push(Path({str(folder)!r}), "owner/name", private=True, message="First"))
"""
    assert run(hub, tmp_path / "home", code).strip().endswith("/owner/name")
    (commit,) = hub.commits  # pyright: ignore[reportAttributeAccessIssue]
    assert commit[0]["value"]["summary"] == "First"
    assert {line["value"]["path"] for line in commit[1:]} == {"config.json", "README.md", "model.safetensors"}
    assert list(hub.uploads.values()) == [b"weights" * 100]  # pyright: ignore[reportAttributeAccessIssue]
