"""Settings of every test: one thread a process, no network, and where the shared imagery lies."""

import os
from pathlib import Path

for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(name, "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("MPLBACKEND", "Agg")

import hypothesis  # noqa: E402 (the settings above must come first)
import pytest  # noqa: E402 (the settings above must come first)

# A busy machine is slow: what is tested is whether it is right.
hypothesis.settings.register_profile("patient", deadline=None)
hypothesis.settings.load_profile("patient")

SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of shared test imagery; the test is skipped where it is not there."""
    if not (SHARED / "data").is_dir():
        pytest.skip("shared test imagery (../shared/data) is not on this machine")
    return SHARED / "data"


@pytest.fixture(scope="session")
def shared_spec() -> Path:
    """The folder of specifications and key lists; the test is skipped where it is not there."""
    if not (SHARED / "spec").is_dir():
        pytest.skip("the specification folder (../shared/spec) is not on this machine")
    return SHARED / "spec"
