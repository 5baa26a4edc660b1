"""``selectivemae finetune segment``: weights -> segmenter."""

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
    set_up_logging(quiet or json, verbose)
    given = settings.given() if settings else {}
    from selectivemae.engine.folder import saved_settings
    from selectivemae.tasks.segment.run import finetune_segment

    saved = saved_settings(Path(given["out"])) if resume and "out" in given else {}
    settled = settings_from(SegmentConfig, "finetune", settings, recipe, config, saved)
    result = finetune_segment(settled, resume=resume, overwrite=overwrite, quiet=quiet or json)
    if json:
        print_json(asdict(result))
    else:
        print(result.as_text())
