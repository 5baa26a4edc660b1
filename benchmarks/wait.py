"""Does training wait for data? A real pre-training with decoding beside it, and what its own records say.

python benchmarks/wait.py --data ../shared/data/aid [--minutes 1]
"""

import argparse
import tempfile
from pathlib import Path

import torch

import _table
from selectivemae.core.records import read_metrics
from selectivemae.pretrain.config import PretrainConfig
from selectivemae.pretrain.run import pretrain

RUNS = [("vit_tiny_patch16", 128), ("vit_small_patch16", 224)]


def main() -> None:
    """Train, read the records, write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--minutes", type=float, default=1.0)
    args = parser.parse_args()
    rows = []
    for workers in (1, 0):
        torch.set_num_threads(1 if workers else 2)
        for model, size in RUNS:
            with tempfile.TemporaryDirectory() as folder:
                out = Path(folder) / "run"
                settings = {"data": [args.data], "out": out, "model": model, "image_size": size, "picture_every": 0}
                how = {"minutes": args.minutes, "workers": workers, "log_every": 1}
                pretrain(PretrainConfig.build(settings, how), quiet=True)
                lines = [r for r in read_metrics(out / "metrics.jsonl") if r["kind"] == "train"]
            first, last = lines[len(lines) // 10], lines[-1]  # the workers are at their pace by then
            seconds = last["time_s"] - first["time_s"]
            waited = last["wait_s"] - first["wait_s"]
            rate = (last["samples"] - first["samples"]) / seconds
            threads = torch.get_num_threads()
            rows.append([f"{model}, {size} px", workers, threads, f"{rate:.1f}", f"{100 * waited / seconds:.2f} %"])
    _table.write(
        "wait",
        "Waiting for data",
        "benchmarks/wait.py",
        f"Pre-training on AID (JPEGs of 150 px), {args.minutes:g} minutes each; from the run's own metrics.",
        _table.markdown(
            ["model", "data workers", "training threads", "images/s", "share of time waiting for data"], rows
        ),
    )


if __name__ == "__main__":
    main()
