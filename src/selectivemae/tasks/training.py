"""The assembly of a fine-tuning, the same for all tasks: what a task brings -> loader, optimizer, hooks -> engine.

RUN/
  config.yaml            everything settled, and what made it
  metrics.jsonl          one JSON object a line
  log.txt
  checkpoints/           see engine.checkpoint
  model.safetensors      the task's model, with what it needs to be used in its metadata
  evaluation/            of the last epoch; see the task's evaluate.py
  quarantine.csv         training images that could not be used
  seed-0/ seed-1/ ...    with several seeds: a run each, beside config.yaml and summary.json
"""

import json
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from torch import nn

from selectivemae.core.config import write_settled
from selectivemae.core.errors import ConfigError
from selectivemae.core.files import atomic_write, prepare_output
from selectivemae.core.progress import ProgressLine
from selectivemae.core.records import Metrics, Quarantine
from selectivemae.data.batch import Stream
from selectivemae.data.loader import Loader, Order
from selectivemae.data.pixels import Pixels
from selectivemae.distributed.gather import broadcast_data, together
from selectivemae.distributed.group import Group
from selectivemae.engine.accord import Post
from selectivemae.engine.checkpoint import Checkpoint, restore_hooks, restore_model, restore_optimizer
from selectivemae.engine.folder import CONFIG, about, default_micro_batch, open_run
from selectivemae.engine.hooks.checkpoint import CheckpointHook
from selectivemae.engine.hooks.evaluate import EvaluateHook
from selectivemae.engine.hooks.guard import GuardHook, bad_step_report
from selectivemae.engine.hooks.progress import ProgressHook
from selectivemae.engine.hooks.records import RecordHook
from selectivemae.engine.loop import FitConfig, fit
from selectivemae.engine.optim import AnySchedule, Budget, adamw
from selectivemae.engine.parallel import same_weights
from selectivemae.engine.precision import resolve_precision
from selectivemae.engine.state import BaseHook, Objective, RunState
from selectivemae.tasks.common import MODEL
from selectivemae.tasks.settings import FinetuneSettings

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

log = logging.getLogger("selectivemae")

SUMMARY = "summary.json"
C = TypeVar("C", bound=FinetuneSettings)
R = TypeVar("R", bound="DataclassInstance")
T = TypeVar("T", bound="FinetuneTask")


class FinetuneTask(Protocol):
    """What a task brings to its fine-tuning; it is made before the run's folder, so that bad input leaves none.

    ``identity`` names the settings that a resumed run cannot change.
    """

    identity: Sequence[str]

    @property
    def objective(self) -> Objective:
        """What is trained."""
        ...

    @property
    def pixels(self) -> Pixels:
        """How training samples become pixels."""
        ...

    @property
    def order(self) -> Order:
        """Which samples an epoch has."""
        ...

    @property
    def budget(self) -> Budget:
        """How long."""
        ...

    @property
    def schedule(self) -> AnySchedule:
        """With which learning rate."""
        ...

    def targets(self, stream: Stream) -> Stream:
        """The stream of images with the task's targets in each batch."""
        ...

    def announce(self) -> None:
        """Log what is trained, on what."""
        ...

    def evaluate(self) -> dict[str, Any]:
        """Judge the model as it is; figures for the "eval" line of the metrics."""
        ...

    def metadata(self) -> dict[str, str]:
        """What the model's file says of itself."""
        ...

    def save(self, path: Path) -> None:
        """Write the model's file, whole or not at all."""
        ...


@dataclass(frozen=True)
class Trained:
    """How a fine-tuning ended; ``figures`` are those of the last evaluation."""

    state: RunState
    figures: dict[str, Any]


def _each_seed(config: C, group: Group, resume: bool, overwrite: bool, command: str) -> Iterator[C]:
    """The settings of each run that ``config`` asks for: itself, or one for each of its seeds, in folders of their own.

    Raises ConfigError without weights or output folder; OutputError for a folder that is in use.
    """
    if config.weights is None:
        raise ConfigError("no weights given: --weights RUN (or a weight file, random:NAME, timm:NAME)")
    if config.out is None:
        raise ConfigError("no output folder given: --out RUN")
    if config.seeds == 1:
        yield config
        return
    with together(group):
        if group.is_main:
            prepare_output(config.out, resume=resume, overwrite=overwrite, marker=CONFIG)
            write_settled(config.out / CONFIG, config.settled(), about(command))
    for seed in range(config.seed, config.seed + config.seeds):
        folder = config.out / f"seed-{seed}"
        log.info("seed %d of %d: %s", seed - config.seed + 1, config.seeds, folder)
        yield config.model_copy(update={"seed": seed, "seeds": 1, "out": folder})


def train_seeds(
    config: C,
    group: Group,
    make: Callable[[C], T],
    kind: type[R],
    result: Callable[[T, RunState], R],
    *,
    resume: bool = False,
    overwrite: bool = False,
    quiet: bool = False,
    command: str = "",
) -> list[R]:
    """Train a run for each seed of ``config``; what ``result`` says of each, on all processes of ``group``.

    ``make`` puts a task together from the settings of one run; ``result`` is asked on process 0 alone, writes what the
    task leaves behind beside its model, and gives a ``kind``, a dataclass of plain data. Errors as in ``train``.
    """
    results = []
    for single in _each_seed(config, group, resume, overwrite, command):
        task = make(single)
        replace = overwrite and config.seeds == 1
        done = train(single, task, group, resume=resume, overwrite=replace, quiet=quiet, command=command)
        with together(group):
            made = asdict(result(task, done.state)) if group.is_main else None
        results.append(kind(**broadcast_data(group, made)))
    return results


