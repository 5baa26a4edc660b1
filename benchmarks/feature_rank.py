"""How large an encoder's patch tokens grow on their way through the blocks, and how many directions they fill.

    python benchmarks/feature_rank.py --data ../shared/data/aid --weights "default=runs/a" "xavier=runs/b" --size 64

Effective rank is the exponential of the entropy of the covariance's eigenvalues, as shares of their sum (Roy and
Vetterli 2007), over the patches of all images together.
"""

import argparse

import numpy as np
import torch
from torch import Tensor

import _table
from selectivemae.data.reading import read_images
from selectivemae.data.stores import open_store
from selectivemae.models.features import Taps
from selectivemae.weights.info import EncoderInfo
from selectivemae.weights.load import load_encoder


def effective_rank(tokens: Tensor) -> float:
    """Of tokens (N, E), about their mean."""
    share = torch.linalg.svdvals((tokens - tokens.mean(dim=0)).double()).square()
    share = share / share.sum()
    return float(torch.special.entr(share).sum().exp())


def sample(data: str, count: int, size: int) -> Tensor:
    """Images (count, 3, size, size) uint8, evenly through a data set."""
    store = open_store(data)
    index = np.linspace(0, len(store) - 1, count).astype(np.int64)
    return torch.from_numpy(next(iter(read_images(store, index, size, batch=count)))[0])


def spreads(weights: str, images: Tensor) -> dict[int, str]:
    """Root mean square / effective rank of the patch tokens after each of the blocks (from 1) that dense tasks take."""
    encoder = load_encoder(weights, image_size=images.shape[-1]).eval()
    taps = Taps(encoder)
    with torch.inference_mode():
        maps = taps(EncoderInfo.of(encoder).normalise(images))
    tokens = [m.flatten(2).transpose(1, 2).flatten(0, 1) for m in maps]
    cells = (f"{t.square().mean().sqrt():.1f} / {effective_rank(t):.1f}" for t in tokens)
    return dict(zip((i + 1 for i in taps.indices), cells, strict=True))


def main() -> None:
    """Encode, write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--weights", nargs="+", required=True, metavar="NAME=WEIGHTS")
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--name", default="feature_rank")
    args = parser.parse_args()
    images = sample(args.data, args.images, args.size)
    rows, head = [], ["encoder"]
    for name, weights in (one.split("=", 1) for one in args.weights):
        found = spreads(weights, images)
        rows.append([name, *found.values()])
        head = ["encoder", *(f"block {block}" for block in found)]
    note = (
        f"Root mean square / effective rank of the patch tokens of {len(images)} images at {args.size} px after "
        "the blocks that dense tasks take."
    )
    title = "How large features are, and how many directions they fill"
    _table.write(args.name, title, "benchmarks/feature_rank.py", note, _table.markdown(head, rows))


if __name__ == "__main__":
    main()
