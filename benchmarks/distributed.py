"""Several processes against one: losses, samples, bytes on the wire, changes of their number, kills, two machines.

python benchmarks/distributed.py --data ../shared/data/aid --out /tmp/distributed

Processes are started by torchrun, in network namespaces of their own (Linux, root): in one to count the bytes, in two,
joined by a virtual cable, as two machines. Without the permission for that those parts are left out, and it says so.
"""

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

import _table
from selectivemae.core.records import read_metrics
from selectivemae.distributed.each_step import outcome_bytes
from selectivemae.engine.checkpoint import newest_checkpoint

BATCH, STEPS = 8, 40
OPTIONS = {
    "model": "vit_tiny_patch16", "image-size": 64, "decoder-depth": 1, "batch-size": BATCH, "lr": 5e-4, "workers": 0,
    "samples-seen": BATCH * STEPS, "precision": "fp32", "device": "cpu", "checkpoint-steps": 4, "prune-ratio": 0.4,
    "richness": "hog", "order": "near-far-random", "picture-every": 0, "meet-timeout": 120, "hang-timeout": 300,
}  # fmt: skip
WORDS = [word for name, value in OPTIONS.items() for word in (f"--{name}", str(value))]
HERE = ["unshare", "-n", "sh", "-c", 'ip link set lo up && exec "$@"', "sh"]
NODES = ("selectivemae-a", "selectivemae-b")


def bytes_of_interface(name: str) -> int:
    """Bytes that an interface has sent so far."""
    for line in Path("/proc/net/dev").read_text().splitlines():  # /sys may show another namespace's
        if line.strip().startswith(f"{name}:"):
            return int(line.partition(":")[2].split()[8])
    raise RuntimeError(f"there is no interface {name}")


def child(arguments: list[str]) -> int:
    """The command ``pretrain`` in one of the processes, which counts the bytes on the wire after every step."""
    from selectivemae.cli.main import main
    from selectivemae.engine.loop import Trainer

    step, counted = Trainer.step, []

    def counting(self: Trainer, batch: Any, state: Any) -> None:
        step(self, batch, state)
        counted.append(bytes_of_interface("lo"))

    Trainer.step = counting
    torch.set_num_threads(1)
    code = main(arguments)
    if os.environ.get("RANK", "0") == "0":
        out = Path(arguments[arguments.index("--out") + 1])
        (out / "bytes.json").write_text(json.dumps(counted))
    return code


def command(out: Path, data: Path, world: int, *more: str, launch: list[str] | None = None) -> list[str]:
    """The line that trains in ``world`` processes."""
    arguments = ["pretrain", "--data", str(data), "--out", str(out), "--quiet", *WORDS, *more]
    if world == 1 and launch is None:
        return [sys.executable, __file__, "--child", *arguments]
    how = launch if launch is not None else ["--standalone", "--nproc-per-node", str(world)]
    return [sys.executable, "-m", "torch.distributed.run", *how, __file__, "--child", *arguments]


