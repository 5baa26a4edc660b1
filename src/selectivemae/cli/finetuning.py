"""What the commands of ``selectivemae finetune`` do once their options are read."""

from dataclasses import asdict
from importlib import import_module
from pathlib import Path
from typing import Any

from selectivemae.cli.common import print_json, set_up_logging, settings_from
from selectivemae.tasks.settings import FinetuneSettings


def finetune(
    task: str,
    kind: type[FinetuneSettings],
    settings: FinetuneSettings | None,
    recipe: str | None,
    config: Path | None,
    *,
    resume: bool,
    overwrite: bool,
    json: bool,
    quiet: bool,
    verbose: bool,
) -> None:
    """Settle the settings (of ``kind``), call tasks/TASK/run.py's finetune_TASK, and print what it gives.

    Where torchrun or Slurm has started several processes, all of them make this call and train together.
    """
    set_up_logging(quiet or json, verbose)
    given: dict[str, Any] = settings.given() if settings else {}
    from selectivemae.engine.folder import saved_settings
    from selectivemae.engine.launch import processes

    train = getattr(import_module(f"selectivemae.tasks.{task}.run"), f"finetune_{task}")
    saved = saved_settings(Path(given["out"])) if resume and "out" in given else {}
    settled = settings_from(kind, "finetune", settings, recipe, config, saved)
    with processes(settled.device) as group:
        result = train(settled, resume=resume, overwrite=overwrite, quiet=quiet or json, group=group)
    if not group.is_main:
        return
    from selectivemae.reports.page import write_report
    from selectivemae.reports.records import is_run

    for folder in (result.out, *sorted(result.out.glob("seed-*"))):
        if is_run(folder):
            write_report(folder)
    if json:
        print_json(asdict(result))
    else:
        print(result.as_text())
