"""Where selection looks: seeds, visible and rebuilt patches on real crops whose right half is made flat.

    python benchmarks/selection.py --aid ../shared/data/aid --images 96

Half of the patches of every image lie in the textured half, so 50 % is what a blind draw gives. The model is fresh:
what it selects depends on pixels, richness and the tokens of its first layer alone.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

import _table
from selectivemae.core.order import sample_key
from selectivemae.data.stores import open_store
from selectivemae.models.create import create_model
from selectivemae.models.selective_mae import SelectiveMAE
from selectivemae.ops.patches import patchify
from selectivemae.ops.selection import SEEDS, draw
from selectivemae.probing.features import read_images

SIDE, PATCH = 144, 8
PHASES = {"near": 0.1, "far": 0.5, "random": 0.9}
MOMENTS = (0.0, 0.2, 0.35, 0.36, 0.37, 0.375, 0.5, 0.725, 0.73, 0.74, 0.75, 0.9, 1.0)
WAYS = [("hog", "sample", 0.5), ("hog", "sample", 1.0), ("hog", "topk", 0.5), ("entropy", "sample", 0.5),
        ("uniform", "sample", 0.5)]  # fmt: skip


def half_flat(folder: Path, n: int) -> Tensor:
    """Images (n, 3, SIDE, SIDE) uint8 of all classes, the right half of each filled with its mean colour."""
    store = open_store(folder)
    index = np.linspace(0, len(store) - 1, n).astype(np.int64)
    images = torch.from_numpy(np.concatenate([images for images, _, _ in read_images(store, index, SIDE)]))
    right = images[..., SIDE // 2 :].float().mean(dim=(2, 3), keepdim=True)
    images[..., SIDE // 2 :] = right.round().to(torch.uint8)
    return images


def model_for(richness: str, mode: str, temperature: float) -> SelectiveMAE:
    """A fresh ViT-tiny with the published ratios and order of phases."""
    model = create_model(
        f"vit_tiny_patch{PATCH}", image_size=SIDE, richness=richness, richness_mode=mode, temperature=temperature,
        order="near-far-random", decoder_depth=1,
    )  # fmt: skip
    assert isinstance(model, SelectiveMAE)
    return model.eval()


def textured(ids: Tensor) -> str:
    """Share of patches in the left half, percent."""
    columns = SIDE // PATCH
    return f"{100 * (ids % columns < columns // 2).float().mean():.1f}"


@torch.no_grad()
def likeness(model: SelectiveMAE, images: Tensor, key: Tensor, progress: float) -> float:
    """Mean over added patches of the highest cosine similarity to any seed."""
    visible, _ = model.select(images, key, progress)
    seeds = draw(model.richness(images, model.selection.richness), key, SEEDS, model.number.seeds, model.selection.mode)
    unit = torch.nn.functional.normalize(model.embed(patchify(images, PATCH)), dim=-1)
    highest = torch.stack([u @ u[s].T for u, s in zip(unit, seeds, strict=True)]).amax(2)
    added = torch.zeros_like(highest).scatter_(1, visible, 1.0).scatter_(1, seeds, 0.0)
    return float((highest * added).sum() / added.sum())


@torch.no_grad()
def main() -> None:
    """Select, count, write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--aid", type=Path, required=True, help="folder of images")
    parser.add_argument("--images", type=int, default=96)
    args = parser.parse_args()
    pictures = half_flat(args.aid, args.images)
    key = torch.from_numpy(sample_key(0, 0, np.arange(len(pictures))))
    rows, moments = [], []
    for richness, mode, temperature in WAYS:
        model = model_for(richness, mode, temperature)
        images = model.normalise(pictures)
        logits = model.richness(images, richness)
        seeds = textured(draw(logits, key, SEEDS, model.number.seeds, mode))
        name = [richness, mode if richness != "uniform" else "", temperature if mode == "sample" else ""]
        if richness == "uniform":
            name[2] = ""
        for phase, progress in PHASES.items():
            visible, targets = model.select(images, key, progress)
            rows.append([*name, phase, seeds, textured(visible), textured(targets)])
        if (richness, mode, temperature) in (WAYS[0], WAYS[-1]):
            moments.append([richness, *(f"{likeness(model, images, key, t):.3f}" for t in MOMENTS)])
    number = model_for(*WAYS[0]).number
    note = (
        f"{len(pictures)} images of AID, centre crops of {SIDE} pixels in patches of {PATCH}; of {number.patches} "
        f"patches {number.seeds} are seeds, {number.visible} visible, {number.targets} rebuilt (mask ratio 0.85, "
        "reconstruction ratio 0.25). Percent of the chosen patches that lie in the textured half; 50 is a blind draw."
    )
    head = ["richness", "mode", "temperature", "phase", "seeds", "visible", "rebuilt"]
    second = "Mean over the added patches of the highest cosine similarity to any seed, over the progress of training:"
    _table.write(
        "selection", "Where selection looks", "benchmarks/selection.py",
        note, _table.markdown(head, rows), second, _table.markdown(["richness", *map(str, MOMENTS)], moments),
    )  # fmt: skip


if __name__ == "__main__":
    main()
