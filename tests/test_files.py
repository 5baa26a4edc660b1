"""Manners of the source that can be counted: sizes, docstrings, and calls that would execute what they read."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "src" / "selectivemae"
MAX_FILE = 400
MAX_FUNCTION = 60
EXECUTING = {"pickle", "dill", "cloudpickle", "marshal", "shelve", "joblib"}

Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
Function = ast.FunctionDef | ast.AsyncFunctionDef


def too_long(text: str, tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Files and functions over their limits; a function's docstring and signature count as well."""
    lines = text.count("\n")
    if lines > MAX_FILE:
        yield 1, f"the file has {lines} lines, more than {MAX_FILE}"
    for node in ast.walk(tree):
        if isinstance(node, Function) and (size := (node.end_lineno or 0) - node.lineno + 1) > MAX_FUNCTION:
            yield node.lineno, f"{node.name} has {size} lines, more than {MAX_FUNCTION}"


def undocumented(text: str, tree: ast.Module) -> Iterator[tuple[int, str]]:
    """The module, and its public functions and classes, that have no docstring."""
    if text.strip() and ast.get_docstring(tree) is None:
        yield 1, "the module has no docstring"
    for node in tree.body:
        if isinstance(node, Definition) and not node.name.startswith("_") and ast.get_docstring(node) is None:
            yield node.lineno, f"{node.name} has no docstring"


def public_methods(tree: ast.Module) -> Iterator[tuple[Function, str]]:
    """(method, class name) of every public method of a module's public classes."""
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            yield from ((f, node.name) for f in node.body if isinstance(f, Function) and not f.name.startswith("_"))


def unsafe(text: str, tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Imports and calls that execute or unpack what a stranger wrote, and handlers that swallow everything."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, f"imports {a.name}") for a in node.names if a.name in EXECUTING)
        elif isinstance(node, ast.ImportFrom) and node.module in EXECUTING:
            if [a.name for a in node.names] != ["UnpicklingError"]:
                yield node.lineno, f"imports from {node.module} more than the error that torch.load raises"
        elif isinstance(node, ast.ExceptHandler):
            everything = node.type is None or ast.unparse(node.type) == "BaseException"
            if everything and not (isinstance(last := node.body[-1], ast.Raise) and last.exc is None):
                yield node.lineno, "catches everything and does not raise it again"
        elif isinstance(node, ast.Call) and (complaint := unsafe_call(node)):
            yield node.lineno, complaint


def unsafe_call(node: ast.Call) -> str | None:
    """What is wrong with a call, if anything."""
    name = ast.unparse(node.func)
    given = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
    if name in ("eval", "exec", "os.system", "os.popen") or name.endswith((".extractall", "yaml.load")):
        return f"calls {name}"
    if name == "torch.load" and given.get("weights_only") != "True":
        return "calls torch.load without weights_only=True"
    if name.endswith("np.load") and given.get("allow_pickle", "False") != "False":
        return "calls numpy's load with allow_pickle"
    if given.get("shell", "False") != "False":
        return f"calls {name} with a shell"
    return None


def leftovers(text: str, tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Reminders that were never acted on."""
    for number, line in enumerate(text.splitlines(), 1):
        if found := re.search(r"\b(TODO|FIXME|XXX|HACK)\b", line):
            yield number, f"a {found.group()} is left"


RULES = [too_long, undocumented, unsafe, leftovers]


@pytest.mark.parametrize("rule", RULES)
def test_the_source_keeps_its_manners(rule):
    found = []
    for file in sorted(SOURCE.rglob("*.py")):
        text = file.read_text(encoding="utf-8")
        found += [f"{file.relative_to(ROOT)}:{line}: {what}" for line, what in rule(text, ast.parse(text))]
    assert found == []


def test_every_public_method_is_documented_once():
    """A method that several classes have, as implementations of one interface, is documented in one of them at least;
    ``forward`` is documented by the class."""
    methods = []
    for file in sorted(SOURCE.rglob("*.py")):
        found = public_methods(ast.parse(file.read_text(encoding="utf-8")))
        methods += [(f"{file.relative_to(ROOT)}:{method.lineno}: {owner}", method) for method, owner in found]
    documented = {"forward"} | {method.name for _, method in methods if ast.get_docstring(method)}
    assert [f"{where}.{method.name}" for where, method in methods if method.name not in documented] == []


@pytest.mark.parametrize(
    ("rule", "text", "line", "complaint"),
    [
        (too_long, "x = 1\n" * 401, 1, "401 lines"),
        (too_long, "def f():\n" + "    x = 1\n" * 60, 1, "f has 61 lines"),
        (undocumented, "x = 1\n", 1, "module"),
        (undocumented, '"""Doc."""\ndef f(): ...\n', 2, "f has"),
        (undocumented, '"""Doc."""\nclass A: ...\n', 2, "A has"),
        (unsafe, "import torch\ntorch.load(path)", 2, "weights_only"),
        (unsafe, "torch.load(path, weights_only=False)", 1, "weights_only"),
        (unsafe, "import pickle", 1, "imports pickle"),
        (unsafe, "def f():\n    from pickle import loads", 2, "imports from pickle"),
        (unsafe, "subprocess.run(line, shell=True)", 1, "shell"),
        (unsafe, "eval(text)", 1, "calls eval"),
        (unsafe, "archive.extractall(folder)", 1, "extractall"),
        (unsafe, "yaml.load(text)", 1, "yaml.load"),
        (unsafe, "try:\n    f()\nexcept:\n    pass", 3, "catches everything"),
        (leftovers, "x = 1  # TO" + "DO later", 1, "left"),
    ],
)
def test_a_breach_is_found(rule, text: str, line: int, complaint: str):
    ((found, what),) = rule(text, ast.parse(text))
    assert found == line
    assert complaint in what


@pytest.mark.parametrize(
    ("rule", "text"),
    [
        (too_long, "x = 1\n" * 400),
        (too_long, "def f():\n" + "    x = 1\n" * 59),
        (undocumented, '"""Doc."""\ndef _f(): ...\nclass _A:\n    def f(self): ...\n'),
        (
            undocumented,
            '"""Doc."""\nclass A:\n    """Doc."""\n    def __len__(self): ...\n    def forward(self): ...\n',
        ),
        (unsafe, "torch.load(path, weights_only=True)\nmodel.eval()\nyaml.safe_load(text)\nsubprocess.run(['a'])"),
    ],
)
def test_good_manners_are_left_alone(rule, text: str):
    assert list(rule(text, ast.parse(text))) == []


def test_each_test_file_has_a_name_of_its_own():
    """Without packages in ``tests`` two files of one name would shadow each other."""
    names = [file.name for file in (ROOT / "tests").rglob("test_*.py")]
    assert sorted(names) == sorted(set(names))