def start(line: list[str], log: Path) -> "subprocess.Popen[bytes]":
    """Run a line with its output in a file."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(line, stdout=open(log, "ab"), stderr=subprocess.STDOUT, env=environment)


def finished(process: "subprocess.Popen[bytes]", log: Path) -> None:
    """Wait for its end; RuntimeError with the last words of one that failed."""
    if process.wait():
        raise RuntimeError(f"exit code {process.returncode}: {log.read_text()[-2000:]}")


def lines(out: Path) -> dict[int, dict[str, Any]]:
    """The "train" lines of a run by step, each once."""
    found = [r for r in read_metrics(out / "metrics.jsonl") if r["kind"] == "train"]
    assert len({r["step"] for r in found}) == len(found), f"a step stands twice in {out}"
    return {r["step"]: r for r in found}


def apart(run: Path, wanted: Path, name: str, step: int | None = None) -> float:
    """Largest relative difference of a figure over all steps, or at one."""
    got, whole = lines(run), lines(wanted)
    steps = [step] if step else list(whole)
    return max(abs(got[s][name] - whole[s][name]) / abs(whole[s][name]) for s in steps)


def same_ledger(run: Path, wanted: Path) -> str:
    """Whether every step saw the same samples."""
    got, whole = lines(run), lines(wanted)
    return "yes" if [r["ledger"] for r in got.values()] == [r["ledger"] for r in whole.values()] else "NO"


def counted_bytes(out: Path) -> float:
    """Bytes that all processes together sent in a step: the mean of the second half, when all is set up."""
    counted = json.loads((out / "bytes.json").read_text())
    half = len(counted) // 2
    return (counted[-1] - counted[half]) / (len(counted) - 1 - half)


def theory(world: int, parameters: int) -> float:
    """Bytes that ``world`` processes send in a step: a ring all-reduce of fp32 gradients sends 2 (W - 1) / W of them
    from each, the outcome of each goes to all others, three numbers are agreed on."""
    gradients = 2 * (world - 1) * 4 * parameters
    return gradients + world * (world - 1) * outcome_bytes(BATCH // world, 0) + 2 * (world - 1) * 3 * 8


def equality(data: Path, root: Path, namespaces: bool) -> str:
    """1, 2 and 4 processes."""
    rows: list[list[object]] = []
    for world in (1, 2, 4):
        out, log = root / f"world{world}", root / f"world{world}.log"
        finished(start([*(HERE if namespaces else []), *command(out, data, world)], log), log)
        tensors = load_file(out / "checkpoints" / f"step-{STEPS:08d}" / "optimizer.safetensors")
        parameters = sum(v.numel() for k, v in tensors.items() if k.startswith("exp_avg."))
        sent, expected = counted_bytes(out), theory(world, parameters)
        one = root / "world1"
        row: list[object] = [world, f"{apart(out, one, 'loss', 1):.1e}", f"{apart(out, one, 'loss'):.1e}"]
        row += [f"{apart(out, one, 'grad_norm'):.1e}", same_ledger(out, one)]
        if namespaces and world > 1:
            row += [f"{sent / 1e6:.3f}", f"{expected / 1e6:.3f}", f"{100 * (sent / expected - 1):+.2f} %"]
        rows.append(row + [""] * (8 - len(row)))
    head = ["processes", "loss, first step", "loss, any step", "gradient norm, any step", "ledger equal"]
    return _table.markdown([*head, "MB a step", "theory", "difference"], rows)


def stopped_at(out: Path, step: int, process: "subprocess.Popen[bytes]", log: Path) -> None:
    """SIGTERM to a run that has come to a step, and wait for it."""
    reach(out, step, process, log)
    process.send_signal(signal.SIGTERM)
    process.wait()


def last_step(out: Path) -> int:
    """The last step that stands in a run's records, 0 where there are none."""
    try:
        return max((r["step"] for r in read_metrics(out / "metrics.jsonl")), default=0)
    except (OSError, ValueError):
        return 0


def reach(out: Path, step: int, process: "subprocess.Popen[bytes]", log: Path) -> None:
    """Wait until a run has come to a step."""
    while last_step(out) < step:
        if process.poll() is not None:
            raise RuntimeError(f"ended before step {step}: {log.read_text()[-2000:]}")
        time.sleep(0.02)


def changing(data: Path, root: Path) -> str:
    """One process, two, one: stopped and resumed in the middle of an epoch, or wherever."""
    out, log, reached = root / "changing", root / "changing.log", []
    for world, step in ((1, 9), (2, 23), (1, None)):
        process = start(command(out, data, world, "--resume"), log)
        if step is None:
            finished(process, log)
        else:
            stopped_at(out, step, process, log)
        reached.append([world, last_step(out), f"{lines(out)[last_step(out)]['epoch']:.2f}"])
    one = root / "world1"
    outcome = [
        ["steps", len(lines(out))],
        ["largest difference of a step's loss, relative", f"{apart(out, one, 'loss'):.1e}"],
        ["ledger equal to that of one process in one go", same_ledger(out, one)],
    ]
    return _table.markdown(["processes", "until step", "epoch"], reached) + "\n" + _table.markdown(["", ""], outcome)


def workers_of(launcher: int) -> list[int]:
    """Process ids that torchrun has started."""
    found = Path(f"/proc/{launcher}/task/{launcher}/children").read_text().split()
    return [int(pid) for pid in found]


