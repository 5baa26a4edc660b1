"""The assembly of a pre-training run: settings -> store, model, loader, optimizer, hooks -> engine.

RUN/
  config.yaml            everything settled, and what made it
  metrics.jsonl          one JSON object a line
  log.txt
  checkpoints/           see engine.checkpoint
  encoder.safetensors    timm key names
  pictures/              see pretrain.picture_hook
  quarantine.csv         samples that could not be used
"""

import logging
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from selectivemae.core.errors import ConfigError
from selectivemae.core.progress import ProgressLine
from selectivemae.core.records import Quarantine
from selectivemae.data.augment import CentreCrop, RandomCrop
from selectivemae.data.catalogue import resolve_all
from selectivemae.data.gpu import nvjpeg
from selectivemae.data.loader import EverySample, Loader, Order, check_room
from selectivemae.data.pixels import Task, check_usable
from selectivemae.data.pruning import PrunedOrder
from selectivemae.data.stores import Store, open_stores
from selectivemae.distributed.gather import together
from selectivemae.distributed.group import Group
from selectivemae.engine.accord import Post
from selectivemae.engine.checkpoint import Checkpoint, restore_hooks, restore_model, restore_optimizer
from selectivemae.engine.folder import default_micro_batch, open_run
from selectivemae.engine.hooks.checkpoint import CheckpointHook
from selectivemae.engine.hooks.guard import GuardHook, bad_step_report
from selectivemae.engine.hooks.progress import ProgressHook
from selectivemae.engine.hooks.records import RecordHook
from selectivemae.engine.loop import FitConfig, fit
from selectivemae.engine.optim import adamw
from selectivemae.engine.parallel import check_shard, same_weights
from selectivemae.engine.precision import choose_device, resolve_precision
from selectivemae.engine.recompute import recompute_activations
from selectivemae.engine.state import BaseHook, RunState
from selectivemae.models.create import create_model
from selectivemae.models.masked import MaskedAutoencoder
from selectivemae.ops.phases import phase_at
from selectivemae.pretrain.config import PretrainConfig
from selectivemae.pretrain.objective import PretrainObjective
from selectivemae.pretrain.picture_hook import PictureHook, Report
from selectivemae.pretrain.pictures import fixed_images
from selectivemae.pretrain.probe_hook import Probe, ProbeHook
from selectivemae.pretrain.prune_hook import PruneHook
from selectivemae.pretrain.settle import IDENTITY, budget_of, early_of, identity, model_arguments, schedule_of, settle
from selectivemae.pretrain.track import check_trackers, open_metrics
from selectivemae.weights.pretraining import begin_from, pretraining_metadata, save_encoder

log = logging.getLogger("selectivemae")


@dataclass(frozen=True)
class RunResult:
    """How a run ended."""

    out: Path
    steps: int
    epochs: float
    samples: int
    seconds: float
    loss: float | None
    quarantined: int


def pretrain(
    config: PretrainConfig,
    *,
    resume: bool = False,
    overwrite: bool = False,
    quiet: bool = False,
    probe: Probe | None = None,
    report: Report | None = None,
    group: Group | None = None,
    command: str = "",
) -> RunResult:
    """Pre-train as ``config`` says and leave a run folder behind; the command ``pretrain`` is this call.

    ``resume`` continues the folder's run exactly (or begins it, when there is none yet); ``probe`` is called with the
    model every ``probe_every`` epochs; ``report`` with the folder whenever there are new pictures. Every process of
    ``group`` makes this call, on the device that the group names; process 0 alone writes. Raises UserError subclasses
    for everything that a user can mend; Interrupted after a signal, with the state saved.
    """
    group = group or Group.single(choose_device(config.device))
    with together(group):
        if group.world > 1 and config.compile == "graphs":
            raise ConfigError("--compile graphs is for one process, whose gradients stay in place: use --compile on")
        config = settle(config)
        out = config.out
        assert out is not None
        group.share(config.batch_size, "--batch-size")
        check_room(config.batch_size, group.world, config.image_size, config.channels, 1)
        check_trackers(config.track)
        if config.gpu_decode:
            nvjpeg(group.device)
        model = create_model(**model_arguments(config))
        store = open_stores(resolve_all(config.data, config.data_root))
        check_usable(Task(store, config.image_size, config.channels, CentreCrop()))
        goes_on = (resume or group.attempt > 0) and any((out / "checkpoints").glob("step-*"))
        settled = config.settled()
        if config.shard and group.world == 1 and goes_on:
            log.info("one process goes on with the whole model: --shard has nothing to divide it among")
            config = config.model_copy(update={"shard": False})
        elif config.shard:
            check_shard(group)
        if config.init and group.is_main and not goes_on:
            begin_from(model, config.init, log.info)
    folder = open_run(out, settled, IDENTITY, store, group, resume=resume, overwrite=overwrite, command=command)
    with folder as checkpoint, ExitStack() as stack:
        run = _Run(config, out, store, model, group, checkpoint, quiet)
        return run.train(stack, probe, report)


