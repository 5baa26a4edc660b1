"""``selectivemae finetune segment``: weights -> segmenter."""

from typing import Annotated

from cyclopts import Parameter

from selectivemae.cli.common import ConfigFile, Json, Overwrite, Quiet, Recipe, Resume, Verbose
from selectivemae.cli.finetuning import finetune
from selectivemae.tasks.segment.config import SegmentConfig


def segment(
    *,
    settings: Annotated[SegmentConfig | None, Parameter(name="*")] = None,
    recipe: Recipe = None,
    config: ConfigFile = None,
    resume: Resume = False,
    overwrite: Overwrite = False,
    json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Fine-tune a segmenter by the published recipe (--recipe segment-loveda or segment-spacenet).

    Example: selectivemae finetune segment --weights runs/first --data LoveDA/ --out runs/loveda --recipe segment-loveda
    """
    finetune(
        "segment",
        SegmentConfig,
        settings,
        recipe,
        config,
        resume=resume,
        overwrite=overwrite,
        json=json,
        quiet=quiet,
        verbose=verbose,
    )
