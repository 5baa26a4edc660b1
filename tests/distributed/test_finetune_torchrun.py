"""Fine-tuning over several processes: the weights of one process with the same global batch."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import load_file

from selectivemae.core.records import read_metrics


def finetuned(data: Path, out: Path, processes: int) -> dict:
    line = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    line += ["-m", "selectivemae", "finetune", "classify", "--weights", "random:vit_tiny_patch8", "--data", str(data)]
    options = {
        "out": out, "image-size": 32, "epochs": 2, "warmup-epochs": 0, "batch-size": 8, "rand-augment": "none",
        "workers": 0, "device": "cpu", "precision": "fp32", "drop-path": 0, "lr": 1e-4,
        "mixup": 0, "cutmix": 0,  # partners are mixed within each process's part of the batch
    }  # fmt: skip
    line += [word for name, value in options.items() for word in (f"--{name}", str(value))]
    done = subprocess.run(
        [*line, "--json", "--quiet"],
        capture_output=True,
        text=True,
        timeout=300,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


@pytest.mark.slow
def test_two_processes_are_as_one(tmp_path: Path) -> None:
    for number in range(24):
        path = tmp_path / "data" / "abc"[number % 3] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(number).integers(0, 256, (40, 40, 3), np.uint8)
        Image.fromarray(pixels // (1 + number % 3)).save(path)
    results = [finetuned(tmp_path / "data", tmp_path / str(n), n) for n in (1, 2)]
    assert results[0]["runs"][0]["steps"] == results[1]["runs"][0]["steps"] == 4
    lines = [[r for r in read_metrics(tmp_path / str(n) / "metrics.jsonl") if r["kind"] == "train"] for n in (1, 2)]
    assert [r["ledger"] for r in lines[0]] == [r["ledger"] for r in lines[1]]
    # Sums over a batch are taken in two parts: float32 rounding, carried through AdamW's division over four steps.
    assert [r["loss"] for r in lines[0]] == pytest.approx([r["loss"] for r in lines[1]], rel=1e-4)
    one, two = (load_file(tmp_path / str(n) / "model.safetensors") for n in (1, 2))
    assert max(float((one[name] - two[name]).abs().max()) for name in one) < 5e-4  # a step moves a weight by 1e-4
    assert len(list((tmp_path / "2" / "evaluation").iterdir())) >= 4
