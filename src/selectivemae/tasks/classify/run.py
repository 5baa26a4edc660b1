"""The assembly of a fine-tuning for classification: settings -> data, model, loader, optimizer, hooks -> engine.

RUN/
  config.yaml            everything settled, and what made it
  metrics.jsonl          one JSON object a line
  log.txt
  checkpoints/           see engine.checkpoint
  model.safetensors      see tasks.classify.model
  evaluation/            of the last epoch; see tasks.classify.evaluate
  quarantine.csv         training images that could not be used
  seed-0/ seed-1/ ...    with several seeds: a run each, beside config.yaml and summary.json
"""

import json
import logging
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from selectivemae.core.config import write_settled
from selectivemae.core.errors import ConfigError, DataError
from selectivemae.core.files import atomic_write, locked, prepare_output, remove_temporaries
from selectivemae.core.progress import ProgressLine
from selectivemae.core.records import Metrics, Quarantine
from selectivemae.core.statistics import mean_deviation
from selectivemae.data.augment import RandomCrop
from selectivemae.data.labels import TEST, TRAIN, Labelled, listed
from selectivemae.data.loader import Loader, auto_workers
from selectivemae.data.stores import Store
from selectivemae.data.workers import Task
from selectivemae.engine.checkpoint import (
    Checkpoint,
    newest_checkpoint,
    restore_hooks,
    restore_model,
    restore_optimizer,
)
from selectivemae.engine.folder import (
    CONFIG,
    about,
    check_same_data,
    check_same_run,
    default_micro_batch,
    log_file,
)
from selectivemae.engine.hooks.checkpoint import CheckpointHook
from selectivemae.engine.hooks.evaluate import EvaluateHook
from selectivemae.engine.hooks.guard import GuardHook, bad_step_report
from selectivemae.engine.hooks.progress import ProgressHook
from selectivemae.engine.hooks.records import RecordHook
from selectivemae.engine.loop import FitConfig, fit
from selectivemae.engine.optim import Budget, Schedule, adamw
from selectivemae.engine.precision import choose_device, resolve_precision
from selectivemae.engine.state import BaseHook, RunState
from selectivemae.tasks.classify.augment import Finishing
from selectivemae.tasks.classify.config import ClassifyConfig
from selectivemae.tasks.classify.data import LabelledStream, TrainingOrder, open_classes
from selectivemae.tasks.classify.evaluate import FOLDER, Predictions, predict, write_evaluation
from selectivemae.tasks.classify.metrics import figures
from selectivemae.tasks.classify.mixing import Mixing
from selectivemae.tasks.classify.model import (
    MODEL,
    Classifier,
    ClassifyObjective,
    build_classifier,
    metadata,
    save_classifier,
)
from selectivemae.tasks.common import add_drop_path

log = logging.getLogger("selectivemae")

# What a run cannot change when it is resumed: its weights or its order of samples would be another run's.
IDENTITY = (
    "weights", "image_size", "pool", "drop_path", "batch_size", "drop_last", "seed", "split", "test_share",
    "split_seed", "rand_augment", "erasing", "mixup", "cutmix", "mix_share", "smoothing", "crop_scale", "turns",
)  # fmt: skip
SUMMARY = "summary.json"


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


def finetune_classify(
    config: ClassifyConfig, *, resume: bool = False, overwrite: bool = False, quiet: bool = False, command: str = ""
) -> ClassifyResult:
    """Fine-tune a classifier as ``config`` says; the command ``finetune classify`` is this call.

    ``resume`` continues the folder's run exactly (or begins it, when there is none yet). With several seeds each has a
    folder of its own. Raises UserError subclasses for everything that a user can mend; Interrupted after a signal,
    with the state saved.
    """
    out = config.out
    if config.weights is None:
        raise ConfigError("no weights given: --weights RUN (or a weight file, random:NAME, timm:NAME)")
    if out is None:
        raise ConfigError("no output folder given: --out RUN")
    if config.seeds == 1:
        runs = [_one_run(config, out, resume, overwrite, quiet, command)]
        return _result(out, runs)
    prepare_output(out, resume=resume, overwrite=overwrite, marker=CONFIG)
    write_settled(out / CONFIG, config.settled(), about(command))
    runs = []
    for seed in range(config.seed, config.seed + config.seeds):
        folder = out / f"seed-{seed}"
        single = config.model_copy(update={"seed": seed, "seeds": 1, "out": folder})
        log.info("seed %d of %d: %s", seed - config.seed + 1, config.seeds, folder)
        runs.append(_one_run(single, folder, resume, False, quiet, command))
    result = _result(out, runs)
    atomic_write(out / SUMMARY, json.dumps(asdict(result), indent=1, default=str))
    return result


