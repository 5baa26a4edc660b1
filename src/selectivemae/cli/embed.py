"""``selectivemae embed``: features of images, or of a scene."""

from dataclasses import asdict
from typing import Annotated

from cyclopts import Parameter
from pydantic import Field

from selectivemae.cli.common import ConfigFile, Json, Quiet, Verbose, print_json, set_up_logging, settings_from
from selectivemae.core.errors import ConfigError
from selectivemae.core.progress import duration
from selectivemae.probing.embed_config import EmbedConfig
from selectivemae.scenes.config import SceneEmbedSettings


class EmbedSettings(EmbedConfig, SceneEmbedSettings):
    """Settings of ``embed``, for images or for a scene."""

    # Longitudes west of Greenwich begin with a hyphen.
    query: Annotated[str | None, Parameter(allow_leading_hyphen=True)] = Field(
        default=None, description=SceneEmbedSettings.model_fields["query"].description
    )


def embed(
    weights: Annotated[str, Parameter(help="Run folder, weight file, random:NAME, timm:NAME, hf:OWNER/NAME")],
    /,
    *,
    settings: Annotated[EmbedSettings | None, Parameter(name="*")] = None,
    layout: Annotated[str | None, Parameter(help="Layout of the weight file, where its keys do not tell")] = None,
    config: ConfigFile = None,
    resume: Annotated[bool, Parameter(help="Go on from what a stopped run left", negative=())] = False,
    overwrite: Annotated[bool, Parameter(help="Replace the file in --out", negative=())] = False,
    json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Write features of images to a Parquet file (id, vector), or of a scene to a raster or GeoParquet file.

    Example: selectivemae embed runs/first --data images/ --out features.parquet
    """
    set_up_logging(quiet or json, verbose)
    settled = settings_from(EmbedSettings, "embed", settings, None, config)
    if bool(settled.data) == (settled.image is not None):
        raise ConfigError("give either --data with images, or --image with a scene")
    from selectivemae.engine.precision import choose_device
    from selectivemae.weights.load import load_encoder

    device = choose_device(settled.device)
    manner = {"resume": resume, "overwrite": overwrite, "quiet": quiet or json}
    if settled.image is not None:
        from selectivemae.probing.embed import digest
        from selectivemae.scenes.embed import embed_scene, encoder_field

        encoder = load_encoder(weights, layout=layout, image_size=settled.image_size)
        model = f"{weights} {digest(encoder)}"
        made = embed_scene(encoder_field(encoder, device), settled, settled.out, settled.batch_size, model, **manner)
        if json:
            print_json(asdict(made))
            return
        print(*(f"{note}\n" for note in made.notes), sep="", end="")
        print(
            f"{made.out[0]}: {made.megapixels:.4g} megapixels in {duration(made.seconds)}; {made.out[1].name} shows it"
        )
        return
    from selectivemae.probing.embed import embed as run

    result = run(load_encoder(weights, layout=layout), weights, settled, device, **manner)
    if json:
        print_json(asdict(result))
        return
    more = f"; {result.unreadable} could not be read ({result.out}.quarantine.csv)" if result.unreadable else ""
    print(f"{result.out}: {result.images} vectors of {result.width}{more}")
