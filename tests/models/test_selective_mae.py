"""The four verbs of a pre-training model: what a result may depend on, and what not."""

import numpy as np
import pytest
import torch

from selectivemae.core.order import sample_key
from selectivemae.models.create import create_model
from selectivemae.models.masked import MaskedAutoencoder
from selectivemae.models.vit import SIZES
from selectivemae.ops.patches import patchify


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SIZES, "tiny", (2, 64, 2, 32, 2))


def build(method: str = "selectivemae", size=48, **options) -> MaskedAutoencoder:
    defaults = {"decoder_depth": 2} if method == "mae" else {"richness": "hog", "order": "near-far-random"}
    options = defaults | {"mask_ratio": 0.6, "decoder_depth": 2} | options
    return create_model("vit_tiny_patch8", method, size, **options).eval()


def batch(n: int = 5, size: tuple[int, int] = (48, 48), channels: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(4)
    coarse = torch.rand(n, channels, size[0] // 4, size[1] // 4, generator=generator)
    images = torch.nn.functional.interpolate(coarse, size, mode="bicubic")
    return images, torch.from_numpy(sample_key(0, 0, np.arange(n)))


@torch.no_grad()
def whole_step(model: MaskedAutoencoder, images, key, progress: float):
    visible, targets = model.select(images, key, progress)
    latent = model.encode(images, visible)
    prediction = model.reconstruct(latent, targets, visible)
    return visible, targets, latent, prediction, model.loss(images, prediction, targets)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("progress", [0.0, 0.36, 0.5, 0.74, 1.0])
@pytest.mark.parametrize("method", ["selectivemae", "mae"])
def test_a_result_is_the_same_alone_or_in_any_batch(method: str, progress: float, threads: int) -> None:
    model, (images, key) = build(method), batch()
    images[2] = 0.25  # flat
    whole = whole_step(model, images, key, progress)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        for part in (slice(0, 1), slice(2, 3), slice(1, 4), torch.tensor([4, 0, 2])):
            got = whole_step(model, images[part], key[part], progress)
            assert torch.equal(got[0], whole[0][part])
            assert torch.equal(got[1], whole[1][part])
            for one, other in zip(got[2:], whole[2:], strict=True):
                torch.testing.assert_close(one, other[part], rtol=0, atol=1e-5)
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("method", ["selectivemae", "mae"])
def test_the_training_step_is_the_four_verbs(method: str) -> None:
    model, (images, key) = build(method), batch()
    *_, wanted = whole_step(model, images, key, 0.2)
    torch.testing.assert_close(model(images, key, model.phase(0.2, "cpu")), wanted, rtol=0, atol=1e-6)


@torch.no_grad()
def test_a_prediction_does_not_depend_on_what_else_is_rebuilt() -> None:
    model, (images, key) = build(), batch()
    visible, targets = model.select(images, key, 0.2)
    latent = model.encode(images, visible)
    whole = model.reconstruct(latent, targets)
    alone = torch.cat([model.reconstruct(latent, targets[:, i : i + 1]) for i in range(targets.shape[1])], dim=1)
    torch.testing.assert_close(alone, whole, rtol=0, atol=1e-5)
    backwards = model.reconstruct(latent, targets.flip(1)).flip(1)
    torch.testing.assert_close(backwards, whole, rtol=0, atol=1e-5)
    asked = build(self_attention=True)
    whole, alone = asked.reconstruct(latent, targets), asked.reconstruct(latent, targets[:, :1])
    assert (whole[:, :1] - alone).abs().max() > 1e-4  # queries that see each other are another model


@torch.no_grad()
def test_mae_rebuilds_the_complement_and_ignores_what_is_hidden() -> None:
    model, (images, key) = build("mae"), batch()
    visible, targets, _, prediction, _ = whole_step(model, images, key, 0.3)
    for seen, wanted in zip(visible.tolist(), targets.tolist(), strict=True):
        assert sorted(seen + wanted) == list(range(36))
    seen_before = patchify(images, 8)
    changed = images.clone()
    hidden = targets[0, 0].item()
    row, column = hidden // 6 * 8, hidden % 6 * 8
    changed[0, :, row : row + 8, column : column + 8] += 1
    assert (patchify(changed, 8) != seen_before).any(dim=2).sum() == 1
    assert torch.equal(model.reconstruct(model.encode(changed, visible), targets, visible), prediction)


def test_the_loss_is_the_mean_over_pixels_then_patches_of_one_image() -> None:
    for norm_pix in (True, False):
        model, (images, _) = build(norm_pix=norm_pix), batch(2)
        targets = torch.tensor([[1, 7], [0, 35]])
        prediction = torch.randn(2, 2, 192)
        got = model.loss(images, prediction, targets)
        for b in range(2):
            errors = []
            for r, n in enumerate(targets[b].tolist()):
                block = (
                    images[b, :, n // 6 * 8 : n // 6 * 8 + 8, n % 6 * 8 : n % 6 * 8 + 8].permute(1, 2, 0).reshape(-1)
                )
                if norm_pix:
                    block = (block - block.mean()) / (block.var(correction=1) + 1e-6).sqrt()
                errors.append(((prediction[b, r] - block) ** 2).mean())
            torch.testing.assert_close(got[b], torch.stack(errors).mean())


def test_every_parameter_learns_and_nothing_unused_is_stored() -> None:
    for method in ("selectivemae", "mae"):
        model, (images, key) = build(method), batch()
        model(images, key, model.phase(0.2, "cpu")).mean().backward()
        assert [n for n, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []


@pytest.mark.parametrize(("size", "channels"), [((32, 64), 3), ((64, 24), 5), ((48, 48), 1)])
@pytest.mark.parametrize("method", ["selectivemae", "mae"])
def test_any_size_and_number_of_channels(method: str, size: tuple[int, int], channels: int) -> None:
    model, (images, key) = build(method, size, in_chans=channels), batch(2, size, channels)
    visible, _, latent, prediction, loss = whole_step(model, images, key, 0.9)
    assert latent.shape == (2, 1 + visible.shape[1], 64)
    assert prediction.shape[2] == 64 * channels
    assert loss.shape == (2,)
    assert loss.isfinite().all()


def test_low_precision_leaves_the_loss_in_fp32() -> None:
    model, (images, key) = build(), batch()
    wanted = model(images, key, model.phase(1.0, "cpu"))  # random phase: rounded tokens change no choice
    with torch.autocast("cpu", torch.bfloat16):
        got = model(images, key, model.phase(1.0, "cpu"))
    assert got.dtype == torch.float32
    torch.testing.assert_close(got, wanted, rtol=0.02, atol=0.02)


def textured_share(model: MaskedAutoencoder, progress: float) -> tuple[float, float]:
    """Shares of visible and of rebuilt patches in the right, textured half of images."""
    images, key = batch(64, (128, 128))
    images[..., :64] = 0.4
    with torch.no_grad():
        ids = model.select(images, key, progress)
    return tuple((chosen % 16 >= 8).float().mean().item() for chosen in ids)  # pyright: ignore[reportReturnType]


@pytest.mark.parametrize(("mode", "visible", "targets"), [("sample", 0.58, 0.9), ("topk", 0.7, 0.99)])
def test_hog_selects_where_there_is_something_to_see(mode: str, visible: float, targets: float) -> None:
    # Every textured patch here is unlike any other, so that near expansion, from a flat seed or from one at the border,
    # prefers flat ones; on real scenes more of it stays in the textured half (benchmarks/selection.py).
    model = build(size=128, richness="hog", richness_mode=mode, mask_ratio=0.85)
    seen, rebuilt = textured_share(model, 0.1)
    assert seen > visible
    assert rebuilt > targets


def test_uniform_selects_anywhere() -> None:
    for share in textured_share(build(size=128, richness="uniform", order="random", mask_ratio=0.85), 0.1):
        assert share == pytest.approx(0.5, abs=0.03)
