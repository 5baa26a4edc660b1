"""Pictures of learning: they show what they say, and training does not notice them."""

import io
import os
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from selectivemae.core.errors import Interrupted
from selectivemae.core.records import read_metrics
from selectivemae.data.stores import open_store
from selectivemae.models.create import create_model
from selectivemae.ops.patches import normalise_patches, patchify, take
from selectivemae.pretrain.config import PretrainConfig
from selectivemae.pretrain.pictures import RAMPS, UNSEEN, Fixed, choice_map, draw_grid, fixed_images, look, rgb
from selectivemae.pretrain.run import pretrain

SIDE, PATCH = 32, 4


def write_images(folder: Path, count: int = 8) -> Path:
    """Small PNGs of smooth noise."""
    folder.mkdir()
    noise = np.random.default_rng(0)
    for i in range(count):
        small = Image.fromarray(noise.integers(0, 256, (6, 6, 3), dtype=np.uint8))
        small.resize((40, 36), Image.Resampling.BICUBIC).save(folder / f"{i}.png")
    return folder


def tiny(method: str = "selectivemae", **options):
    return create_model(f"vit_tiny_patch{PATCH}", method, SIDE, decoder_depth=1, **options)  # pyright: ignore[reportArgumentType]


@pytest.fixture(scope="module")
def fixed(tmp_path_factory: pytest.TempPathFactory) -> Fixed:
    got = fixed_images(
        open_store(str(write_images(tmp_path_factory.mktemp("data") / "images"))), SIDE, 3, seed=5, count=3
    )
    assert got is not None
    return got


def cells(images: np.ndarray) -> np.ndarray:
    """(B, C, H, W) as (B, rows, columns, C, p, p), by plain slicing."""
    n = SIDE // PATCH
    rows = [
        [images[:, :, PATCH * r : PATCH * (r + 1), PATCH * c : PATCH * (c + 1)] for c in range(n)] for r in range(n)
    ]
    return np.stack([np.stack(row, 1) for row in rows], 1)


def test_grey_where_unseen_the_image_where_seen_and_the_rest_only_where_rebuilt(fixed: Fixed):
    model = tiny()
    looked = look(model, fixed, 0.3)
    visible, targets = model.select(model.normalise(fixed.images), fixed.key, 0.3)
    for ids, number in ((visible, 1), (targets, 2)):
        for image, row in enumerate(ids.tolist()):
            assert set(np.flatnonzero(looked.part[image] == number).tolist()) == set(row)
    original, seen, rebuilt = cells(looked.original), cells(looked.seen), cells(looked.rebuilt)
    np.testing.assert_array_equal(seen[looked.part == 1], original[looked.part == 1])
    assert (seen[looked.part != 1] == UNSEEN).all()
    np.testing.assert_array_equal(rebuilt[looked.part != 2], seen[looked.part != 2])
    assert looked.all_rebuilt is not None
    whole = cells(looked.all_rebuilt)
    np.testing.assert_array_equal(whole[looked.part == 1], original[looked.part == 1])
    np.testing.assert_array_equal(whole[looked.part == 2], rebuilt[looked.part == 2])
    assert (looked.richness >= 0).all()
    assert (looked.richness <= 1).all()


