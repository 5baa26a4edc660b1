"""``selectivemae demo``: the main job end to end in minutes, offline."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from selectivemae.cli.common import Json, Quiet, print_json, set_up_logging
from selectivemae.cli.pretrain import run
from selectivemae.core.errors import ConfigError, DataError
from selectivemae.core.files import atomic_write, prepare_output

SIZE = 64  # pixels: small enough that a laptop sees every scene dozens of times in minutes
MARKER = "demo.txt"
Say = Callable[[str], None]

NEXT = """
Next, with your own images:
  selectivemae pretrain --data FOLDER --out runs/first        pre-train (any folder, zip or tar of images)
  selectivemae pretrain --out runs/first --resume             go on after an interruption
  selectivemae probe runs/first --data CLASS_FOLDERS          how good are the features?
The weights are {encoder}; their metadata name the timm model."""


def demo(
    *,
    data: Annotated[Path | None, Parameter(help="Images of your own (class folders are probed as well)")] = None,
    out: Annotated[Path, Parameter(help="Where everything is put")] = Path("demo-out"),
    minutes: Annotated[float, Parameter(help="Minutes of pre-training")] = 2.5,
    seed: Annotated[int, Parameter(help="Of scenes, weights and order")] = 0,
    overwrite: Annotated[bool, Parameter(help="Replace an earlier demo in --out", negative=())] = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Pre-train a small encoder, probe it, and leave a report: on generated scenes, or on your images with --data.

    Example: selectivemae demo --out demo-out
    """
    set_up_logging(quiet or json)
    if minutes <= 0:
        raise ConfigError(f"--minutes must be above 0, got {minutes}")
    if data:
        from selectivemae.data.stores import open_store

        open_store(data)  # says at once what is wrong with it
    prepare_output(out, resume=False, overwrite=overwrite, marker=MARKER)
    atomic_write(out / MARKER, "Made by `selectivemae demo`; --overwrite replaces it.\n")

    def say(text: str) -> None:
        if not (quiet or json):
            print(text, flush=True)

    if data:
        say(f"1. Real images: {data}")
    source = str(data or _scenes(out / "scenes", seed, say))
    found = _pretrain(source, out / "run", minutes, seed, quiet or json, say)
    found["probe"] = _probe(source, out / "run", seed, say)
    if json:
        print_json(found)
        return
    say(f"4. Report: {out / 'run' / 'report.html'}")
    print(NEXT.format(encoder=out / "run" / "encoder.safetensors"))


def _scenes(folder: Path, seed: int, say: Say) -> Path:
    """Generate labelled overhead scenes."""
    from selectivemae.data.synthetic import CLASSES, write_scenes

    say(f"1. Generated overhead scenes of {len(CLASSES)} classes (synthetic; --data takes real images)")
    write_scenes(folder, 60, size=96, seed=seed)
    return folder


def _pretrain(source: str, out: Path, minutes: float, seed: int, quiet: bool, say: Say) -> dict[str, Any]:
    from selectivemae.pretrain.config import PretrainConfig

    say(
        f"2. Pre-training a ViT-tiny with SelectiveMAE for {minutes:g} minutes (15 % of the patches seen, 25 % rebuilt)"
    )
    settings = PretrainConfig(
        data=[source], out=out, model="vit_tiny_patch8", image_size=SIZE, minutes=minutes, seed=seed, workers=0
    )
    result = run(settings, quiet=quiet)
    say(f"   {result.samples} images seen ({result.epochs:.0f} epochs), loss {result.loss or 0:.3f}")
    return {"run": str(out), "samples": result.samples, "epochs": result.epochs, "loss": result.loss}


def _probe(source: str, run: Path, seed: int, say: Say) -> dict[str, Any] | None:
    """Probe the run where the images have labels."""
    from selectivemae.cli.probe import run_probe, table
    from selectivemae.probing.run import ProbeConfig, open_labelled

    try:
        open_labelled(source, seed)
    except DataError as e:
        say(f"3. No probe: {e}")
        return None
    say("3. Probing the frozen features, beside what they must beat")
    probed = run_probe(str(run), ProbeConfig(data=source, seed=seed))
    say(table(probed))
    return probed.as_dict()
