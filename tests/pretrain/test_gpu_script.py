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
    assert "| vit_tiny_patch16 | compile off | mae | 2 | 0 |" in said
    assert "| `aten::addmm` |" in said
    assert "failed" not in said
    monkeypatch.setattr(sys, "argv", ["gpu.py"])
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(SystemExit, match="no GPU"):
        gpu.main()


def test_a_part_that_fails_and_the_end_of_the_time_leave_the_rest(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(BENCHMARKS)
    import gpu

    def failing(*_: object) -> None:
        raise RuntimeError("no such kernel\nand more")

    monkeypatch.setattr(gpu, "steps", failing)
    monkeypatch.setattr(gpu, "kernels", lambda args, report, model, mode: report.add(gpu.TITLES[3], *"abcdef"))
    monkeypatch.setattr(sys, "argv", ["gpu.py", "--smoke"])
    gpu.main()
    said = capsys.readouterr().out
    assert "* failed: failing, vit_tiny_patch16, compile off: RuntimeError: no such kernel\n" in said
    assert "| a | b | c | d | e | f |" in said
    report, codes = gpu.Report("gpu", smoke=True), []
    report.add(gpu.TITLES[3], *"ghijkl")
    report.doing = "kernels, vit_base_patch16"
    monkeypatch.setattr("os._exit", codes.append)
    report.end()
    said = capsys.readouterr().out
    assert codes == [0]
    assert "| g | h | i | j | k | l |" in said
    assert "* out of time in: kernels, vit_base_patch16" in said
