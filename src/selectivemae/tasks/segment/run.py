"""Fine-tuning for semantic segmentation; the run folder is that of :mod:`selectivemae.tasks.training`, with

split.csv    file and split of every image: what --split takes
"""

import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from selectivemae.core.errors import ConfigError, DataError
from selectivemae.core.files import atomic_write
from selectivemae.core.progress import duration
from selectivemae.core.records import csv_text
from selectivemae.core.statistics import mean_deviation
from selectivemae.data.batch import Stream
from selectivemae.data.labels import inner_paths, listed
from selectivemae.distributed.group import Group
from selectivemae.engine.optim import Budget, Schedule
from selectivemae.engine.precision import choose_device, resolve_precision
from selectivemae.engine.state import RunState
from selectivemae.tasks.common import EVALUATION_FOLDER, add_drop_path
from selectivemae.tasks.order import TrainingOrder
from selectivemae.tasks.photometric import Photometric
from selectivemae.tasks.segment.augment import PairAugment
from selectivemae.tasks.segment.config import SegmentConfig
from selectivemae.tasks.segment.data import MaskStream, PairPixels, open_pairs, rows_of, training_places
from selectivemae.tasks.segment.evaluate import Judged, Predictor, figures_of, judge, write_evaluation
from selectivemae.tasks.segment.layout import PARTS
from selectivemae.tasks.segment.metrics import Figures
from selectivemae.tasks.segment.model import SegmentObjective, Shape, build_segmenter, metadata, save_segmenter
from selectivemae.tasks.training import train_seeds, write_summary

log = logging.getLogger("selectivemae")

SPLIT = "split.csv"


@dataclass(frozen=True)
class SeedResult:
    """How the run of one seed ended, evaluated after its last step; shares in percent."""

    seed: int
    miou: float
    mf1: float
    aacc: float
    images: int
    unreadable: int
    steps: int
    epochs: float
    seconds: float


@dataclass(frozen=True)
class SegmentResult:
    """How a fine-tuning ended: the runs, and mean and deviation over them (None for a single run), in percent."""

    out: Path
    runs: list[SeedResult]
    miou: float
    miou_deviation: float | None
    mf1: float
    mf1_deviation: float | None

    def as_text(self) -> str:
        """The result for people."""
        lines = [
            f"seed {run.seed}: mIoU {run.miou:.2f} %, mF1 {run.mf1:.2f} %, pixel accuracy {run.aacc:.2f} % on "
            f"{run.images} val images after {run.steps} steps ({run.epochs:.1f} epochs, {duration(run.seconds)})"
            + (f"; {run.unreadable} images could not be used and are not counted" if run.unreadable else "")
            for run in self.runs
        ]
        if self.miou_deviation is not None and self.mf1_deviation is not None:
            lines.append(
                f"{len(self.runs)} seeds: mIoU {self.miou:.2f} ± {self.miou_deviation:.2f} %, "
                f"mF1 {self.mf1:.2f} ± {self.mf1_deviation:.2f} %"
            )
        return "\n".join([*lines, f"{self.out}: model and evaluation"])


def finetune_segment(
    config: SegmentConfig,
    *,
    resume: bool = False,
    overwrite: bool = False,
    quiet: bool = False,
    group: Group | None = None,
    command: str = "",
) -> SegmentResult:
    """Fine-tune an encoder for segmentation as ``config`` says; the command ``finetune segment`` is this call.

    ``resume`` continues the folder's run exactly (or begins it, when there is none yet). Every process of ``group``
    makes this call. Raises UserError subclasses for everything that a user can mend; Interrupted after a signal, with
    the state saved.
    """
    group = group or Group.single(choose_device(config.device))
    runs = train_seeds(
        config,
        group,
        partial(SegmentTask, device=group.device),
        SeedResult,
        _seed_result,
        resume=resume,
        overwrite=overwrite,
        quiet=quiet,
        command=command,
    )
    assert config.out is not None
    miou, mf1 = mean_deviation([run.miou for run in runs]), mean_deviation([run.mf1 for run in runs])
    result = SegmentResult(config.out, runs, *miou, *mf1)
    write_summary(config, group, asdict(result))
    return result


def _seed_result(task: "SegmentTask", state: RunState) -> SeedResult:
    found = task.write(task.config.out)
    counts = (found.images, found.unreadable, state.step, state.epochs, state.elapsed)
    return SeedResult(task.config.seed, found.miou, found.mf1, found.aacc, *counts)


