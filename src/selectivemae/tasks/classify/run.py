"""Fine-tuning for scene classification; the run folder is that of :mod:`selectivemae.tasks.training`."""

import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from selectivemae.core.errors import ConfigError, DataError
from selectivemae.core.progress import duration
from selectivemae.core.statistics import mean_deviation
from selectivemae.data.augment import RandomCrop
from selectivemae.data.batch import Stream
from selectivemae.data.labels import TEST, TRAIN, listed
from selectivemae.data.loader import auto_workers
from selectivemae.data.pixels import Task
from selectivemae.distributed.group import Group
from selectivemae.engine.optim import Budget, Schedule
from selectivemae.engine.precision import choose_device, resolve_precision
from selectivemae.engine.state import RunState
from selectivemae.tasks.classify.augment import Finishing
from selectivemae.tasks.classify.config import ClassifyConfig
from selectivemae.tasks.classify.data import LabelledStream, open_classes
from selectivemae.tasks.classify.evaluate import Predictions, predict, write_evaluation
from selectivemae.tasks.classify.metrics import Figures, figures
from selectivemae.tasks.classify.mixing import Mixing
from selectivemae.tasks.classify.model import ClassifyObjective, build_classifier, metadata, save_classifier
from selectivemae.tasks.common import EVALUATION_FOLDER, add_drop_path, decay_line
from selectivemae.tasks.order import TrainingOrder
from selectivemae.tasks.training import train_seeds, write_summary

log = logging.getLogger("selectivemae")


@dataclass(frozen=True)
class SeedResult:
    """How the run of one seed ended, evaluated after its last epoch; shares in percent."""

    seed: int
    oa: float
    aa: float
    images: int
    unreadable: int
    steps: int
    epochs: float
    seconds: float


@dataclass(frozen=True)
class ClassifyResult:
    """How a fine-tuning ended: the runs, and mean and deviation over them (None for a single run), in percent."""

    out: Path
    runs: list[SeedResult]
    oa: float
    oa_deviation: float | None
    aa: float
    aa_deviation: float | None

    def as_text(self) -> str:
        """For people: every run, and mean and deviation over several."""
        lines = []
        for run in self.runs:
            bad = f"; {run.unreadable} images could not be read and count as wrong" if run.unreadable else ""
            lines.append(
                f"seed {run.seed}: OA {run.oa:.2f} %, AA {run.aa:.2f} % on {run.images} test images after "
                f"{run.epochs:.0f} epochs ({run.steps} steps, {duration(run.seconds)}){bad}"
            )
        if self.oa_deviation is not None and self.aa_deviation is not None:
            shown = f"OA {self.oa:.2f} ± {self.oa_deviation:.2f} %, AA {self.aa:.2f} ± {self.aa_deviation:.2f} %"
            lines.append(f"{len(self.runs)} seeds: {shown}")
        return "\n".join([*lines, f"{self.out}: model and evaluation"])


def finetune_classify(
    config: ClassifyConfig,
    *,
    resume: bool = False,
    overwrite: bool = False,
    quiet: bool = False,
    group: Group | None = None,
    command: str = "",
) -> ClassifyResult:
    """Fine-tune an encoder for scene classification as ``config`` says; the command ``finetune classify`` is this call.

    ``resume`` continues the folder's run exactly (or begins it, when there is none yet). Every process of ``group``
    makes this call. Raises UserError subclasses for everything that a user can mend; Interrupted after a signal, with
    the state saved.
    """
    group = group or Group.single(choose_device(config.device))
    runs = train_seeds(
        config,
        group,
        partial(ClassifyTask, device=group.device),
        SeedResult,
        _seed_result,
        resume=resume,
        overwrite=overwrite,
        quiet=quiet,
        command=command,
    )
    assert config.out is not None
    oa, aa = mean_deviation([run.oa for run in runs]), mean_deviation([run.aa for run in runs])
    result = ClassifyResult(config.out, runs, *oa, *aa)
    write_summary(config, group, asdict(result))
    return result


def _seed_result(task: "ClassifyTask", state: RunState) -> SeedResult:
    found = task.write(task.config.out)
    counts = (found.images, found.unreadable, state.step, state.epochs, state.elapsed)
    return SeedResult(task.config.seed, found.oa, found.aa, *counts)


