"""``selectivemae evaluate``: figures of a fine-tuned run, or of predictions made by anything."""

from importlib import import_module
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from selectivemae.cli.common import ConfigFile, Json, Quiet, Verbose, print_json, set_up_logging, settings_from
from selectivemae.core.errors import ConfigError
from selectivemae.tasks.classify.config import EvaluateConfig

# Each has tasks/TASK/evaluate.py: evaluate_run(run, config, out), evaluate_files(predictions, ground_truth, out).
TASKS = ("classify", "detect", "oriented", "segment")


def evaluate(
    run: Annotated[Path | None, Parameter(help="Folder of a fine-tuning")] = None,
    /,
    *,
    settings: Annotated[EvaluateConfig | None, Parameter(name="*")] = None,
    task: Annotated[
        Literal["classify", "detect", "oriented", "segment"] | None, Parameter(help="Task of --predictions")
    ] = None,
    predictions: Annotated[
        Path | None,
        Parameter(help="Instead of a run: CSV of id and label, COCO results, folder of Task1 files or masks"),
    ] = None,
    ground_truth: Annotated[
        Path | None, Parameter(help="CSV of id and label, COCO json or VOC XML, labelTxt, masks")
    ] = None,
    out: Annotated[Path | None, Parameter(help="Folder for tables, pictures and predictions of a run")] = None,
    overwrite: Annotated[bool, Parameter(help="Replace an evaluation in --out", negative=())] = False,
    config: ConfigFile = None,
    json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Judge a fine-tuned run on labelled data, or a table of predictions against ground truth.

    Example: selectivemae evaluate runs/aid --data aid/ --out aid-figures
    """
    set_up_logging(quiet or json, verbose)
    tables = [predictions, ground_truth]
    if (run is None) == (predictions is None) or any(t is None for t in tables) != all(t is None for t in tables):
        raise ConfigError("give either a RUN, or --task with --predictions and --ground-truth")
    from selectivemae.core.files import prepare_output
    from selectivemae.tasks.common import EVALUATION, task_of

    if run is None and task is None:
        raise ConfigError(f"--predictions needs --task, one of {', '.join(TASKS)}")
    judge = import_module(f"selectivemae.tasks.{task if run is None else task_of(run, TASKS)}.evaluate")
    if out is not None:
        prepare_output(out, resume=False, overwrite=overwrite, marker=EVALUATION)
    if run is None:
        given = settings.given() if settings else {}
        named = {"classes": given.pop("classes")} if task == "segment" and "classes" in given else {}
        if given:
            raise ConfigError(f"--{min(given).replace('_', '-')} belongs to a RUN; --predictions do not take it")
        found = judge.evaluate_files(predictions, ground_truth, out, **named)
    else:
        found = judge.evaluate_run(run, settings_from(EvaluateConfig, "evaluate", settings, None, config), out)
    if json:
        print_json(found.as_dict())
    else:
        print(found.as_text() + (f"\n{out}: tables and pictures" if out else ""))
