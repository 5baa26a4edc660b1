"""What a training step of the detectors costs: a ViT-B on 800 x 800 pixels, upright against oriented boxes.

    python benchmarks/detect_cost.py [--rounds 2] [--steps 3] [--weights random:vit_base_patch16] [--device auto]

Every measurement is a process of its own, so that its peak memory is its own; the variants take turns. Images are noise
with 20 objects each: the time of a step hardly depends on what the image shows, but on the objects and regions.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time

import torch

from _table import markdown, write
from selectivemae.data.batch import Batch
from selectivemae.engine.optim import adamw
from selectivemae.engine.precision import autocast, choose_device, resolve_precision
from selectivemae.ops import rotated
from selectivemae.tasks.boxes_data import BoxTargets
from selectivemae.tasks.boxes_model import DetectObjective, build_detector
from selectivemae.tasks.common import add_drop_path
from selectivemae.tasks.detect.data import DIOR_CLASSES

VARIANTS = [(task, checkpointing) for checkpointing in (False, True) for task in ("detect", "oriented")]


def batch_of(count: int, size: int, sides: int, device: torch.device) -> Batch:
    """Noise with 20 objects of 20 to 120 px in each image."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (count, 3, size, size), generator=generator, dtype=torch.uint8)
    boxes, labels = [], []
    for _ in range(count):
        numbers = torch.rand(20, 5, generator=generator)
        centre, side = 60 + numbers[:, :2] * (size - 120), 20 + numbers[:, 2:4] * 100
        table = torch.cat((centre, side, numbers[:, 4:] * 3 - 1.5), dim=1)
        boxes.append((table if sides == 5 else rotated.hull(table).clamp(0, size)).to(device))
        labels.append(torch.randint(0, len(DIOR_CLASSES), (20,), generator=generator).to(device))
    targets = BoxTargets(boxes, labels, [(size, size)] * count)
    return Batch(images.to(device), torch.arange(count), torch.arange(count).to(device), torch.ones(count), targets)


def measure(arguments: argparse.Namespace) -> dict[str, float]:
    """Seconds of a step (median) and of inference, and peak memory in GB, of one variant in this process."""
    device = choose_device(arguments.device)
    detector = build_detector(
        arguments.task,
        arguments.weights,
        DIOR_CLASSES,
        image_size=arguments.image_size,
        checkpointing=arguments.checkpointing,
    )
    detector.model.to(device).train()
    keys = add_drop_path(detector.model.backbone, 0.1)
    objective = DetectObjective(detector, keys, weight_decay=0.05, layer_decay=0.9)
    optimizer = adamw(objective.parameter_groups(), (0.9, 0.999))
    batch = batch_of(arguments.batch, arguments.image_size, detector.sides, device)
    precision = resolve_precision(arguments.precision, device)

    def wait() -> float:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter()

    seconds = []
    for _ in range(arguments.steps + 1):
        began = wait()
        with autocast(precision, device):
            loss = objective.step(batch, 0.0).loss.mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        seconds.append(wait() - began)
    cuda = device.type == "cuda"
    peak = (
        torch.cuda.max_memory_allocated(device) if cuda else 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    )
    detector.model.eval()
    began = wait()
    with torch.inference_mode(), autocast(precision, device):
        detector.found(batch.images, batch.targets.sizes)
    return {"step": statistics.median(seconds[1:]), "inference": wait() - began, "peak": peak / 1e9}


def main() -> None:
    """Measure all variants in turns and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--image-size", type=int, default=800)
    parser.add_argument("--weights", default="random:vit_base_patch16")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--task", choices=("detect", "oriented"), help=argparse.SUPPRESS)
    parser.add_argument("--checkpointing", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.task:
        print(json.dumps(measure(arguments)))
        return
    found: dict[tuple[str, bool], list[dict[str, float]]] = {variant: [] for variant in VARIANTS}
    for _ in range(arguments.rounds):
        for task, checkpointing in VARIANTS:
            command = [sys.executable, __file__, *sys.argv[1:], "--task", task]
            command += ["--checkpointing"] if checkpointing else []
            out = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
            found[task, checkpointing].append(json.loads(out.splitlines()[-1]))
    rows = []
    for (task, checkpointing), parts in found.items():
        step, inference = (min(p[k] for p in parts) for k in ("step", "inference"))
        cells = [f"{arguments.batch / step:.2f}", f"{inference:.2f}", f"{max(p['peak'] for p in parts):.1f}"]
        rows.append([task, "yes" if checkpointing else "no", f"{step:.2f}", *cells])
    head = ["task", "checkpointing", "step, s", "training, images/s", "inference, s a batch", "peak memory, GB"]
    device = choose_device(arguments.device)
    where = torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    size = f"{arguments.image_size} x {arguments.image_size} px, batch {arguments.batch}, {arguments.precision}"
    about = (
        f"{arguments.weights}, {size}, on {where}; best of {arguments.rounds} processes, each the median of "
        f"{arguments.steps} steps. Memory: of the whole process on a CPU, of tensors on a GPU."
    )
    write("detect_cost", "What a step of the detectors costs", "benchmarks/detect_cost.py", about, markdown(head, rows))


if __name__ == "__main__":
    main()
