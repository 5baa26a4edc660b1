"""The script for a GPU runs through on a CPU, tiny."""

import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from selectivemae.models.vit import SIZES

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def test_smoke(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(SIZES, "tiny", (2, 64, 2, 32, 2))
    monkeypatch.syspath_prepend(BENCHMARKS)
    for i in range(6):
        pixels = np.random.default_rng(i).integers(0, 256, (70, 70, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{i}.png")
    import gpu

    monkeypatch.setattr(sys, "argv", ["gpu.py", "--smoke", "--data", str(tmp_path)])
    gpu.main()
    said = capsys.readouterr().out
    assert "| vit_tiny_patch16 | compile off | 2 |" in said
    assert "| vit_tiny_patch16 | mae | 2 | 0 |" in said
    monkeypatch.setattr(sys, "argv", ["gpu.py"])
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(SystemExit, match="no GPU"):
        gpu.main()