class ClassifyTask:
    """Images, classifier, objective and evaluation of one run (a ``FinetuneTask``)."""

    # A resumed run with others of these would be another run: other weights, or another order of samples.
    identity: Sequence[str] = (
        "weights", "image_size", "pool", "drop_path", "batch_size", "drop_last", "seed", "split", "test_share",
        "split_seed", "rand_augment", "erasing", "mixup", "cutmix", "mix_share", "smoothing", "crop_scale", "turns",
    )  # fmt: skip

    def __init__(self, config: ClassifyConfig, device: torch.device) -> None:
        self.config, self.device = config, device
        self.store, self.labelled = open_classes(config)
        self.precision = resolve_precision(config.precision, device)
        self.workers = auto_workers() if isinstance(config.workers, str) else config.workers
        assert config.weights is not None
        self.classifier = build_classifier(
            config.weights,
            self.labelled.classes,
            layout=config.layout,
            image_size=config.image_size,
            pool=config.pool,
            crop_share=config.crop_share,
            seed=config.seed,
        )
        info = self.classifier.info
        if info.channels != 3 and config.rand_augment != "none":
            raise ConfigError(f"RandAugment is for 3 channels, not {info.channels}: give --rand-augment none")
        self.pixels = Task(
            self.store,
            self.classifier.size,
            info.channels,
            RandomCrop(scale=config.crop_scale, turns=config.turns),
            judged=False,
            finish=Finishing(config.rand_augment, config.erasing, info.mean, info.std),
        )
        self.objective = ClassifyObjective(
            self.classifier,
            add_drop_path(self.classifier.model, config.drop_path),
            smoothing=config.smoothing,
            weight_decay=config.weight_decay,
            layer_decay=config.layer_decay,
        )
        self.train_index = self.labelled.of(TRAIN)[0]
        self.test_index, self.test_label = self.labelled.of(TEST)
        self.order = TrainingOrder(self.train_index, config.seed, config.batch_size, config.drop_last)
        self.budget = Budget(epochs=config.epochs)
        lr = config.lr or config.base_lr * config.batch_size / 256
        self.schedule = Schedule(lr, config.min_lr, config.warmup_epochs / config.epochs)
        self.last: Predictions | None = None  # of the test part, after the newest evaluation

    def targets(self, stream: Stream) -> Stream:
        """Labels, and partners to mix with."""
        mixing = Mixing(self.config.mixup, self.config.cutmix, self.config.mix_share)
        return LabelledStream(stream, self.labelled, mixing, self.config.seed, self.device)

    def announce(self) -> None:
        """Log classes, parts and model."""
        lacking = self.labelled.lacking(TEST)
        if lacking:
            log.warning("no test image of class %s: AA is the mean over the others", listed(lacking))
        log.info(
            "%d classes, %d training and %d test images (%s); %s of %d px on %s in %s",
            len(self.labelled.classes),
            len(self.train_index),
            len(self.test_index),
            self.labelled.how,
            self.classifier.info.architecture,
            self.classifier.size,
            self.device,
            self.precision,
        )
        log.info("%s", decay_line(self.objective.parameter_groups()))

    def evaluate(self) -> dict[str, Any]:
        """OA and AA of the test part, in percent."""
        self.last = predict(self.classifier, self.store, self.test_index, self.device, self.precision, self.workers)
        if len(self.last.unread) == len(self.test_index):
            name, reason = self.last.unread[0]
            raise DataError(f"none of the {len(self.test_index)} test images can be read, {name} because: {reason}")
        found = figures(self.last.predicted, self.test_label, self.labelled.classes)
        log.info("OA %.2f %%, AA %.2f %% on %d test images", found.oa, found.aa, found.images)
        if found.unreadable:
            log.warning("%d test images cannot be read; they count as wrong", found.unreadable)
        return {"oa": found.oa, "aa": found.aa, "images": found.images, "unreadable": found.unreadable}

    def write(self, out: Path | None) -> Figures:
        """Write the newest evaluation into the run's folder."""
        assert self.last is not None
        assert out is not None
        return write_evaluation(out / EVALUATION_FOLDER, self.classifier, self.store, self.last, self.test_label)

    def metadata(self) -> dict[str, str]:
        """Of the classifier's file."""
        return metadata(self.classifier)

    def save(self, path: Path) -> None:
        """Write the classifier's file."""
        save_classifier(path, self.classifier)
