"""The command as users start it: torchrun, one process killed on the way, nobody to help."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from rank_runs import outcome, write_images


@pytest.mark.slow
@pytest.mark.fault
def test_torchrun_restarts_a_run_that_lost_a_process(tmp_path: Path) -> None:
    images, out = write_images(tmp_path / "images", n=8), tmp_path / "run"
    line = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
        "--max-restarts",
        "1",
    ]
    line += ["-m", "selectivemae", "pretrain", "--data", str(images), "--out", str(out), "--json", "--quiet"]
    options = {
        "model": "vit_tiny_patch8", "image-size": 32, "decoder-depth": 1, "batch-size": 4, "samples-seen": 64,
        "workers": 0, "device": "cpu", "checkpoint-steps": 2, "picture-every": 0, "meet-timeout": 120,
    }  # fmt: skip
    line += [word for name, value in options.items() for word in (f"--{name}", str(value))]
    with open(tmp_path / "log", "w") as log:
        process = subprocess.Popen(line, stdout=subprocess.PIPE, stderr=log, env=os.environ | {"OMP_NUM_THREADS": "1"})
        metrics = out / "metrics.jsonl"
        while process.poll() is None and not (metrics.exists() and len(metrics.read_text().splitlines()) >= 5):
            time.sleep(0.02)
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        assert len(children) == 2
        os.kill(int(random.Random(0).choice(children)), signal.SIGKILL)
        said, _ = process.communicate(timeout=200)
    assert process.returncode == 0, (tmp_path / "log").read_text()[-3000:]
    assert json.loads(said)["steps"] == 16  # process 0 alone prints a result
    assert list(outcome(out)[0]) == list(range(1, 17))
    assert "going on from" in (out / "log.txt").read_text()
