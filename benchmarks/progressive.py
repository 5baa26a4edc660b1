"""What saves time at equal quality: smaller images at first, a shallower decoder, pruning, and all of them.

    python benchmarks/progressive.py --data ../shared/data/aid --work /tmp/progressive --samples 110000 --seeds 0 1 2

Every variant sees the same number of images of class folders (or of --train), without their labels, and is probed on
the class folders afterwards (kNN and linear, on frozen features). A run that is finished in --work is not trained
again.
"""

import argparse
import json
import resource
import statistics
from pathlib import Path

import _table
from selectivemae.cli.probe import run_probe
from selectivemae.pretrain.config import PretrainConfig
from selectivemae.pretrain.run import pretrain
from selectivemae.probing.run import ProbeConfig


def variants(size: int, patch: int, depth: int) -> dict[str, dict[str, object]]:
    """Settings of each variant, beside the plain run's; the smaller side is half the full one, in whole patches."""
    half = {"early_sizes": (size // 2 // patch * patch,), "early_share": 0.5}
    shallow, pruned = {"decoder_depth": depth // 3}, {"prune_ratio": 0.5}
    return {
        "plain": {},
        f"{half['early_sizes'][0]} px at first": half,
        f"decoder depth {shallow['decoder_depth']}": shallow,
        "half of the easy ones pruned": pruned,
        "all": half | shallow | pruned,
    }


def cpu_seconds() -> float:
    """Of this process so far."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def run(out: Path, settings: dict[str, object], train: str, data: str) -> dict[str, float]:
    """Train and probe unless that is done; CPU seconds of training, kNN and linear accuracy in percent."""
    kept = out.with_suffix(".json")
    if not kept.exists():
        began = cpu_seconds()
        config = PretrainConfig.build(settings, {"data": [train], "out": out})
        pretrain(config, overwrite=out.exists(), quiet=True)
        seconds = cpu_seconds() - began
        found = run_probe(str(out), ProbeConfig(data=data))
        kept.write_text(json.dumps({"cpu_s": seconds, "knn": found.knn, "linear": found.linear}))
    return json.loads(kept.read_text())


def main() -> None:
    """Train, probe, write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="class folders")
    parser.add_argument("--train", help="images to train on instead, such as a pack of them")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--samples", type=int, default=110_000)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--model", default="vit_tiny")
    parser.add_argument("--patch", type=int, default=8)
    parser.add_argument("--size", type=int, default=96)
    parser.add_argument("--depth", type=int, default=12)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--name", default="progressive")
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    rows, plain = [], 0.0
    for name, how in variants(args.size, args.patch, args.depth).items():
        common: dict[str, object] = {
            "model": f"{args.model}_patch{args.patch}", "image_size": args.size, "decoder_depth": args.depth,
            "batch_size": args.batch, "lr": 1e-3, "samples_seen": args.samples, "workers": 0, "picture_every": 0,
        }  # fmt: skip
        found = [
            run(
                args.work / f"{name.replace(' ', '-')}-{args.samples}-{seed}",
                common | how | {"seed": seed},
                args.train or args.data,
                args.data,
            )
            for seed in args.seeds
        ]
        means = {key: statistics.mean(f[key] for f in found) for key in ("cpu_s", "knn", "linear")}
        spread = {key: statistics.stdev(f[key] for f in found) if len(found) > 1 else 0.0 for key in means}
        plain = plain or means["cpu_s"]
        rows.append(
            [name, f"{means['cpu_s']:.0f}", f"{plain / means['cpu_s']:.2f}"]
            + [f"{means[key]:.1f} ± {spread[key]:.1f}" for key in ("knn", "linear")]
        )
    note = (
        f"{args.model}, patch {args.patch}, {args.size} px, {args.samples} images seen, decoder depth {args.depth}, "
        f"batch {args.batch}; mean ± deviation over seeds {', '.join(map(str, args.seeds))}."
    )
    head = ["variant", "CPU s", "times faster", "kNN-20", "linear"]
    title = "Options that save time in training"
    _table.write(args.name, title, "benchmarks/progressive.py", note, _table.markdown(head, rows))


if __name__ == "__main__":
    main()
