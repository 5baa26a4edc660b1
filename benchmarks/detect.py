"""Detection on real imagery with a small encoder: a handful of images by heart, and pre-trained against fresh weights.

    python benchmarks/detect.py [--weights NAME=PATH ...] [--only overfit learn] [--sets airbus_aircraft ...]
                                [--seeds 3] [--steps 150] [--out FOLDER]

``overfit`` trains on four images of a set and judges on the same four: the goal is a mean AP at IoU 0.5 above 90 %.
``learn`` trains on the set's own train part and judges on its val part, once a seed and encoder. Necks and heads are
narrower than the published ones (64 and 256 instead of 256 and 1024), so that two cores do it in minutes; all else is
as in the recipes, but for the rate, the length and bf16. Canvas and tile of a set are such that most of its objects
have 18 px or more: smaller ones fit no anchor. The runs with their pictures stay in --out, and one that is finished
there is not trained again.
"""

import argparse
import itertools
import json
import shutil
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from _table import markdown, spread, write
from selectivemae.cli.common import set_up_logging
from selectivemae.ops import rotated
from selectivemae.tasks.boxes_common import Labelled
from selectivemae.tasks.boxes_figures import DEFINITIONS
from selectivemae.tasks.boxes_layout import open_boxes
from selectivemae.tasks.boxes_model import KINDS
from selectivemae.tasks.boxes_run import finetune_boxes
from selectivemae.tasks.boxes_tiles import tiled
from selectivemae.tasks.detect.config import DetectConfig
from selectivemae.tasks.oriented.config import OrientedConfig


@dataclass(frozen=True)
class Plan:
    """How a set is looked at: the task, the canvas in pixels, and the tile that images are cut into (None: whole), with
    its overlap. Images that are learned by heart stay whole, on a canvas of ``uncut`` where that differs."""

    task: Any
    canvas: int
    tile: int | None = None
    overlap: int = 0
    uncut: int | None = None

    @property
    def sides(self) -> int:
        """Numbers of a box."""
        return KINDS[self.task].box_numbers


SETS = {
    "airbus_aircraft": Plan("detect", 256),
    "nepu_owod": Plan("detect", 384),
    "gdit_aerial_airport": Plan("detect", 256, tile=200, overlap=50, uncut=512),
    "buildings_obb_derived": Plan("oriented", 256),
    "dota": Plan("oriented", 384),
}
CONFIGS: dict[str, Any] = {"detect": DetectConfig, "oriented": OrientedConfig}
BY_HEART = 4  # images
BATCH = 4  # of training on the parts
HIGH = 5e-4  # the rate at which fresh weights learn fast
OBJECTS = (1, 12)  # images with so many objects are taken
SMALLEST = 25  # of which none is smaller than this part of the image's longer side


@dataclass(frozen=True)
class Outcome:
    """What one run came to; ``value`` in percent."""

    metric: str
    value: float
    canvas: int
    images: int
    epochs: float
    steps: int
    minutes: float


def tune(name: str, rate: float, out: Path, **settings: Any) -> Outcome:
    """One fine-tuning with the settings of this benchmark, unless it is finished."""
    kept = out / "outcome.json"
    task, canvas = SETS[name].task, settings.setdefault("image_size", SETS[name].canvas)
    if not kept.exists():
        epochs, began = settings["epochs"], time.monotonic()
        common = {
            "neck_width": 64, "head_width": 256, "lr": rate,
            "milestones": [0.7 * epochs, 0.9 * epochs], "warmup_steps": 20, "eval_every": epochs, "precision": "bf16",
            "device": "cpu", "workers": 0, "keep": 1, "out": str(out),
        }  # fmt: skip
        result = finetune_boxes(task, CONFIGS[task].build(common, settings), overwrite=out.exists(), quiet=True)
        run, minutes = result.runs[0], (time.monotonic() - began) / 60
        outcome = Outcome(result.metric, result.mean, canvas, run.images, run.epochs, run.steps, minutes)
        kept.write_text(json.dumps(asdict(outcome)))
    return Outcome(**json.loads(kept.read_text()))


def clear(item: Labelled) -> bool:
    """Whether an image has some objects, none of them cut by the border or tiny: those have no anchor on a small
    canvas. What is marked difficult (in these sets: cut) is not asked for."""
    boxes = torch.from_numpy(item.boxes[~item.difficult])
    hulls = rotated.hull(boxes) if boxes.shape[1] == 5 else boxes
    assert item.size is not None
    height, width = item.size
    inside = (hulls[:, :2] >= 1).all() and (hulls[:, 2] <= width - 1).all() and (hulls[:, 3] <= height - 1).all()
    large = (hulls[:, 2:] - hulls[:, :2] >= max(item.size) / SMALLEST).all()
    return OBJECTS[0] <= len(boxes) <= OBJECTS[1] and bool(inside) and bool(large)


