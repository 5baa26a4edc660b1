"""Settled settings: the published rate, layers that give way, what pruning and resuming make of an epoch."""

import numpy as np
import pytest
from tiny_runs import train, write_images

from selectivemae.core.config import read_recipe
from selectivemae.core.errors import ConfigError, OutputError
from selectivemae.core.records import read_metrics
from selectivemae.models.vit import DEFAULT_PATCH, SIZES, architecture, stock_timm_name
from selectivemae.pretrain.config import PretrainConfig
from selectivemae.pretrain.settle import schedule_of, settle


def settled(*layers):
    return settle(PretrainConfig.build(*layers, {"data": ["x"], "out": "y"}))


def test_the_published_rate():
    """method.md, section 4: lr = 3.53e-4, reached after 30 of 800 epochs."""
    schedule = schedule_of(settled(read_recipe("pretrain", "paper")), 1_000_000)
    assert schedule.lr == pytest.approx(3.53e-4, rel=1e-3)
    assert schedule.warmup == pytest.approx(30 / 800)
    assert schedule.at(30 / 800) == schedule.lr


def test_a_stronger_layer_of_another_kind_replaces_what_does_not_fit_it():
    paper = read_recipe("pretrain", "paper")
    assert settled(paper, {"minutes": 3}).warmup_epochs is None
    mae = settled(paper, {"method": "mae"})
    assert (mae.mask_ratio, mae.reconstruction_ratio, mae.decoder_depth) == (0.75, None, 8)
    assert mae.batch_size == 2048


@pytest.mark.parametrize(
    "settings", [{"betas": (1.5, 0.9)}, {"seed": 2**70}, {"seed": -1}, {"lr": 1e-4, "min_lr": 1e-3}]
)
def test_numbers_out_of_range(settings):
    with pytest.raises(ConfigError):
        schedule_of(settled(settings), 100)


@pytest.mark.parametrize(
    ("name", "patch"), [("vit_tiny_patch0", None), ("vit_tiny_patch16", 0), ("vit_tiny_patch16", -8)]
)
def test_no_patch_is_no_patch(name, patch):
    with pytest.raises(ConfigError):
        architecture(name, patch)


def test_stock_timm_knows_the_named_models():
    from selectivemae.models._torchvision import ensure_torchvision

    ensure_torchvision()
    import timm

    for size in SIZES:
        for patch in (8, 14, 16):
            assert timm.is_model(stock_timm_name(architecture(f"vit_{size}_patch{patch}")))
    assert DEFAULT_PATCH == {"huge": 14}


def test_pruning_ends_with_the_epoch_that_it_should(tmp_path):
    """20 images in batches of 8: epochs do not begin with batches. From 4 of 8 epochs on all 20 are kept."""
    images = write_images(tmp_path / "images")
    train(images, tmp_path / "run", epochs=8.0, batch_size=8, prune_ratio=0.5, prune_until=0.5)
    epochs = np.array([r["epoch"] for r in read_metrics(tmp_path / "run" / "metrics.jsonl") if r["kind"] == "train"])
    steps = np.diff(epochs[epochs >= 4.0])
    # 8 of 20 images is 0.4 of an epoch, whatever the batch crosses; with fewer kept it would be more.
    np.testing.assert_allclose(steps, 0.4, atol=1e-4)
    early = np.diff(epochs[(epochs > 1.5) & (epochs < 4.0)])
    assert (early > 0.41).any()


def test_pruning_may_begin_with_a_resume(tmp_path):
    images = write_images(tmp_path / "images")
    train(images, tmp_path / "run", epochs=1.0)
    done = train(images, tmp_path / "run", resume=True, epochs=4.0, prune_ratio=0.5)
    assert done.epochs >= 4.0


def test_resume_and_overwrite_together_delete_nothing(tmp_path):
    images = write_images(tmp_path / "images")
    train(images, tmp_path / "run", epochs=1.0)
    with pytest.raises(OutputError, match="one of them"):
        train(images, tmp_path / "run", resume=True, overwrite=True, epochs=1.0)
    assert (tmp_path / "run" / "encoder.safetensors").is_file()


def test_resume_leaves_a_folder_of_others_alone(tmp_path):
    images = write_images(tmp_path / "images")
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "mine.txt").write_text("keep")
    with pytest.raises(OutputError, match="nothing of ours"):
        train(images, tmp_path / "photos", resume=True, epochs=1.0)
    assert [f.name for f in (tmp_path / "photos").iterdir()] == ["mine.txt"]
