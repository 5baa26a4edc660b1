"""Does fine-tuning for segmentation work on real imagery? UPerNet on a small encoder, pre-trained against fresh.

    python benchmarks/segment.py --data ../shared/data --work /tmp/segment --weights RUN --seeds 0 1 2

Three sets of real imagery with masks: land cover of Dubai (5 classes), buildings of OpenAerialMap, SpaceNet v1 with
footprints. Each is trained from the weights given and from fresh ones of the same architecture, and judged on its val
part, beside calling every pixel the most frequent class. A run that is finished in --work is not trained again.
"""

import argparse
import json
import os
import resource
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import _table
from selectivemae.core.statistics import mean_deviation
from selectivemae.tasks.segment.config import SegmentConfig
from selectivemae.tasks.segment.metrics import majority_miou
from selectivemae.tasks.segment.run import finetune_segment
from selectivemae.weights.load import load_encoder

DUBAI = "classes:\n" + "".join(
    f"- {{name: {name}, value: {value}}}\n"
    for value, name in enumerate(("building", "land", "road", "vegetation", "water"), 1)
)
COMMON = {
    "batch_size": 8, "head_width": 64, "warmup_steps": 20, "resize": "image", "turns": "all", "eval_every": 1e6,
    "checkpoint_minutes": 1e6, "workers": 0, "device": "cpu", "lr": 5e-4, "layer_decay": 0.9, "precision": "bf16",
}  # fmt: skip


@dataclass(frozen=True)
class Set:
    """A data set and what is said of it beside the common settings."""

    folder: str
    steps: int
    settings: dict


SETS = {
    "dubai": Set("dubai_landcover", 400, {"classes": "dubai.yaml", "scale": (0.25, 1.0)}),
    "oam": Set("oam_buildings", 400, {"classes": "spacenet", "scale": (0.5, 1.0)}),
    "spacenet1": Set("spacenet1", 400, {"masks": "geojson", "scale": (0.5, 2.0)}),
}


@dataclass(frozen=True)
class Outcome:
    """What one run came to; shares in percent."""

    miou: float
    mf1: float
    boundary_f1: float
    majority: float
    cpu_s: float
    wall_s: float


def train(name: str, weights: str, out: Path, args: argparse.Namespace, seed: int) -> Outcome:
    """Train one run unless it is finished, noting CPU and wall seconds."""
    chosen = SETS[name]
    settings = dict(chosen.settings)
    if settings.get("classes") == "dubai.yaml":
        settings["classes"] = str(args.work / "dubai.yaml")
    if not (out / "cost.json").exists():
        config = SegmentConfig.build(
            COMMON,
            settings,
            {"data": str(args.data / chosen.folder), "weights": weights, "out": out, "seed": seed},
            {"crop": args.crop, "steps": chosen.steps},
        )
        used, wall = resource.getrusage(resource.RUSAGE_SELF), time.monotonic()
        finetune_segment(config, overwrite=out.exists(), quiet=True)
        after = resource.getrusage(resource.RUSAGE_SELF)
        cpu = after.ru_utime + after.ru_stime - used.ru_utime - used.ru_stime
        (out / "cost.json").write_text(json.dumps({"cpu_s": cpu, "wall_s": time.monotonic() - wall}))
    found = json.loads((out / "evaluation" / "figures.json").read_text())
    cost = json.loads((out / "cost.json").read_text())
    majority = majority_miou(np.array(found["confusion"]))
    return Outcome(found["miou"], found["mf1"], found["boundary_f1"], majority, **cost)


def row(name: str, kind: str, runs: list[Outcome]) -> list[object]:
    """A row of the table: means over the seeds, and the deviation where there are several."""
    figures = [[getattr(run, field) for run in runs] for field in ("miou", "mf1", "boundary_f1")]
    costs = [f"{mean_deviation([getattr(run, field) for run in runs])[0] / 60:.1f}" for field in ("cpu_s", "wall_s")]
    return [name, kind, SETS[name].steps, len(runs), *map(_table.spread, figures), f"{runs[0].majority:.1f}", *costs]


def main() -> None:
    """Train, judge, write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of the three data sets")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--weights", help="pre-trained encoder to compare with fresh weights of its architecture")
    parser.add_argument("--architecture", default="vit_tiny_patch16", help="of the fresh weights, without --weights")
    parser.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--crop", type=int, default=128)
    parser.add_argument("--name", default="segment")
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    (args.work / "dubai.yaml").write_text(DUBAI + "ignore: [0]\n")
    architecture = args.architecture
    if args.weights:
        architecture = load_encoder(args.weights).pretrained_cfg["architecture"].removesuffix("_224")  # type: ignore[union-attr]
    kinds = ({"pre-trained": args.weights} if args.weights else {}) | {"fresh": f"random:{architecture}"}
    rows = []
    for name in args.sets:
        for kind, weights in kinds.items():
            runs = [train(name, weights, args.work / f"{name}-{kind}-{seed}", args, seed) for seed in args.seeds]
            rows.append(row(name, kind, runs))
    figures = ["mIoU", "mF1", "boundary F1", "majority class, mIoU", "CPU min", "wall min"]
    head = ["set", "encoder", "steps", "seeds", *figures]
    note = (
        f"{architecture}, head of {COMMON['head_width']} channels, steps of {COMMON['batch_size']} crops of "
        f"{args.crop} px, learning rate {COMMON['lr']:g}, bf16; {os.environ.get('OMP_NUM_THREADS', 'all')} threads. "
        "Figures in percent, of the val part at native scale by sliding windows; mean ± deviation over the seeds."
    )
    _table.write(args.name, "Segmentation of real imagery", "benchmarks/segment.py", note, _table.markdown(head, rows))


if __name__ == "__main__":
    main()