@dataclass
class _Run:
    """One run's parts, put together once."""

    config: PretrainConfig
    out: Path
    store: Store
    model: MaskedAutoencoder
    group: Group
    checkpoint: Checkpoint | None
    quiet: bool
    state: RunState = field(init=False)

    def __post_init__(self) -> None:
        self.device = self.group.device
        self.state = restore_model(self.checkpoint, self.model)
        self.model.to(self.device)
        if self.config.recompute:
            recompute_activations(self.model)
        if self.checkpoint is None:  # process 0 may have begun from a file
            same_weights(self.model, self.group)
        self.whole = self._divided() if self.config.shard else self.model
        self.objective = PretrainObjective(
            self.model, self.config.weight_decay, early=early_of(self.config), compiled=self.config.compile
        )
        self.optimizer = adamw(self.objective.parameter_groups(), self.config.betas)
        if self.checkpoint:
            restore_optimizer(self.optimizer, self.model, self.checkpoint.optimizer)
        self.pruning = self._pruning() if self.config.prune_ratio else None
        self.order: Order = self.pruning.order if self.pruning else EverySample(self.config.seed, len(self.store))
        self.quarantine = Quarantine(self.out / "quarantine.csv")
        self.post = Post(self.group, self._on_bad)

    def _divided(self) -> MaskedAutoencoder:
        """Divide the model among the processes; a whole one beside it, for what is made of the weights."""
        from selectivemae.engine.sharded import shard  # slow to import, and rarely needed

        whole = create_model(**model_arguments(self.config))
        shard(self.model, self.group, self.config.gradient_precision == "bf16")
        return whole

    def _pruning(self) -> PruneHook:
        """The pruned order, behind the hook that books losses for it."""

        def rest(epoch: int) -> bool:
            hook.flush()  # the draw that follows must see the losses of all steps so far
            return self._progress_at(epoch) >= self.config.prune_until - 1e-9

        hook = PruneHook(PrunedOrder(self.config.seed, len(self.store), self.config.prune_ratio, rest))
        if self.checkpoint and self.checkpoint.stream:  # a run may begin to prune when it is resumed
            hook.order.restore({k: v.numpy() for k, v in self.checkpoint.stream.items()})
        return hook

    def _progress_at(self, epoch: int) -> float:
        """Share of training done when an epoch begins; it may begin inside the batch that is about to be made."""
        config = self.config
        if config.epochs is not None:
            return epoch / config.epochs
        if config.samples_seen is not None:
            return (self.state.samples + config.batch_size) / config.samples_seen
        return self.state.progress

    def train(self, stack: ExitStack, probe: Probe | None, report: Report | None) -> RunResult:
        """Train to the end of the budget."""
        config = self.config
        precision = resolve_precision(config.precision, self.device)
        augment = RandomCrop(scale=config.crop_scale, turns=config.turns)
        loader = stack.enter_context(
            Loader(
                Task(self.store, config.image_size, config.channels, augment, config.dct_scaling),
                config.batch_size,
                config.seed,
                workers=config.workers,
                device=self.device,
                order=self.order,
                on_bad=self.post,
                gpu_decode=config.gpu_decode,
                rank=self.group.rank,
                world=self.group.world,
            )
        )
        hooks = self._hooks(stack, loader, probe, report) if self.group.is_main else self._silent_hooks()
        restore_hooks(self.checkpoint, hooks)
        self._announce(precision)
        fit_config = self._fit_config(precision)
        state = fit(
            self.objective,
            self.optimizer,
            loader,
            fit_config,
            hooks,
            self.state,
            self.order.count,
            self.group,
            self.post,
        )
        if self.quarantine.rows:
            log.warning(
                "%d of %d files cannot be used: %s", len(self.quarantine.rows), len(self.store), self.quarantine.path
            )
        loss = next((h.last.get("loss") for h in hooks if isinstance(h, RecordHook)), None)
        return RunResult(
            self.out, state.step, state.epochs, state.samples, state.elapsed, loss, len(self.quarantine.rows)
        )

    def _announce(self, precision: str) -> None:
        config, number = self.config, self.model.number
        log.info(
            "%s %s: of %d patches %d are seen and %d rebuilt; %d images; %s on %s%s",
            config.method,
            self.model.config.arch.name,
            number.patches,
            number.visible,
            number.targets,
            len(self.store),
            precision,
            self.device,
            f", {self.group.world} processes" if self.group.world > 1 else "",
        )

    def _fit_config(self, precision: str) -> FitConfig:
        config = self.config
        micro = config.micro_batch or default_micro_batch(config.batch_size // self.group.world, self.device)
        schedule = schedule_of(config, len(self.store))
        return FitConfig(
            budget_of(config),
            schedule,
            config.batch_size,
            micro,
            self.device,
            precision,
            config.clip_grad,
            config.gradient_precision,
        )

    @property
    def _every(self) -> int:
        """Steps between looks at the device."""
        return self.config.log_every or (1 if self.device.type == "cpu" else 20)

    def _silent_hooks(self) -> list[BaseHook]:
        """Of the processes beside process 0: they book losses and notice bad steps as it does, and write nothing."""
        pruning: list[BaseHook] = [self.pruning] if self.pruning else []
        hooks = [*pruning, GuardHook(lambda step, samples: None, self._every)]
        return [*hooks, self._checkpoints(hooks)] if self.config.shard else hooks

    def _checkpoints(self, hooks: list[BaseHook]) -> CheckpointHook:
        """The hook that saves the state of ``hooks`` and all else: process 0's, or that of all with shards."""
        config = self.config
        what: tuple[Any, ...] = (self.out / "checkpoints", self.model, self.optimizer, list(hooks))
        how: dict[str, Any] = {
            "minutes": config.checkpoint_minutes,
            "steps": config.checkpoint_steps,
            "keep": config.keep,
            "keep_every": config.keep_every,
            "identity": identity(config, self.store),
            "metadata": pretraining_metadata(model_arguments(config)),
            "stream_tensors": self.pruning.stream_tensors if self.pruning else dict,
            "beside": self._beside,
            "saved_step": self.state.step if self.checkpoint else None,
        }
        if not config.shard:
            return CheckpointHook(*what, **how)
        from selectivemae.engine.hooks.sharded import ShardedCheckpointHook

        whole = self.whole if self.group.is_main else None
        return ShardedCheckpointHook(*what, **how, group=self.group, whole=whole, elapsed=self.state.elapsed)

    def _hooks(self, stack: ExitStack, loader: Loader, probe: Probe | None, report: Report | None) -> list[BaseHook]:
        config = self.config
        resumed = self.state.step if self.checkpoint else None
        metrics = open_metrics(self.out, resumed, config.track, config.settled())
        stack.callback(metrics.close)
        line = stack.enter_context(ProgressLine("pre-training", quiet=self.quiet))

        def more(state: RunState) -> dict[str, Any]:
            figures: dict[str, Any] = {"wait_s": round(loader.wait_seconds, 3)}
            if config.method == "selectivemae":
                figures["phase"] = self._phase(state)
            return figures

        records = RecordHook(metrics, self._every, more)
        hooks: list[BaseHook] = [records]
        if self.pruning:
            hooks.append(self.pruning)
        hooks.append(
            GuardHook(bad_step_report(metrics, self.store.id, self.state), self._every)
        )  # after all that books a step: it may end training
        if probe:
            hooks.append(ProbeHook(probe, self.model, metrics, config.probe_every))
        hooks.append(ProgressHook(line, records))
        hooks.append(self._checkpoints(hooks))
        hooks.append(self._pictures(report))  # the last: what it shows is saved by then
        return hooks

    def _pictures(self, report: Report | None) -> PictureHook:
        config = self.config
        fixed = fixed_images(self.store, config.image_size, config.channels, config.seed)
        return PictureHook(
            self.out,
            self.whole,
            fixed,
            every=0 if config.shard else config.picture_every,  # the whole one knows of checkpoints only
            epochs=self.state.epochs,
            phase=self._phase,
            report=report,
        )

    def _phase(self, state: RunState) -> str:
        config = self.config
        order = config.order if config.method == "selectivemae" else "random"
        return phase_at(state.progress, order, config.phase_boundaries).name

    def _beside(self, state: RunState) -> None:
        save_encoder(self.out / "encoder.safetensors", self.whole, state.samples)
        self.quarantine.flush()

    def _on_bad(self, sample: str, reason: str) -> None:
        if self.quarantine.add(sample, reason):
            log.warning("cannot use %s: %s", sample, reason)
