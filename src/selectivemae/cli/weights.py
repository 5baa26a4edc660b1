"""``selectivemae weights``: published weights by name."""

from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter

from selectivemae.cli.common import Json, Quiet, Verbose, print_json, set_up_logging

weights = App(name="weights", help="Published weights: list | get NAME.")


@weights.command(name="list")
def list_weights(*, json: Json = False) -> None:
    """What published weights there are, what each file holds, and where it lies.

    Example: selectivemae weights list
    """
    from selectivemae.weights.catalogue import PUBLISHED, weights_folder

    here = {entry.name for entry in PUBLISHED if (weights_folder() / f"{entry.name}.safetensors").is_file()}
    if json:
        keys = ("name", "method", "architecture", "data", "images", "epochs", "hub", "page")
        print_json([{key: getattr(entry, key) for key in keys} | {"here": entry.name in here} for entry in PUBLISHED])
        return
    wide = max(len(entry.name) for entry in PUBLISHED)
    for entry in PUBLISHED:
        where = f"hub {entry.hub}" if entry.hub else f"by hand from {entry.page}"
        print(
            f"{entry.name:{wide}}  {entry.contents}, {entry.epochs} epochs; {'here' if entry.name in here else where}"
        )


@weights.command(name="get")
def get_weights(
    name: Annotated[str, Parameter(help="A name of weights list")],
    /,
    *,
    file: Annotated[Path | None, Parameter(help="The file, if you downloaded it by hand")] = None,
    json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Fetch published weights from the hub, or take a file that you downloaded, check it and keep it by name.

    Example: selectivemae weights get selectivemae-vit-base-opticalrs-4m
    """
    set_up_logging(quiet or json, verbose)
    import logging

    from selectivemae.weights.catalogue import get

    path = get(name, file, say=logging.getLogger("selectivemae").info)
    if json:
        print_json({"name": name, "path": str(path)})
    else:
        print(path)
