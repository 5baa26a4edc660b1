"""The tasks of ``compare``: for each what data it needs and how weights are judged on it.

A task is a line in ``TASKS``. Its ``run`` takes a :class:`Job` and gives findings; it imports what it needs itself, so
that naming the tasks costs nothing.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from selectivemae.core.config import Settings, read_recipe
from selectivemae.core.errors import ConfigError, DataError
from selectivemae.core.suggest import did_you_mean
from selectivemae.data.catalogue import find, resolve
from selectivemae.reports.comparison import Finding

Count = Annotated[int, Field(ge=1)]


class CompareConfig(Settings):
    """Settings of ``compare``; what departs from the published protocol is said beside the figures."""

    weights: list[str] = Field(
        default=[], description="What to judge, each as NAME=WEIGHTS or WEIGHTS (run folder, file, random:NAME ...)"
    )
    tasks: list[str] = Field(default=[], description="Names of tasks (all whose data are under --data)")
    data: Path | None = Field(default=None, description="Folder with the data sets, each under its name")
    out: Path = Field(default=Path("compare-out"), description="Folder for runs and tables")
    recipe: str = Field(default="classify-64", description="Recipe of the classification tasks")
    epochs: Annotated[float, Field(gt=0)] | None = Field(default=None, description="Length, instead of the recipe's")
    batch_size: Count | None = Field(default=None, description="Images of a step, instead of the recipe's")
    image_size: Count | None = Field(default=None, description="Side in pixels, instead of the recipe's")
    seed: int = Field(default=0, description="Of the first run")
    seeds: Count = Field(default=1, description="Runs of each task; mean and deviation")
    device: str = Field(default="auto", description="auto, cpu, cuda, cuda:N")
    workers: Annotated[int, Field(ge=0)] = Field(default=0, description="Processes that decode images")


@dataclass(frozen=True)
class Job:
    """One set of weights on one task."""

    name: str  # of the weights in the tables
    weights: str
    task: str
    dataset: str  # its name in the catalogue
    data: Path
    out: Path
    config: CompareConfig
    resume: bool
    quiet: bool


@dataclass(frozen=True)
class CompareTask:
    """A task by name: the data set that it needs, and what judges weights on it."""

    name: str
    dataset: str
    run: Callable[[Job], list[Finding]]


def fine_tune_scenes(job: Job, split: str) -> list[Finding]:
    """Fine-tune for scene classification by the recipe: OA and AA in percent.

    ``split`` names the published lists (``28``: 20 % for training); where they are not there, another split is used
    and said to be one.
    """
    from selectivemae.tasks.classify.config import ClassifyConfig
    from selectivemae.tasks.classify.data import open_classes
    from selectivemae.tasks.classify.run import finetune_classify
    from selectivemae.tasks.common import MODEL
    from selectivemae.weights.files import read_metadata

    config = job.config
    own = {k: v for k in ("epochs", "batch_size", "image_size") if (v := getattr(config, k)) is not None}
    recipe = read_recipe("finetune", config.recipe)
    changed = {k: v for k, v in own.items() if v != recipe.get(k)}
    if "epochs" in changed:  # warm-up keeps its share of a shorter or longer run
        own["warmup_epochs"] = recipe["warmup_epochs"] * changed["epochs"] / recipe["epochs"]
    labels, found = _published_lists(job.data, split)
    settings: dict[str, Any] = {
        "weights": job.weights, "data": str(job.data), "out": job.out, "seed": config.seed, "seeds": config.seeds,
        "device": config.device, "workers": config.workers,
    }  # fmt: skip
    settled = ClassifyConfig.build(recipe, own, labels, settings)
    store, labelled = open_classes(settled)
    result = finetune_classify(settled, resume=job.resume, quiet=job.quiet)
    file = job.out / MODEL if len(result.runs) == 1 else job.out / f"seed-{config.seed}" / MODEL
    departures = [f"{k.replace('_', ' ')} {v:g} instead of {recipe[k]:g}" for k, v in changed.items()]
    if not found:
        departures.append(f"not the published split but {labelled.how}")
    departures += _other_count(job.dataset, len(store))
    protocol = (
        f"fine-tuned by {config.recipe}: {settled.epochs:g} epochs of batches of {settled.batch_size}, "
        f"{settled.image_size} px, evaluated after the last epoch; {labelled.how}; {result.runs[0].images} test images"
    )
    backbone = read_metadata(file).get("architecture", "")
    seeds = tuple(run.seed for run in result.runs)
    return [
        Finding(job.name, backbone, job.task, metric, values, seeds, protocol, tuple(departures))
        for metric, values in (
            ("OA", tuple(run.oa for run in result.runs)),
            ("AA", tuple(run.aa for run in result.runs)),
        )
    ]


def probe_scenes(job: Job) -> list[Finding]:
    """kNN and linear probe of the frozen features, percent, one value a seed (of the split, where it is drawn)."""
    from selectivemae.engine.precision import choose_device
    from selectivemae.probing.run import ProbeConfig, probe_encoder
    from selectivemae.weights.load import load_encoder

    config = job.config
    encoder: Any = load_encoder(job.weights, seed=config.seed)
    seeds = tuple(range(config.seed, config.seed + config.seeds))
    settings = {
        "data": str(job.data), "image_size": config.image_size, "baselines": False, "workers": config.workers,
    }  # fmt: skip
    device = choose_device(config.device)
    results = [
        probe_encoder(encoder, ProbeConfig.build(settings, {"seed": seed}), device, job.weights) for seed in seeds
    ]
    first = results[0]
    side = config.image_size or encoder.pretrained_cfg["input_size"][1]
    protocol = f"frozen features at {side} px; {first.split}; {first.train} training and {first.test} test images"
    departures = tuple(_other_count(job.dataset, first.train + first.test + first.unreadable))
    kinds = (
        (f"kNN-{first.k}", tuple(r.knn for r in results)),
        ("linear", tuple(r.linear for r in results)),
    )
    backbone = str(encoder.pretrained_cfg.get("architecture", ""))
    return [Finding(job.name, backbone, job.task, kind, v, seeds, protocol, departures) for kind, v in kinds]


TASKS = (
    CompareTask("aid-28", "aid", partial(fine_tune_scenes, split="28")),
    CompareTask("aid-55", "aid", partial(fine_tune_scenes, split="55")),
    CompareTask("resisc-19", "resisc45", partial(fine_tune_scenes, split="19")),
    CompareTask("resisc-28", "resisc45", partial(fine_tune_scenes, split="28")),
    CompareTask("ucmerced-55", "ucmerced", partial(fine_tune_scenes, split="55")),
    CompareTask("aid-probe", "aid", probe_scenes),
    CompareTask("resisc-probe", "resisc45", probe_scenes),
    CompareTask("ucmerced-probe", "ucmerced", probe_scenes),
    CompareTask("eurosat-probe", "eurosat", probe_scenes),
)


def plan(config: CompareConfig) -> tuple[list[tuple[CompareTask, Path]], list[str]]:
    """The tasks to run with the place of their data, and a line for each task asked for whose data are not there.

    ConfigError for unknown tasks and missing settings; DataError when there is nothing to run.
    """
    if not config.weights:
        raise ConfigError("no weights given: --weights RUN (or NAME=RUN, a weight file, random:NAME, timm:NAME)")
    if config.data is None:
        raise ConfigError("no data given: --data ROOT, the folder with the data sets (ROOT/aid, ROOT/resisc45 ...)")
    known = {task.name: task for task in TASKS}
    for name in config.tasks:
        if name not in known:
            raise ConfigError(f"unknown task {name!r}{did_you_mean(name, list(known))} (known: {', '.join(known)})")
    ready, absent = [], []
    for task in [known[name] for name in config.tasks] or TASKS:
        try:
            places = resolve(task.dataset, config.data)
        except DataError as e:
            absent.append(f"{task.name}: {e}")
            continue
        ready.append((task, Path(places[0])))
    if not ready:
        raise DataError(f"no data for any task: {absent[0]}")
    return ready, absent if config.tasks else []


def named_weights(config: CompareConfig) -> dict[str, str]:
    """Weights by the name that the tables give them, loaded once each, so that a wrong one is found before hours of
    work on the others.

    ConfigError for two names that would share a folder, WeightsError for what cannot be loaded.
    """
    from selectivemae.weights.load import load_encoder

    named: dict[str, str] = {}
    for given in config.weights:
        name, sign, weights = given.partition("=")
        name, weights = (name, weights) if sign and name and weights else (given, given)
        if folder_name(name) in map(folder_name, named):
            raise ConfigError(f"two weights are called {name}: tell them apart by NAME=WEIGHTS")
        load_encoder(weights)
        named[name] = weights
    return named


def folder_name(name: str) -> str:
    """The name of weights as that of a folder."""
    return re.sub(r"[^\w.-]+", "-", name).strip("-.") or "weights"


def _published_lists(data: Path, split: str) -> tuple[dict[str, Any], bool]:
    """Label settings by the published lists in the data's folder or the one above; else a draw of the same share."""
    for folder in (data, data.parent):
        if (folder / f"train_labels_{split}_0.txt").is_file():
            return {"split": split, "lists": folder}, True
    train, test = int(split[0]), int(split[1])
    return {"test_share": test / (train + test)}, False


def _other_count(dataset: str, count: int) -> list[str]:
    """What to say when a data set is not whole."""
    whole = find(dataset).images
    return [] if count == whole else [f"{count:,} images of the data set's {whole:,}"]