def _result(out: Path, runs: list[SeedResult]) -> ClassifyResult:
    oa, aa = mean_deviation([run.oa for run in runs]), mean_deviation([run.aa for run in runs])
    return ClassifyResult(out, runs, *oa, *aa)


def _one_run(config: ClassifyConfig, out: Path, resume: bool, overwrite: bool, quiet: bool, command: str) -> SeedResult:
    device = choose_device(config.device)
    store, labelled = open_classes(config)
    assert config.weights is not None
    classifier = build_classifier(
        config.weights,
        labelled.classes,
        layout=config.layout,
        image_size=config.image_size,
        pool=config.pool,
        crop_share=config.crop_share,
        seed=config.seed,
    )
    if classifier.info.channels != 3 and config.rand_augment != "none":
        raise ConfigError(f"RandAugment is for 3 channels, not {classifier.info.channels}: give --rand-augment none")
    prepare_output(out, resume=resume, overwrite=overwrite, marker=CONFIG)
    with ExitStack() as stack:
        stack.enter_context(locked(out))
        remove_temporaries(out)
        if resume:
            check_same_run(out, config.settled(), IDENTITY)
        checkpoint, problems = newest_checkpoint(out / "checkpoints") if resume else (None, [])
        if checkpoint:
            check_same_data(checkpoint.state, store, checkpoint.folder)
        write_settled(out / CONFIG, config.settled(), about(command))
        stack.enter_context(log_file(out / "log.txt"))
        for problem in problems:
            log.warning("%s; going on from the one before", problem)
        return _Run(config, out, store, labelled, classifier, device, checkpoint, quiet).train(stack)


