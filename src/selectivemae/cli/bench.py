"""``selectivemae bench``: what it costs here."""

from typing import Annotated

from cyclopts import App, Parameter

from selectivemae.cli.common import ConfigFile, Json, print_json, set_up_logging, settings_from
from selectivemae.data.bench_config import BenchDataConfig
from selectivemae.pretrain.bench_config import BenchModelConfig, BenchTrainConfig

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
    from selectivemae.pretrain.bench import as_dict, as_text, bench_model

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
    from selectivemae.data.bench import as_dict, as_text, bench_data

    cost = bench_data(settings_from(BenchDataConfig, "bench", settings, None, config))
    if json:
        print_json(as_dict(cost))
    else:
        print(as_text(cost))


@app.command
def train(
    *,
    settings: Annotated[BenchTrainConfig | None, Parameter(name="*")] = None,
    config: ConfigFile = None,
    json: Json = False,
) -> None:
    """Time training from the files to the weights, two methods in turn.

    Example: selectivemae bench train --data images/ --model vit_base_patch16 --batch-size 256
    """
    set_up_logging(quiet=json)
    from selectivemae.pretrain.bench_train import as_dict, as_text, bench_train

    cost = bench_train(settings_from(BenchTrainConfig, "bench", settings, None, config))
    if json:
        print_json(as_dict(cost))
    else:
        print(as_text(cost))
