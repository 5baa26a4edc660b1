"""``selectivemae finetune classify``: weights -> scene classifier."""

from typing import Annotated

from cyclopts import Parameter

from selectivemae.cli.common import ConfigFile, Json, Overwrite, Quiet, Recipe, Resume, Verbose
from selectivemae.cli.finetuning import finetune
from selectivemae.tasks.classify.config import ClassifyConfig


def classify(
    *,
    settings: Annotated[ClassifyConfig | None, Parameter(name="*")] = None,
    recipe: Recipe = None,
    config: ConfigFile = None,
    resume: Resume = False,
    overwrite: Overwrite = False,
    json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Fine-tune a scene classifier by the published recipe (--recipe classify-64 or classify-1024).

    Example: selectivemae finetune classify --weights runs/first --data aid/ --out runs/aid --recipe classify-64
    """
    finetune(
        "classify",
        ClassifyConfig,
        settings,
        recipe,
        config,
        resume=resume,
        overwrite=overwrite,
        json=json,
        quiet=quiet,
        verbose=verbose,
    )
