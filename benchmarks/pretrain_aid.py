"""Does it learn? Pre-train small encoders on real scenes and probe them.

    python benchmarks/pretrain_aid.py --aid ../shared/data/aid --work /tmp/aid --runs default:110000 paper-text:110000

A run is a variant and the number of images that it sees, of the training part; the probes use the split of
``split.csv``. A run that is finished in --work is not trained again.
"""

import argparse
import csv
import json
import resource
import shutil
import time
from pathlib import Path

import _table
from selectivemae.cli.probe import run_probe
from selectivemae.core.config import read_recipe
from selectivemae.core.records import read_metrics
from selectivemae.pretrain.config import PretrainConfig
from selectivemae.pretrain.run import pretrain
from selectivemae.probing.run import ProbeConfig

COMMON = {"model": "vit_tiny_patch8", "batch_size": 64, "lr": 5e-4, "workers": 0}
CURRICULUM = ("richness", "target_richness", "richness_mode", "temperature", "order")
VARIANTS: dict[str, dict] = {
    "default": {},
    "paper": {k: v for k, v in read_recipe("pretrain", "paper").items() if k in CURRICULUM},
    "paper-text": {k: v for k, v in read_recipe("pretrain", "paper-text").items() if k in CURRICULUM},
    "hog-targets": {"target_richness": "hog"},
    "hog-topk": {"richness": "hog", "richness_mode": "topk", "order": "near-far-random"},
    "entropy": {"richness": "entropy", "order": "near-far-random"},
    "mae": {"method": "mae"},
}


def training_part(aid: Path, work: Path) -> Path:
    """A folder with the training images alone."""
    out = work / "train"
    for row in csv.DictReader((aid / "split.csv").read_text().splitlines()):
        if row["split"] == "train" and not (out / row["file"]).exists():
            (out / row["file"]).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(aid / row["file"], out / row["file"])
    return out


def train(name: str, data: Path, work: Path, size: int, samples: int, seed: int) -> Path:
    """Train a variant unless its run is finished, noting CPU and wall seconds."""
    out = work / f"{name}-{size}-{samples}-{seed}"
    if (out / "cost.json").exists():
        return out
    cpu, wall = resource.getrusage(resource.RUSAGE_SELF), time.monotonic()
    config = PretrainConfig.build(
        COMMON,
        VARIANTS[name],
        {"data": [str(data)], "out": out, "image_size": size, "samples_seen": samples, "seed": seed},
    )
    pretrain(config, overwrite=out.exists(), quiet=True)
    after = resource.getrusage(resource.RUSAGE_SELF)
    cost = {"cpu_s": after.ru_utime + after.ru_stime - cpu.ru_utime - cpu.ru_stime, "wall_s": time.monotonic() - wall}
    (out / "cost.json").write_text(json.dumps(cost))
    return out


def main() -> None:
    """Train, probe, write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--aid", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--runs", nargs="+", default=["default:200000"], metavar="VARIANT:IMAGES")
    parser.add_argument("--size", type=int, default=96, help="side of the crops in pixels")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--name", default="pretrain_aid")
    args = parser.parse_args()
    data = training_part(args.aid, args.work)
    rows: list[list[object]] = []
    baselines: dict = {}
    for run in args.runs:
        name, samples = run.split(":")
        for seed in args.seeds:
            out = train(name, data, args.work, args.size, int(samples), seed)
            config = ProbeConfig(data=str(args.aid), baselines=not baselines, image_size=args.size)
            result = run_probe(str(out), config)
            baselines = baselines or result.baselines
            losses = [r["loss"] for r in read_metrics(out / "metrics.jsonl") if r["kind"] == "train"]
            tenth = max(len(losses) // 10, 1)
            first, last = sum(losses[:tenth]) / tenth, sum(losses[-tenth:]) / tenth
            cost = json.loads((out / "cost.json").read_text())
            rows.append(
                [name, seed, f"{int(samples):,}", f"{cost['cpu_s']:.0f}", f"{cost['wall_s']:.0f}",
                 f"{first:.3f} -> {last:.3f}", f"{result.knn:.1f}", f"{result.linear:.1f}"]
            )  # fmt: skip
    rows += [[n, "", "", "", "", "", f"{r.knn:.1f}", f"{r.linear:.1f}"] for n, r in baselines.items()]
    head = ["encoder", "seed", "images seen", "CPU s", "wall s", "loss, first -> last tenth", "kNN-20", "linear"]
    note = (
        f"{COMMON['model']} at {args.size} px, batch {COMMON['batch_size']}, learning rate {COMMON['lr']}; "
        "pre-trained on the training part of AID (1,800 images of 150 x 150, 30 classes), probed on its test part "
        "(720): standardised features, mean of the patch tokens. One standard error of an accuracy is 1.8 points."
    )
    _table.write(
        args.name, "Learning on real scenes (AID)", "benchmarks/pretrain_aid.py", note, _table.markdown(head, rows)
    )


if __name__ == "__main__":
    main()
