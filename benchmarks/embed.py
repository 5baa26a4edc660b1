"""Images a second of ``embed``, from encoded files to vectors on disk, for several models.

python benchmarks/embed.py --data ../shared/data/aid --models vit_tiny_patch8:64 vit_base_patch16:224 --images 256
"""

import argparse
import shutil
import tempfile
import time
from pathlib import Path

import torch

import _table
from selectivemae.data.stores import open_store
from selectivemae.engine.precision import choose_device
from selectivemae.probing.embed import embed
from selectivemae.probing.embed_config import EmbedConfig
from selectivemae.weights.load import load_encoder


def main() -> None:
    """Embed copies of the first images with each model, in turn, twice; the faster round counts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--models", nargs="+", default=["vit_tiny_patch8:64", "vit_base_patch16:224"])
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--workers", type=int, default=0)
    args = parser.parse_args()
    store, device = open_store(args.data), choose_device("auto")
    seconds: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        images = Path(folder) / "images"
        images.mkdir()
        for i in range(min(args.images, len(store))):
            (images / f"{i:06d}.jpg").write_bytes(store[i])
        for _ in range(2):
            for model in args.models:
                name, size = model.split(":")
                encoder = load_encoder(f"random:{name}", image_size=int(size))
                out = Path(folder) / f"{name}.parquet"
                config = EmbedConfig(data=[str(images)], out=out, workers=args.workers)
                begin = time.perf_counter()
                result = embed(encoder, name, config, device, overwrite=True, quiet=True)
                took = time.perf_counter() - begin
                seconds[model] = min(took / result.images, seconds.get(model, took))
        shutil.rmtree(images)
    rows = [(m, f"{1 / s:.0f}", f"{13e6 * s / 86400:.1f}") for m, s in seconds.items()]
    note = (
        f"{min(args.images, len(store))} images of {Path(args.data).name}, {args.workers} decoding processes, "
        f"{torch.get_num_threads()} threads, on {device}; float32."
    )
    head = ("model:pixels", "images/s", "days for 13 M images")
    _table.write("embed", "Features of many images", "benchmarks/embed.py", note, _table.markdown(head, rows))


if __name__ == "__main__":
    main()
