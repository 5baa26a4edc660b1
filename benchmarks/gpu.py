"""What a GPU does: the training step of three sizes, beside our MAE, the published code, and with the loader's data.

    python benchmarks/gpu.py                                              # some minutes on one GPU
    python benchmarks/gpu.py --data images/ --reference reference         # with the loader, and beside the reference
    python benchmarks/gpu.py --smoke                                      # tiny, on a CPU: does the script run?

Everything in bf16 at 224 pixels, on images that lie on the device unless the loader brings them; methods take turns in
one process. Parts come in the order of what they tell, the table is written anew after each, a part that fails is named
in it, and after ``--minutes`` the script ends, whatever it is at.
"""

import argparse
import gc
import os
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

import _table
from _reference import reference_model, reference_step
from selectivemae.engine.measure import interleaved, median, synthetic_batch, timed_steps
from selectivemae.pretrain.bench import MethodCost, bench_model, make_trainer
from selectivemae.pretrain.bench_config import BenchModelConfig, BenchTrainConfig
from selectivemae.pretrain.bench_train import bench_train

BATCH = 1024
MODELS = ("vit_base_patch16", "vit_small_patch16", "vit_large_patch16")  # the first is the one that matters most
MODES = ("off", "on", "graphs")
WARMUP = 3  # rounds: kernels are chosen, graphs recorded
STEPS = (
    "SelectiveMAE with HOG, near-far-random, 12 decoder blocks; MAE with 8; forward, backward, clipping and AdamW; "
    "medians. Memory is the most that tensors took in a step, weights and optimizer included"
)
HEADS = {
    STEPS: ["model", "step", "batch", "images/s", "of peak", "GB", "MAE: images/s", "GB", "times MAE"],
    "Beside the published code in its own fp16": ["model", "step", "batch", "reference images/s", "ours", "times"],
    "From files, through the loader": ["model", "step", "method", "batch", "workers", "images/s", "of peak", "wait"],
    "Where the device's time goes": ["model", "step", "kernel", "calls", "ms a step", "share"],
}
TITLES = list(HEADS)


class Report:
    """The tables so far, and what went wrong; writes them, or prints them (``smoke``)."""

    def __init__(self, name: str, smoke: bool) -> None:
        self.name, self.smoke = name, smoke
        self.rows: dict[str, list[list[object]]] = {title: [] for title in HEADS}
        self.notes: list[str] = []
        self.doing, self.began = "", time.monotonic()

    def add(self, title: str, *row: object) -> None:
        """A row of one of the tables."""
        self.rows[title].append(list(row))
        print(" | ".join(map(str, row)), flush=True)

    def note(self, text: str) -> None:
        """Something to know beside the figures."""
        self.notes.append(text)
        print(text, flush=True)

    def write(self) -> None:
        """Write all there is."""
        blocks = [f"{t}:\n\n{_table.markdown(HEADS[t], rows)}" for t, rows in self.rows.items() if rows]
        blocks += [f"* {note}" for note in self.notes]
        if self.smoke:
            print("\n".join(blocks))
            return
        seconds = time.monotonic() - self.began
        card = f"{torch.cuda.get_device_name()}, CUDA {torch.version.cuda}; {seconds:.0f} s in all"
        _table.write(self.name, "A GPU's training step", "benchmarks/gpu.py", *blocks, card, show=False)

    def end(self) -> None:
        """Write all there is and end the program: a thread's call when time is up."""
        self.note(f"out of time in: {self.doing}")
        self.write()
        os._exit(0)


def size(cost: MethodCost, batch: int) -> str:
    """The batch, and in which parts it fitted into the memory."""
    return f"{batch}" if cost.micro_batch >= batch else f"{batch} in parts of {cost.micro_batch}"


def settings(args: argparse.Namespace, model: str, mode: str) -> dict[str, object]:
    """What all parts say to ``bench_model`` and ``bench_train``."""
    how = {"model": model, "compile": mode, "image_size": args.image_size, "device": args.device}
    return how | {"precision": "bf16", "batch_size": args.batch}


def steps(args: argparse.Namespace, report: Report, model: str, mode: str) -> None:
    """SelectiveMAE (the published selection: HOG, near-far-random) against MAE."""
    config = BenchModelConfig.build(settings(args, model, mode), {"against": "mae", "rounds": args.rounds})
    cost = bench_model(config)
    ours, mae = cost.methods
    memory = [None if m.peak_memory_gb is None else f"{m.peak_memory_gb:.1f}" for m in cost.methods]
    batches = " / ".join(dict.fromkeys(size(m, args.batch) for m in cost.methods))
    speeds = [f"{ours.images_per_s:.0f}", f"{100 * ours.share_of_peak:.0f} %", memory[0], f"{mae.images_per_s:.0f}"]
    report.add(TITLES[0], model, f"compile {mode}", batches, *speeds, memory[1], f"{cost.time_ratio:.2f}")


def reference(args: argparse.Namespace, report: Report, model: str, mode: str) -> None:
    """A step of ours and one of the published code, in turn, at a batch that both can take."""
    device, batch = torch.device(args.device), args.reference_batch
    config = BenchModelConfig.build(settings(args, model, mode), {"batch_size": batch})
    data = synthetic_batch(batch, 3, args.image_size, args.image_size, device)
    trainer = make_trainer(config, "selectivemae", device, "bf16")
    images = torch.randn(data.images.shape, device=device)
    theirs = reference_step(reference_model(args.reference, model, 12, device), images, "own")
    calls = {"ours": timed_steps(trainer, data, device), "theirs": theirs}
    times = {k: median(v) for k, v in interleaved(calls, args.rounds, WARMUP).items()}
    speeds = [f"{batch / times[name]:.0f}" for name in ("theirs", "ours")]
    report.add(TITLES[1], model, f"compile {mode}", batch, *speeds, f"{times['theirs'] / times['ours']:.2f}")


