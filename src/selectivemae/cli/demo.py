"""``selectivemae demo``: the main job end to end in minutes, offline."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from selectivemae.cli.common import Json, Quiet, print_json, set_up_logging
from selectivemae.cli.pretrain import run
from selectivemae.core.errors import ConfigError, DataError
from selectivemae.core.files import atomic_write, prepare_output

# Small enough that a laptop sees every scene dozens of times in minutes. A shallow decoder leaves the time to the
# encoder, which is what the probe looks at; the rate is high because the run is short.
SETTINGS: dict[str, Any] = {"model": "vit_tiny_patch8", "image_size": 64, "decoder_depth": 2, "lr": 1.5e-3}
PER_CLASS = 60
COPY_EVERY = 12  # scenes for each one that is planted again
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
    """Curate, pre-train a small encoder, probe it, and leave reports: on generated scenes, or on your own with --data.

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

    found: dict[str, Any] = {}
    if data:
        say(f"1. Real images: {data}")
        labelled = corpus = data
    else:
        labelled, corpus = _scenes(out / "scenes", seed, say), out / "corpus"
        found["curated"] = _curate(labelled, _planted(labelled, out / "found-again"), corpus, say)
    found |= _pretrain(str(corpus), out / "run", minutes, seed, quiet or json, say)
    found["probe"] = _probe(str(labelled), out / "run", seed, say)
    if json:
        print_json(found)
        return
    say(f"5. Reports: {out / 'run' / 'report.html'}" + ("" if data else f", {corpus / 'report' / 'index.html'}"))
    print(NEXT.format(encoder=out / "run" / "encoder.safetensors"))


def _scenes(folder: Path, seed: int, say: Say) -> Path:
    """Generate labelled overhead scenes, on two processes where there are two cores."""
    from selectivemae.data.synthetic import CLASSES, write_scenes

    say(f"1. Generating overhead scenes of {len(CLASSES)} classes (synthetic; --data takes real images)")
    write_scenes(folder, PER_CLASS, size=96, seed=seed, workers=min(2, os.cpu_count() or 1))
    return folder


def _planted(scenes: Path, out: Path) -> Path:
    """Copies of some scenes, as they creep into every collection: byte for byte, saved again, and mirrored."""
    from PIL import Image, ImageOps

    out.mkdir()
    for number, file in enumerate(sorted(scenes.glob("*/*.jpg"))[::COPY_EVERY]):
        copy = out / f"{file.parent.name}-{file.name}"
        if number % 3 == 0:
            shutil.copy(file, copy)
            continue
        with Image.open(file) as image:
            (ImageOps.mirror(image) if number % 3 == 2 else image).save(copy, quality=80)
    return out


def _curate(scenes: Path, copies: Path, corpus: Path, say: Say) -> dict[str, Any]:
    """A corpus of the scenes without the copies."""
    from selectivemae.curation.config import CurateConfig
    from selectivemae.curation.run import curate
    from selectivemae.reports.corpus import write_corpus_report

    planted = sum(1 for _ in copies.iterdir())
    say(f"2. Curating them, with {planted} copies planted among them (equal, saved again, mirrored)")
    result = curate(CurateConfig(sources=[str(scenes), str(copies)], out=corpus, name="demo", workers=1), quiet=True)
    write_corpus_report(corpus)
    reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(result.dropped.items()))
    say(f"   {result.files} files, {result.kept} images kept; left out: {reasons or 'nothing'}")
    return {"files": result.files, "planted": planted, "kept": result.kept, "left_out": result.dropped}


def _pretrain(source: str, out: Path, minutes: float, seed: int, quiet: bool, say: Say) -> dict[str, Any]:
    from selectivemae.pretrain.config import PretrainConfig

    say(
        f"3. Pre-training a ViT-tiny with SelectiveMAE for {minutes:g} minutes (15 % of the patches seen, 25 % rebuilt)"
    )
    given = {"data": [source], "out": out, "minutes": minutes, "seed": seed, "workers": 0}
    settings = PretrainConfig.build(SETTINGS, given)
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
        say(f"4. No probe: {e}")
        return None
    say("4. Probing the frozen features, beside what they must beat")
    probed = run_probe(str(run), ProbeConfig(data=source, seed=seed))
    say(table(probed))
    return probed.as_dict()
