"""What a training step of each size needs, on paper: counted operations and bytes, and what follows for many devices.

python benchmarks/scaling.py

Parameters, operations and kept bytes are counted on models with one image; the rest is arithmetic with the
formulas of docs/scaling.md. Nothing here is a measured time.
"""

import argparse

import torch

import _table
from selectivemae.engine.measure import flops_per_image, saved_bytes, synthetic_batch
from selectivemae.engine.recompute import recompute_activations
from selectivemae.models import vit
from selectivemae.models.create import create_model
from selectivemae.pretrain.objective import PretrainObjective

MODELS = ("vit_small_patch16", "vit_base_patch16", "vit_large_patch16", "vit_huge_patch14")
PEAK, SHARE = 790e12, 0.4  # bf16 matrix products of one H100 or H200, and the share that such a training reaches
ROOM = 0.9 * 80e9  # bytes of a device that a training can use
NETWORK = {8: 400e9, 128: 40e9, 1000: 40e9}  # bytes a second from each device: inside a machine, and between machines
CORPUS, EPOCHS = 4_000_000, 800


def counts(name: str) -> list[float]:
    """Parameters, operations of an image (forward and backward), bytes kept of it, bytes kept whatever the batch, and
    both with recomputation.

    Counted with one block in the encoder and with two: all of them grow by the same for every block more.
    """
    size = name.split("_")[1]
    whole = vit.SIZES[size]
    counted = []
    try:
        for depth in (1, 2):
            vit.SIZES[size] = (depth, *whole[1:])
            counted.append(counts_of_model(name))
    finally:
        vit.SIZES[size] = whole
    return [one + (whole[0] - 1) * (two - one) for one, two in zip(*counted, strict=True)]


def counts_of_model(name: str) -> list[float]:
    """``counts`` of a model as it is."""
    model = create_model(name, method="selectivemae", image_size=224)
    objective = PretrainObjective(model, 0.05)
    batch = synthetic_batch(4, 3, 224, 224, torch.device("cpu"))
    figures = [flops_per_image(objective, batch), *saved_bytes(objective, batch, "bf16")]
    recompute_activations(model)
    return [sum(p.numel() for p in model.parameters()), *figures, *saved_bytes(objective, batch, "bf16")]


def ring(parameters: float, world: int, width: int = 4) -> float:
    """Bytes that each of ``world`` devices sends in a step for a ring all-reduce of ``width``-byte gradients."""
    return 2 * (world - 1) / world * width * parameters


def main() -> None:
    """Count, compute, write the tables."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    needs: list[list[object]] = []
    sends: list[list[object]] = []
    for name in MODELS:
        parameters, flops, kept, copies, recomputed, _ = counts(name)
        per_second = SHARE * PEAK / flops
        state = 16 * parameters  # weights, gradients and two moments in fp32
        needs.append([
            name, f"{parameters / 1e6:.1f} M", f"{flops / 1e9:.1f}", f"{state / 1e9:.2f}", f"{state / 8e9:.2f}",
            f"{copies / 1e9:.2f}", f"{kept / 1e6:.1f}", f"{recomputed / 1e6:.1f}",
            *(f"{(ROOM - state - copies) / each:,.0f}" for each in (kept, recomputed)), f"{per_second:,.0f}",
            f"{CORPUS * EPOCHS / per_second / 3600:,.0f}",
        ])  # fmt: skip
        for world, rate in NETWORK.items():
            sent = ring(parameters, world)
            wire, image = sent / rate, flops / (SHARE * PEAK)
            total = [CORPUS * EPOCHS / (b * world) * max(b * image, wire) / 3600 for b in (4096 / world, 256)]
            sends.append([
                name, world, f"{sent / 1e9:.2f}", f"{sent / 2e9:.2f}", f"{1.5 * sent / 1e9:.2f}", f"{1e3 * wire:.1f}",
                f"{1e3 * image * 4096 / world:.1f}", f"{wire / image:.0f}", *(f"{hours:.1f}" for hours in total),
            ])  # fmt: skip
    first = _table.markdown(
        ["model", "parameters", "GFLOP an image", "GB of state", "GB of state, 8 shards", "GB of bf16 copies",
         "MB kept an image", "recomputed", "images at a time in 80 GB", "recomputed", "images/s a device (computed)",
         "device hours, 800 epochs of 4 M"], needs,
    )  # fmt: skip
    second = _table.markdown(
        ["model", "devices", "GB sent a step, fp32", "bf16", "shards, fp32", "ms on the wire",
         "ms of work, batch 4,096", "images a device: work = wire", "hours, batch 4,096", "hours, 256 a device"], sends,
    )  # fmt: skip
    note = (
        "Computed, not measured: 224 px, SelectiveMAE as published (15 % seen, 25 % rebuilt, decoder of 12 blocks). "
        f"{PEAK / 1e12:.0f} TFLOP/s of bf16 a device, of which {100 * SHARE:.0f} % are used; each device sends "
        f"{NETWORK[8] / 1e9:.0f} GB/s inside a machine and {NETWORK[128] / 1e9:.0f} GB/s between machines. Kept bytes "
        "are counted with the plain form of attention; fused kernels keep less; the largest temporaries of a step (its "
        "images in fp32, the gradients of a block) come beside. Hours are those of 800 epochs of 4 M "
        "images, a step taking the longer of work and wire (fp32 gradients, hidden behind the work)."
    )
    _table.write("scaling", "Many devices, on paper", "benchmarks/scaling.py", note, first, second)


if __name__ == "__main__":
    main()
