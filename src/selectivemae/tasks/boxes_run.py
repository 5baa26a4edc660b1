"""Fine-tuning of both detectors; the run folder is that of :mod:`selectivemae.tasks.training`."""

import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from selectivemae.core.errors import ConfigError, DataError
from selectivemae.core.progress import duration
from selectivemae.core.statistics import mean_deviation
from selectivemae.data.batch import Stream
from selectivemae.data.loader import EverySample, auto_workers
from selectivemae.distributed.group import Group
from selectivemae.engine.optim import Budget, StepSchedule
from selectivemae.engine.precision import choose_device, resolve_precision
from selectivemae.engine.state import RunState
from selectivemae.tasks.boxes_config import BoxConfig
from selectivemae.tasks.boxes_data import BoxStore, BoxStream, CanvasPixels
from selectivemae.tasks.boxes_evaluate import Found, detect, report_notes, write_evaluation
from selectivemae.tasks.boxes_figures import DEFINITIONS, BoxFigures, judge
from selectivemae.tasks.boxes_geometry import Geometry
from selectivemae.tasks.boxes_layout import open_boxes
from selectivemae.tasks.boxes_model import KINDS, DetectObjective, Task, build_detector, metadata, save_detector
from selectivemae.tasks.boxes_tiles import tiled
from selectivemae.tasks.common import EVALUATION_FOLDER, add_drop_path, decay_line
from selectivemae.tasks.photometric import Photometric
from selectivemae.tasks.training import train_seeds, write_summary

log = logging.getLogger("selectivemae")


@dataclass(frozen=True)
class SeedResult:
    """How the run of one seed ended, evaluated after its last epoch; ``figures`` in percent by their names."""

    seed: int
    figures: dict[str, float]
    images: int
    unreadable: int
    steps: int
    epochs: float
    seconds: float


@dataclass(frozen=True)
class DetectResult:
    """How a fine-tuning ended: the runs, and mean and deviation over them (None for one) of the figure ``metric``."""

    out: Path
    runs: list[SeedResult]
    metric: str
    mean: float
    deviation: float | None

    def as_text(self) -> str:
        """For people: every figure of every run, by its definition."""
        lines = []
        for run in self.runs:
            lines.append(f"seed {run.seed}: {run.epochs:.0f} epochs ({run.steps} steps, {duration(run.seconds)})")
            lines += [f"  {value:6.2f} %  {DEFINITIONS[name]}" for name, value in run.figures.items()]
            bad = f", of which {run.unreadable} could not be read and count as empty" if run.unreadable else ""
            lines.append(f"  on {run.images} test images{bad}")
        if self.deviation is not None:
            shown = f"{self.mean:.2f} ± {self.deviation:.2f} %"
            lines.append(f"{len(self.runs)} seeds: {shown}, {DEFINITIONS[self.metric]}")
        return "\n".join([*lines, f"{self.out}: model and evaluation"])


def finetune_boxes(
    task: Task,
    config: BoxConfig,
    *,
    resume: bool = False,
    overwrite: bool = False,
    quiet: bool = False,
    group: Group | None = None,
    command: str = "",
) -> DetectResult:
    """Fine-tune a detector as ``config`` says.

    ``resume`` continues the folder's run exactly (or begins it, when there is none yet). Every process of ``group``
    makes this call. Raises UserError subclasses for everything that a user can mend; Interrupted after a signal, with
    the state saved.
    """
    group = group or Group.single(choose_device(config.device))
    runs = train_seeds(
        config,
        group,
        partial(BoxTask, task, device=group.device),
        SeedResult,
        _seed_result,
        resume=resume,
        overwrite=overwrite,
        quiet=quiet,
        command=command,
    )
    assert config.out is not None
    metric = next(iter(runs[0].figures))
    result = DetectResult(config.out, runs, metric, *mean_deviation([run.figures[metric] for run in runs]))
    write_summary(config, group, asdict(result))
    return result


def _seed_result(work: "BoxTask", state: RunState) -> SeedResult:
    found = work.write(work.config.out)
    counts = (found.images, found.unreadable, state.step, state.epochs, state.elapsed)
    return SeedResult(work.config.seed, found.mean, *counts)