@pytest.mark.parametrize("norm_pix", [True, False])
def test_a_model_that_predicts_the_truth_rebuilds_the_image(
    fixed: Fixed, norm_pix: bool, monkeypatch: pytest.MonkeyPatch
):
    model = tiny(norm_pix=norm_pix)
    truth = patchify(model.normalise(fixed.images), PATCH)
    at = iter(range(2 * len(fixed.images)))

    def perfect(latent: torch.Tensor, ids: torch.Tensor, visible: torch.Tensor) -> torch.Tensor:
        wanted = take(truth[next(at) // 2, None], ids)
        return normalise_patches(wanted)[0] if norm_pix else wanted

    monkeypatch.setattr(model, "reconstruct", perfect)
    looked = look(model, fixed, 0.0)
    assert looked.all_rebuilt is not None
    np.testing.assert_array_equal(looked.all_rebuilt, looked.original)
    assert looked.loss < 1e-9


def test_mae_rebuilds_everything_so_there_is_no_column_for_it(fixed: Fixed):
    looked = look(tiny("mae"), fixed, 0.0)
    assert looked.all_rebuilt is None
    assert set(np.unique(looked.part)) == {1, 2}
    assert draw_grid(looked, "mae")


def test_looking_leaves_no_trace(fixed: Fixed):
    model = tiny(richness="hog", order="near-far-random").train()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    torch_state, numpy_state = torch.get_rng_state(), repr(np.random.get_state())
    first = draw_grid(look(model, fixed, 0.5), "a")
    assert draw_grid(look(model, fixed, 0.5), "a") == first
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert repr(np.random.get_state()) == numpy_state
    assert model.training
    assert all(p.grad is None and p.requires_grad for p in model.parameters() if p.requires_grad)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_the_choice_is_coloured_patch_by_patch():
    part = np.array([[[0, 1], [2, 1]]])
    richness = np.array([[[0.0, 1.0], [0.0, 0.5]]], np.float32)
    got = choice_map(part, richness, 8, 8)
    assert got.shape == (1, 8, 8, 3)
    half = [round((a + b) / 2) for a, b in zip(*RAMPS[1], strict=True)]
    for (row, column), colour in {(0, 0): RAMPS[0][0], (0, 1): RAMPS[1][1], (1, 0): RAMPS[2][0], (1, 1): half}.items():
        square = got[0, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4]
        assert np.abs(square.astype(int) - np.array(colour)).max() <= 1


@pytest.mark.parametrize("channels", [1, 2, 3, 5])
def test_images_of_any_number_of_channels_are_shown(channels: int):
    images = np.arange(2 * channels * 4, dtype=np.uint8).reshape(2, channels, 2, 2)
    shown = rgb(images)
    assert shown.shape == (2, 2, 2, 3)
    for c in range(3):
        np.testing.assert_array_equal(shown[..., c], images[:, c if channels >= 3 else 0])


def test_damaged_files_are_passed_over(tmp_path: Path):
    folder = write_images(tmp_path / "images", 4)
    for i in (0, 2):
        (folder / f"{i}.png").write_bytes(b"no image")
    got = fixed_images(open_store(str(folder)), SIDE, 3, 0)
    assert got is not None
    assert len(got.images) == 2
    for i in (1, 3):
        (folder / f"{i}.png").write_bytes(b"no image")
    assert fixed_images(open_store(str(folder)), SIDE, 3, 0) is None


def config(data: Path, out: Path, **more) -> PretrainConfig:
    options = {"data": [str(data)], "out": out, "model": f"vit_tiny_patch{PATCH}", "image_size": SIDE, "batch_size": 4}
    options |= {"epochs": 3.0, "decoder_depth": 1, "workers": 0, "device": "cpu", "order": "near-far-random"}
    return PretrainConfig.build(options | more)


def losses(run: Path) -> list[tuple]:
    return [(r["step"], r["loss"], r["grad_norm"]) for r in read_metrics(run / "metrics.jsonl") if r["kind"] == "train"]


def test_losses_with_and_without_pictures_are_the_same_to_the_bit(tmp_path: Path):
    data = write_images(tmp_path / "images")
    reported: list[int] = []

    def report(out: Path) -> None:
        reported.append(len(list((out / "pictures").glob("reconstruction-*.png"))))

    often, never = tmp_path / "often", tmp_path / "never"
    pretrain(config(data, often, picture_every=0.5), quiet=True, report=report)
    pretrain(config(data, never, picture_every=0), quiet=True)
    assert losses(often) == losses(never)
    assert len(losses(often)) == 6
    encoder, other = (load_file(run / "encoder.safetensors") for run in (often, never))
    assert encoder.keys() == other.keys()
    assert all(torch.equal(encoder[k], other[k]) for k in encoder)
    names = [f"{kind}-{step:08d}.png" for kind in ("reconstruction", "selection") for step in range(1, 7)]
    assert sorted(f.name for f in (often / "pictures").iterdir()) == names
    assert sorted(f.name for f in (never / "pictures").iterdir()) == [names[5], names[11]]
    assert reported == [1, 2, 3, 4, 5, 6]
    last = [(run / "pictures" / names[5]).read_bytes() for run in (often, never)]
    assert last[0] == last[1]
    assert Image.open(io.BytesIO(last[0])).size[0] > 5 * SIDE


def test_an_interrupted_run_has_its_picture_and_report(tmp_path: Path):
    data = write_images(tmp_path / "images")
    reported: list[Path] = []

    def stop(model: object) -> dict[str, float]:
        os.kill(os.getpid(), signal.SIGINT)
        return {"knn": 1.0}

    settings = config(data, tmp_path / "run", probe_every=1, picture_every=0)
    with pytest.raises(Interrupted):
        pretrain(settings, quiet=True, probe=stop, report=reported.append)
    assert reported == [tmp_path / "run"]
    pictures = sorted(f.name for f in (tmp_path / "run" / "pictures").iterdir())
    assert pictures == ["reconstruction-00000002.png", "selection-00000002.png"]
    assert (tmp_path / "run" / "checkpoints" / "step-00000002").is_dir()
