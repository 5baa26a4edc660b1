"""``selectivemae finetune detect``: weights -> detector for upright boxes."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from selectivemae.cli.common import (
    ConfigFile,
    Json,
    Overwrite,
    Quiet,
    Recipe,
    Resume,
    Verbose,
    print_json,
    set_up_logging,
    settings_from,
)
from selectivemae.tasks.detect.config import DetectConfig


def detect(
    *,
    settings: Annotated[DetectConfig | None, Parameter(name="*")] = None,
    recipe: Recipe = None,
    config: ConfigFile = None,
    resume: Resume = False,
    overwrite: Overwrite = False,
    json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Fine-tune a detector of upright boxes by the published recipe (--recipe detect-dior).

    Example: selectivemae finetune detect --weights runs/first --data DIOR/ --out runs/dior --recipe detect-dior
    """
    set_up_logging(quiet or json, verbose)
    given = settings.given() if settings else {}
    from selectivemae.engine.folder import saved_settings
    from selectivemae.tasks.detect.run import finetune_detect

    saved = saved_settings(Path(given["out"])) if resume and "out" in given else {}
    settled = settings_from(DetectConfig, "finetune", settings, recipe, config, saved)
    result = finetune_detect(settled, resume=resume, overwrite=overwrite, quiet=quiet or json)
    if json:
        print_json(asdict(result))
    else:
        print(result.as_text())
