"""Five SIGKILLs at random moments, two of them while a checkpoint is written: is the resumed run the same run?

    python benchmarks/resume.py --aid ../shared/data/aid/airport --work /tmp/resume

A run in one go and a run that is killed five times and resumed, by the command line, in processes of their own; then
losses step by step, the ledger of samples, and the final weights to the bit.
"""

import argparse
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import torch
from safetensors.torch import load_file

import _table
from selectivemae.core.records import read_metrics

OPTIONS = {
    "model": "vit_tiny_patch16", "image-size": 96, "batch-size": 16, "richness": "hog", "order": "near-far-random",
    "decoder-depth": 2, "mask-ratio": 0.6, "checkpoint-steps": 10, "prune-ratio": 0.5, "picture-every": 0,
}  # fmt: skip


def command(data: Path, out: Path, epochs: int, workers: int) -> list[str]:
    """The command line of a run."""
    options = OPTIONS | {"data": data, "out": out, "epochs": epochs, "workers": workers}
    return [sys.executable, "-m", "selectivemae", "pretrain", "--resume", "--quiet"] + [
        word for name, value in options.items() for word in (f"--{name}", str(value))
    ]


def train_lines(out: Path) -> dict[int, dict]:
    """Train lines by step; no step may stand there twice."""
    if not (out / "metrics.jsonl").exists():
        return {}
    lines = [r for r in read_metrics(out / "metrics.jsonl") if r["kind"] == "train"]
    assert len({r["step"] for r in lines}) == len(lines), "a step stands in metrics.jsonl twice"
    return {r["step"]: r for r in lines}


def kill_once(arguments: list[str], out: Path, target: int, within_checkpoint: bool, delay: float) -> int:
    """Start a run and SIGKILL it after step ``target``, or as soon after as a checkpoint is half-written; the last
    step that it reached."""
    process = subprocess.Popen(arguments, stdout=subprocess.DEVNULL)
    while process.poll() is None:
        reached = max(train_lines(out), default=0)
        if reached >= target and (not within_checkpoint or list((out / "checkpoints").glob(".step-*.tmp"))):
            time.sleep(0.0 if within_checkpoint else delay)
            break
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    code = process.wait()
    assert code == -signal.SIGKILL, f"the run ended by itself with {code}: ask for more epochs"
    return max(train_lines(out), default=0)


def last_saved(out: Path) -> int:
    """The step of the newest checkpoint that has its name."""
    return max((int(f.name.removeprefix("step-")) for f in (out / "checkpoints").glob("step-*")), default=0)


def main() -> None:
    """Run, kill, resume, compare, write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--aid", type=Path, required=True, help="folder of images")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    args = parser.parse_args()
    whole, killed = args.work / "whole", args.work / "killed"
    for out in (whole, killed):
        shutil.rmtree(out, ignore_errors=True)
    subprocess.run(command(args.aid, whole, args.epochs, 0), check=True, stdout=subprocess.DEVNULL)
    wanted = train_lines(whole)
    draw = random.Random(args.seed)
    rows: list[list[object]] = []
    for number in range(5):
        within = number in (1, 3)
        # One in each fifth of the run, at most its last steps left out.
        target = draw.randrange(len(wanted) * number // 6 + 1, len(wanted) * (number + 1) // 6)
        reached = kill_once(
            command(args.aid, killed, args.epochs, number % 2), killed, target, within, draw.uniform(0, 0.2)
        )
        where = "while a checkpoint was written" if within else "anywhere"
        rows.append([number + 1, where, number % 2, reached, last_saved(killed)])
    subprocess.run(command(args.aid, killed, args.epochs, 0), check=True, stdout=subprocess.DEVNULL)
    got = train_lines(killed)
    assert got.keys() == wanted.keys(), "the steps differ"
    apart = max(abs(got[s]["loss"] - wanted[s]["loss"]) for s in wanted)
    first, second = (load_file(out / "encoder.safetensors") for out in (whole, killed))
    name = f"step-{len(wanted):08d}"
    model, other = (load_file(out / "checkpoints" / name / "model.safetensors") for out in (whole, killed))
    same = all(torch.equal(a[k], b[k]) for a, b in ((first, second), (model, other)) for k in a)
    last = max(wanted)
    outcome = [
        ["steps of both runs", len(wanted)],
        ["lines that stand twice", 0],
        ["largest difference of a step's loss", f"{apart:.1e}"],
        ["ledger of samples equal", "yes" if got[last]["ledger"] == wanted[last]["ledger"] else "NO"],
        ["final weights equal, bit for bit", "yes" if same else "NO"],
    ]
    note = (
        f"{OPTIONS['model']} at {OPTIONS['image-size']} px on real scenes ({args.aid.name}), {args.epochs} epochs in "
        f"batches of {OPTIONS['batch-size']}, HOG richness, near-far-random, pruning {OPTIONS['prune-ratio']}, a "
        f"checkpoint every {OPTIONS['checkpoint-steps']} steps; seed of the moments {args.seed}."
    )
    head = ["SIGKILL", "moment", "workers", "last step reached", "goes on from step"]
    _table.write(
        "resume", "Killed five times, resumed five times", "benchmarks/resume.py",
        note, _table.markdown(head, rows), _table.markdown(["", "result"], outcome),
    )  # fmt: skip


if __name__ == "__main__":
    main()
