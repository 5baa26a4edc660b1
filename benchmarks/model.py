"""What a training step costs, SelectiveMAE against MAE, for three sizes.

    python benchmarks/model.py [--models vit_small_patch16 vit_base_patch16 vit_large_patch16] [--precision fp32]

The methods take turns in one process; ``--memory`` measures peak memory alone instead, each in a fresh process.
"""

import argparse

import _table
from selectivemae.pretrain.bench import bench_model, peak_memory
from selectivemae.pretrain.bench_config import BenchModelConfig

BATCH = {"vit_large_patch16": 16}  # a CPU's memory and patience; 64 for the others


def memory(models: list[str], precision: str) -> None:
    """Peak memory of three steps of each method, less that of a process with nothing but the libraries."""
    rows = []
    for name in models:
        config = BenchModelConfig(model=name, batch_size=BATCH.get(name, 64), precision=precision)
        ours, mae = peak_memory(config, "selectivemae"), peak_memory(config, "mae")
        rows.append([name, config.batch_size, f"{ours:.2f}", f"{mae:.2f}", f"{mae / ours:.2f}"])
    _table.write(
        "memory",
        "Peak memory of a training step",
        "benchmarks/model.py --memory",
        f"224 px, {precision}, on a CPU: the most that a fresh process had in memory, less what it had before.",
        _table.markdown(["model", "batch", "SelectiveMAE GB", "MAE GB", "MAE / SelectiveMAE"], rows),
    )


def main() -> None:
    """Measure and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["vit_small_patch16", "vit_base_patch16", "vit_large_patch16"])
    parser.add_argument("--precision", default="fp32", choices=["fp32", "bf16"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--name", default="model")
    parser.add_argument("--memory", action="store_true", help="peak memory alone")
    args = parser.parse_args()
    if args.memory:
        memory(args.models, args.precision)
        return
    rows, ratios, peak = [], [], 0.0
    for name in args.models:
        config = BenchModelConfig(
            model=name, against="mae", batch_size=BATCH.get(name, 64), rounds=args.rounds, precision=args.precision,
            memory=False,
        )  # fmt: skip
        cost = bench_model(config)
        peak = cost.peak_tflops
        for m in cost.methods:
            rows.append(
                [
                    name,
                    m.method,
                    cost.batch_size,
                    f"{m.images_per_s:.1f}",
                    f"{m.step_s:.2f}",
                    f"{m.gflop_per_image:.2f}",
                    f"{100 * m.share_of_peak:.0f} %",
                    f"{100 * m.selection_share:.1f} %",
                    f"{100 * m.richness_share:.1f} %",
                ]
            )
        ratios.append(
            [
                name,
                f"{cost.time_ratio:.2f}",
                f"{cost.flop_ratio:.2f}",
                f"{100 * (cost.time_ratio or 0) / (cost.flop_ratio or 1):.0f} %",
            ]
        )
    head = ["model", "method", "batch", "images/s", "step s", "GFLOP/image", "of peak", "selection", "HOG alone"]
    note = (
        f"224 px, {args.precision}; forward, backward and AdamW; medians of {args.rounds} steps each, in turn. "
        "SelectiveMAE with HOG richness, near-far-random, decoder depth 12; MAE at 75 % masking, decoder depth 8. The "
        f"matrix peak was measured as {1000 * peak:.0f} GFLOP/s. Selection is the whole choice of patches, with HOG."
    )
    _table.write(
        args.name,
        "Cost of a training step",
        "benchmarks/model.py",
        note,
        _table.markdown(head, rows),
        "MAE over SelectiveMAE:",
        _table.markdown(["model", "time", "operations", "time / operations"], ratios),
    )


if __name__ == "__main__":
    main()
