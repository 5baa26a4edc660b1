"""The assembly of a pre-training run: settings -> store, model, loader, optimizer, hooks -> engine.

    RUN/
      config.yaml            everything settled, and what made it
      metrics.jsonl          one JSON object a line
      log.txt
      checkpoints/           see engine.checkpoint
      encoder.safetensors    timm key names
      quarantine.csv         samples that could not be used
"""

import logging
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from selectivemae.core.config import read_yaml, write_settled
from selectivemae.core.errors import CheckpointError, ConfigError
from selectivemae.core.files import locked, prepare_output
from selectivemae.core.progress import ProgressLine
from selectivemae.core.records import Metrics, Quarantine
from selectivemae.core.version import __version__
from selectivemae.data.augment import RandomCrop
from selectivemae.data.loader import EverySample, Loader
from selectivemae.data.stores import Store, open_stores
from selectivemae.engine.checkpoint import Checkpoint, newest_checkpoint, restore_optimizer
from selectivemae.engine.hooks.checkpoint import CheckpointHook
from selectivemae.engine.hooks.guard import GuardHook
from selectivemae.engine.hooks.progress import ProgressHook
from selectivemae.engine.hooks.records import RecordHook
from selectivemae.engine.loop import FitConfig, fit
from selectivemae.engine.optim import Budget, Schedule, adamw
from selectivemae.engine.precision import choose_device, resolve_precision
from selectivemae.engine.state import Hook, RunState
from selectivemae.models.create import METHOD_DEFAULTS, create_model
from selectivemae.models.masked import MaskedAutoencoder
from selectivemae.ops.phases import phase_at
from selectivemae.pretrain.config import IDENTITY, PretrainConfig
from selectivemae.pretrain.objective import PretrainObjective
from selectivemae.pretrain.probe_hook import ProbeHook
from selectivemae.weights.pretraining import pretraining_metadata, save_encoder

log = logging.getLogger("selectivemae")

CONFIG = "config.yaml"


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


def saved_settings(out: Path) -> dict[str, Any]:
    """The settled settings of a run folder, for a resume; empty where there is none."""
    return read_yaml(out / CONFIG) if (out / CONFIG).is_file() else {}


def settle(config: PretrainConfig) -> PretrainConfig:
    """Fill in what the method decides, and check what only together makes sense."""
    if not config.data:
        raise ConfigError("no data given: --data FOLDER (or archive) with images")
    if config.out is None:
        raise ConfigError("no output folder given: --out RUN")
    mask, rebuild, depth = METHOD_DEFAULTS[config.method]
    filled: dict[str, Any] = {
        "mask_ratio": config.mask_ratio or mask,
        "reconstruction_ratio": config.reconstruction_ratio or rebuild,
        "decoder_depth": config.decoder_depth or depth,
    }
    if config.epochs is None and config.samples_seen is None and config.minutes is None:
        filled["epochs"] = 100.0
    return PretrainConfig.build(config.settled(), filled)


def model_arguments(config: PretrainConfig) -> dict[str, Any]:
    """The arguments of ``create_model`` for a settled configuration (plain data)."""
    return {
        "name": config.model,
        "method": config.method,
        "image_size": config.image_size,
        "in_chans": config.channels,
        "patch_size": config.patch_size,
        "richness": config.richness,
        "target_richness": config.target_richness,
        "richness_mode": config.richness_mode,
        "temperature": config.temperature,
        "order": config.order,
        "boundaries": config.phase_boundaries,
        "mask_ratio": config.mask_ratio,
        "reconstruction_ratio": config.reconstruction_ratio,
        "decoder_depth": config.decoder_depth,
        "self_attention": config.self_attention,
        "norm_pix": config.norm_pix,
        "seed": config.seed,
    }


