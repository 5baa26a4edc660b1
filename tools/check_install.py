"""Does this environment hold a CPU build of torch, as asked for, and do its packages fit together?

    python tools/check_install.py --plan      before the install: what would pip fetch for torch?
    python tools/check_install.py             after it: what is there?

A package index may give a CUDA build of torch (3 GB) where a CPU build was meant, and pip then replaces the one that
is already there without a word. Exit code 1 and one line say so. Standard library only: it runs before anything is
installed.
"""

import argparse
import json
import re
import subprocess
import sys
from collections.abc import Iterable
from importlib.metadata import distributions

CUDA = re.compile(r"(nvidia|cuda)[-_.]", re.IGNORECASE)
REMEDY = (
    "On a machine with a GPU say `make install CPU=0`; otherwise let pip see the CPU builds of the PyTorch project "
    "(README, installation; variable PIP_EXTRA_INDEX_URL), then repeat."
)


def main() -> int:
    """Run the check that the command line asks for; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--plan", action="store_true", help="ask pip what it would install, and install nothing")
    complaints = list(planned() if parser.parse_args().plan else installed())
    for complaint in complaints:
        print(f"check_install: {complaint}", file=sys.stderr)
    return 1 if complaints else 0


def planned() -> Iterable[str]:
    """What is wrong with the packages that pip would fetch for torch."""
    done = pip("install", "--dry-run", "--quiet", "--ignore-installed", "--report", "-", "torch")
    if done.returncode:
        yield f"pip finds no torch to install: {last_line(done.stderr)}"
        return
    report = json.loads(done.stdout)
    names = sorted(item["metadata"]["name"] for item in report["install"])
    if found := cuda_names(names):
        yield f"pip would install a CUDA build of torch with {', '.join(found)}. {REMEDY}"


def installed() -> Iterable[str]:
    """What is wrong with the packages that are there."""
    if found := cuda_names(d.metadata["Name"] for d in distributions()):
        yield f"CUDA packages are installed: {', '.join(found)}. {REMEDY}"
    try:
        from torch.version import cuda
    except ImportError as error:
        yield f"torch cannot be imported: {error}. Say `make clean install`."
        return
    if cuda is not None:
        yield f"torch is a build for CUDA {cuda}. {REMEDY}"
    checked = pip("check")
    if checked.returncode:
        yield f"packages do not fit together: {'; '.join(checked.stdout.splitlines()) or last_line(checked.stderr)}"


def cuda_names(names: Iterable[str]) -> list[str]:
    """Those of the distribution names that bring CUDA libraries, sorted."""
    return sorted(name for name in set(names) if CUDA.match(name))


def last_line(text: str) -> str:
    """The last line that says something, or nothing."""
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "")


def pip(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run this interpreter's pip; the caller judges its return code."""
    return subprocess.run([sys.executable, "-m", "pip", *arguments], capture_output=True, text=True, check=False)


if __name__ == "__main__":
    sys.exit(main())
