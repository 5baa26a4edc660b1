"""What a training step costs, SelectiveMAE against MAE, for three sizes.

    python benchmarks/model.py [--models vit_small_patch16 vit_base_patch16 vit_large_patch16] [--precision fp32]

The methods take turns in one process; peak memory is that of a fresh process each.
"""

import argparse

import _table
from selectivemae.pretrain.bench import bench_model
from selectivemae.pretrain.bench_config import BenchModelConfig

BATCH = {"vit_large_patch16": 16}  # a CPU's memory and patience; 64 for the others


def main() -> None:
    """Measure and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["vit_small_patch16", "vit_base_patch16", "vit_large_patch16"])
    parser.add_argument("--precision", default="fp32", choices=["fp32", "bf16"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--name", default="model")
    args = parser.parse_args()
    rows, ratios, peak = [], [], 0.0
    for name in args.models:
        config = BenchModelConfig(
            model=name, against="mae", batch_size=BATCH.get(name, 64), rounds=args.rounds, precision=args.precision
        )
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
                    f"{m.peak_memory_gb:.2f}" if m.peak_memory_gb is not None else None,
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
                f"{cost.memory_ratio:.2f}" if cost.memory_ratio else None,
            ]
        )
    head = ["model", "method", "batch", "images/s", "step s", "GFLOP/image", "of peak", "GB", "selection", "HOG alone"]
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
        _table.markdown(["model", "time", "operations", "time / operations", "memory"], ratios),
    )


if __name__ == "__main__":
    main()
