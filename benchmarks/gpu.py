"""What a GPU does: the training step of three sizes, beside our MAE, the loader's data and the published code.

    python benchmarks/gpu.py                                              # some minutes on one GPU
    python benchmarks/gpu.py --data images/ --reference reference         # with the loader, and beside the reference
    python benchmarks/gpu.py --smoke                                      # tiny, on a CPU: does the script run?

Everything in bf16 at 224 pixels, on images that lie on the device unless the loader brings them; methods take turns in
one process. Each part prints its figures as soon as it has them, and ``--budget`` ends the script before the next one.
"""

import argparse
import time
from pathlib import Path

import torch

import _table
from _reference import reference_model, reference_step
from selectivemae.engine.measure import interleaved, median, synthetic_batch, timed_steps
from selectivemae.pretrain.bench import MethodCost, bench_model, make_trainer
from selectivemae.pretrain.bench_config import BenchModelConfig, BenchTrainConfig
from selectivemae.pretrain.bench_train import bench_train

BATCH = 1024
MODELS = ("vit_small_patch16", "vit_base_patch16", "vit_large_patch16")
MODES = ("off", "on", "graphs")
HEAD = ["model", "step", "batch", "images/s", "of peak", "GB", "MAE: images/s", "GB", "times MAE"]


def gigabytes(cost: MethodCost) -> str | None:
    """Peak memory for the table."""
    return None if cost.peak_memory_gb is None else f"{cost.peak_memory_gb:.1f}"


def steps_table(args: argparse.Namespace, modes: tuple[str, ...], until: float) -> list[list[object]]:
    """SelectiveMAE (the published selection: HOG, near-far-random) against MAE, for each size and way to compile."""
    rows: list[list[object]] = []
    for mode in modes:
        for model, batch in args.models.items():
            if time.monotonic() > until:
                print(f"no time left for {model}, compile {mode}")
                continue
            config = BenchModelConfig(
                model=model,
                against="mae",
                batch_size=batch,
                rounds=args.rounds,
                compile=mode,
                image_size=args.image_size,
                precision="bf16",
                device=args.device,
                memory=not args.smoke,
            )
            cost = bench_model(config)
            ours, mae = cost.methods
            rows.append(
                [
                    model,
                    f"compile {mode}",
                    batch,
                    f"{ours.images_per_s:.0f}",
                    f"{100 * ours.share_of_peak:.0f} %",
                    gigabytes(ours),
                    f"{mae.images_per_s:.0f}",
                    gigabytes(mae),
                    f"{cost.time_ratio:.2f}",
                ]
            )
            print(" | ".join(map(str, rows[-1])), flush=True)
    return rows


def reference_table(args: argparse.Namespace) -> list[list[object]]:
    """A step of ours and one of the published code, in turn, at the batch that both can take."""
    device, rows = torch.device(args.device), []
    for model in args.models:
        batch = args.reference_batch
        config = BenchModelConfig(
            model=model, batch_size=batch, precision="bf16", device=args.device, compile=args.fastest
        )
        data = synthetic_batch(batch, 3, 224, 224, device)
        trainer = make_trainer(config, "selectivemae", device, "bf16")
        theirs = reference_model(args.reference, model, 12, device)
        images = torch.randn(batch, 3, 224, 224, device=device)
        calls = {"ours": timed_steps(trainer, data, device), "reference": reference_step(theirs, images, "own")}
        times = {k: median(v) for k, v in interleaved(calls, args.rounds, warmup=3).items()}
        rows.append(
            [
                model,
                batch,
                f"{batch / times['reference']:.0f}",
                f"{batch / times['ours']:.0f}",
                f"{times['reference'] / times['ours']:.2f}",
            ]
        )
        print(" | ".join(map(str, rows[-1])), flush=True)
        del trainer, theirs, calls
    return rows


def loader_table(args: argparse.Namespace) -> list[list[object]]:
    """Training from files: the loader's processes decode while the device computes."""
    rows = []
    for model, batch in args.models.items():
        config = BenchTrainConfig(
            model=model,
            batch_size=batch,
            data=args.data,
            image_size=args.image_size,
            rounds=3,
            steps=args.steps,
            precision="bf16",
            device=args.device,
            workers=args.workers,
            compile=args.fastest,
            memory=False,
        )
        cost = bench_train(config)
        for m in cost.methods:
            rows.append(
                [
                    model,
                    m.method,
                    batch,
                    cost.workers,
                    f"{m.images_per_s:.0f}",
                    f"{100 * m.share_of_peak:.0f} %",
                    f"{100 * m.data_wait_share:.0f} %",
                ]
            )
            print(" | ".join(map(str, rows[-1])), flush=True)
    return rows


def main() -> None:
    """Measure what there is time for; write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=[*MODELS], choices=[*MODELS])
    parser.add_argument("--data", nargs="+", help="real images, for the part with the loader")
    parser.add_argument("--workers", default="auto")
    parser.add_argument("--reference", type=Path, help="a checkout of github.com/MiliLab/SelectiveMAE")
    parser.add_argument("--reference-batch", type=int, default=256)
    parser.add_argument("--compile", nargs="+", default=["off", "on"], choices=MODES, help="ways to measure")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument(
        "--budget", type=float, default=5.0, help="minutes after which no size of the first part begins"
    )
    parser.add_argument("--smoke", action="store_true")
    parser.add_argument("--name", default="gpu")
    args = parser.parse_args()
    args.models = dict.fromkeys(args.models, BATCH)
    args.device, args.image_size = "cuda", 224
    args.workers = args.workers if args.workers == "auto" else int(args.workers)
    if args.smoke:
        args.models, args.device, args.image_size = {"vit_tiny_patch16": 2}, "cpu", 64
        args.rounds, args.steps, args.compile, args.workers = 1, 1, ["off"], 0
    elif not torch.cuda.is_available():
        raise SystemExit("torch sees no GPU: --smoke tries the script on a CPU")
    args.fastest = args.compile[-1]
    began = time.monotonic()
    blocks = [
        "SelectiveMAE with HOG, near-far-random, 12 decoder blocks; MAE with 8; forward, backward, clipping and "
        "AdamW; medians.",
        _table.markdown(HEAD, steps_table(args, tuple(args.compile), began + 60 * args.budget)),
    ]
    if args.data:
        head = ["model", "method", "batch", "workers", "images/s", "of peak", "data wait"]
        blocks += ["From files, through the loader:", _table.markdown(head, loader_table(args))]
    if args.reference and not args.smoke:
        head = ["model", "batch", "reference images/s", "ours", "times"]
        title = f"Beside the published code (its own fp16), ours in bf16, compile {args.fastest}:"
        blocks += [title, _table.markdown(head, reference_table(args))]
    if args.smoke:
        print("\n".join(blocks))
        return
    card, seconds = torch.cuda.get_device_name(), time.monotonic() - began
    blocks.append(f"{card}, CUDA {torch.version.cuda}; {seconds:.0f} s in all")
    _table.write(args.name, "A GPU's training step", "benchmarks/gpu.py", *blocks)


if __name__ == "__main__":
    main()
