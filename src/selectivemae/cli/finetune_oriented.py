"""``selectivemae finetune oriented``: weights -> detector for oriented boxes."""

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
from selectivemae.tasks.oriented.config import OrientedConfig


def oriented(
    *,
    settings: Annotated[OrientedConfig | None, Parameter(name="*")] = None,
    recipe: Recipe = None,
    config: ConfigFile = None,
    resume: Resume = False,
    overwrite: Overwrite = False,
    json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Fine-tune a detector of oriented boxes by the published recipe (--recipe oriented-dior-r or oriented-dota).

    Example: selectivemae finetune oriented --weights runs/first --data DIOR/ --out runs/r --recipe oriented-dior-r
    """
    set_up_logging(quiet or json, verbose)
    given = settings.given() if settings else {}
    from selectivemae.engine.folder import saved_settings
    from selectivemae.tasks.oriented.run import finetune_oriented

    saved = saved_settings(Path(given["out"])) if resume and "out" in given else {}
    settled = settings_from(OrientedConfig, "finetune", settings, recipe, config, saved)
    result = finetune_oriented(settled, resume=resume, overwrite=overwrite, quiet=quiet or json)
    if json:
        print_json(asdict(result))
    else:
        print(result.as_text())
