"""Smaller images to begin with: when, how they are made, and what the model makes of them."""

import numpy as np
import pytest
import torch
from PIL import Image

from selectivemae.core.errors import ConfigError
from selectivemae.core.order import sample_key
from selectivemae.models.create import create_model
from selectivemae.models.vit import SIZES
from selectivemae.ops.positions import sincos_positions
from selectivemae.pretrain.config import PretrainConfig
from selectivemae.pretrain.objective import EarlySizes, shrink
from selectivemae.pretrain.settle import settle


def test_sizes_come_in_turn_each_for_an_equal_part() -> None:
    early = EarlySizes((112, 160), 0.6)
    seen = [early.at(p / 1000, 224) for p in range(1001)]
    assert seen == [112] * 300 + [160] * 300 + [224] * 401
    assert EarlySizes().at(0.0, 224) == 224


@pytest.mark.parametrize("side", [32, 48])
def test_small_images_are_pillows(side: int) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    pixels = np.asarray(Image.fromarray(pixels).resize((8, 8)).resize((64, 64), Image.Resampling.BICUBIC))
    wanted = Image.fromarray(pixels).resize((side, side), Image.Resampling.BILINEAR)
    got = shrink(torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None], side)
    assert got.dtype == torch.uint8
    difference = got[0].permute(1, 2, 0).int() - torch.from_numpy(np.array(wanted)).int()
    assert difference.abs().max() <= 1
    assert shrink(got, side) is got


def test_positions_span_the_same_extent() -> None:
    """Where a patch covers 3 x 3 of the full grid, its position is that of the middle one."""
    full = sincos_positions(32, 6, 9, class_token=False).reshape(6, 9, 32)
    small = sincos_positions(32, 2, 3, class_token=False, extent=(6, 9)).reshape(2, 3, 32)
    torch.testing.assert_close(small, full[1::3, 1::3], rtol=0, atol=1e-6)


@pytest.mark.parametrize("method", ["selectivemae", "mae"])
def test_a_small_step_is_that_of_a_small_model_but_for_positions(monkeypatch: pytest.MonkeyPatch, method) -> None:
    monkeypatch.setitem(SIZES, "tiny", (2, 64, 2, 32, 2))
    how = {} if method == "mae" else {"richness": "hog", "order": "near"}
    large, small = (
        create_model("vit_tiny_patch8", method, s, mask_ratio=0.6, decoder_depth=1, **how) for s in (96, 32)
    )
    large.also_at(32, 32)
    images = torch.randint(0, 256, (3, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    key = torch.from_numpy(sample_key(0, 0, np.arange(3)))
    small.pos_embed.copy_(sincos_positions(64, 4, 4, extent=(12, 12)))  # pyright: ignore
    small.decoder_pos_embed.copy_(sincos_positions(32, 4, 4, extent=(12, 12)))  # pyright: ignore
    got, wanted = (m(images, key, m.phase(0.0, "cpu")) for m in (large, small))
    torch.testing.assert_close(got, wanted, rtol=0, atol=1e-6)
    assert large.state_dict().keys() == small.state_dict().keys()  # nothing of it is stored


@pytest.mark.parametrize(("sizes", "word"), [((60,), "multiple"), ((128,), "not below"), ((8,), "visible")])
def test_sizes_that_do_not_fit_are_refused(sizes: tuple[int, ...], word: str, tmp_path) -> None:
    config = PretrainConfig.build(
        {"data": ["x"], "out": tmp_path, "model": "vit_tiny_patch8", "image_size": 128, "early_sizes": sizes}
    )
    with pytest.raises(ConfigError, match=word):
        settle(config)
