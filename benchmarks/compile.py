"""The compiled step beside the eager one: the same losses over many steps, and what compiling costs and saves.

    OMP_NUM_THREADS=1 python benchmarks/compile.py --steps 1000

A small model on images of noise. Both runs begin with the same weights and see the same images; each loss is that of
a step's batch.
"""

import argparse
import time

import torch

import _table
from selectivemae.engine.loop import FitConfig, Trainer
from selectivemae.engine.measure import synthetic_batch
from selectivemae.engine.optim import Budget, Schedule, adamw, set_lr
from selectivemae.engine.precision import choose_device
from selectivemae.engine.state import RunState
from selectivemae.models.create import create_model
from selectivemae.models.vit import SIZES
from selectivemae.pretrain.config import Compile
from selectivemae.pretrain.objective import PretrainObjective

WAYS = {
    "uniform, random": {},
    "HOG, near-far-random": {"richness": "hog", "order": "near-far-random"},
}
SCHEDULE = Schedule(1e-3)


def train(
    compiled: Compile, steps: int, batch: int, device: torch.device, **how: str
) -> tuple[torch.Tensor, float, float]:
    """Losses (steps,) of a run, the seconds of its first step, and the median of the others."""
    model = create_model("vit_tiny_patch8", image_size=32, mask_ratio=0.5, decoder_depth=2, **how).to(device)  # pyright: ignore
    objective = PretrainObjective(model, 0.05, compiled=compiled)
    optimizer = adamw(objective.parameter_groups(), (0.9, 0.95))
    trainer = Trainer(objective, optimizer, FitConfig(Budget(epochs=1), SCHEDULE, batch, batch, device, "fp32"))
    state, losses, seconds = RunState(), [], []
    for step in range(steps):
        images = synthetic_batch(batch, 3, 32, 32, device, seed=step)
        state.progress = step / steps
        set_lr(optimizer, SCHEDULE, state.progress)
        began = time.perf_counter()
        trainer.step(images, state)
        assert state.loss is not None
        losses.append(state.loss.mean().item())
        seconds.append(time.perf_counter() - began)
        state.step += 1
    return torch.tensor(losses), seconds[0], float(torch.tensor(seconds[1:]).median())


def main() -> None:
    """Train both ways; write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--compile", default="on", choices=["on", "graphs"])
    parser.add_argument("--name", default="compile")
    args = parser.parse_args()
    device = choose_device(args.device)
    SIZES["tiny"] = (2, 64, 2, 32, 2)
    rows = []
    for name, how in WAYS.items():
        eager, _, plain = train("off", args.steps, args.batch, device, **how)
        fused, first, quick = train(args.compile, args.steps, args.batch, device, **how)
        apart = (fused - eager).abs()
        rows.append(
            [
                name,
                f"{eager[0]:.4f}",
                f"{eager[-50:].mean():.4f}",
                f"{apart[: args.steps // 10].max():.1e}",
                f"{apart.max():.1e}",
                f"{apart.mean():.1e}",
                f"{first:.0f}",
                f"{1000 * plain:.1f}",
                f"{1000 * quick:.1f}",
            ]
        )
    head = [
        "selection", "first loss", "mean of the last 50", "largest difference, first tenth", "largest", "mean",
        "compiling, s", "eager ms a step", "compiled ms",
    ]  # fmt: skip
    note = f"{args.steps} steps of {args.batch} images on {device}, --compile {args.compile}, fp32."
    _table.write(args.name, "Compiled and eager training", "benchmarks/compile.py", note, _table.markdown(head, rows))


if __name__ == "__main__":
    main()
