"""Processes that train together, forked from a clean one that has imported everything; any may be told to fail."""

import json
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "faults"))

import torch
from tiny_runs import SETTINGS, SIZE, start, write_images

from selectivemae.core.errors import UserError
from selectivemae.engine.launch import processes
from selectivemae.engine.loop import Trainer
from selectivemae.models import vit
from selectivemae.pretrain import run
from selectivemae.pretrain.config import PretrainConfig
from selectivemae.pretrain.run import pretrain

__all__ = ["free_port", "outcome", "ranks", "train", "write_images"]

Body = Callable[..., Any]


def free_port() -> int:
    """A port that nobody listens at right now."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def _body(
    rank: int, world: int, port: int, attempt: int, notes: Path, body: Body, arguments: tuple, more: dict
) -> None:
    """Run ``body`` as one of several processes; what it returns, or the error's line, goes to a file."""
    torch.set_num_threads(1)
    os.dup2(os.open(notes / f"{rank}.err", os.O_CREAT | os.O_WRONLY | os.O_TRUNC), 2)
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(world), "LOCAL_RANK": str(rank), "MASTER_ADDR": "127.0.0.1"}
    os.environ |= {"MASTER_PORT": str(port), "TORCHELASTIC_RESTART_COUNT": str(attempt)}
    try:
        result: Any = {"result": body(*arguments, **more)}
    except UserError as e:
        result = {"error": str(e), "kind": type(e).__name__, "code": e.exit_code}
    (notes / f"{rank}.json").write_text(json.dumps(result))


def ranks(
    world: int, notes: Path, body: Body, *arguments: Any, attempt: int = 0, seconds: float = 120, **more: Any
) -> list[dict[str, Any]]:
    """What ``body`` gave in each of ``world`` processes: ``result``, or ``error`` and its kind, or ``exit`` code."""
    notes.mkdir(parents=True, exist_ok=True)
    port = free_port()
    started = [start(_body, rank, world, port, attempt, notes, body, arguments, more) for rank in range(world)]
    end = time.monotonic() + seconds
    out: list[dict[str, Any]] = []
    for rank, process in enumerate(started):
        process.join(max(0.1, end - time.monotonic()))
        if process.is_alive():
            process.kill()
            process.join()
            out.append({"exit": "still running"})
        else:
            file = notes / f"{rank}.json"
            out.append(json.loads(file.read_text()) if file.exists() else {"exit": process.exitcode})
            file.unlink(missing_ok=True)
    return out


def notes_of(notes: Path) -> list[str]:
    """The end of what each process said on stderr."""
    return [file.read_text(errors="replace")[-2000:] for file in sorted(notes.glob("*.err"))]


def train(
    data: Path, out: Path, resume: bool = False, misbehave: dict | None = None, **settings: Any
) -> dict[str, Any]:
    """A pre-training of a few seconds in this process and its peers; ``misbehave`` says what goes wrong, and where."""
    vit.SIZES["tiny"] = SIZE
    run.fixed_images = lambda *_: None
    config = PretrainConfig.build(SETTINGS, {"data": [str(data)], "out": out}, settings)
    with processes(config.device, config.meet_timeout, config.hang_timeout) as group:
        if misbehave and group.rank == misbehave["rank"]:
            _arm(misbehave)
        result = pretrain(config, resume=resume, quiet=True, group=group)
    return {"steps": result.steps, "samples": result.samples, "bad": result.quarantined}


def _arm(how: dict[str, Any]) -> None:
    """Let this process fail as told when it comes to a step."""
    step, gradients, fired = Trainer.step, Trainer._gradients, []

    def failing_step(self: Trainer, batch: Any, state: Any) -> None:
        if state.step == how["step"] and not fired:
            fired.append(True)
            match how["what"]:
                case "kill":
                    os.kill(os.getpid(), signal.SIGKILL)
                case "terminate":
                    os.kill(os.getpid(), signal.SIGTERM)
                case "stop":
                    os.kill(os.getpid(), signal.SIGSTOP)
                case "hang":
                    time.sleep(1000)
                case "poison":
                    batch.weight[0] = float("nan")
                case "error":
                    raise UserError("the disk of this process is gone")
        step(self, batch, state)

    def hungry(self: Trainer, batch: Any, progress: float) -> Any:
        if self.micro_batch > how["fits"]:
            raise torch.OutOfMemoryError("asked for too much")
        return gradients(self, batch, progress)

    if how["what"] == "memory":
        Trainer._gradients = hungry
    else:
        Trainer.step = failing_step


def outcome(run_folder: Path) -> tuple[dict[int, dict[str, Any]], str]:
    """The "train" lines of a run by step, and its last ledger."""
    lines = [json.loads(line) for line in (run_folder / "metrics.jsonl").read_text().splitlines()]
    by_step = {r["step"]: r for r in lines if r["kind"] == "train"}
    assert len(by_step) == len([r for r in lines if r["kind"] == "train"]), "a step stands there twice"
    return by_step, list(by_step.values())[-1]["ledger"]
