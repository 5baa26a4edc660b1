"""``selectivemae finetune oriented``: weights -> detector for oriented boxes."""

from typing import Annotated

from cyclopts import Parameter

from selectivemae.cli.common import ConfigFile, Json, Overwrite, Quiet, Recipe, Resume, Verbose
from selectivemae.cli.finetuning import finetune
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
    finetune(
        "oriented",
        OrientedConfig,
        settings,
        recipe,
        config,
        resume=resume,
        overwrite=overwrite,
        json=json,
        quiet=quiet,
        verbose=verbose,
    )