class BoxTask:
    """Images, detector, objective and evaluation of one run (a ``FinetuneTask``)."""

    # A resumed run with others of these would be another run: other weights, targets, or another order of samples.
    identity: Sequence[str] = (
        "weights", "image_size", "neck_width", "head_width", "drop_path", "batch_size", "seed", "train_split", "tile",
        "overlap", "flips", "rotation", "photometric",
    )  # fmt: skip

    def __init__(self, task: Task, config: BoxConfig, device: torch.device) -> None:
        self.config, self.device = config, device
        if config.data is None:
            raise ConfigError("no data given: --data FOLDER of labelled images")
        assert config.weights is not None
        sides = KINDS[task].box_numbers
        whole = open_boxes(config.data, "train", sides, config.train_split)
        self.test = open_boxes(config.data, "test", sides, config.test_split, whole.classes)
        self.train = (tiled(whole, config.tile, config.overlap) if config.tile else whole).for_training()
        if not len(self.train):
            raise DataError(f"{config.data}: none of its {len(whole)} training images has an object to learn")
        self.precision = resolve_precision(config.precision, device)
        self.workers = auto_workers() if isinstance(config.workers, str) else config.workers
        self.detector = build_detector(
            task,
            config.weights,
            whole.classes,
            layout=config.layout,
            image_size=config.image_size,
            window=int(np.median([max(item.size) for item in self.train if item.size])),
            neck_width=config.neck_width,
            head_width=config.head_width,
            checkpointing=config.checkpointing,
            seed=config.seed,
        )
        self.geometry = Geometry(config.image_size, config.flips, config.rotation)
        self.store = BoxStore(self.train)
        light = Photometric() if config.photometric else None
        self.pixels = CanvasPixels(self.store, self.geometry, self.detector.info.channels, self.detector.colour, light)
        self.objective = DetectObjective(
            self.detector,
            add_drop_path(self.detector.model.backbone, config.drop_path),
            weight_decay=config.weight_decay,
            layer_decay=config.layer_decay,
        )
        self.order = EverySample(config.seed, len(self.store))
        self.budget = Budget(epochs=config.epochs)
        milestones = tuple(epoch / config.epochs for epoch in config.milestones)
        warmup = min(1.0, config.warmup_steps * config.batch_size / (config.epochs * len(self.store)))
        self.schedule = StepSchedule(config.lr, milestones, config.lr_factor, warmup)
        self.last: Found | None = None  # of the test part, at the newest evaluation
        self.figures: BoxFigures | None = None

    def targets(self, stream: Stream) -> Stream:
        """The boxes of each image."""
        return BoxStream(stream, self.train, self.geometry, self.device)

    def announce(self) -> None:
        """Log classes, parts, what the readers left out, and the model."""
        for name, data in (("training", self.train), ("test", self.test)):
            report_notes(data, name)
        log.info(
            "%d classes; %d training images with %d objects, %d test images with %d; %s, canvas %d px, on %s in %s",
            len(self.train.classes),
            len(self.train),
            sum(len(item.boxes) for item in self.train),
            len(self.test),
            sum(len(item.boxes) for item in self.test),
            self.detector.info.architecture,
            self.detector.size,
            self.device,
            self.precision,
        )
        log.info("%s", decay_line(self.objective.parameter_groups()))

    def evaluate(self) -> dict[str, Any]:
        """The figures of the test part, in percent."""
        config = self.config
        self.last = detect(
            self.detector,
            self.test,
            self.device,
            self.precision,
            tile=config.tile,
            overlap=config.overlap,
            workers=self.workers,
        )
        unread = len(self.last[1])
        self.figures = judge(self.test, self.last[0], self.detector.sides, config.difficult, unread)
        for name, value in self.figures.mean.items():
            log.info("%6.2f %%  %s", value, DEFINITIONS[name])
        if unread:
            log.warning("%d test images cannot be read; they count as empty", unread)
        shown = {name: value for name, value in self.figures.mean.items() if value == value}
        return shown | {"images": len(self.test), "unreadable": unread}

    def write(self, out: Path | None) -> BoxFigures:
        """Write the newest evaluation into the run's folder."""
        assert self.last is not None
        assert self.figures is not None
        assert out is not None
        write_evaluation(out / EVALUATION_FOLDER, self.test, self.last[0], self.figures, self.last[1])
        return self.figures

    def metadata(self) -> dict[str, str]:
        """Of the detector's file."""
        return metadata(self.detector)

    def save(self, path: Path) -> None:
        """Write the detector's file."""
        save_detector(path, self.detector)