def killed(data: Path, root: Path, seed: int, kills: int = 5) -> str:
    """Two processes, of which one is killed now and then; torchrun restarts both, and nobody else does anything."""
    out, log, draw = root / "killed", root / "killed.log", random.Random(seed)
    launch = ["--standalone", "--nproc-per-node", "2", "--max-restarts", str(kills)]
    process = start(command(out, data, 2, launch=launch), log)
    rows = []
    for step in sorted(draw.sample(range(2, STEPS - 3), kills)):
        reach(out, step, process, log)
        time.sleep(draw.uniform(0, 0.3))
        pids = workers_of(process.pid)
        victim = draw.randrange(len(pids))
        os.kill(pids[victim], signal.SIGKILL)
        rows.append([len(rows) + 1, victim, last_step(out)])
        while pids[victim] in workers_of(process.pid) and process.poll() is None:
            time.sleep(0.02)
    finished(process, log)
    whole = root / "world2"
    saved = [newest_checkpoint(folder / "checkpoints")[0] for folder in (out, whole)]
    assert saved[0] is not None
    assert saved[1] is not None
    first, second = saved[0].model | saved[0].optimizer, saved[1].model | saved[1].optimizer
    same = first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)
    outcome = [
        ["steps of both", len(lines(out))],
        ["largest difference of a step's loss, relative", f"{apart(out, whole, 'loss'):.1e}"],
        ["ledger equal", same_ledger(out, whole)],
        ["final weights and optimizer state equal, bit for bit", "yes" if same else "NO"],
    ]
    head = ["SIGKILL", "of process", "last step written"]
    return _table.markdown(head, rows) + "\n" + _table.markdown(["", ""], outcome)


def cable() -> None:
    """Two network namespaces with a virtual cable between them."""
    a, b = NODES
    for words in (
        f"netns add {a}", f"netns add {b}", f"link add cable-a netns {a} type veth peer name cable-b netns {b}",
        f"-n {a} addr add 10.77.0.1/24 dev cable-a", f"-n {b} addr add 10.77.0.2/24 dev cable-b",
        f"-n {a} link set cable-a up", f"-n {b} link set cable-b up",
        f"-n {a} link set lo up", f"-n {b} link set lo up",
    ):  # fmt: skip
        subprocess.run(["ip", *words.split()], check=True, capture_output=True)


def two_machines(data: Path, root: Path) -> str:
    """A process in each of two network namespaces, as on two machines."""
    out, log = root / "machines", root / "machines.log"
    try:
        cable()
        started = []
        for number, node in enumerate(NODES):
            launch = ["--nnodes", "2", "--node-rank", str(number), "--nproc-per-node", "1"]
            launch += ["--master-addr", "10.77.0.1", "--master-port", "29611"]
            inside = ["ip", "netns", "exec", node, "env", f"GLOO_SOCKET_IFNAME=cable-{'ab'[number]}"]
            started.append(start([*inside, *command(out, data, 2, launch=launch)], log))
        for process in started:
            finished(process, log)
    finally:
        for node in NODES:
            subprocess.run(["ip", "netns", "delete", node], check=False, capture_output=True)
    whole = root / "world2"
    rows = [
        ["steps", len(lines(out))],
        ["largest difference of a step's loss from two processes on one machine", f"{apart(out, whole, 'loss'):.1e}"],
        ["ledger equal", same_ledger(out, whole)],
    ]
    return _table.markdown(["two network namespaces", ""], rows)


def may_unshare() -> bool:
    """Whether this user may make network namespaces."""
    return (
        shutil.which("ip") is not None
        and subprocess.run([*HERE, "true"], check=False, capture_output=True).returncode == 0
    )


def main() -> None:
    """Do all of it, and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    args.out.mkdir(parents=True)
    namespaces = may_unshare()
    began = time.monotonic()
    blocks = [equality(args.data, args.out, namespaces), changing(args.data, args.out)]
    blocks.append(killed(args.data, args.out, args.seed))
    blocks.append(two_machines(args.data, args.out) if namespaces else "No permission for network namespaces here.")
    note = (
        f"{OPTIONS['model']} at {OPTIONS['image-size']} px with a decoder of one block on {args.data.name}, {STEPS} "
        f"steps of {BATCH} images, HOG, near-far-random, pruning {OPTIONS['prune-ratio']}; gloo on a CPU, started by "
        "torchrun. Bytes are those of the loopback interface of a network namespace of its own, "
        "headers and acknowledgements included. Seed of the kills "
        f"{args.seed}. All of it took {(time.monotonic() - began) / 60:.1f} min on busy cores."
    )
    names = ["As one process", "From one to two processes and back", "Killed five times, restarted by torchrun"]
    titled = [f"## {n}\n\n{b}" for n, b in zip([*names, "Two machines"], blocks, strict=True)]
    _table.write("distributed", "Several processes", "benchmarks/distributed.py", note, *titled)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        sys.exit(child(sys.argv[2:]))
    main()
