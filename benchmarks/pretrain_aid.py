"""Does it learn? Pre-train small encoders on real scenes and probe them.

    python benchmarks/pretrain_aid.py --aid ../shared/data/aid --work /tmp/aid --runs default:110000 paper-text:110000

A run is a variant and its length: the number of images that it sees of the training part, or of epochs (``18e``); the
probes use the split of ``split.csv``. A run that is finished in --work is neither trained nor probed again.
"""

import argparse
import csv
import json
import resource
import shutil
import statistics
import time
from pathlib import Path

import _table
from _runs import loss_tenths, steps
from selectivemae.cli.probe import run_probe
from selectivemae.core.config import read_recipe
from selectivemae.pretrain.config import PretrainConfig
from selectivemae.pretrain.run import pretrain
from selectivemae.probing.run import ProbeConfig

COMMON = {"model": "vit_tiny_patch8", "batch_size": 64, "lr": 5e-4, "workers": 0}
FAST = {"lr": 1e-3}  # which blocks that begin as the identity bear
T95 = {1: 12.71, 2: 4.303, 3: 3.182, 4: 2.776}  # Student's t, by degrees of freedom
CURRICULUM = ("richness", "target_richness", "richness_mode", "temperature", "order")
VARIANTS: dict[str, dict] = {
    "default": FAST,
    "mae": {"method": "mae"},
    "mae-fast": FAST | {"method": "mae"},
    "xavier": {"residual_init": "xavier"},
    "mae-xavier": {"residual_init": "xavier", "method": "mae"},
    "paper": FAST | {k: v for k, v in read_recipe("pretrain", "paper").items() if k in CURRICULUM},
    "paper-text": FAST | {k: v for k, v in read_recipe("pretrain", "paper-text").items() if k in CURRICULUM},
    "hog-targets": FAST | {"target_richness": "hog"},
    "hog-topk": FAST | {"richness": "hog", "richness_mode": "topk", "order": "near-far-random"},
    "entropy": FAST | {"richness": "entropy", "order": "near-far-random"},
    "pruned": FAST | {"prune_ratio": 0.5},
}


def training_part(aid: Path, work: Path) -> Path:
    """A folder with the training images alone."""
    out = work / "train"
    for row in csv.DictReader((aid / "split.csv").read_text().splitlines()):
        if row["split"] == "train" and not (out / row["file"]).exists():
            (out / row["file"]).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(aid / row["file"], out / row["file"])
    return out


def train(name: str, data: Path, work: Path, size: int, length: str, seed: int) -> Path:
    """Train a variant unless its run is finished, noting CPU and wall seconds."""
    out = work / f"{name}-{size}-{length}-{seed}"
    if (out / "cost.json").exists():
        return out
    long = {"epochs": int(length[:-1])} if length.endswith("e") else {"samples_seen": int(length)}
    cpu, wall = resource.getrusage(resource.RUSAGE_SELF), time.monotonic()
    config = PretrainConfig.build(
        COMMON,
        VARIANTS[name],
        {"data": [str(data)], "out": out, "image_size": size, "seed": seed} | long,
    )
    pretrain(config, overwrite=out.exists(), quiet=True)
    after = resource.getrusage(resource.RUSAGE_SELF)
    cost = {"cpu_s": after.ru_utime + after.ru_stime - cpu.ru_utime - cpu.ru_stime, "wall_s": time.monotonic() - wall}
    (out / "cost.json").write_text(json.dumps(cost))
    return out


def probed(out: Path, aid: Path, size: int, baselines: bool) -> dict:
    """kNN and linear accuracies of a run, and of the baselines; kept in its folder."""
    kept = out / "probed.json"
    if not kept.exists() or (baselines and not json.loads(kept.read_text())["baselines"]):
        found = run_probe(str(out), ProbeConfig(data=str(aid), baselines=baselines, image_size=size))
        others = {name: [row.knn, row.linear] for name, row in found.baselines.items()} if baselines else {}
        kept.write_text(json.dumps({"knn": found.knn, "linear": found.linear, "baselines": others}))
    return json.loads(kept.read_text())


def summary(figures: dict[str, list[tuple[float, float, float]]]) -> str:
    """Mean and deviation over the seeds of each run, and whether its difference from the first one's is clear.

    Seeds are paired: the interval is that of Student's t for the mean of the differences (95 %).
    """
    rows, first = [], next(iter(figures.values()))
    for name, values in figures.items():
        row: list[object] = [name, f"{statistics.mean(v[0] for v in values):.0f}"]
        for which in (1, 2):
            mine, other = [v[which] for v in values], [v[which] for v in first]
            row.append(f"{statistics.mean(mine):.1f} ± {statistics.stdev(mine):.1f}")
            apart = [a - b for a, b in zip(mine, other, strict=True)]
            half = T95[len(apart) - 1] * statistics.stdev(apart) / len(apart) ** 0.5
            row.append("" if values is first else f"{statistics.mean(apart):+.1f} ± {half:.1f}")
        rows.append(row)
    head = ["run", "CPU s", "kNN-20", "less the first's", "linear", "less the first's"]
    return _table.markdown(head, rows)


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
    figures: dict[str, list[tuple[float, float, float]]] = {}
    for run in args.runs:
        name, length = run.split(":")
        for seed in args.seeds:
            out = train(name, data, args.work, args.size, length, seed)
            result = probed(out, args.aid, args.size, not baselines)
            baselines = baselines or result["baselines"]
            (first, last), seen = loss_tenths(out), steps(out)[-1]["samples"]
            cost = json.loads((out / "cost.json").read_text())
            rows.append(
                [name, seed, length, f"{seen:,}", f"{cost['cpu_s']:.0f}", f"{cost['wall_s']:.0f}",
                 f"{first:.3f} -> {last:.3f}", f"{result['knn']:.1f}", f"{result['linear']:.1f}"]
            )  # fmt: skip
            figures.setdefault(run, []).append((cost["cpu_s"], result["knn"], result["linear"]))
    rows += [[n, "", "", "", "", "", "", f"{knn:.1f}", f"{linear:.1f}"] for n, (knn, linear) in baselines.items()]
    head = [
        "encoder",
        "seed",
        "length",
        "images seen",
        "CPU s",
        "wall s",
        "loss, first -> last tenth",
        "kNN-20",
        "linear",
    ]
    note = (
        f"{COMMON['model']} at {args.size} px, batch {COMMON['batch_size']}, learning rate {FAST['lr']:g} "
        f"({COMMON['lr']:g} for mae, xavier and mae-xavier); pre-trained on the training part of AID (1,800 images of "
        "150 x 150, 30 classes), probed on its test part (720): standardised features, mean of the patch tokens. "
        "One standard error of an accuracy is 1.8 points."
    )
    tables = [summary(figures)] if len(args.seeds) > 1 else []
    about = "Mean and deviation over the seeds; differences with 95 % intervals (paired by seed, Student's t)."
    tables += [about] if tables else []
    _table.write(
        args.name,
        "Learning on real scenes (AID)",
        "benchmarks/pretrain_aid.py",
        note,
        *tables[::-1],
        _table.markdown(head, rows),
    )


if __name__ == "__main__":
    main()
