"""Models by name: sizes, seeds, initialisation, and what is refused."""

import math
from typing import Literal

import pytest
import torch

from selectivemae.core.errors import ConfigError
from selectivemae.models.create import create_model
from selectivemae.models.vit import SIZES, architecture
from selectivemae.ops.patches import patchify


def small(**options) -> torch.nn.Module:
    return create_model("vit_tiny_patch16", image_size=96, **({"decoder_depth": 1} | options))


def test_weights_depend_on_the_seed_alone() -> None:
    first = small(seed=3).state_dict()
    torch.manual_seed(99)
    torch.randn(7)
    again, other = small(seed=3).state_dict(), small(seed=4).state_dict()
    assert all(torch.equal(first[k], again[k]) for k in first)
    differing = {k for k in first if not torch.equal(first[k], other[k])}
    assert differing == {k for k, v in first.items() if (k.endswith("weight") and v.ndim > 1) or k.endswith("token")}


def test_making_a_model_leaves_the_global_generator_alone_in_effect() -> None:
    """Weights are those of our seed, whatever the global one is, and tokens, norms and biases as the method says."""
    model = small()
    for name, parameter in model.named_parameters():
        if name.endswith("token"):
            assert parameter.std().item() == pytest.approx(0.02, rel=0.35)
        elif name.endswith("bias"):
            assert parameter.abs().max() == 0
        elif parameter.ndim == 1:
            assert (parameter == 1).all()
        else:
            matrix = parameter.reshape(parameter.shape[0], -1)
            bound = math.sqrt(6 / sum(matrix.shape))  # Glorot & Bengio 2010
            assert matrix.abs().max().item() <= bound
            assert matrix.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.05)


@pytest.mark.parametrize("method", ["selectivemae", "mae"])
def test_blocks_may_begin_as_the_identity(method: Literal["selectivemae", "mae"]) -> None:
    """With zeros at the end of every residual branch the latent is the norm of what was embedded, a patch is foretold
    from its own position alone, and all else is as without."""
    plain, model = small(method=method), small(method=method, residual_init="zero")
    images, key = torch.rand(2, 3, 96, 96, generator=torch.Generator().manual_seed(0)), torch.tensor([1, 2])
    visible, targets = model.select(images, key, 0.5)
    latent = model.encode(images, visible)
    tokens = model.embed(patchify(images, 16), visible)
    torch.testing.assert_close(latent, model.norm(torch.cat((model.cls_token.expand(2, -1, -1), tokens), dim=1)))
    foretold = model.reconstruct(latent, targets, visible)
    torch.testing.assert_close(foretold, model.reconstruct(torch.zeros_like(latent), targets, visible))
    other = plain.state_dict()
    differing = {k for k, v in model.state_dict().items() if not torch.equal(v, other[k])}
    assert differing
    assert all(not model.state_dict()[k].any() for k in differing)


@pytest.mark.parametrize(
    ("name", "patch_size", "wanted"),
    [
        ("vit_tiny", None, ("tiny", 16, 12, 192, 3, 128, 4)),
        ("vit_small_patch8", None, ("small", 8, 12, 384, 6, 256, 8)),
        ("vit_base_patch16", 32, ("base", 32, 12, 768, 12, 512, 16)),
        ("vit_large_patch16_224", None, ("large", 16, 24, 1024, 16, 512, 16)),
        ("vit_huge", None, ("huge", 14, 32, 1280, 16, 512, 16)),
        ("vit_huge_patch16", None, ("huge", 16, 32, 1280, 16, 512, 16)),
    ],
)
def test_sizes_by_name(name: str, patch_size: int | None, wanted: tuple) -> None:
    arch = architecture(name, patch_size)
    got = (arch.size, arch.patch, arch.depth, arch.width, arch.heads, arch.decoder_width, arch.decoder_heads)
    assert got == wanted
    assert arch.width % arch.heads == arch.decoder_width % arch.decoder_heads == 0


def test_published_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SIZES, "tiny", (1, 16, 1, 16, 1))
    ours, mae = create_model("vit_tiny"), create_model("vit_tiny", "mae")
    assert (ours.number.visible, ours.number.seeds, ours.number.targets) == (29, 14, 49)
    assert (mae.number.visible, mae.number.targets) == (49, 147)
    assert (ours.config.decoder_depth, mae.config.decoder_depth) == (12, 8)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "vit_tinny_patch16"}, "unknown model 'vit_tinny_patch16', did you mean 'vit_tiny_patch16'"),
        ({"name": "resnet50"}, "unknown model"),
        ({"image_size": 100}, "image size 100 is not a multiple of the patch size 16: use 96 or 112"),
        ({"image_size": (96, 40)}, "image size 40 is not"),
        ({"image_size": 8}, "image size 8 is not a multiple"),
        ({"method": "dino"}, "unknown method 'dino'"),
        ({"richness": "sobel"}, "unknown richness 'sobel'"),
        ({"target_richness": "sobel"}, "unknown target richness"),
        ({"richness_mode": "best"}, "unknown richness mode"),
        ({"order": "near-near"}, "unknown order"),
        ({"temperature": 0.0}, "temperature must be above 0"),
        ({"order": "near-random", "boundaries": (0.5,)}, "needs 2 phase boundaries"),
        ({"method": "mae", "reconstruction_ratio": 0.25}, "takes no reconstruction ratio"),
        ({"mask_ratio": 0.98}, "leaves 0 of 36 patches visible"),
        ({"mask_ratio": 0.5, "reconstruction_ratio": 0.75}, "hides only 18"),
    ],
)
def test_what_is_refused(options: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        create_model(**({"name": "vit_tiny_patch16", "image_size": 96, "decoder_depth": 1} | options))