def schedule_of(config: PretrainConfig, model: MaskedAutoencoder, count: int) -> Schedule:
    """The learning-rate schedule of a settled configuration over ``count`` samples an epoch (method.md, section 4)."""
    lr = config.lr
    if lr is None:
        lr = config.base_lr * config.batch_size / 256
        if config.lr_scale_by_tokens:
            number = model.number
            lr *= number.targets / (number.patches - number.visible)
    warmup = 0.05
    if config.warmup_epochs is not None:
        total = budget_of(config).total_epochs(count)
        assert total is not None  # --minutes takes no --warmup-epochs
        warmup = min(config.warmup_epochs / total, 1.0)
    return Schedule(lr, config.min_lr, warmup)


def budget_of(config: PretrainConfig) -> Budget:
    """The length of a settled configuration."""
    return Budget(config.epochs, config.samples_seen, config.minutes)


def pretrain(
    config: PretrainConfig,
    *,
    resume: bool = False,
    overwrite: bool = False,
    quiet: bool = False,
    probe: Callable[[MaskedAutoencoder], dict[str, float]] | None = None,
    command: str = "",
) -> RunResult:
    """Pre-train as ``config`` says and leave a run folder behind; the command ``pretrain`` is this call.

    ``resume`` continues the folder's run exactly (or begins it, when there is none yet); ``probe`` is called with the
    model every ``probe_every`` epochs. Raises UserError subclasses for everything a user can mend; Interrupted after a
    signal, with the state saved.
    """
    config = settle(config)
    out = config.out
    assert out is not None
    model = create_model(**model_arguments(config))
    store = open_stores(config.data)
    prepare_output(out, resume=resume, overwrite=overwrite, marker=CONFIG)
    with ExitStack() as stack:
        stack.enter_context(locked(out))
        checkpoint, problems = newest_checkpoint(out / "checkpoints") if resume else (None, [])
        if resume:
            _check_same_run(out, config)
        stack.enter_context(_log_file(out / "log.txt"))
        for problem in problems:
            log.warning("%s; going on from the one before", problem)
        write_settled(out / CONFIG, config.settled(), _about(command))
        return _train(config, out, model, store, checkpoint, quiet, probe, stack)


def _train(
    config: PretrainConfig,
    out: Path,
    model: MaskedAutoencoder,
    store: Store,
    checkpoint: Checkpoint | None,
    quiet: bool,
    probe: Callable[[MaskedAutoencoder], dict[str, float]] | None,
    stack: ExitStack,
) -> RunResult:
    device = choose_device(config.device)
    precision = resolve_precision(config.precision, device)
    every = config.log_every or (1 if device.type == "cpu" else 20)
    state = _restore_model(checkpoint, model, store, out)
    model.to(device)
    objective = PretrainObjective(model, config.weight_decay)
    optimizer = adamw(objective.parameter_groups(), config.betas)
    if checkpoint:
        restore_optimizer(optimizer, model, checkpoint.optimizer)
    metrics = Metrics(out / "metrics.jsonl", state.step if checkpoint else None)
    quarantine = Quarantine(out / "quarantine.csv")

    def on_bad(sample: str, reason: str) -> None:
        if quarantine.add(sample, reason):
            log.warning("cannot use %s: %s", sample, reason)

    order = EverySample(config.seed, len(store))
    augment = RandomCrop(scale=config.crop_scale, turns=config.turns)
    loader = stack.enter_context(
        Loader(store, config.batch_size, config.image_size, config.seed, channels=config.channels,
               workers=config.workers, device=device, augment=augment, order=order, on_bad=on_bad)
    )  # fmt: skip

    def more(state: RunState) -> dict[str, Any]:
        figures: dict[str, Any] = {"wait_s": round(loader.wait_seconds, 3)}
        if config.method == "selectivemae":
            figures["phase"] = phase_at(state.progress, config.order, config.phase_boundaries).name
        return figures

    records = RecordHook(metrics, every, more)
    line = stack.enter_context(ProgressLine("pre-training", quiet=quiet))

    def bad_step(step: int, samples: list[int]) -> None:
        ids = [store.id(i) for i in samples[:16]]
        log.warning("step %d: loss or gradient not finite, update skipped; samples: %s", step, ", ".join(ids))
        metrics.write("event", step, event="not_finite", samples=ids, of=len(samples))

    hooks: list[Hook] = [records, GuardHook(bad_step, every)]
    if probe:
        hooks.append(ProbeHook(probe, model, metrics, config.probe_every))
    hooks.append(ProgressHook(line, records))
    hooks.append(
        CheckpointHook(
            out / "checkpoints", model, optimizer, list(hooks),
            minutes=config.checkpoint_minutes, steps=config.checkpoint_steps, keep=config.keep,
            keep_every=config.keep_every, identity=_identity(config, store),
            metadata=pretraining_metadata(model_arguments(config)), stream_tensors=dict,
            beside=lambda s: (save_encoder(out / "encoder.safetensors", model, s.samples), quarantine.flush())[0],
        )
    )  # fmt: skip
    if checkpoint:
        for hook in hooks:
            saved = checkpoint.state["hooks"].get(getattr(hook, "name", ""))
            if saved:
                hook.restore(saved)
    fit_config = FitConfig(
        budget_of(config), schedule_of(config, model, len(store)), config.batch_size,
        config.micro_batch or _default_micro_batch(config, device), device, precision, config.clip_grad,
    )  # fmt: skip
    number = model.number
    log.info(
        "%s %s: %d of %d patches seen, %d rebuilt; %d images; %s on %s",
        config.method, model.config.arch.name, number.visible, number.patches, number.targets, len(store), precision, device,
    )  # fmt: skip
    fit(objective, optimizer, loader, fit_config, hooks, state, order.count)
    if quarantine.rows:
        log.warning("%d of %d files could not be used: %s", len(quarantine.rows), len(store), quarantine.path)
    loss = records.last.get("loss")
    return RunResult(out, state.step, state.epochs, state.samples, state.elapsed, loss, len(quarantine.rows))


