"""``selectivemae predict``: a fine-tuned run over images and whole scenes."""

import logging
from dataclasses import asdict
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from selectivemae.cli.common import ConfigFile, Json, Quiet, Verbose, print_json, set_up_logging, settings_from
from selectivemae.core.errors import ConfigError
from selectivemae.core.progress import duration
from selectivemae.scenes.config import PredictConfig

if TYPE_CHECKING:
    from selectivemae.scenes.run import SceneResult

log = logging.getLogger("selectivemae")

# Each has tasks/TASK/predictor.py: load_predictor(run, device, precision) gives what scenes.seam describes.
TASKS = ("classify", "detect", "oriented", "segment")


def predict(
    run: Annotated[Path, Parameter(help="Folder of a fine-tuning, or its model.safetensors")],
    /,
    *,
    settings: Annotated[PredictConfig | None, Parameter(name="*")] = None,
    config: ConfigFile = None,
    resume: Annotated[bool, Parameter(help="Go on from what a stopped run left", negative=())] = False,
    overwrite: Annotated[bool, Parameter(help="Replace what is in --out", negative=())] = False,
    json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Map a scene with a fine-tuned run: classes, polygons or boxes, in the scene's coordinates.

    Example: selectivemae predict runs/buildings --image scene.tif --out buildings.gpkg
    """
    set_up_logging(quiet or json, verbose)
    settled = settings_from(PredictConfig, "predict", settings, None, config)
    if settled.image is None or settled.out is None:
        raise ConfigError("name the scene by --image, and by --out what is to be made of it")
    from selectivemae.cli.predict_files import BOX_WRITERS, classify_images, map_folder
    from selectivemae.core.files import file_sha256
    from selectivemae.engine.precision import choose_device
    from selectivemae.scenes.run import map_boxes, map_classes
    from selectivemae.tasks.common import model_file, task_of

    task = task_of(run, TASKS)
    load = import_module(f"selectivemae.tasks.{task}.predictor").load_predictor
    devices = [choose_device(name) for name in settled.device.split(",")]
    predictors = [load(run, device, settled.precision) for device in devices]
    model = file_sha256(model_file(run))
    manner = {"resume": resume, "overwrite": overwrite, "quiet": quiet or json}
    if task == "classify" and settled.out.suffix.lower() == ".csv":
        results = [classify_images(predictors[0], settled, overwrite=overwrite, quiet=quiet or json)]
    elif settled.image.is_dir():
        results = map_folder(predictors, settled, model, **manner)
    elif task in ("classify", "segment"):
        results = [map_classes(predictors, settled, model, **manner)]
    else:
        results = [map_boxes(predictors, settled, model, BOX_WRITERS[task], **manner)]
    _show(run, results)
    if json:
        print_json([asdict(result) for result in results])
        return
    for result in results:
        print(*(f"{note}\n" for note in result.notes), sep="", end="")
        count = "" if result.objects is None else f"{result.objects} objects, "
        print(
            f"{result.out[0]}: {count}{result.megapixels:.4g} megapixels in {duration(result.seconds)} "
            f"({result.megapixels / max(result.seconds, 1e-9):.2g} a second, {100 * result.outside_network:.0f} % of "
            "the time outside the network)"
        )
        if len(result.out) > 1:
            print(f"beside it: {', '.join(path.name for path in result.out[1:])}")


def _show(run: Path, results: "list[SceneResult]") -> None:
    """Put the previews onto the page of the run; where its folder takes none, say so and leave it at that."""
    from selectivemae.core.errors import OutputError
    from selectivemae.reports.page import MOST_MAPS, show_on_page
    from selectivemae.reports.records import is_run

    files = {result.out[0].stem: result.out[-1] for result in results[:MOST_MAPS]}
    previews = {name: path for name, path in files.items() if path.name.endswith(".preview.png")}
    if previews and is_run(run):
        try:
            show_on_page(run, previews)
        except OutputError as error:
            log.warning("the page of %s does not show the map: %s", run, error)
