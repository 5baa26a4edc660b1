"""Windows of scenes and names of tiles."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from selectivemae.curation.slice import SliceRules, Window, axis, windows
from selectivemae.curation.tiles import key, shuffle_key, tile_id


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 5000), st.integers(32, 600), st.integers(0, 300))
def test_axis(length: int, tile: int, overlap: int) -> None:
    """Nothing is out of range, no gap, at most a tenth of a tile left over, never a tile more than needed."""
    overlap = min(overlap, tile - 1)
    starts = axis(length, tile, overlap)
    assert starts[0] == 0
    if length <= tile:
        assert starts == [0]
        return
    steps = np.diff(starts)
    assert (steps > 0).all()
    assert (steps <= tile).all()
    assert starts[-1] + tile <= length
    leftover = length - starts[-1] - tile
    assert leftover <= tile / 10
    if leftover == 0:
        assert len(steps) == 0 or steps.max() - steps.min() <= 1
    assert (len(starts) - 2) * (tile - overlap) < length - tile or len(starts) == 1


def test_grids_cover_and_pyramids_add_up() -> None:
    rules = SliceRules(sizes=(256, 512), keep_whole=600)
    found = windows(1300, 700, rules, "a")
    assert len(found) == len(set(found))
    for size in (256, 512):
        seen = np.zeros((700, 1300), bool)
        for x, y, w, h in found:
            if w == size:
                seen[y : y + h, x : x + w] = True
        assert seen.mean() > 0.85
    assert windows(600, 600, rules, "a") == [Window(0, 0, 600, 600)]
    assert windows(4000, 300, SliceRules(), "a")[0].h == 300


@given(st.integers(64, 1600), st.integers(1025, 1600), st.text(max_size=5))
@settings(max_examples=8, deadline=None)
def test_random_windows_lie_inside_and_follow_from_the_scene(width: int, height: int, scene: str) -> None:
    rules = SliceRules(mode="random", sizes=(64, 256, 512), weights=(0, 1, 1))
    found = windows(width, height, rules, scene)
    assert found == windows(width, height, rules, scene)
    assert found
    for x, y, w, h in found:
        assert 0 <= x <= width - w
        assert 0 <= y <= height - h
        assert w == h
        assert w in (256, 512) or min(width, height) < 256
    big = windows(3000, 3000, rules, scene)
    assert big != windows(3000, 3000, rules, scene + "x")
    assert 0.5 < sum(w.w * w.h for w in big) / 9_000_000 < 1.6


def test_ids_differ_in_every_part_and_keys_have_no_dot() -> None:
    window = Window(0, 0, 10, 10)
    base = tile_id("a", "b", "c.jpg", window)
    others = [("x", "b", "c.jpg", window), ("a", "x", "c.jpg", window), ("a", "b", "x", window)]
    ids = {base, *(tile_id(*parts) for parts in others), tile_id("a", "b", "c.jpg", Window(0, 0, 10, 11))}
    assert len(ids) == 5
    assert "." not in key("a", base)
    assert len(key("a", base)) == 28
    assert shuffle_key(0, base) != shuffle_key(1, base)
