"""``selectivemae pretrain``: corpus -> weights."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from selectivemae.cli.common import ConfigFile, Json, Quiet, Recipe, Verbose, print_json, set_up_logging, settings_from
from selectivemae.core.progress import duration
from selectivemae.pretrain.config import PretrainConfig

if TYPE_CHECKING:
    import torch

    from selectivemae.models.masked import MaskedAutoencoder
    from selectivemae.pretrain.probe_hook import Probe
    from selectivemae.pretrain.run import RunResult

Flag = Annotated[bool, Parameter(negative=())]


def pretrain(
    *,
    settings: Annotated[PretrainConfig | None, Parameter(name="*")] = None,
    recipe: Recipe = None,
    config: ConfigFile = None,
    resume: Annotated[Flag, Parameter(help="Continue the run in --out exactly; begin it when there is none")] = False,
    overwrite: Annotated[Flag, Parameter(help="Replace the run in --out")] = False,
    dry_run: Annotated[Flag, Parameter(help="Say what would be done and what it costs, and stop")] = False,
    json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Pre-train an encoder on unlabelled images.

    Example: selectivemae pretrain --data images/ --out runs/first --minutes 30
    """
    set_up_logging(quiet, verbose)
    given = settings.given() if settings else {}
    from selectivemae.distributed.group import Group
    from selectivemae.engine.folder import saved_settings

    saved: dict = {}
    out = given.get("out")
    if resume and out is not None:
        saved = saved_settings(Path(out))
    settled = settings_from(PretrainConfig, "pretrain", settings, recipe, config, saved)
    if dry_run:
        from selectivemae.pretrain.plan import plan

        planned = plan(settled)
        if json:
            print_json(asdict(planned))
        else:
            print(planned.text())
        return
    result = run(settled, resume=resume, overwrite=overwrite, quiet=quiet)
    if not Group.from_environment().is_main:
        return
    if json:
        print_json(asdict(result))
        return
    loss = f", loss {result.loss:.4f}" if result.loss is not None else ""
    print(
        f"{result.out}: {result.steps} steps, {result.epochs:.1f} epochs, {result.samples} images "
        f"in {duration(result.seconds)}{loss}\nencoder: {result.out}/encoder.safetensors\n"
        f"report: {result.out}/report.html"
    )


def run(config: PretrainConfig, *, resume: bool = False, overwrite: bool = False, quiet: bool = False) -> "RunResult":
    """Pre-train as ``config`` says, with the probe that it asks for and a report page: ``selectivemae.pretrain``.

    ``resume`` continues the folder's run exactly (or begins it, when there is none yet); ``overwrite`` replaces it.
    Where torchrun or Slurm has started several processes, all of them make this call and train together. Raises
    UserError subclasses for everything that a user can mend; Interrupted after a signal, with the state saved.
    """
    from selectivemae.engine.launch import processes
    from selectivemae.pretrain.run import pretrain as train
    from selectivemae.reports.page import write_report

    with processes(config.device, config.meet_timeout, config.hang_timeout) as group:
        probe = knn_probe(config, group.device) if group.is_main else None
        how: dict[str, Any] = {"resume": resume, "overwrite": overwrite, "quiet": quiet}
        return train(config, **how, probe=probe, report=write_report, group=group)


def knn_probe(config: PretrainConfig, device: "torch.device | None" = None) -> "Probe | None":
    """The probe that ``--probe-data`` asks for: kNN accuracy of the encoder as it is, on ``device`` (by default
    the settings'). DataError at once when the data do not do."""
    if config.probe_data is None:
        return None
    import torch

    from selectivemae.data.loader import auto_workers
    from selectivemae.engine.precision import choose_device
    from selectivemae.models.vit import build_encoder
    from selectivemae.probing.run import ProbeConfig, knn_accuracy, open_labelled

    workers = auto_workers() if config.workers == "auto" else config.workers
    how = ProbeConfig(data=config.probe_data, workers=workers)
    open_labelled(config.probe_data, how.seed)
    where = device or choose_device(config.device)

    def probe(model: "MaskedAutoencoder") -> dict[str, float]:
        made = model.config
        with torch.random.fork_rng(devices=[]):  # fresh weights come from torch's own generator: leave it as it was
            encoder = build_encoder(made.arch.name, (made.height, made.width), made.in_chans)
        encoder.load_state_dict(model.encoder_state())
        described: Any = encoder
        described.pretrained_cfg = {
            "input_size": (made.in_chans, made.height, made.width),
            "mean": made.mean,
            "std": made.std,
        }
        return {"knn": round(knn_accuracy(encoder, how, where), 2)}

    return probe
