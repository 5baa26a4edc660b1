"""Fine-tunings of dense tasks over two processes are those of one with the same global batch.

Heads that some images do not use are the risk: an image without objects is alone on its process, another cannot be
read, and batch norm and auxiliary head must see the whole batch.
"""

import sys
from pathlib import Path
from typing import Any

import pytest
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tasks"))

from box_worlds import CONFIGS, SETTINGS, SmallFaster, SmallOriented, write_world
from rank_runs import outcome, ranks
from safetensors.torch import load_file
from segment_worlds import SETTINGS as SEGMENT
from segment_worlds import write_pairs

from selectivemae.data.batch import Batch
from selectivemae.engine.launch import processes
from selectivemae.engine.loop import Trainer
from selectivemae.engine.state import StepOutput
from selectivemae.models import vit
from selectivemae.tasks import boxes_model
from selectivemae.tasks.boxes_model import DetectObjective
from selectivemae.tasks.boxes_run import finetune_boxes
from selectivemae.tasks.segment.config import SegmentConfig
from selectivemae.tasks.segment.run import finetune_segment

pytestmark = pytest.mark.slow

BOXES: dict[str, Any] = SETTINGS | {"batch_size": 4, "epochs": 2.0, "eval_every": 9.0, "lr": 1e-4, "drop_path": 0.2}
MASKS: dict[str, Any] = SEGMENT | {"batch_size": 8, "steps": 4, "eval_every": 99.0, "lr": 1e-4, "aux_weight": 0.4}
# Task and images at a time on a process: all of its part (a static graph), or fewer (gradients travel with the last).
CASES = [(task, parts) for task in ("detect", "oriented", "segment") for parts in (1, 2)]


def without_objects(step: Any) -> Any:
    """A detector's step in which image 0 has no object."""

    def emptied(self: DetectObjective, batch: Batch, progress: float) -> StepOutput:
        targets = batch.targets
        for place, number in enumerate(batch.index.tolist()):
            if number == 0:
                targets.boxes[place], targets.labels[place] = targets.boxes[place][:0], targets.labels[place][:0]
        return step(self, batch, progress)

    return emptied


def train_all(root: Path, cases: list[tuple[str, int]]) -> list[float]:
    """Every case, one after the other; their last figures."""
    vit.SIZES["tiny"] = (4, 32, 2, 32, 2)
    boxes_model.KINDS |= {"detect": SmallFaster, "oriented": SmallOriented}
    DetectObjective.step = without_objects(DetectObjective.step)
    figures = []
    with processes("cpu", 120, 120) as group:
        for task, parts in cases:
            batch = MASKS["batch_size"] if task == "segment" else BOXES["batch_size"]
            own = {
                "data": str(root / ("masks" if task == "segment" else "boxes")),
                "out": str(root / f"{task}-{parts}-{group.world}"),
                "micro_batch": batch // parts // group.world,
            }
            if task == "segment":
                figures.append(finetune_segment(SegmentConfig.build(MASKS, own), quiet=True, group=group).miou)
            else:
                config = CONFIGS[task].build(BOXES, own)
                figures.append(finetune_boxes(task, config, quiet=True, group=group).mean)  # pyright: ignore[reportArgumentType]
    return figures


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All cases, by one process and by two."""
    root = tmp_path_factory.mktemp("ranks")
    write_world(root / "boxes", train=8)
    cut = root / "boxes" / "train" / "images" / "train_3.png"
    cut.write_bytes(cut.read_bytes()[:2000])  # its size can be read, its pixels cannot
    write_pairs(root / "masks", count=18)
    for world in (1, 2):
        done = ranks(world, root / f"notes{world}", train_all, root, CASES, seconds=400)
        assert ["result" in d for d in done] == [True] * world, done
        assert all(d["result"] == done[0]["result"] for d in done)  # all know the figures of process 0
    return root


@pytest.mark.parametrize(("task", "parts"), CASES)
def test_a_dense_task_over_two_processes_is_that_of_one(trained: Path, task: str, parts: int) -> None:
    one, two = (trained / f"{task}-{parts}-{world}" for world in (1, 2))
    (got, ledger), (wanted, wanted_ledger) = outcome(two), outcome(one)
    assert list(got) == list(wanted) == [1, 2, 3, 4]
    assert ledger == wanted_ledger
    for name in ("loss", "grad_norm"):
        assert max(abs(got[s][name] - wanted[s][name]) / wanted[s][name] for s in wanted) < 1e-4, name
    first, second = load_file(one / "model.safetensors"), load_file(two / "model.safetensors")
    assert max(float((first[k] - second[k]).abs().max()) for k in first) < 5e-5  # half a step
    if task != "segment":
        (row,) = (two / "quarantine.csv").read_text().splitlines()[1:]
        assert row == "train_3,truncated,2"
        assert (one / "quarantine.csv").read_text().splitlines()[1:] == [row]


def out_of_memory(root: Path) -> None:
    """A segmentation of which process 1 runs out of memory in the first step, before the others' batch norm."""
    vit.SIZES["tiny"] = (4, 32, 2, 32, 2)
    with processes("cpu", 120, 60) as group:
        if not group.is_main:

            def hungry(*_: Any) -> None:
                raise torch.OutOfMemoryError("asked for too much")

            Trainer._gradients = hungry  # pyright: ignore[reportAttributeAccessIssue]
        config = SegmentConfig.build(MASKS, {"data": str(root / "masks"), "out": str(root / "run"), "micro_batch": 4})
        finetune_segment(config, quiet=True, group=group)


def test_a_segmentation_out_of_memory_ends_at_once_and_says_what_to_do(tmp_path: Path) -> None:
    """It cannot go on with fewer images at a time by itself: the others wait in its batch norm."""
    write_pairs(tmp_path / "masks", count=18)
    done = ranks(2, tmp_path / "notes", out_of_memory, tmp_path, seconds=60)
    assert done[0] == {"error": "", "kind": "ElsewhereError", "code": 2}
    assert done[1]["error"].startswith("process 1 of 2 ran out of memory on cpu with 4 images at a time")
    assert "--micro-batch 2" in done[1]["error"]