class _Run:
    """One run's parts, put together once."""

    def __init__(
        self,
        config: ClassifyConfig,
        out: Path,
        store: Store,
        labelled: Labelled,
        classifier: Classifier,
        device: torch.device,
        checkpoint: Checkpoint | None,
        quiet: bool,
    ) -> None:
        self.config, self.out, self.store, self.labelled = config, out, store, labelled
        self.classifier, self.device, self.checkpoint, self.quiet = classifier, device, checkpoint, quiet
        self.model = classifier.model
        keys = add_drop_path(self.model, config.drop_path)
        self.state = restore_model(self.checkpoint, self.model)
        self.model.to(device)
        self.objective = ClassifyObjective(
            classifier,
            keys,
            smoothing=config.smoothing,
            weight_decay=config.weight_decay,
            layer_decay=config.layer_decay,
        )
        self.optimizer = adamw(self.objective.parameter_groups(), config.betas)
        if checkpoint:
            restore_optimizer(self.optimizer, self.model, checkpoint.optimizer)
        self.precision = resolve_precision(config.precision, device)
        self.workers = auto_workers() if isinstance(config.workers, str) else config.workers
        self.train_index = labelled.of(TRAIN)[0]
        self.test_index, self.test_label = labelled.of(TEST)
        self.order = TrainingOrder(self.train_index, config.seed, config.batch_size, config.drop_last)
        self.metrics = Metrics(out / "metrics.jsonl", self.state.step if checkpoint else None)
        self.quarantine = Quarantine(out / "quarantine.csv")
        self.last: Predictions | None = None  # of the test part, after the newest evaluation

    def train(self, stack: ExitStack) -> SeedResult:
        """Train to the last epoch, evaluate, and leave model and evaluation behind."""
        config, labelled = self.config, self.labelled
        self._announce()
        loader = stack.enter_context(self._loader())
        stack.callback(self.metrics.close)
        line = stack.enter_context(ProgressLine("fine-tuning", quiet=self.quiet))
        mixing = Mixing(config.mixup, config.cutmix, config.mix_share)
        stream = LabelledStream(loader, labelled, mixing, config.seed, self.device)
        lr = config.lr or config.base_lr * config.batch_size / 256
        schedule = Schedule(lr, config.min_lr, config.warmup_epochs / config.epochs)
        micro = config.micro_batch or default_micro_batch(config.batch_size, self.device)
        fit_config = FitConfig(
            Budget(epochs=config.epochs),
            schedule,
            config.batch_size,
            micro,
            self.device,
            self.precision,
            config.clip_grad,
        )
        state = fit(
            self.objective, self.optimizer, stream, fit_config, self._hooks(loader, line), self.state, self.order.count
        )
        if self.last is None:  # a finished run, resumed: there was no step to evaluate after
            self._evaluate()
        assert self.last is not None
        found = write_evaluation(self.out / FOLDER, self.classifier, self.store, self.last, self.test_label)
        return SeedResult(
            config.seed, found.oa, found.aa, found.images, found.unreadable, state.step, state.epochs, state.elapsed
        )

    def _announce(self) -> None:
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

    def _loader(self) -> Loader:
        config, info = self.config, self.classifier.info
        task = Task(
            self.store,
            self.classifier.size,
            info.channels,
            RandomCrop(scale=config.crop_scale, turns=config.turns),
            judged=False,
            finish=Finishing(config.rand_augment, config.erasing, info.mean, info.std),
        )
        return Loader(
            task,
            config.batch_size,
            config.seed,
            workers=self.workers,
            device=self.device,
            order=self.order,
            on_bad=self._on_bad,
        )

    def _hooks(self, loader: Loader, line: ProgressLine) -> list[BaseHook]:
        config = self.config
        every = config.log_every or (1 if self.device.type == "cpu" else 20)
        records = RecordHook(self.metrics, every, lambda state: {"wait_s": round(loader.wait_seconds, 3)})
        hooks: list[BaseHook] = [
            records,
            GuardHook(bad_step_report(self.metrics, self.store.id, self.state), every),
            EvaluateHook(self._evaluate, self.metrics, config.eval_every),
            ProgressHook(line, records),
        ]
        settled = config.settled()
        identity = {k: settled[k] for k in IDENTITY}
        hooks.append(
            CheckpointHook(
                self.out / "checkpoints",
                self.model,
                self.optimizer,
                list(hooks),
                minutes=config.checkpoint_minutes,
                steps=config.checkpoint_steps,
                keep=config.keep,
                keep_every=0,
                identity=identity | {"samples": len(self.store), "fingerprint": self.store.fingerprint},
                metadata=metadata(self.classifier),
                stream_tensors=dict,
                beside=self._beside,
                saved_step=self.state.step if self.checkpoint else None,
            )
        )
        restore_hooks(self.checkpoint, hooks)
        return hooks

    def _evaluate(self) -> dict[str, Any]:
        self.last = predict(self.classifier, self.store, self.test_index, self.device, self.precision, self.workers)
        if len(self.last.unread) == len(self.test_index):
            name, reason = self.last.unread[0]
            raise DataError(f"none of the {len(self.test_index)} test images can be read, {name} because: {reason}")
        found = figures(self.last.predicted, self.test_label, self.labelled.classes)
        log.info("OA %.2f %%, AA %.2f %% on %d test images", found.oa, found.aa, found.images)
        if found.unreadable:
            log.warning("%d test images cannot be read; they count as wrong", found.unreadable)
        return {"oa": found.oa, "aa": found.aa, "images": found.images, "unreadable": found.unreadable}

    def _beside(self, state: RunState) -> None:
        save_classifier(self.out / MODEL, self.classifier)
        self.quarantine.flush()

    def _on_bad(self, sample: str, reason: str) -> None:
        if self.quarantine.add(sample, reason):
            log.warning("cannot use %s: %s", sample, reason)
