"""The tasks of ``compare``: for each what data it needs and how weights are judged on it.

A task is a line in ``TASKS``. Its ``run`` takes a :class:`Job` and gives findings; it imports what it needs itself, so
that naming the tasks costs nothing.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from selectivemae.core.config import Settings, read_recipe
from selectivemae.core.errors import ConfigError, DataError
from selectivemae.core.suggest import did_you_mean
from selectivemae.data.catalogue import find, folder_of, resolve
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
    steps: Count | None = Field(default=None, description="Length of segmentation in steps, instead of the recipe's")
    batch_size: Count | None = Field(default=None, description="Images of a step, instead of the recipe's")
    image_size: Count | None = Field(default=None, description="Side in pixels (of crops in segmentation), instead")
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
    data: Path  # its folder
    out: Path
    config: CompareConfig
    resume: bool
    quiet: bool


@dataclass(frozen=True)
class CompareTask:
    """A task by name: the data set that it needs, what judges weights on it, and what must lie in the data's folder."""

    name: str
    dataset: str
    run: Callable[[Job], list[Finding]]
    needs: str = "*"

    def place(self, root: Path) -> Path:
        """The data set's folder under ``root``; DataError when it, its images or its labels are not there."""
        folder = folder_of(self.dataset, root)
        resolve(self.dataset, root)
        if not any(folder.glob(self.needs)):
            raise DataError(f"{folder}: has no {self.needs}, which {self.name} needs")
        return folder


def fine_tune_scenes(job: Job, split: str) -> list[Finding]:
    """Fine-tune for scene classification by the recipe: OA and AA in percent.

    ``split`` names the published lists (``28``: 20 % for training); where they are not there, another split is used
    and said to be one.
    """
    from selectivemae.tasks.classify.config import ClassifyConfig
    from selectivemae.tasks.classify.data import open_classes
    from selectivemae.tasks.classify.run import finetune_classify

    config, images = job.config, _images(job)
    recipe, own, departures = _settings(job, config.recipe, {k: k for k in ("epochs", "batch_size", "image_size")})
    if "epochs" in own:  # warm-up keeps its share of a shorter or longer run
        own["warmup_epochs"] = recipe["warmup_epochs"] * own["epochs"] / recipe["epochs"]
    labels, found = _published_lists(images, split)
    settled = ClassifyConfig.build(recipe, own, labels, _common(job, str(images)))
    store, labelled = open_classes(settled)
    result = finetune_classify(settled, resume=job.resume, quiet=job.quiet)
    if not found:
        departures.append(f"not the published split but {labelled.how}")
    departures += _other_count(job.dataset, len(store))
    protocol = (
        f"fine-tuned by {config.recipe}: {settled.epochs:g} epochs of batches of {settled.batch_size}, "
        f"{settled.image_size} px, evaluated after the last epoch; {labelled.how}; {result.runs[0].images} test images"
    )
    figures = {"OA": tuple(run.oa for run in result.runs), "AA": tuple(run.aa for run in result.runs)}
    return _findings(job, figures, protocol, departures)


def probe_scenes(job: Job) -> list[Finding]:
    """kNN and linear probe of the frozen features, percent, one value a seed (of the split, where it is drawn)."""
    from selectivemae.engine.precision import choose_device
    from selectivemae.probing.run import ProbeConfig, probe_encoder
    from selectivemae.weights.info import EncoderInfo
    from selectivemae.weights.load import load_encoder

    config = job.config
    encoder = load_encoder(job.weights, seed=config.seed)
    info = EncoderInfo.of(encoder)
    images = _images(job)
    seeds = tuple(range(config.seed, config.seed + config.seeds))
    settings = {
        "data": str(images), "image_size": config.image_size, "baselines": False, "workers": config.workers,
    }  # fmt: skip
    device = choose_device(config.device)
    results = [
        probe_encoder(encoder, ProbeConfig.build(settings, {"seed": seed}), device, job.weights) for seed in seeds
    ]
    first = results[0]
    side = config.image_size or info.image_size[0]
    protocol = f"frozen features at {side} px; {first.split}; {first.train} training and {first.test} test images"
    departures = tuple(_other_count(job.dataset, first.train + first.test + first.unreadable))
    kinds = (
        (f"kNN-{first.k}", tuple(r.knn for r in results)),
        ("linear", tuple(r.linear for r in results)),
    )
    return [Finding(job.name, info.architecture, job.task, kind, v, seeds, protocol, departures) for kind, v in kinds]


DIOR_TEST = 11_738  # images


def fine_tune_boxes(job: Job, kind: str, recipe_name: str, column: str) -> list[Finding]:
    """Fine-tune a detector on DIOR by its recipe (``kind`` detect or oriented): mAP50 as the published ``column``
    defines it, and the figures by other definitions, in percent."""
    from selectivemae.tasks.boxes_run import finetune_boxes
    from selectivemae.tasks.detect.config import DetectConfig
    from selectivemae.tasks.oriented.config import OrientedConfig

    recipe, own, departures = _settings(job, recipe_name, {k: k for k in ("epochs", "batch_size", "image_size")})
    if "epochs" in own:
        own["milestones"] = [m * own["epochs"] / recipe["epochs"] for m in recipe["milestones"]]
        own["warmup_steps"] = int(recipe["warmup_steps"] * min(1, own["epochs"] / recipe["epochs"]))
    common = _common(job, job.data)
    if kind == "detect":
        result = finetune_boxes("detect", DetectConfig.build(recipe, own, common), resume=job.resume, quiet=job.quiet)
    else:
        settled = OrientedConfig.build(recipe, own, common)
        result = finetune_boxes("oriented", settled, resume=job.resume, quiet=job.quiet)
    images = result.runs[0].images
    protocol = f"fine-tuned by {recipe_name}, evaluated after the last epoch on {images} test images"
    if images != DIOR_TEST:
        departures.append(f"{images:,} test images instead of {DIOR_TEST:,}")
    values = {name: tuple(run.figures[name] for run in result.runs) for name in result.runs[0].figures}
    names = {column: "mAP50"} | {name: name for name in values if name != column}
    figures = {title: values[name] for name, title in names.items()}
    return _findings(job, figures, protocol, departures)


