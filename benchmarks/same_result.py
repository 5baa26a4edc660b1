"""An image's result alone, in batches of any size, and on one thread or two.

python benchmarks/same_result.py --aid ../shared/data/aid --images 64
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

import _table
from selectivemae.core.order import sample_key
from selectivemae.data.reading import read_images
from selectivemae.data.stores import open_store
from selectivemae.models.create import create_model
from selectivemae.models.masked import MaskedAutoencoder

SIDE = 144


def results(model: MaskedAutoencoder, images: Tensor, key: Tensor, progress: float, batch: int) -> list[Tensor]:
    """Visible and target ids, latent and prediction of all images, computed ``batch`` at a time."""
    parts = []
    for x, k in zip(images.split(batch), key.split(batch), strict=True):
        visible, targets = model.select(x, k, progress)
        latent = model.encode(x, visible)
        parts.append((visible, targets, latent, model.reconstruct(latent, targets, visible)))
    return [torch.cat(p) for p in zip(*parts, strict=True)]


@torch.no_grad()
def main() -> None:
    """Compare with the result of single images on one thread; write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--aid", type=Path, required=True)
    parser.add_argument("--images", type=int, default=64)
    args = parser.parse_args()
    store = open_store(args.aid)
    index = np.linspace(0, len(store) - 1, args.images).astype(np.int64)
    pixels = np.concatenate([images for images, _, _ in read_images(store, index, SIDE)])
    model = create_model("vit_tiny_patch8", image_size=SIDE, richness="hog", order="near-far-random")
    images, key = model.normalise(torch.from_numpy(pixels)), torch.from_numpy(sample_key(0, 0, index))
    rows = []
    for phase, progress in (("near", 0.1), ("far", 0.5), ("random", 0.9)):
        torch.set_num_threads(1)
        alone = results(model, images, key, progress, 1)
        for threads in (1, 2):
            torch.set_num_threads(threads)
            for batch in (1, 3, 16, args.images):
                got = results(model, images, key, progress, batch)
                same = torch.stack([(a == b).all(dim=1) for a, b in zip(alone[:2], got[:2], strict=True)]).all(dim=0)
                errors = [f"{(a - b).abs().max():.1e}" for a, b in zip(alone[2:], got[2:], strict=True)]
                rows.append([phase, threads, batch, f"{int(same.sum())} of {len(same)}", *errors])
    note = (
        f"{args.images} centre crops of AID at {SIDE} px, vit_tiny_patch8, HOG, fp32; against every image by itself on "
        "one thread."
    )
    head = ["phase", "threads", "batch", "images with the same patches", "latent, largest difference", "prediction"]
    table = _table.markdown(head, rows)
    _table.write("same_result", "Alone, in a batch, on more threads", "benchmarks/same_result.py", note, table)


if __name__ == "__main__":
    main()
