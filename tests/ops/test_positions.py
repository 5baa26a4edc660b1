"""Positions equal the formula of the MAE family written out as loops."""

import math

import pytest
import torch

from selectivemae.ops.positions import sincos_positions


def slow_row(width: int, at: int) -> list[float]:
    """Sines, then cosines, at frequencies 10000^(-2k / width) of one coordinate."""
    angles = [at / 10000 ** (2 * k / width) for k in range(width // 2)]
    return [math.sin(a) for a in angles] + [math.cos(a) for a in angles]


@pytest.mark.parametrize(("width", "rows", "columns"), [(16, 3, 3), (64, 2, 5), (768, 1, 2)])
def test_positions_equal_the_formula(width: int, rows: int, columns: int) -> None:
    wanted = [[0.0] * width]
    wanted += [slow_row(width // 2, c) + slow_row(width // 2, r) for r in range(rows) for c in range(columns)]
    got = sincos_positions(width, rows, columns)
    torch.testing.assert_close(got[0], torch.tensor(wanted), rtol=0, atol=1e-6)
    assert torch.equal(sincos_positions(width, rows, columns, class_token=False), got[:, 1:])
