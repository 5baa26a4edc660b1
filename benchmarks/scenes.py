"""A scene of 20,000 x 20,000 pixels to a map: memory, sameness of parts, speed.

The scene is made here (tiles of noise under slow shades, 3 bands, deflate). A function of pixels stands for the
network where exactness and memory are the matter; a fine-tuned run may be named for speed, which then maps a corner of
the scene.

    python benchmarks/scenes.py --work FOLDER [--side 20000] [--run RUN --run-side 2048] [--device cuda]
"""

import argparse
import json
import multiprocessing
import resource
import subprocess
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import rasterio
import torch
from affine import Affine
from rasterio.windows import Window

from _table import markdown, write
from selectivemae.engine.precision import choose_device
from selectivemae.scenes.config import PredictConfig
from selectivemae.scenes.run import SceneResult, map_classes

PLACE = Affine(0.5, 0, 399_960.25, 0, -0.5, 5_700_000.75)
BLOCK, MARGIN = 512, 512


@dataclass
class Brightest:
    """A predictor without a network: smoothed bands are the logits."""

    size: int = 512
    task: str = "segment"
    classes: tuple[str, ...] = ("background", "green", "blue")
    channels: int = 3

    def scores(self, images: torch.Tensor) -> torch.Tensor:
        """Logits (B, 3, S, S)."""
        return torch.nn.functional.avg_pool2d(images.float(), 9, 1, 4) / 20


def make_scene(path: Path, side: int) -> None:
    """Noise of one block, lit differently in each."""
    random = np.random.default_rng(0)
    tile = random.integers(0, 64, (3, BLOCK, BLOCK), dtype=np.uint8)
    profile = {"driver": "GTiff", "width": side, "height": side, "count": 3, "dtype": "uint8", "photometric": "rgb"}
    tiles = {"tiled": True, "blockxsize": BLOCK, "blockysize": BLOCK, "compress": "deflate", "zlevel": 1}
    with rasterio.open(path, "w", crs="EPSG:32631", transform=PLACE, **profile, **tiles) as out:
        for row in range(0, side, BLOCK):
            for column in range(0, side, BLOCK):
                height, width = min(BLOCK, side - row), min(BLOCK, side - column)
                light = random.integers(0, 190, (3, 1, 1), dtype=np.uint8)
                out.write((tile + light)[:, :height, :width], window=Window(column, row, width, height))


def cut_out(image: Path, out: Path, column: int, row: int, width: int, height: int) -> None:
    """A part of a scene as a file of its own."""
    with rasterio.open(image) as whole:
        profile = whole.profile | {"width": width, "height": height}
        profile["transform"] = whole.transform @ Affine.translation(column, row)
        with rasterio.open(out, "w", **profile) as part:
            for top in range(0, height, BLOCK):
                lines = min(BLOCK, height - top)
                part.write(
                    whole.read(window=Window(column, row + top, width, lines)), window=Window(0, top, width, lines)
                )


def measured(image: Path, out: Path, run: str | None, device: str, batch: int) -> dict:
    """Map a scene in a process of its own: what it says, and its peak memory in MB."""
    queue = multiprocessing.get_context("spawn").Queue()
    process = multiprocessing.get_context("spawn").Process(target=_work, args=(queue, image, out, run, device, batch))
    process.start()
    told = queue.get()
    process.join()
    return told


def _work(queue, image: Path, out: Path, run: str | None, device: str, batch: int) -> None:
    predictor = Brightest()
    if run:
        from importlib import import_module

        from selectivemae.tasks.common import task_of

        task = task_of(Path(run), ("classify", "segment"))
        predictor = import_module(f"selectivemae.tasks.{task}.predictor").load_predictor(
            Path(run), choose_device(device), "auto"
        )
    config = PredictConfig.build({"image": image, "out": out, "batch_size": batch})
    result: SceneResult = map_classes([predictor], config, "benchmark", overwrite=True, quiet=True)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    queue.put({"seconds": result.seconds, "outside": result.outside_network, "peak": peak, "windows": result.windows})


def quarters_are_the_whole(image: Path, whole: Path, work: Path, side: int) -> bool:
    """Whether four files of a quarter with a margin of one window, mapped alone, give the whole's pixels."""
    half, same = side // 2, True
    for row in (0, half):
        for column in (0, half):
            left, top = max(column - MARGIN, 0), max(row - MARGIN, 0)
            right, bottom = min(column + half + MARGIN, side), min(row + half + MARGIN, side)
            part, made = work / "part.tif", work / "part_map.tif"
            cut_out(image, part, left, top, right - left, bottom - top)
            measured(part, made, None, "cpu", 8)
            with rasterio.open(made) as a, rasterio.open(whole) as b:
                mine = a.read(1, window=Window(column - left, row - top, half, half))
                same &= bool((mine == b.read(1, window=Window(column, row, half, half))).all())
    return same


def cog_faults(path: Path) -> list[str]:
    """What gdalinfo finds missing of a cloud-optimised GeoTIFF."""
    told = subprocess.run(["gdalinfo", "-json", path], capture_output=True, text=True, check=True)
    info = json.loads(told.stdout)
    faults = [] if info["metadata"]["IMAGE_STRUCTURE"].get("LAYOUT") == "COG" else ["layout"]
    smallest = info["bands"][0]["overviews"][-1]["size"] if info["bands"][0]["overviews"] else info["size"]
    return faults + ([] if max(smallest) <= BLOCK else ["overviews"])


def main() -> None:
    """Make the scene, map it, compare, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--side", type=int, default=20_000)
    parser.add_argument("--run", help="a fine-tuned run of segment or classify")
    parser.add_argument("--run-side", type=int, default=2048, help="side of the corner that it maps")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--batch", type=int, default=8)
    given = parser.parse_args()
    given.work.mkdir(parents=True, exist_ok=True)
    image, whole = given.work / "scene.tif", given.work / "map.tif"
    if not image.exists():
        make_scene(image, given.side)
    corner = given.work / "corner.tif"
    tries = [("function of pixels", None, image, whole, given.side)]
    if given.run:
        cut_out(image, corner, 0, 0, given.run_side, given.run_side)
        tries.append(("fine-tuned run", given.run, corner, given.work / "run_map.tif", given.run_side))
    rows = []
    for name, run, scene, out, side in tries:
        told = measured(scene, out, run, given.device, given.batch)
        speed = side**2 / 1e6 / told["seconds"]
        row = (name, f"{side:,}", told["windows"], f"{told['seconds']:.0f}", f"{speed:.2f}")
        rows.append((*row, f"{100 * told['outside']:.1f} %", f"{told['peak']:.0f}"))
    with rasterio.open(image) as scene, rasterio.open(whole) as made:
        placed = scene.crs == made.crs and scene.transform == made.transform
    checks = [
        ("CRS and transform are the scene's", placed),
        ("the map of four quarters with overlap is the same, pixel by pixel",
         quarters_are_the_whole(image, whole, given.work, given.side)),
        ("gdalinfo: layout COG, smallest overview in one tile", not cog_faults(whole)),
    ]  # fmt: skip
    head = ("predictor", "side", "windows", "seconds", "megapixels/s", "outside the network", "peak memory, MB")
    write(
        "scenes",
        f"A scene of {given.side} x {given.side} pixels",
        "benchmarks/scenes.py",
        markdown(head, rows),
        markdown(("check", "holds"), [(what, "yes" if holds else "NO") for what, holds in checks]),
    )


if __name__ == "__main__":
    main()
