"""The search for near codes, against comparing all with all."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from selectivemae.curation import search


def near_codes(rng: np.random.Generator, count: int, width: int = 8) -> np.ndarray:
    """Codes (count, width) of which many lie a few flips from another, and some are equal."""
    codes = rng.integers(0, 2**63, (count, width), dtype=np.uint64)
    for row in range(count // 3 + 1, count):
        source = rng.integers(0, row)
        codes[row] = codes[source]
        if row % 4:
            for column in range(width):
                for _ in range(rng.integers(0, 12)):
                    codes[row, column] ^= np.uint64(1) << np.uint64(rng.integers(0, 63))
        if row % 5 == 0:
            codes[row] = np.roll(codes[row], rng.integers(0, width))
    return codes


def brute_self(codes: np.ndarray, threshold: int) -> set[tuple[int, int, int, int]]:
    """(left, right, orientation, distance) of all pairs, the row that sorts first being the turned one."""
    keys = [tuple(row) for row in codes.tolist()]
    out = set()
    for i in range(len(codes)):
        distance = np.bitwise_count(codes[i][None, :] ^ codes[:, :1])
        for j, g in zip(*np.nonzero(distance <= threshold), strict=True):
            if (keys[i], i) < (keys[j], j):
                out.add((i, int(j), int(g), int(distance[j, g])))
    return out


def listed(parts: list[search.Matches]) -> list[tuple[int, int, int, int]]:
    found = search.concatenate(parts)
    columns = (found.left, found.right, found.orientation, found.distance)
    return list(zip(*(column.tolist() for column in columns), strict=True))


@given(st.integers(0, 2**32), st.integers(0, 10), st.integers(1, 3), st.integers(0, 120))
@settings(max_examples=30, deadline=None)
def test_self_join_equals_brute_force(seed: int, threshold: int, bands: int, count: int) -> None:
    codes = near_codes(np.random.default_rng(seed), count)
    found = listed(list(search.join_self(codes, threshold, bands)))
    assert len(found) == len(set(found))
    assert set(found) == brute_self(codes, threshold)


@given(st.integers(0, 2**32), st.integers(0, 8), st.integers(1, 4))
@settings(max_examples=20, deadline=None)
def test_join_equals_brute_force(seed: int, threshold: int, bands: int) -> None:
    both = near_codes(np.random.default_rng(seed), 150)
    left, right = both[::2], np.ascontiguousarray(both[1::2, 0])
    found = listed(list(search.join(left, right, threshold, bands)))
    distance = np.bitwise_count(left[:, None, :] ^ right[None, :, None])
    near = zip(*np.nonzero(distance <= threshold), strict=True)
    expected = {(int(i), int(j), int(g), int(distance[i, j, g])) for i, j, g in near}
    assert len(found) == len(set(found))
    assert set(found) == expected


@pytest.mark.parametrize("threshold", [0, 4, 6, 10])
def test_twenty_thousand_codes(threshold: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Several blocks and tiles, buckets deeper than the steps, automatic bands; the oracle compares all with all."""
    monkeypatch.setattr(search, "BLOCK_ROWS", 1 << 12)
    monkeypatch.setattr(search, "TILE", 1 << 14)
    monkeypatch.setattr(search, "DEEP", 3)
    monkeypatch.setattr(search, "NARROW", 1)
    rng = np.random.default_rng(threshold)
    codes = near_codes(rng, 20_000, width=2)
    found = set(listed(list(search.join_self(codes, threshold))))
    expected = set()
    rows = rng.choice(len(codes), 300, replace=False)
    rank = np.empty(len(codes), np.int64)
    rank[np.lexsort((np.arange(len(codes)), codes[:, 1], codes[:, 0]))] = np.arange(len(codes))
    for i in rows:
        distance = np.bitwise_count(codes[i][None, :] ^ codes[:, :1])
        for j, g in zip(*np.nonzero(distance <= threshold), strict=True):
            if rank[i] < rank[j]:
                expected.add((int(i), int(j), int(g), int(distance[j, g])))
    assert {pair for pair in found if pair[0] in set(rows.tolist())} == expected
    assert len(expected) > 50


def test_result_does_not_depend_on_row_order() -> None:
    rng = np.random.default_rng(1)
    codes = near_codes(rng, 400)
    shuffle = rng.permutation(len(codes))
    plain = {(frozenset((i, j)), d) for i, j, _, d in listed(list(search.join_self(codes, 6)))}
    turned = listed(list(search.join_self(codes[shuffle], 6)))
    assert {(frozenset((int(shuffle[i]), int(shuffle[j]))), d) for i, j, _, d in turned} == plain


def test_more_codes_ask_for_more_intact_bands() -> None:
    assert search.intact_bands(1000, 1000, 6) < search.intact_bands(13_000_000, 13_000_000, 6)
    assert search.intact_bands(13_000_000, 13_000_000, 6) == 3
    assert search.intact_bands(10**9, 10**9, 6) >= 4


def test_nothing_in_nothing() -> None:
    assert not list(search.join_self(np.empty((0, 8), np.uint64), 6))
    assert not list(search.join(np.empty((0, 8), np.uint64), np.empty(0, np.uint64), 6))
    with pytest.raises(ValueError, match="threshold"):
        list(search.join(np.zeros((1, 8), np.uint64), np.zeros(1, np.uint64), 60))
