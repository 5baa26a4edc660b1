"""One epoch of the published detection recipes on a synthetic data set in DIOR's layout, with the backbone as the only
option that is not the recipe's.

    python benchmarks/detect_recipe.py [--images 32] [--weights random:vit_tiny_patch16]

The folder has DIOR's tree, names, sizes (800 x 800) and both kinds of XML, and a few dozen generated scenes.
"""

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from _table import markdown, write
from selectivemae.core.config import read_recipe
from selectivemae.data.synthetic.scene import CLASSES, Scene, scene
from selectivemae.data.synthetic.tables import OBJECTS
from selectivemae.ops import rotated
from selectivemae.tasks.boxes_run import DetectResult, finetune_boxes
from selectivemae.tasks.detect.config import DetectConfig
from selectivemae.tasks.oriented.config import OrientedConfig

RECIPES = {"detect-dior": ("detect", DetectConfig), "oriented-dior-r": ("oriented", OrientedConfig)}
_DIOR = ("vehicle", "vehicle", "ship", "airplane", "storagetank", "stadium", "tenniscourt", "overpass")
NAMES = dict(zip(OBJECTS, _DIOR, strict=True))
CORNERS = ("right_bottom", "right_top", "left_top", "left_bottom")  # in the order of ``rotated.corners``


def annotation(drawn: Scene, id: str, oriented: bool) -> str:
    """DIOR's XML of a scene, or DIOR-R's."""
    side = drawn.mask.shape[0]
    objects = []
    quads = rotated.corners(torch.from_numpy(drawn.oriented).double()).tolist()
    for label, box, quad in zip(drawn.box_labels.tolist(), drawn.boxes.tolist(), quads, strict=True):
        if oriented:
            tags = "".join(
                f"<x_{c}>{x:.0f}</x_{c}><y_{c}>{y:.0f}</y_{c}>" for c, (x, y) in zip(CORNERS, quad, strict=True)
            )
            form = f"<robndbox>{tags}</robndbox>"
        else:
            tags = "".join(f"<{t}>{v:.0f}</{t}>" for t, v in zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True))
            form = f"<bndbox>{tags}</bndbox>"
        objects.append(f"<object><name>{NAMES[OBJECTS[label]]}</name>{form}</object>")
    size = f"<size><width>{side}</width><height>{side}</height><depth>3</depth></size>"
    return f"<annotation><filename>{id}.jpg</filename>{size}{''.join(objects)}</annotation>\n"


def write_dior(root: Path, images: int, side: int = 800) -> Path:
    """DIOR's tree with a quarter each of the images in train and val, and a half in test."""
    main = root / "ImageSets" / "Main"
    main.mkdir(parents=True)
    parts: dict[str, list[str]] = {"train": [], "val": [], "test": []}
    for number in range(images):
        part = ("train", "test", "val", "test")[number % 4]
        id, drawn = f"{number + 1:05d}", scene(0, number, number % len(CLASSES), side)
        parts[part].append(id)
        folder = root / ("JPEGImages-test" if part == "test" else "JPEGImages-trainval")
        folder.mkdir(exist_ok=True)
        Image.fromarray(np.ascontiguousarray(drawn.image)).save(folder / f"{id}.jpg", quality=90)
        for kind in ("Horizontal", "Oriented"):
            labels = root / "Annotations" / f"{kind} Bounding Boxes"
            labels.mkdir(parents=True, exist_ok=True)
            (labels / f"{id}.xml").write_text(annotation(drawn, id, kind == "Oriented"))
    for part, ids in (parts | {"trainval": sorted(parts["train"] + parts["val"])}).items():
        (main / f"{part}.txt").write_text("".join(f"{id}\n" for id in ids))
    return root


def one_epoch(recipe: str, data: Path, out: Path, weights: str, **more: object) -> DetectResult:
    """An epoch of a recipe."""
    task, kind = RECIPES[recipe]
    given = {"weights": weights, "data": str(data), "out": str(out), "epochs": 1}
    return finetune_boxes(task, kind.build(read_recipe("finetune", recipe), given, more), quiet=True)  # type: ignore[arg-type]


def main() -> None:
    """Write the data set, run both recipes, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=32)
    parser.add_argument("--weights", default="random:vit_tiny_patch16")
    arguments = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        data = write_dior(Path(folder) / "DIOR", arguments.images)
        for recipe in RECIPES:
            began = time.monotonic()
            run = one_epoch(recipe, data, Path(folder) / recipe, arguments.weights).runs[0]
            minutes = f"{(time.monotonic() - began) / 60:.1f}"
            rows.append(
                [recipe, arguments.images // 2, run.images, run.steps, f"{run.seconds / run.steps:.1f}", minutes]
            )
    head = ["recipe", "training images", "test images", "steps", "s a step of 4 images", "minutes, with evaluation"]
    about = f"{arguments.weights}, 800 x 800 px, batch 4, fp32, {torch.get_num_threads()} threads of the CPU."
    title = "An epoch of the detection recipes"
    write("detect_recipe", title, "benchmarks/detect_recipe.py", about, markdown(head, rows))


if __name__ == "__main__":
    main()
