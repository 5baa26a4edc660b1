"""The small encoder that benchmarks/detect.py and benchmarks/segment.py compare with fresh weights.

    python benchmarks/dense_encoder.py --data ../shared/data --work /tmp/dense --samples 300000

Windows of 256 px of the train parts of the sets of detection and segmentation, the train parts of AID and UC Merced and
a few whole scenes, all without labels, are the corpus; no image of a val or test part is in it. The encoder is
RUN/encoder.safetensors of --work/run; a run that was stopped goes on.
"""

import argparse
import csv
import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

import _table
from _runs import loss_tenths, steps
from selectivemae.data.decode import decode
from selectivemae.pretrain.config import PretrainConfig
from selectivemae.pretrain.run import pretrain

LISTED = (
    "airbus_aircraft", "gdit_aerial_airport", "nepu_owod", "dota", "buildings_obb_derived", "dubai_landcover",
    "oam_buildings", "spacenet1",
)  # fmt: skip
CLASSES = ("aid", "ucmerced")
SCENES = "big_scenes"
SIDE, STEP = 256, 192


def sources(root: Path) -> Iterator[Path]:
    """The images of the corpus."""
    for name in LISTED:
        folder = next(root / name / part for part in ("images", "JPEGImages") if (root / name / part).is_dir())
        names = set((root / name / "train.txt").read_text().split())
        yield from (path for path in sorted(folder.iterdir()) if path.stem in names)
    for name in CLASSES:
        rows = csv.DictReader((root / name / "split.csv").read_text().splitlines())
        yield from (root / name / row["file"] for row in rows if row["split"] == "train")
    yield from (path for path in sorted((root / SCENES).iterdir()) if path.suffix in (".jpg", ".tif", ".png"))


def windows(image: np.ndarray) -> Iterator[np.ndarray]:
    """Windows (up to 256, up to 256, 3) that cover an image, overlapping by a quarter; the whole of a small one."""
    places = [sorted({*range(0, max(length - SIDE, 0) + 1, STEP), max(length - SIDE, 0)}) for length in image.shape[:2]]
    yield from (image[y : y + SIDE, x : x + SIDE] for y in places[0] for x in places[1])


def cut(root: Path, out: Path) -> int:
    """Write the corpus unless it is there; how many windows it has."""
    done = out.with_suffix(".count")
    if not done.exists():
        out.mkdir(parents=True, exist_ok=True)
        count = 0
        for path in sources(root):
            for window in windows(decode(path.read_bytes(), 3)):
                if window.std() < 2:  # no-data
                    continue
                buffer = io.BytesIO()
                Image.fromarray(window).save(buffer, "JPEG", quality=95)
                (out / f"{count:06d}.jpg").write_bytes(buffer.getvalue())
                count += 1
        done.write_text(str(count))
    return int(done.read_text())


def main() -> None:
    """Cut, train, write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--model", default="vit_tiny_patch16")
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--samples", type=int, default=300_000)
    parser.add_argument("--lr", type=float, default=2e-4)
    args = parser.parse_args()
    count, out = cut(args.data, args.work / "corpus"), args.work / "run"
    settings = {
        "model": args.model, "image_size": args.size, "batch_size": 64, "lr": args.lr, "samples_seen": args.samples,
        "decoder_depth": 4, "workers": 0, "data": [str(args.work / "corpus")], "out": out,
    }  # fmt: skip
    pretrain(PretrainConfig.build(settings), resume=(out / "checkpoints").exists(), quiet=True)
    (first, last), end = loss_tenths(out), steps(out)[-1]
    head = ["model", "px", "windows", "images seen", "minutes of one core", "loss, first -> last tenth"]
    row = [args.model, args.size, f"{count:,}", f"{end['samples']:,}", f"{end['time_s'] / 60:.0f}"]
    _table.write(
        "dense_encoder",
        "The encoder of the benchmarks of detection and segmentation",
        "benchmarks/dense_encoder.py",
        f"SelectiveMAE, rate {args.lr:g}, a decoder of 4 blocks, else the default recipe, on windows of the train "
        "parts of the sets, AID, UC Merced and scenes.",
        _table.markdown(head, [[*row, f"{first:.3f} -> {last:.3f}"]]),
    )


if __name__ == "__main__":
    main()
