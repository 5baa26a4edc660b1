"""The training step beside the published implementation's, interleaved.

    git clone https://github.com/MiliLab/SelectiveMAE reference
    OMP_NUM_THREADS=1 python benchmarks/reference_step.py --reference reference --models vit_base_patch16 --batch 8

Both with HOG, expansion to the most similar patches, 12 decoder blocks, clipping and AdamW. ``--memory`` measures
peak memory alone, in a fresh process each. On a CPU the seconds are those that the process computed.
"""

import argparse
import multiprocessing
import statistics
from collections.abc import Callable
from pathlib import Path

import torch

import _table
from _reference import SIZES, clock, reference_model, reference_step
from selectivemae.engine.loop import FitConfig, Trainer
from selectivemae.engine.measure import interleaved, most_resident, synthetic_batch
from selectivemae.engine.optim import Budget, Schedule, adamw
from selectivemae.engine.state import RunState
from selectivemae.models.create import create_model
from selectivemae.pretrain.objective import PretrainObjective

DEPTH = 12  # decoder blocks of the published command
VARIANTS = ("reference fp32", "reference bf16", "ours fp32", "ours bf16", "ours fp32, default", "ours bf16, default")


def our_step(model: str, precision: str, default: bool, batch: int) -> Callable[[], float]:
    """A step of ours: with HOG and near expansion like the reference's, or with the default (uniform) selection."""
    device = torch.device("cpu")
    how = {} if default else {"richness": "hog", "order": "near-far-random"}
    objective = PretrainObjective(create_model(model, decoder_depth=DEPTH, **how), 0.05)
    fit = FitConfig(Budget(epochs=1), Schedule(1e-4), batch, batch, device, precision)
    trainer, state = Trainer(objective, adamw(objective.parameter_groups(), (0.9, 0.95)), fit), RunState()
    data = synthetic_batch(batch, 3, 224, 224, device)

    def once() -> float:
        began = clock(device)
        trainer.step(data, state)
        return clock(device) - began

    return once


def step_of(variant: str, model: str, path: Path, batch: int) -> Callable[[], float]:
    """The named variant's step."""
    words = variant.replace(",", "").split()
    if words[0] == "ours":
        return our_step(model, words[1], "default" in words, batch)
    images = torch.randn(batch, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    network = reference_model(path, model, DEPTH, torch.device("cpu"))
    return reference_step(network, images, "bf16" if words[1] == "bf16" else "own")


def memory_of(variant: str, model: str, path: Path, batch: int, threads: int) -> float:
    """Peak memory of three steps in GB, less what this process began with."""
    torch.set_num_threads(threads)
    before = most_resident()
    once = step_of(variant, model, path, batch)
    for _ in range(3):
        once()
    return (most_resident() - before) / 1e9


def memory(args: argparse.Namespace) -> None:
    """The table of peak memory."""
    rows = []
    for model in args.models:
        for variant in args.variants:
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                most = pool.apply(memory_of, (variant, model, args.reference, args.batch, args.threads))
            rows.append([model, variant, f"{most:.2f}"])
    _table.write(
        "reference_memory",
        "Peak memory of a step beside the reference's",
        "benchmarks/reference_step.py --memory",
        f"224 px, batch {args.batch}, on a CPU: the most that a fresh process had in memory in three steps, less what "
        "it had before the model.",
        _table.markdown(["model", "step", "peak GB"], rows),
    )


def main() -> None:
    """Measure and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reference", type=Path, required=True)
    parser.add_argument("--models", nargs="+", default=["vit_base_patch16"], choices=[*SIZES])
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--variants", nargs="+", default=[*VARIANTS], choices=VARIANTS)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--memory", action="store_true", help="peak memory alone, each in a fresh process")
    parser.add_argument("--name", default="reference_step")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.memory:
        memory(args)
        return
    rows = []
    for model in args.models:
        calls = {v: step_of(v, model, args.reference, args.batch) for v in args.variants}
        times = {v: statistics.median(t) for v, t in interleaved(calls, args.rounds).items()}
        del calls
        base = times.get("reference fp32")
        for variant, seconds in times.items():
            rows.append(
                [
                    model,
                    variant,
                    f"{seconds:.3f}",
                    f"{args.batch / seconds:.2f}",
                    f"{base / seconds:.2f}" if base else None,
                ]
            )
    note = (
        f"224 px, batch {args.batch}, {args.threads} thread(s); forward, backward, clipping and AdamW; medians of "
        f"{args.rounds} steps each, in turn, of the process's own CPU seconds. `default` is our default selection "
        "(uniform, without HOG). The reference under bf16 has its HOG in fp32: as published it fails there."
    )
    head = ["model", "step", "CPU s", "images per CPU s", "times the reference's fp32 speed"]
    _table.write(
        args.name, "The step beside the reference's", "benchmarks/reference_step.py", note, _table.markdown(head, rows)
    )


if __name__ == "__main__":
    main()
