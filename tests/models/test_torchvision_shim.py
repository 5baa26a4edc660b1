"""The torchvision shim, each case in a fresh process because imports and operator declarations cannot be undone."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

SHIM = "from selectivemae.models._torchvision import ensure_torchvision\n"

FAKE = """
import torch
try:
    torch.library.register_fake("torchvision::nms", lambda dets, scores, iou_threshold: dets)
except RuntimeError as error:
    raise RuntimeError("operator torchvision::nms does not exist") from error
"""


def run(code: str, path: Path | None = None) -> str:
    """The output of a fresh interpreter, with ``path`` first on its module path."""
    env = dict(os.environ, PYTHONPATH=str(path)) if path else dict(os.environ)
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def fake_torchvision(folder: Path, body: str) -> Path:
    """A package named torchvision that counts in a file how often it was imported."""
    package = folder / "torchvision"
    package.mkdir()
    count = "from pathlib import Path\nPath(__file__).with_name('count').open('a').write('x')\n"
    (package / "__init__.py").write_text(count + "import torchvision.part\n" + body)
    (package / "part.py").write_text("")
    return package / "count"


def test_the_installed_torchvision_and_timm_import_after_it():
    code = SHIM + (
        "import torch\n"
        "first = ensure_torchvision()\n"
        "assert ensure_torchvision() is first\n"
        "import timm\n"
        "from torchvision.transforms.v2.functional import horizontal_flip\n"
        "x = torch.arange(6).reshape(1, 2, 3)\n"
        "assert torch.equal(horizontal_flip(x), x.flip(-1))\n"
        "print(timm.create_model('test_vit', pretrained=False)(torch.zeros(1, 3, 160, 160)).shape[1])\n"
    )
    assert run(code) == "1000"


def test_a_torchvision_without_its_operators_is_imported_again_with_them(tmp_path: Path):
    count = fake_torchvision(tmp_path, FAKE)
    code = SHIM + "import gc, torch; ensure_torchvision(); gc.collect(); print(torch.ops.torchvision.qnms.default)"
    assert run(code, tmp_path) == "torchvision.qnms.default"
    assert count.read_text() == "xx"


def test_a_healthy_torchvision_is_imported_once_and_no_operator_is_declared(tmp_path: Path):
    count = fake_torchvision(tmp_path, "import torch\nlib = torch.library.Library('torchvision', 'DEF')\n")
    code = SHIM + "import torch; ensure_torchvision(); print(hasattr(torch.ops.torchvision, 'nms'))"
    assert run(code, tmp_path) == "False"
    assert count.read_text() == "x"


@pytest.mark.parametrize("failure", ["RuntimeError('another trouble')", "ImportError('no such library')"])
def test_another_failure_is_raised_as_it_is(tmp_path: Path, failure: str):
    fake_torchvision(tmp_path, f"raise {failure}\n")
    code = SHIM + (
        "try:\n    ensure_torchvision()\nexcept (RuntimeError, ImportError) as error:\n    print(repr(error))\n"
    )
    assert run(code, tmp_path) == failure
