"""Which rates a small encoder bears in pre-training: loss, probes, and how many directions its features fill.

    python benchmarks/learning_rate.py --corpus FOLDER --aid ../shared/data/aid --work /tmp/rates
                                       --runs zero:3e-4 zero:1e-3 xavier:3e-4

A run is how residual branches begin, and a rate. The corpus of benchmarks/dense_encoder.py does well. A run that is
finished in --work is not trained again.
"""

import argparse
from pathlib import Path

import _table
from _runs import loss_tenths
from feature_rank import sample, spreads
from selectivemae.cli.probe import run_probe
from selectivemae.pretrain.config import PretrainConfig
from selectivemae.pretrain.run import pretrain
from selectivemae.probing.run import ProbeConfig

IMAGES = 64  # whose features are looked at


def train(run: str, args: argparse.Namespace) -> Path:
    """The folder of a run, trained unless it is finished."""
    init, rate = run.split(":")
    out = args.work / f"{init}-{float(rate):g}"
    if not (out / "encoder.safetensors").exists():
        settings = {
            "model": args.model, "image_size": args.size, "batch_size": 64, "decoder_depth": 4, "workers": 0,
            "samples_seen": args.samples, "data": [str(args.corpus)], "out": out, "lr": float(rate),
            "residual_init": init,
        }  # fmt: skip
        pretrain(PretrainConfig.build(settings), resume=out.exists(), quiet=True)
    return out


def main() -> None:
    """Train, look, write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", type=Path, required=True)
    parser.add_argument("--aid", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--runs", nargs="+", required=True, metavar="INIT:RATE")
    parser.add_argument("--model", default="vit_tiny_patch16")
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--samples", type=int, default=64_000)
    args = parser.parse_args()
    images = sample(str(args.aid), IMAGES, args.size)
    rows = []
    for run in args.runs:
        out = train(run, args)
        found = run_probe(str(out), ProbeConfig(data=str(args.aid), baselines=False, image_size=args.size))
        taps = list(spreads(str(out), images).values())
        last = f"{loss_tenths(out)[1]:.3f}"
        rows.append([*run.split(":"), last, f"{found.knn:.1f}", f"{found.linear:.1f}", taps[0], taps[-1]])
    note = (
        f"{args.model} at {args.size} px, batch 64, {args.samples:,} images seen, a decoder of 4 blocks, one seed; "
        "probed on AID. First and last tap: root mean square / effective rank of the patch tokens after the first and "
        "the last of the blocks that dense tasks take."
    )
    head = ["branches begin", "rate", "loss, last tenth", "kNN-20", "linear", "first tap", "last tap"]
    title = "Learning rates of pre-training"
    _table.write("learning_rate", title, "benchmarks/learning_rate.py", note, _table.markdown(head, rows))


if __name__ == "__main__":
    main()
