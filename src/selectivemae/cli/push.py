"""``selectivemae push``: a folder of ``export --to hf`` to the Hugging Face hub."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from selectivemae.cli.common import Json, Quiet, Verbose, print_json, set_up_logging


def push(
    folder: Annotated[Path, Parameter(help="Folder written by export --to hf")],
    repo: Annotated[str, Parameter(help="OWNER/NAME on the hub; made when it is not there")],
    /,
    *,
    private: Annotated[bool, Parameter(help="Make the repository private", negative=())] = False,
    message: Annotated[str, Parameter(help="Message of the commit")] = "Add weights",
    json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Upload an exported folder to the Hugging Face hub, with the token of ``huggingface-cli login``.

    Example: selectivemae push hub/first OWNER/first
    """
    set_up_logging(quiet or json, verbose)
    from selectivemae.weights.hub import push as run

    page = run(folder, repo, private=private, message=message)
    if json:
        print_json({"page": page})
    else:
        print(page)