def few(data: Path, sides: int, folder: Path) -> Path:
    """A folder with the images and labels of ``data``, of which its lists name a few alone."""
    folder.mkdir(parents=True, exist_ok=True)
    for child in data.iterdir():
        target = folder / child.name
        if child.name.endswith(".txt") or target.exists():
            continue
        if child.is_dir():
            target.symlink_to(child.resolve(), target_is_directory=True)
        else:
            shutil.copy(child, target)
    items = [item for item in open_boxes(data, "train", sides) if clear(item)]
    step = max(1, len(items) // BY_HEART)
    ids = "".join(f"{item.id}\n" for item in items[::step][:BY_HEART])
    for name in ("train.txt", "val.txt"):
        (folder / name).write_text(ids)
    return folder


def overfit(arguments: argparse.Namespace, out: Path) -> str:
    """The table of images learned by heart."""
    rows = []
    for name in arguments.sets:
        plan = SETS[name]
        data = few(arguments.data / name, plan.sides, out / "few" / name)
        one = tune(
            name,
            HIGH,
            out / f"overfit-{name}",
            weights="random:" + arguments.model,
            data=str(data),
            image_size=plan.uncut or plan.canvas,
            epochs=float(arguments.overfit_epochs),
            batch_size=2,
            layer_decay=1.0,
            drop_path=0.0,
            flips="none",
            difficult="ignore",
        )
        rows.append(
            [
                name,
                plan.task,
                one.canvas,
                one.images,
                f"{one.epochs:.0f}",
                one.steps,
                one.metric,
                f"{one.value:.1f}",
                f"{one.minutes:.1f}",
            ]
        )
    return markdown(["set", "task", "canvas, px", "images", "epochs", "steps", "figure", "value, %", "minutes"], rows)


def learn(arguments: argparse.Namespace, out: Path) -> str:
    """The table of encoders on the sets' own parts."""
    encoders = {"random": "random:" + arguments.model} | dict(w.split("=", 1) for w in arguments.weights)
    rows = []
    for name in arguments.sets:
        plan = SETS[name]
        train = open_boxes(arguments.data / name, "train", plan.sides)
        images = len((tiled(train, plan.tile, plan.overlap) if plan.tile else train).for_training())
        for rate, (label, weights) in itertools.product(arguments.lr, encoders.items()):
            runs = [
                tune(
                    name,
                    rate,
                    out / f"{name}-{label}-{rate:g}-{arguments.steps}-{seed}",
                    weights=weights,
                    data=str(arguments.data / name),
                    tile=plan.tile,
                    overlap=plan.overlap,
                    epochs=arguments.steps * BATCH / images,
                    batch_size=BATCH,
                    seed=seed,
                )
                for seed in range(arguments.seeds)
            ]
            shown = spread([run.value for run in runs])
            seeds, minutes = " ".join(f"{run.value:.1f}" for run in runs), f"{sum(run.minutes for run in runs):.0f}"
            tile = plan.tile or "whole"
            rows.append(
                [name, f"{rate:g}", label, tile, runs[0].canvas, runs[0].steps, runs[0].metric, shown, seeds, minutes]
            )
    head = ["set", "rate", "encoder", "tile, px", "canvas, px", "steps", "figure", "value, %", "seeds", "minutes"]
    return markdown(head, rows)


def main() -> None:
    """Run what is asked for and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", nargs="*", default=[], metavar="NAME=PATH")
    parser.add_argument("--model", default="vit_tiny_patch16", help="of the fresh weights")
    parser.add_argument("--only", nargs="*", choices=("overfit", "learn"), default=("overfit", "learn"))
    parser.add_argument("--sets", nargs="*", choices=tuple(SETS), default=tuple(SETS))
    parser.add_argument("--data", type=Path, default=Path(__file__).resolve().parents[2] / "shared" / "data")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--overfit-epochs", type=float, default=120)
    parser.add_argument("--lr", type=float, nargs="+", default=[HIGH], help="of training on the parts")
    parser.add_argument("--out", type=Path, default=None, help="keeps the runs (else a temporary folder)")
    arguments = parser.parse_args()
    set_up_logging()
    with tempfile.TemporaryDirectory() as temporary:
        out = arguments.out or Path(temporary)
        parts = {"overfit": overfit, "learn": learn}
        tables = {name: parts[name](arguments, out) for name in parts if name in arguments.only}
    size = "neck 64, head 256, bf16"
    compared = "; ".join(f"{name} is {text}" for name, text in DEFINITIONS.items() if "published" in text)
    batches = {"overfit": f"batches of 2, rate {HIGH:g}", "learn": f"batches of {BATCH}, {arguments.seeds} seeds"}
    titles = {"overfit": "a few images by heart", "learn": "encoders on the sets' own train and val parts"}
    for name, table in tables.items():
        about = f"{arguments.model}, {size}; {batches[name]}. {compared}."
        write(f"detect_{name}", f"Detection on real imagery: {titles[name]}", "benchmarks/detect.py", about, table)


if __name__ == "__main__":
    main()
