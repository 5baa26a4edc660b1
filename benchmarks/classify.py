"""What encoders are worth for scene classification: fine-tuned, and frozen under a linear probe, kNN and few shots.

    python benchmarks/classify.py --data aid=../shared/data/aid ucmerced=../shared/data/ucmerced --work /tmp/classify \
        --weights "mae=runs/mae-{seed}" "selectivemae=runs/selectivemae-{seed}" --epochs 2 10 --seeds 0 1 2

``{seed}`` in a name is the seed: every seed its own pre-training. Fresh weights of the same architecture stand beside
them. A fine-tuning that is finished in --work is not done again, one that was stopped goes on. A seed decides head,
order and augmentation of a fine-tuning, fresh weights, and the split of data that have none of their own.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import _table
from selectivemae.engine.precision import choose_device
from selectivemae.probing.config import ProbeConfig
from selectivemae.probing.run import probe_encoder
from selectivemae.tasks.classify.config import ClassifyConfig
from selectivemae.tasks.classify.model import build_classifier
from selectivemae.tasks.classify.run import finetune_classify
from selectivemae.tasks.common import layer_decay_groups
from selectivemae.weights.load import load_encoder

DECAY = 0.75
# The published recipe is for hundreds of epochs; the few that a benchmark can afford see crops and mirror images, and
# have no time to teach the class token to look.
LIGHT: dict[str, Any] = {"rand_augment": "none", "erasing": 0.0, "mixup": 0.0, "cutmix": 0.0, "pool": "mean"}
FROZEN = ("linear", "kNN-20", "1-shot", "5-shot")


def fine_tune(
    weights: str, data: str, epochs: float, out: Path, seed: int, args: argparse.Namespace
) -> tuple[float, float]:
    """OA in percent, and seconds."""
    settings = {"weights": weights.format(seed=seed), "data": data, "out": out, "seed": seed, "split_seed": seed}
    settings |= LIGHT | {"epochs": epochs, "warmup_epochs": epochs / 20, "batch_size": args.batch_size}
    settings |= {
        "image_size": args.size,
        "lr": args.lr,
        "layer_decay": DECAY,
        "workers": 0,
        "eval_every": 1000.0,
        "precision": "bf16",
    }
    result = finetune_classify(ClassifyConfig.build(settings), resume=True, quiet=True)
    return result.oa, result.runs[0].seconds


def probe(weights: str, data: str, kept: Path, seed: int, size: int) -> dict[str, Any]:
    """Figures of frozen features, and what they were taken from; a probe that was done is not done again."""
    if kept.exists():
        return json.loads(kept.read_text())
    kept.parent.mkdir(parents=True, exist_ok=True)
    encoder = load_encoder(weights.format(seed=seed), image_size=size, seed=seed)
    config = ProbeConfig(data=data, image_size=size, seed=seed, baselines=False)
    found = probe_encoder(encoder, config, choose_device("auto"), weights)
    figures = dict(zip(FROZEN, (found.linear, found.knn, found.few_shot[1], found.few_shot[5]), strict=True))
    about = f"{found.classes} classes, {found.train} / {found.test} images ({found.split})"
    kept.write_text(json.dumps({**figures, "about": about}))
    return {**figures, "about": about}


def rates(architecture: str) -> str:
    """The groups' share of the learning rate under layer decay, beside 0.75^(L + 1 - layer)."""
    classifier = build_classifier(f"random:{architecture}", ("a", "b"), image_size=64)
    layers: dict[int, list[dict[str, Any]]] = {}
    for group in layer_decay_groups(classifier.model, 0.05, DECAY):
        layers.setdefault(group["layer"], []).append(group)
    top = max(layers)
    rows = []
    for layer, groups in sorted(layers.items()):
        (scale,) = {group["lr_scale"] for group in groups}
        names = [name for group in groups for name in group["names"]]
        what = "stem" if layer == 0 else "norm and head" if layer == top else f"block {layer - 1}"
        assert abs(scale - DECAY ** (top - layer)) < 1e-12
        rows.append((layer, what, len(names), f"{scale:.6f}", f"{DECAY ** (top - layer):.6f}"))
    head = ("layer l", "what", "tensors", "rate / base rate", f"{DECAY}^(L + 1 - l)")
    return _table.markdown(head, rows)


def main() -> None:
    """Fine-tune, probe, write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="+", required=True, metavar="NAME=FOLDER")
    parser.add_argument("--weights", nargs="*", default=[], metavar="NAME=WEIGHTS")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--architecture", default="vit_tiny_patch8", help="of the fresh weights")
    parser.add_argument("--size", type=int, default=64, help="side of the images in pixels")
    parser.add_argument("--epochs", type=float, nargs="+", required=True, help="of fine-tuning, for each of --data")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--name", default="classify")
    args = parser.parse_args()
    encoders = {"random init": f"random:{args.architecture}"} | dict(one.split("=", 1) for one in args.weights)
    head = ["data", "encoder", "epochs", "fine-tuned OA", *FROZEN, "s a fine-tuning"]
    rows, about = [], []
    for data, epochs in zip(args.data, args.epochs, strict=True):
        name, folder = data.split("=", 1)
        for title, weights in encoders.items():
            runs = {seed: args.work / name / title.replace(" ", "-") / str(seed) for seed in args.seeds}
            tuned = [fine_tune(weights, folder, epochs, out, seed, args) for seed, out in runs.items()]
            frozen = [
                probe(weights, folder, out.with_name(f"probe-{seed}.json"), seed, args.size)
                for seed, out in runs.items()
            ]
            figures = [_table.spread([found[figure] for found in frozen]) for figure in FROZEN]
            seconds = sum(s for _, s in tuned) / len(tuned)
            rows.append(
                [name, title, f"{epochs:g}", _table.spread([oa for oa, _ in tuned]), *figures, f"{seconds:.0f}"]
            )
            if title == "random init":
                about.append(f"{name}: {frozen[0]['about']}")
    note = (
        f"{args.architecture} at {args.size} px. Fine-tuning: batches of {args.batch_size}, "
        f"learning rate {args.lr:g}, layer decay {DECAY}, crops and mirroring alone, mean of the "
        f"patch tokens, bf16, and else the published recipe. "
        f"Percent on the test part, mean ± "
        f"deviation over seeds {', '.join(map(str, args.seeds))}; training / test images: {'; '.join(about)}."
    )
    blocks = [note, _table.markdown(head, rows), "## Layer decay", rates(args.architecture)]
    _table.write(args.name, "Scene classification with small encoders", "benchmarks/classify.py", *blocks)


if __name__ == "__main__":
    main()
