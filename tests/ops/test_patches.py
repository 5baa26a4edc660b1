"""Patches: the right pixels in the right order, and back."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from selectivemae.ops.patches import normalise_patches, patchify, take, unpatchify


@given(st.integers(1, 3), st.integers(1, 5), st.integers(1, 4), st.integers(1, 4), st.integers(1, 5))
@settings(deadline=None)
def test_unpatchify_is_the_inverse(b: int, c: int, rows: int, columns: int, p: int) -> None:
    images = torch.arange(b * c * rows * columns * p * p).reshape(b, c, rows * p, columns * p)
    patches = patchify(images, p)
    assert patches.shape == (b, rows * columns, p * p * c)
    assert torch.equal(unpatchify(patches, p, rows * p, columns * p), images)


def test_pixels_lie_by_row_column_channel() -> None:
    images = torch.rand(2, 3, 6, 9)
    patches = patchify(images, 3)
    for n in range(6):
        i, j = n // 3 * 3, n % 3 * 3
        for row in range(3):
            for column in range(3):
                for channel in range(3):
                    wanted = images[:, channel, i + row, j + column]
                    assert torch.equal(patches[:, n, (row * 3 + column) * 3 + channel], wanted)


def test_take_picks_rows() -> None:
    tokens, ids = torch.rand(2, 5, 4), torch.tensor([[4, 0], [2, 2]])
    wanted = torch.stack([torch.stack([tokens[b, i] for i in row]) for b, row in enumerate(ids.tolist())])
    assert torch.equal(take(tokens, ids), wanted)


def test_normalised_patches_have_mean_0_and_unbiased_deviation_1() -> None:
    patches = torch.rand(2, 3, 48, dtype=torch.float64) * 7 + 3
    got, mean, deviation = normalise_patches(patches)
    torch.testing.assert_close(got * deviation + mean, patches)
    torch.testing.assert_close(deviation.squeeze(-1).square(), patches.var(-1, correction=1) + 1e-6)
    flat = normalise_patches(torch.full((1, 1, 48), 0.4))[0]
    assert flat.abs().max() < 1e-3
