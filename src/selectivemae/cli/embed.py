"""``selectivemae embed``: features of images."""

from dataclasses import asdict
from typing import Annotated

from cyclopts import Parameter

from selectivemae.cli.common import ConfigFile, Json, Quiet, Verbose, print_json, set_up_logging, settings_from
from selectivemae.probing.embed_config import EmbedConfig


def embed(
    weights: Annotated[str, Parameter(help="Run folder, weight file, random:NAME, timm:NAME, hf:OWNER/NAME")],
    /,
    *,
    settings: Annotated[EmbedConfig | None, Parameter(name="*")] = None,
    layout: Annotated[str | None, Parameter(help="Layout of the weight file, where its keys do not tell")] = None,
    config: ConfigFile = None,
    resume: Annotated[bool, Parameter(help="Go on from what a stopped run left", negative=())] = False,
    overwrite: Annotated[bool, Parameter(help="Replace the file in --out", negative=())] = False,
    json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Write features of images to a Parquet file: id, vector.

    Example: selectivemae embed runs/first --data images/ --out features.parquet
    """
    set_up_logging(quiet or json, verbose)
    settled = settings_from(EmbedConfig, "embed", settings, None, config)
    from selectivemae.engine.precision import choose_device
    from selectivemae.probing.embed import embed as run
    from selectivemae.weights.load import load_encoder

    encoder = load_encoder(weights, layout=layout)
    result = run(
        encoder,
        weights,
        settled,
        choose_device(settled.device),
        resume=resume,
        overwrite=overwrite,
        quiet=quiet or json,
    )
    if json:
        print_json(asdict(result))
        return
    more = f"; {result.unreadable} could not be read ({result.out}.quarantine.csv)" if result.unreadable else ""
    print(f"{result.out}: {result.images} vectors of {result.width}{more}")
