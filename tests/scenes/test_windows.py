"""Windows: every pixel is seen, cuts depend on the ground only, weights add up."""

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from selectivemae.scenes.blend import Blend, total_weights, unit_of
from selectivemae.scenes.windows import Area, meeting, panels, ramp_weights, reflected, window_starts

LENGTHS = st.integers(1, 400)


@given(LENGTHS, st.integers(-(10**7), 10**7), st.integers(1, 64), st.data())
def test_windows_cover_an_axis_at_multiples_of_the_stride(length: int, anchor: int, size: int, data) -> None:
    stride = data.draw(st.integers(1, size))
    starts = window_starts(length, anchor, size, stride)
    seen = {pixel for start in starts.tolist() for pixel in range(start, start + size)}
    assert set(range(length)) <= seen
    assert (starts < length).all()
    assert (starts + size > 0).all()
    if length > size:
        assert ((starts + anchor) % stride == 0).all()


@given(st.integers(65, 300), st.integers(0, 1000), st.integers(0, 100), st.integers(65, 200))
def test_a_part_of_the_ground_is_cut_as_the_whole(length: int, anchor: int, begin: int, part: int) -> None:
    whole = window_starts(length, anchor, 64, 48) + anchor
    part = min(part, length)
    begin = min(begin, length - part)
    own = window_starts(part, anchor + begin, 64, 48) + anchor + begin
    inside = [s for s in whole.tolist() if s >= anchor + begin and s + 64 <= anchor + begin + part]
    assert set(inside) <= set(own.tolist())


@given(st.integers(-300, 300), st.integers(1, 200), st.integers(1, 90))
def test_mirroring_is_numpys(start: int, count: int, length: int) -> None:
    padded = np.pad(np.arange(length), 600, mode="reflect")
    assert (reflected(start, count, length) == padded[600 + start : 600 + start + count]).all()


@given(st.integers(0, 999), st.integers(1, 999), st.integers(1, 500), st.sampled_from([1, 16, 64]))
def test_panels_are_a_partition_cut_at_blocks(x: int, width: int, limit: int, block: int) -> None:
    found = panels(Area(x, 5, width, 7), limit, block)
    assert [p for panel in found for p in range(panel.x, panel.x + panel.width)] == list(range(x, x + width))
    assert all(panel.width <= max(limit, block) for panel in found)
    assert all(panel.x % block == 0 for panel in found[1:])


@given(st.integers(2, 200), st.data())
def test_weights_of_neighbours_add_up_to_64(cells: int, data) -> None:
    overlap = data.draw(st.integers(0, cells // 2))
    weights = ramp_weights(cells, overlap)
    assert (weights >= 1).all()
    starts = np.arange(4) * (cells - overlap)
    inner = total_weights(starts, cells, overlap, overlap, int(starts[-1]) + cells - overlap)
    assert (inner == 64).all()
    assert total_weights(starts[:1], cells, overlap, 0, cells).tolist() == weights.tolist()


def test_meeting_windows() -> None:
    starts = np.arange(-10, 100, 10)
    assert meeting(starts, 15, 20, 21).tolist() == [10, 20]


@given(st.permutations(range(9)), st.booleans())
def test_a_blend_does_not_depend_on_the_order_of_windows(order: list[int], wide: bool) -> None:
    generator = torch.Generator().manual_seed(1)
    values = torch.rand((9, 2, 8, 8), generator=generator)
    columns = np.array([0, 3, 6, 0, 1, 2, 6, 6, 5])

    def blended(of: list[int]) -> torch.Tensor:
        blend = Blend(2, 8, 14, 4, 1.0, torch.device("cpu"), wide=wide)
        for i in of:
            blend.add(values[i : i + 1], columns[i : i + 1])
        return blend.take(8)

    assert torch.equal(blended(order), blended(list(range(9))))


def test_a_blend_is_the_weighted_mean() -> None:
    values = torch.rand((3, 2, 8, 8), generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    starts = np.array([0, 5, 10])
    blend = Blend(2, 8, 18, 3, 1.0, torch.device("cpu"), wide=False)
    blend.add(values.float(), starts)
    weight = torch.from_numpy(ramp_weights(8, 3)).double()
    want = torch.zeros((2, 8, 18), dtype=torch.float64)
    total = torch.zeros((8, 18), dtype=torch.float64)
    for value, start in zip(values, starts.tolist(), strict=True):
        want[:, :, start : start + 8] += value * weight[:, None] * weight
        total[:, start : start + 8] += weight[:, None] * weight
    across = torch.from_numpy(total_weights(starts, 8, 3, 0, 18)).double()
    assert torch.equal(total, weight[:, None] * across)
    assert (blend.sums / unit_of(1.0, wide=False) / total - want / total).abs().max() < 4e-6
    first = blend.sums.clone()
    assert torch.equal(blend.take(5), first[:, :5])
    assert torch.equal(blend.sums[:, :3], first[:, 5:])
    assert not blend.sums[:, 3:].any()
