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
from selectivemae.tasks.common import normalise
from selectivemae.weights.export import info_of
from selectivemae.weights.load import load_encoder


def effective_rank(tokens: Tensor) -> float:
    """Of tokens (N, E), about their mean."""
    share = torch.linalg.svdvals((tokens - tokens.mean(dim=0)).double()).square()
    share = share / share.sum()
    return float(torch.special.entr(share).sum().exp())


def main() -> None:
    """Encode, write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--weights", nargs="+", required=True, metavar="NAME=WEIGHTS")
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--name", default="feature_rank")
    args = parser.parse_args()
    store = open_store(args.data)
    index = np.linspace(0, len(store) - 1, args.images).astype(np.int64)
    images = torch.from_numpy(next(iter(read_images(store, index, args.size, batch=args.images)))[0])
    rows, head = [], ["encoder"]
    for name, weights in (one.split("=", 1) for one in args.weights):
        encoder = load_encoder(weights, image_size=args.size).eval()
        taps = Taps(encoder)
        with torch.inference_mode():
            maps = taps(normalise(images, info_of(encoder, weights)))
        tokens = [m.flatten(2).transpose(1, 2).flatten(0, 1) for m in maps]
        rows.append([name, *(f"{t.square().mean().sqrt():.1f} / {effective_rank(t):.1f}" for t in tokens)])
        head = ["encoder", *(f"block {i + 1}" for i in taps.indices)]
    note = (
        f"Root mean square / effective rank of the patch tokens of {len(index)} images at {args.size} px after "
        "the blocks that dense tasks take."
    )
    title = "How large features are, and how many directions they fill"
    _table.write(args.name, title, "benchmarks/feature_rank.py", note, _table.markdown(head, rows))


if __name__ == "__main__":
    main()
