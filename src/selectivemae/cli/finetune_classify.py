"""``selectivemae finetune classify``: weights -> scene classifier."""

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
from selectivemae.core.progress import duration
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
    set_up_logging(quiet or json, verbose)
    given = settings.given() if settings else {}
    from selectivemae.engine.folder import saved_settings
    from selectivemae.tasks.classify.run import finetune_classify

    saved = saved_settings(Path(given["out"])) if resume and "out" in given else {}
    settled = settings_from(ClassifyConfig, "finetune", settings, recipe, config, saved)
    result = finetune_classify(settled, resume=resume, overwrite=overwrite, quiet=quiet or json)
    if json:
        print_json(asdict(result))
        return
    for run in result.runs:
        print(
            f"seed {run.seed}: OA {run.oa:.2f} %, AA {run.aa:.2f} % on {run.images} test images after {run.epochs:.0f} "
            f"epochs ({run.steps} steps, {duration(run.seconds)})"
            + (f"; {run.unreadable} images could not be read and count as wrong" if run.unreadable else "")
        )
    if result.oa_deviation is not None and result.aa_deviation is not None:
        print(
            f"{len(result.runs)} seeds: OA {result.oa:.2f} ± {result.oa_deviation:.2f} %, "
            f"AA {result.aa:.2f} ± {result.aa_deviation:.2f} %"
        )
    print(f"{result.out}: model and evaluation")