def fine_tune_masks(job: Job, recipe_name: str, own_split: str, prefix: str = "") -> list[Finding]:
    """Fine-tune for segmentation by the recipe, on the training part: mIoU and mF1 of the validation part in percent.

    ``own_split`` says in what the data's parts are not the published ones; ``prefix`` goes before the metrics' names.
    """
    from selectivemae.tasks.segment.config import SegmentConfig
    from selectivemae.tasks.segment.run import finetune_segment

    names = {"steps": "steps", "batch_size": "batch_size", "image_size": "crop"}
    recipe, own, departures = _settings(job, recipe_name, names)
    if "steps" in own:
        own["warmup_steps"] = recipe["warmup_steps"] * own["steps"] // recipe["steps"]
    if "crop" in own:
        own["stride"] = max(1, recipe["stride"] * own["crop"] // recipe["crop"])
    settled = SegmentConfig.build(recipe, {"train_on": "train"}, own, _common(job, str(job.data)))
    result = finetune_segment(settled, resume=job.resume, quiet=job.quiet)
    protocol = f"fine-tuned by {recipe_name}, evaluated after the last step on {result.runs[0].images} images"
    figures = {
        f"{prefix}mIoU": tuple(run.miou for run in result.runs),
        f"{prefix}mF1": tuple(run.mf1 for run in result.runs),
    }
    return _findings(job, figures, protocol, [*departures, own_split])


TASKS = (
    CompareTask("aid-28", "aid", partial(fine_tune_scenes, split="28")),
    CompareTask("aid-55", "aid", partial(fine_tune_scenes, split="55")),
    CompareTask("resisc-19", "resisc45", partial(fine_tune_scenes, split="19")),
    CompareTask("resisc-28", "resisc45", partial(fine_tune_scenes, split="28")),
    CompareTask(
        "dior",
        "dior",
        partial(fine_tune_boxes, kind="detect", recipe_name="detect-dior", column="coco_ap50"),
        "Annotations/Horizontal Bounding Boxes",
    ),
    CompareTask(
        "dior-r",
        "dior-r",
        partial(fine_tune_boxes, kind="oriented", recipe_name="oriented-dior-r", column="rotated_voc07_ap50"),
        "Annotations/Oriented Bounding Boxes",
    ),
    CompareTask(
        "loveda",
        "loveda",
        partial(
            fine_tune_masks,
            recipe_name="segment-loveda",
            own_split="trained without the validation part and judged on it, not by the contest's server",
            prefix="val ",
        ),
    ),
    CompareTask(
        "spacenet",
        "spacenet1",
        partial(
            fine_tune_masks,
            recipe_name="segment-spacenet",
            own_split="parts of one's own: the published lists are not known",
        ),
    ),
    CompareTask("ucmerced-55", "ucmerced", partial(fine_tune_scenes, split="55")),
    CompareTask("aid-probe", "aid", probe_scenes),
    CompareTask("resisc-probe", "resisc45", probe_scenes),
    CompareTask("ucmerced-probe", "ucmerced", probe_scenes),
    CompareTask("eurosat-probe", "eurosat", probe_scenes),
)


def plan(config: CompareConfig) -> tuple[list[tuple[CompareTask, Path]], list[str]]:
    """The tasks to run with the place of their data, and a line for each task, of those asked for or of all, whose data
    are not there.

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
            ready.append((task, task.place(config.data)))
        except DataError as e:
            absent.append(f"{task.name}: {e}")
    if not ready:
        raise DataError(f"no data for any task: {absent[0]}")
    return ready, absent


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


def _images(job: Job) -> Path:
    """Where the images of the data set lie."""
    return Path(resolve(job.dataset, job.data.parent)[0])


def _settings(job: Job, recipe_name: str, names: dict[str, str]) -> tuple[dict[str, Any], dict[str, Any], list[str]]:
    """A recipe, the settings that are to be others (``names``: option -> setting), and in words what they change."""
    recipe = read_recipe("finetune", recipe_name)
    own = {setting: v for option, setting in names.items() if (v := getattr(job.config, option)) is not None}
    own = {k: v for k, v in own.items() if v != recipe.get(k)}
    return recipe, own, [f"{k.replace('_', ' ')} {v:g} instead of {recipe[k]:g}" for k, v in own.items()]


def _common(job: Job, data: Path | str) -> dict[str, Any]:
    """What every fine-tuning is told."""
    config = job.config
    machine = {"device": config.device, "workers": config.workers, "seed": config.seed, "seeds": config.seeds}
    return {"weights": job.weights, "data": data, "out": job.out} | machine


def _findings(
    job: Job, figures: dict[str, tuple[float, ...]], protocol: str, departures: Sequence[str]
) -> list[Finding]:
    """Findings of a fine-tuning by their metrics; the backbone is what the model's file says."""
    from selectivemae.tasks.common import MODEL
    from selectivemae.weights.files import read_metadata

    seeds = tuple(range(job.config.seed, job.config.seed + job.config.seeds))
    file = (job.out if len(seeds) == 1 else job.out / f"seed-{seeds[0]}") / MODEL
    backbone = read_metadata(file).get("architecture", "")
    return [Finding(job.name, backbone, job.task, k, v, seeds, protocol, tuple(departures)) for k, v in figures.items()]


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
