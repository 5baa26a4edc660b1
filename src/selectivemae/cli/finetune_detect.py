"""``selectivemae finetune detect``: weights -> detector for upright boxes."""

from typing import Annotated

from cyclopts import Parameter

from selectivemae.cli.common import ConfigFile, Json, Overwrite, Quiet, Recipe, Resume, Verbose
from selectivemae.cli.finetuning import finetune
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
    finetune(
        "detect",
        DetectConfig,
        settings,
        recipe,
        config,
        resume=resume,
        overwrite=overwrite,
        json=json,
        quiet=quiet,
        verbose=verbose,
    )