def loader(args: argparse.Namespace, report: Report, model: str, mode: str) -> None:
    """Training from files: the loader's processes decode while the device computes."""
    more = {"data": args.data, "rounds": 3, "steps": args.steps, "workers": args.workers, "memory": False}
    cost = bench_train(BenchTrainConfig.build(settings(args, model, mode), more))
    for m in cost.methods:
        figures = [f"{m.images_per_s:.0f}", f"{100 * m.share_of_peak:.0f} %", f"{100 * m.data_wait_share:.0f} %"]
        report.add(TITLES[2], model, f"compile {mode}", m.method, args.batch, cost.workers, *figures)


def kernels(args: argparse.Namespace, report: Report, model: str, mode: str, count: int = 3, most: int = 15) -> None:
    """The kernels that take most of the device's time in ``count`` steps."""
    device = torch.device(args.device)
    batch = synthetic_batch(args.batch, 3, args.image_size, args.image_size, device)
    config = BenchModelConfig.build(settings(args, model, mode))
    once = timed_steps(make_trainer(config, "selectivemae", device, "bf16"), batch, device)
    for _ in range(WARMUP):
        once()
    on_gpu = device.type == "cuda"
    with profile(activities=[ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]) as profiler:
        for _ in range(count):
            once()
    name = "self_device_time_total" if on_gpu else "self_cpu_time_total"
    spent = [(getattr(e, name), e.count, e.key) for e in profiler.key_averages()]
    # An operator's own device time is that of its kernels, which stand there themselves.
    spent = [s for s in spent if s[0] > 0 and not (on_gpu and s[2].startswith(("aten::", "Optimizer.", "autograd::")))]
    total = sum(s[0] for s in spent)
    for micro_s, calls, key in sorted(spent, reverse=True)[:most]:
        figures = [calls // count, f"{micro_s / 1000 / count:.2f}", f"{100 * micro_s / total:.1f} %"]
        report.add(TITLES[3], model, f"compile {mode}", f"`{key[:70].replace('|', '/')}`", *figures)


Part = Callable[[argparse.Namespace, Report, str, str], None]


def parts(args: argparse.Namespace) -> list[tuple[Part, str, str]]:
    """What to measure, in order: the plain step, the fastest, the reference, the other sizes, files, the rest."""
    first, *others = args.models
    fastest = args.compile[-1]
    beside: list[Part] = [*([reference] if args.reference else []), *([loader] if args.data else [])]
    out: list[tuple[Part, str, str]] = [(steps, first, mode) for mode in args.compile]
    out += [(part, first, fastest) for part in beside]
    out += [(steps, model, fastest) for model in others]
    out.append((kernels, first, fastest))
    out += [(steps, model, mode) for mode in args.compile[:-1] for model in others]
    return out + [(part, model, fastest) for part in beside for model in others]


def arguments() -> argparse.Namespace:
    """The command line's, with what follows from it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=[*MODELS], choices=[*MODELS], help="the first matters most")
    parser.add_argument("--data", nargs="+", help="real images, for the part with the loader")
    parser.add_argument("--workers", default="auto")
    parser.add_argument("--reference", type=Path, help="a checkout of github.com/MiliLab/SelectiveMAE")
    parser.add_argument("--reference-batch", type=int, default=256)
    parser.add_argument("--batch", type=int, default=BATCH)
    parser.add_argument("--compile", nargs="+", default=["off", "on"], choices=MODES, help="ways, the fastest last")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--minutes", type=float, default=9.0, help="the script ends then, with what it has")
    parser.add_argument("--smoke", action="store_true")
    parser.add_argument("--name", default="gpu")
    args = parser.parse_args()
    args.device, args.image_size = "cuda", 224
    args.workers = args.workers if args.workers == "auto" else int(args.workers)
    if args.smoke:
        args.models, args.device, args.image_size, args.batch = ["vit_tiny_patch16"], "cpu", 64, 2
        args.rounds, args.steps, args.compile, args.workers, args.reference = 1, 1, ["off"], 0, None
    elif not torch.cuda.is_available():
        raise SystemExit("torch sees no GPU: --smoke tries the script on a CPU")
    return args


def main() -> None:
    """Measure what there is time for; write the table after each part."""
    args = arguments()
    report = Report(args.name, args.smoke)
    clock = threading.Timer(60 * args.minutes, report.end)
    clock.daemon = True
    clock.start()
    for part, model, mode in parts(args):
        report.doing = f"{part.__name__}, {model}, compile {mode}"
        try:
            part(args, report, model, mode)
        except Exception as e:  # the other parts can do without it
            traceback.print_exc()
            report.note(f"failed: {report.doing}: {type(e).__name__}: {str(e).strip().partition(chr(10))[0][:200]}")
        gc.collect()
        if args.device == "cuda":
            if mode == "graphs":
                torch.compiler.reset()  # their memory is theirs for as long as they live
            torch.cuda.empty_cache()
        if not args.smoke:
            report.write()
    clock.cancel()
    report.write()
    if not args.smoke:
        print((_table.RESULTS / f"{args.name}.md").read_text())


if __name__ == "__main__":
    main()