def _default_micro_batch(config: PretrainConfig, device: torch.device) -> int:
    """On a GPU the whole batch is tried first (and halved until it fits); on a CPU larger parts gain nothing."""
    return config.batch_size if device.type != "cpu" else min(config.batch_size, 64)


def _identity(config: PretrainConfig, store: Store) -> dict[str, Any]:
    settled = config.settled()
    return {k: settled[k] for k in IDENTITY} | {"samples": len(store), "fingerprint": store.fingerprint}


def _check_same_run(out: Path, config: PretrainConfig) -> None:
    """CheckpointError when settings that make a run what it is differ from those of the folder."""
    before, now = saved_settings(out), config.settled()
    differing = [k for k in IDENTITY if k in before and before[k] != now[k]]
    if differing:
        k = differing[0]
        more = f" (also: {', '.join(differing[1:])})" if len(differing) > 1 else ""
        raise CheckpointError(
            f"{out} was trained with {k} {before[k]!r}, not {now[k]!r}{more}: resume it with its own settings "
            "(leave the option out), or name another --out"
        )


def _restore_model(checkpoint: Checkpoint | None, model: MaskedAutoencoder, store: Store, out: Path) -> RunState:
    if checkpoint is None:
        return RunState()
    identity = checkpoint.state["identity"]
    if identity["fingerprint"] != store.fingerprint:
        raise CheckpointError(
            f"the data changed since {checkpoint.folder} was written ({identity['samples']} samples then, {len(store)} "
            "now): a resume would not be exact; restore the data, or begin a new run with --init and another --out"
        )
    try:
        model.load_state_dict(checkpoint.model)
    except RuntimeError as e:
        raise CheckpointError(f"{checkpoint.folder} does not fit the model: {str(e).splitlines()[1].strip()}") from e
    log.info("going on from %s", checkpoint.folder)
    return RunState.restored(checkpoint.state)


def _about(command: str) -> dict[str, str]:
    commit = subprocess.run(
        ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"], capture_output=True, text=True, check=False
    ).stdout.strip()
    about = {"selectivemae": __version__, "torch": str(torch.__version__), "command": command or " ".join(sys.argv)}
    return about | ({"commit": commit} if commit else {})


@contextmanager
def _log_file(path: Path) -> Iterator[None]:
    """Everything logged goes to the run's log.txt as well."""
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    log.addHandler(handler)
    try:
        yield
    finally:
        log.removeHandler(handler)
        handler.close()
