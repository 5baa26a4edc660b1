"""The layout's own rules: imports go down the floors only, and what shall work without torch does.

Every import statement of ``src/selectivemae`` is read, also those inside functions and under ``TYPE_CHECKING``, and
``import_module("...")`` with a constant name. The package's own ``__init__.py`` may name every room, but lazily.
"""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

FLOORS = {
    "__main__": 7,  # the door: calls cli, and nothing calls it
    "cli": 6,
    "reports": 5,
    "curation": 4,
    "pretrain": 4,
    "probing": 4,
    "tasks": 4,
    "scenes": 4,
    "study": 4,
    "engine": 3,
    "weights": 3,
    "models": 2,
    "data": 2,
    "ops": 1,
    "distributed": 1,
    "core": 0,
    "recipes": 0,
}
WITHOUT_TORCH = ("core", "reports", "curation/hash*", "curation/search*")
PACKAGE = "selectivemae"
SOURCE = Path(__file__).resolve().parents[1] / "src" / PACKAGE


def module_name(file: Path, source: Path) -> str:
    """The dotted name of a file of the package."""
    parts = file.relative_to(source.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported(file: Path, source: Path) -> Iterator[tuple[int, str]]:
    """(line, dotted name) of everything of the package that a file imports; a name imported from a module counts as
    ``module.name``, whether it is a module or not."""
    module = module_name(file, source)
    package = module if file.name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"), str(file))):
        if not isinstance(node, ast.Import | ast.ImportFrom | ast.Call):
            continue
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            parents = package.split(".")
            base = ".".join(parents[: len(parents) - node.level + 1]) if node.level else ""
            origin = ".".join(part for part in (base, node.module) if part)
            names = [f"{origin}.{alias.name}" for alias in node.names]
        elif node.args and isinstance(node.args[0], ast.Constant):
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if called in ("import_module", "__import__"):
                names = [str(node.args[0].value)]
        yield from ((node.lineno, name) for name in names if name.split(".")[0] == PACKAGE)


def violations(source: Path) -> list[str]:
    """Every import that goes up, sideways, or through the package's own front door, as ``file:line: what``."""
    found = []
    for file in sorted(source.rglob("*.py")):
        where = file.relative_to(source)
        room = where.with_suffix("").parts[0]
        if room == "__init__":
            continue
        if room not in FLOORS:
            found.append(f"{where}:1: {room} stands on no floor; name it in FLOORS")
            continue
        for line, name in imported(file, source):
            target = name.split(".")[1] if "." in name else ""
            if target == room:
                continue
            if target not in FLOORS:
                found.append(f"{where}:{line}: imports {name}, which is in no room")
            elif FLOORS[target] >= FLOORS[room]:
                way = "up" if FLOORS[target] > FLOORS[room] else "sideways"
                found.append(f"{where}:{line}: {room} (floor {FLOORS[room]}) imports {way}: {name}")
    return found


def run_without(blocked: tuple[str, ...], code: str) -> subprocess.CompletedProcess[str]:
    """Run code in a fresh interpreter in which the blocked modules cannot be imported."""
    head = f"import sys\nfor name in {blocked!r}: sys.modules[name] = None\n"
    return subprocess.run([sys.executable, "-c", head + code], capture_output=True, text=True, check=False)


def test_imports_go_down_only():
    assert violations(SOURCE) == []


@pytest.mark.parametrize(
    ("file", "line", "complaint"),
    [
        ("core/a.py", "from selectivemae.ops import b", "core (floor 0) imports up"),
        ("core/a.py", "def f():\n    import selectivemae.engine.loop", "core (floor 0) imports up"),
        ("ops/a.py", "from ..distributed.launch import b", "ops (floor 1) imports sideways"),
        ("data/stores/a.py", "from ...models import vit", "data (floor 2) imports sideways"),
        ("data/__init__.py", "from ..models import vit", "data (floor 2) imports sideways"),
        ("engine/a.py", "from selectivemae import pretrain", "engine (floor 3) imports up"),
        ("pretrain/a.py", "import importlib\nimportlib.import_module('selectivemae.probing.knn')", "sideways"),
        ("pretrain/a.py", "import selectivemae", "which is in no room"),
        ("cli/a.py", "from selectivemae import create_model", "which is in no room"),
        ("attic/a.py", "", "attic stands on no floor"),
    ],
)
def test_a_wrong_import_is_found(tmp_path: Path, file: str, line: str, complaint: str):
    source = tmp_path / PACKAGE
    (source / file).parent.mkdir(parents=True)
    (source / file).write_text(line)
    (message,) = violations(source)
    assert message.startswith(f"{file}:{line.count(chr(10)) + 1}: ")
    assert complaint in message


def test_imports_downwards_within_a_room_and_from_elsewhere_are_fine(tmp_path: Path):
    source = tmp_path / PACKAGE
    (source / "data" / "stores").mkdir(parents=True)
    (source / "__init__.py").write_text("from selectivemae.cli import main")
    (source / "data" / "stores" / "a.py").write_text(
        "import torch\nimport selectivemae.core.errors\nfrom . import b\nfrom ..batch import B\nfrom ...ops import c"
    )
    assert violations(source) == []


@pytest.mark.parametrize("room", WITHOUT_TORCH)
def test_works_without_torch(room: str):
    roots = sorted(SOURCE.glob(room))
    files = [file for root in roots for file in (sorted(root.rglob("*.py")) if root.is_dir() else [root])]
    if not files:
        pytest.skip(f"there is no {room} yet")
    names = [module_name(file, SOURCE) for file in files if file.suffix == ".py"]
    done = run_without(("torch",), f"import importlib\nfor name in {names!r}: importlib.import_module(name)")
    assert done.returncode == 0, done.stderr


def test_the_package_itself_imports_nothing_heavy():
    done = run_without(
        ("torch", "timm", "torchvision", "numpy", "scipy", "matplotlib", "pyarrow"),
        "import selectivemae\nprint([n for n in sys.modules if n.startswith('selectivemae.')])",
    )
    assert done.returncode == 0, done.stderr


def test_help_needs_no_torch():
    code = (
        "import runpy\n"
        "sys.argv = ['selectivemae', '--help']\n"
        "runpy.run_module('selectivemae', run_name='__main__', alter_sys=True)"
    )
    done = run_without(("torch", "timm", "torchvision"), code)
    assert done.returncode == 0, done.stderr
    assert "pretrain" in done.stdout
