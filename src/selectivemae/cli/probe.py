"""``selectivemae probe``: how good frozen features are."""

from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from selectivemae.cli.common import ConfigFile, Json, Quiet, Verbose, print_json, set_up_logging, settings_from
from selectivemae.core.errors import ConfigError
from selectivemae.probing.config import ProbeConfig

if TYPE_CHECKING:
    from selectivemae.probing.run import ProbeResult


def probe(
    weights: Annotated[str, Parameter(help="Run folder, weight file, random:NAME, timm:NAME, hf:OWNER/NAME")],
    /,
    *,
    settings: Annotated[ProbeConfig | None, Parameter(name="*")] = None,
    layout: Annotated[str | None, Parameter(help="Layout of the weight file, where its keys do not tell")] = None,
    config: ConfigFile = None,
    json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Judge frozen features by kNN, a linear probe and few-shot classes, beside random weights, raw pixels and colour.

    Example: selectivemae probe runs/first --data scenes/
    """
    set_up_logging(quiet or json, verbose)
    settled = settings_from(ProbeConfig, "probe", settings, None, config)
    if settled.data is None:
        raise ConfigError("no data given: --data FOLDER with class folders (CLASS/image.jpg)")
    result = run_probe(weights, settled, layout)
    if json:
        print_json(result.as_dict())
    else:
        print(table(result))


def run_probe(weights: str, config: ProbeConfig, layout: str | None = None) -> "ProbeResult":
    """Load weights and probe them; the baseline of random weights has the same architecture."""
    from selectivemae.engine.precision import choose_device
    from selectivemae.probing.run import probe_encoder
    from selectivemae.weights.info import EncoderInfo
    from selectivemae.weights.load import load_encoder

    encoder = load_encoder(weights, layout=layout)
    info = EncoderInfo.of(encoder)
    name = info.architecture
    fresh = not weights.startswith("random:") and name.startswith("vit_")

    def twin():
        return load_encoder(f"random:{name}", image_size=info.image_size, in_chans=info.channels, seed=config.seed)

    return probe_encoder(encoder, config, choose_device(config.device), weights, twin if fresh else None)


def table(result: "ProbeResult") -> str:
    """The result for people."""
    from selectivemae.probing.fewshot import DRAWS, SHOTS
    from selectivemae.probing.run import Row

    head = f"{result.classes} classes, {result.train} train / {result.test} test ({result.split})"
    rows = [(result.weights, Row(result.knn, result.linear, result.few_shot))]
    rows += result.baselines.items()
    wide = max(len(name) for name, _ in rows)
    shots = "".join(f"  {n:>2}-shot" for n in result.few_shot)
    lines = [head, f"{'':{wide}}  kNN-{result.k:<3} linear{shots}"]
    for name, row in rows:
        few = "".join(f"  {row.few_shot[n]:7.2f}" for n in result.few_shot)
        lines.append(f"{name:{wide}}  {row.knn:6.2f}  {row.linear:6.2f}{few}")
    (low, high), (low_linear, high_linear) = result.knn_interval, result.linear_interval
    lines.append(f"95 % intervals: kNN {low:.2f} to {high:.2f}, linear {low_linear:.2f} to {high_linear:.2f}")
    if result.few_shot:
        spread = ", ".join(f"{n}-shot {d:.2f}" for n, d in result.few_shot_deviation.items())
        lines.append(f"deviation over {DRAWS} draws: {spread}")
    left = [f"{n}-shot" for n in SHOTS if n not in result.few_shot]
    if left:
        lines.append(f"no {', '.join(left)}: a class has only {result.fewest} training images")
    lines.append("kNN over k: " + ", ".join(f"{k}: {share:.2f}" for k, share in result.knn_by_k.items()))
    if result.unreadable:
        train, test = result.unreadable - result.unreadable_test, result.unreadable_test
        lines.append(f"{train} training and {test} test images could not be read and were left out")
    return "\n".join(lines)