class SegmentTask:
    """Images, masks, segmenter, objective and evaluation of one run (a ``FinetuneTask``)."""

    # A resumed run with others of these would be another run: other weights, or another order of samples.
    identity: Sequence[str] = (
        "weights", "classes", "images", "masks", "bands", "split", "val_share", "split_seed", "crop", "taps",
        "head_width", "aux_weight", "drop_path", "batch_size", "train_on", "class_weights", "scale", "resize", "most",
        "turns", "photometric", "seed",
    )  # fmt: skip

    def __init__(self, config: SegmentConfig, device: torch.device) -> None:
        self.config, self.device = config, device
        self.pairs = open_pairs(config)
        names = self.pairs.classes.names
        if config.class_weights is not None and len(config.class_weights) != len(names):
            raise ConfigError(
                f"--class-weights has {len(config.class_weights)} numbers for {len(names)} classes ({listed(names)})"
            )
        assert config.weights is not None
        self.segmenter = build_segmenter(
            config.weights,
            names,
            self.pairs.classes.colours,
            config.crop,
            Shape(config.window_stride, config.bands, config.taps, config.head_width, config.aux_weight > 0),
            layout=config.layout,
            checkpointing=config.checkpointing,
            seed=config.seed,
        )
        light = Photometric() if config.photometric else None
        augment = PairAugment(config.crop, config.scale, config.resize, config.most, config.turns, light)
        self.pixels = PairPixels(self.pairs, augment, self.segmenter.info.channels)
        self.objective = SegmentObjective(
            self.segmenter,
            add_drop_path(self.segmenter.model, config.drop_path),
            weight_decay=config.weight_decay,
            layer_decay=config.layer_decay,
            class_weights=config.class_weights,
            aux_weight=config.aux_weight,
        )
        places = training_places(self.pairs, config.train_on)
        self.order = TrainingOrder(places, config.seed, config.batch_size, drop_last=False)
        self.budget = Budget(samples=config.steps * config.batch_size)
        self.schedule = Schedule(config.lr, config.min_lr, config.warmup_steps / config.steps)
        self.rows = rows_of(self.pairs, "val")
        if not len(self.rows):
            raise DataError(f"{config.data} has no val image ({self.pairs.layout.how}): nothing would be judged")
        self.predictor = Predictor(
            self.segmenter, device, resolve_precision(config.precision, device), config.batch_size
        )
        self.last: Judged | None = None  # after the newest evaluation

    def targets(self, stream: Stream) -> Stream:
        """The masks, which travel as the images' last channel."""
        return MaskStream(stream)

    def announce(self) -> None:
        """Log classes, parts and model."""
        info, layout = self.segmenter.info, self.pairs.layout
        log.info(
            "%d classes (%s), %d training and %d val images (%s); UPerNet on %s, crops of %d px, on %s in %s",
            len(self.pairs.classes.names),
            listed(self.pairs.classes.names),
            len(self.order.index),
            len(self.rows),
            layout.how,
            info.architecture,
            self.segmenter.crop,
            self.device,
            self.predictor.precision,
        )
        if self.config.train_on == "all":
            log.warning("val images are trained on as well (--train-on all): their figures say little about others")

    def evaluate(self) -> dict[str, Any]:
        """mIoU, mF1 and pixel accuracy of the val part, in percent."""
        self.last = judge(self.predictor, self.pairs, self.rows)
        found = figures_of(self.last, self.segmenter.classes)
        log.info("mIoU %.2f %%, mF1 %.2f %% on %d val images", found.miou, found.mf1, found.images)
        if found.unreadable:
            log.warning("%d val images cannot be used; they are not in the figures", found.unreadable)
        return {
            "miou": found.miou,
            "mf1": found.mf1,
            "aacc": found.aacc,
            "images": found.images,
            "unreadable": found.unreadable,
        }

    def write(self, out: Path | None) -> Figures:
        """Write the newest evaluation, and the split, into the run's folder."""
        assert self.last is not None
        assert out is not None
        self._write_split(out / SPLIT)
        return write_evaluation(out / EVALUATION_FOLDER, self.last, self.segmenter)

    def _write_split(self, path: Path) -> None:
        layout, inside = self.pairs.layout, inner_paths(self.pairs.store)
        words = {number: name for name, number in PARTS.items()}
        rows = zip(layout.image.tolist(), layout.part.tolist(), strict=True)
        atomic_write(path, csv_text(["file", "split"], ((inside[place], words[part]) for place, part in rows)))

    def metadata(self) -> dict[str, str]:
        """Of the segmenter's file."""
        return metadata(self.segmenter)

    def save(self, path: Path) -> None:
        """Write the segmenter's file."""
        save_segmenter(path, self.segmenter)
