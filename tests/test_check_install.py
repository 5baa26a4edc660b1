"""tools/check_install.py on made-up environments: CUDA packages, conflicts, and pips that would fetch such things."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

TOOL = Path(__file__).resolve().parents[1] / "tools" / "check_install.py"


def run(path: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The tool in a fresh interpreter that finds the modules and packages of ``path`` first."""
    env = dict(os.environ, PYTHONPATH=str(path))
    command = [sys.executable, str(TOOL), *arguments]
    return subprocess.run(command, env=env, capture_output=True, text=True, check=False)


def make_pip(folder: Path, output: str, code: int = 0) -> None:
    """A pip that prints something and ends."""
    (folder / "pip.py").write_text(f"import sys\nprint({output!r})\nsys.exit({code})\n")


def make_torch(folder: Path, cuda: str | None) -> None:
    """A torch that says what it was built for."""
    (folder / "torch").mkdir()
    (folder / "torch" / "__init__.py").write_text("")
    (folder / "torch" / "version.py").write_text(f"cuda = {cuda!r}\n")


def make_distribution(folder: Path, name: str) -> None:
    """The record of an installed distribution."""
    info = folder / f"{name.replace('-', '_')}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")


def test_a_cpu_build_without_conflicts_passes(tmp_path: Path):
    make_pip(tmp_path, "No broken requirements found.")
    make_torch(tmp_path, None)
    done = run(tmp_path)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("name", ["nvidia-cublas", "nvidia-nccl-cu13", "cuda-bindings", "NVIDIA_cudnn"])
def test_a_cuda_package_fails(tmp_path: Path, name: str):
    make_pip(tmp_path, "No broken requirements found.")
    make_torch(tmp_path, None)
    make_distribution(tmp_path, name)
    done = run(tmp_path)
    assert done.returncode == 1
    assert name in done.stderr
    assert "make install CPU=0" in done.stderr


def test_a_cuda_build_of_torch_fails(tmp_path: Path):
    make_pip(tmp_path, "No broken requirements found.")
    make_torch(tmp_path, "13.0")
    done = run(tmp_path)
    assert done.returncode == 1
    assert "CUDA 13.0" in done.stderr


def test_packages_that_do_not_fit_together_fail(tmp_path: Path):
    make_pip(tmp_path, "timm 1.0 requires torchvision, which is not installed.", code=1)
    make_torch(tmp_path, None)
    done = run(tmp_path)
    assert done.returncode == 1
    assert "timm 1.0 requires torchvision" in done.stderr


@pytest.mark.parametrize(("extra", "code"), [("numpy", 0), ("nvidia-cublas", 1)])
def test_the_plan_fails_before_cuda_packages_are_fetched(tmp_path: Path, extra: str, code: int):
    report = {"install": [{"metadata": {"name": name}} for name in ("torch", extra)]}
    make_pip(tmp_path, json.dumps(report))
    done = run(tmp_path, "--plan")
    assert done.returncode == code
    assert (extra in done.stderr) == bool(code)


def test_a_pip_that_finds_no_torch_is_quoted(tmp_path: Path):
    (tmp_path / "pip.py").write_text("import sys\nsys.exit('ERROR: no matching distribution\\n')\n")
    done = run(tmp_path, "--plan")
    assert done.returncode == 1
    assert "no matching distribution" in done.stderr
