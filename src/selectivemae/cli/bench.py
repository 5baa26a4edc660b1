"""``selectivemae bench``: what it costs here."""

from typing import Annotated

from cyclopts import App, Parameter

from selectivemae.cli.common import ConfigFile, Json, print_json, set_up_logging, settings_from
from selectivemae.data import bench as data_bench
from selectivemae.data.bench import BenchDataConfig
from selectivemae.pretrain.bench import BenchModelConfig, as_dict, as_text, bench_model

app = App(name="bench", help="What training costs on this machine.", help_format="plaintext")


@app.command
def model(
    *,
    settings: Annotated[BenchModelConfig | None, Parameter(name="*")] = None,
    config: ConfigFile = None,
    json: Json = False,
) -> None:
    """Time training steps of a model, two methods in turn.

    Example: selectivemae bench model --model vit_base_patch16 --against mae
    """
    set_up_logging(quiet=json)
    cost = bench_model(settings_from(BenchModelConfig, "bench", settings, None, config))
    if json:
        print_json(as_dict(cost))
    else:
        print(as_text(cost))


@app.command
def data(
    *,
    settings: Annotated[BenchDataConfig | None, Parameter(name="*")] = None,
    config: ConfigFile = None,
    json: Json = False,
) -> None:
    """Time the way of images from the disk to the device, against Pillow and float transforms in turn.

    Example: selectivemae bench data --data images/ --needs 500
    """
    set_up_logging(quiet=json)
    cost = data_bench.bench_data(settings_from(BenchDataConfig, "bench", settings, None, config))
    if json:
        print_json(data_bench.as_dict(cost))
    else:
        print(data_bench.as_text(cost))
