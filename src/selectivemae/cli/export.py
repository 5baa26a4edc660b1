"""``selectivemae export``: weights elsewhere."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from selectivemae.cli.common import Json, Quiet, Verbose, print_json, set_up_logging


def export(
    weights: Annotated[str, Parameter(help="Run folder, weight file, random:NAME, timm:NAME, hf:OWNER/NAME")],
    /,
    *,
    to: Annotated[Literal["timm", "hf", "onnx", "reference"], Parameter(help="The form to write")],
    out: Annotated[Path, Parameter(help="Folder to write to")],
    image_size: Annotated[int | None, Parameter(help="Side in pixels to resample positions to")] = None,
    overwrite: Annotated[bool, Parameter(help="Replace files in --out", negative=())] = False,
    json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Write weights as stock timm, a Hugging Face folder, ONNX or the reference's layout, and check them.

    Example: selectivemae export runs/first --to hf --out hub/first
    """
    set_up_logging(quiet or json, verbose)
    from selectivemae.core.errors import OutputError
    from selectivemae.weights.export import export as run

    if out.is_file():
        raise OutputError(f"{out} is a file; --out needs a folder")
    if out.is_dir() and any(out.iterdir()) and not overwrite:
        raise OutputError(f"{out} is not empty: replace what is in it with --overwrite, or name another")
    done = run(weights, to, out, image_size=image_size)
    if json:
        print_json(asdict(done))
        return
    print(f"{done.path}: {', '.join(done.files)}; read back, outputs differ by at most {done.max_error:.1e}")