def write_summary(config: FinetuneSettings, group: Group, summary: dict[str, Any]) -> None:
    """Write what several seeds came to, beside their folders; nothing for a single run."""
    assert config.out is not None
    if config.seeds > 1 and group.is_main:
        atomic_write(config.out / SUMMARY, json.dumps(summary, indent=1, default=str))


def train(
    config: FinetuneSettings,
    task: FinetuneTask,
    group: Group,
    *,
    resume: bool = False,
    overwrite: bool = False,
    quiet: bool = False,
    command: str = "",
) -> Trained:
    """Train a task's model as ``config`` says, evaluate it, and leave a run folder behind.

    ``resume`` continues the folder's run exactly (or begins it, when there is none yet). Every process of ``group``
    makes this call; process 0 alone writes and evaluates, and all get its figures. Raises UserError subclasses for
    everything that a user can mend; Interrupted after a signal, with the state saved.
    """
    out = config.out
    assert out is not None
    group.share(config.batch_size, "--batch-size")
    folder = open_run(
        out,
        config.settled(),
        task.identity,
        task.pixels.store,
        group,
        resume=resume,
        overwrite=overwrite,
        command=command,
    )
    with folder as checkpoint, ExitStack() as stack:
        return _Run(config, task, out, group, checkpoint).train(stack, quiet)


class _Run:
    """One run's parts, put together once."""

    def __init__(
        self,
        config: FinetuneSettings,
        task: FinetuneTask,
        out: Path,
        group: Group,
        checkpoint: Checkpoint | None,
    ) -> None:
        self.config, self.task, self.out, self.group, self.checkpoint = config, task, out, group, checkpoint
        self.device = group.device
        self.model: nn.Module = task.objective.model
        self.state = restore_model(checkpoint, self.model)
        self.model.to(self.device)
        if checkpoint is None:
            same_weights(self.model, group)
        self.optimizer = adamw(task.objective.parameter_groups(), config.betas)
        if checkpoint:
            restore_optimizer(self.optimizer, self.model, checkpoint.optimizer)
        self.quarantine = Quarantine(out / "quarantine.csv")
        self.post = Post(group, self._on_bad)
        self.figures: dict[str, Any] | None = None  # of the newest evaluation

    def train(self, stack: ExitStack, quiet: bool) -> Trained:
        """Train to the end of the budget and evaluate."""
        config, task = self.config, self.task
        task.announce()
        loader = stack.enter_context(
            Loader(
                task.pixels,
                config.batch_size,
                config.seed,
                workers=config.workers,
                device=self.device,
                order=task.order,
                on_bad=self.post,
                rank=self.group.rank,
                world=self.group.world,
            )
        )
        fit_config = FitConfig(
            task.budget,
            task.schedule,
            config.batch_size,
            config.micro_batch or default_micro_batch(config.batch_size // self.group.world, self.device),
            self.device,
            resolve_precision(config.precision, self.device),
            config.clip_grad,
        )
        every = config.log_every or (1 if self.device.type == "cpu" else 20)
        hooks: list[BaseHook] = [GuardHook(lambda step, samples: None, every)]
        if self.group.is_main:
            hooks = self._hooks(stack, every, lambda: loader.wait_seconds, quiet)
        restore_hooks(self.checkpoint, hooks)
        stream = task.targets(loader)
        state = fit(
            task.objective,
            self.optimizer,
            stream,
            fit_config,
            hooks,
            self.state,
            task.order.count,
            self.group,
            self.post,
        )
        with together(self.group):
            if self.figures is None and self.group.is_main:  # a finished run, resumed: no step to evaluate after
                self._evaluate()
        return Trained(state, broadcast_data(self.group, self.figures or {}))

    def _hooks(self, stack: ExitStack, every: int, waited: Callable[[], float], quiet: bool) -> list[BaseHook]:
        """What process 0 does beside training."""
        config = self.config
        store = self.task.pixels.store
        metrics = Metrics(self.out / "metrics.jsonl", self.state.step if self.checkpoint else None)
        stack.callback(metrics.close)
        line = stack.enter_context(ProgressLine("fine-tuning", quiet=quiet))
        records = RecordHook(metrics, every, lambda state: {"wait_s": round(waited(), 3)})
        hooks: list[BaseHook] = [
            records,
            GuardHook(bad_step_report(metrics, store.id, self.state), every),
            EvaluateHook(self._evaluate, metrics, config.eval_every),
            ProgressHook(line, records),
        ]
        settled = config.settled()
        identity = {k: settled[k] for k in self.task.identity}
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
                identity=identity | {"samples": len(store), "fingerprint": store.fingerprint},
                metadata=self.task.metadata(),
                stream_tensors=dict,
                beside=self._beside,
                saved_step=self.state.step if self.checkpoint else None,
            )
        )
        return hooks

    def _evaluate(self) -> dict[str, Any]:
        with self.group.beat.by_itself("evaluation"):  # of a large test part, longer than others wait by themselves
            self.figures = self.task.evaluate()
        return self.figures

    def _beside(self, state: RunState) -> None:
        self.task.save(self.out / MODEL)
        self.quarantine.flush()

    def _on_bad(self, sample: str, reason: str) -> None:
        if self.quarantine.add(sample, reason):
            log.warning("cannot use %s: %s", sample, reason)
