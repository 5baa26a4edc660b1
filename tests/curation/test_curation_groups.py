"""Confirmation and the keep rule, on real pairs whose truth is known and against a plain reading of the rule."""

import csv
from pathlib import Path

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from selectivemae.curation.confirm import PRESETS, confirmed, correlation, distance256, same_aspect
from selectivemae.curation.groups import keep
from selectivemae.curation.hashes import area_means, hash64, hash256, orient
from selectivemae.curation.search import Matches, concatenate, join_self
from selectivemae.data.decode import luma


def joined(paths: list[Path], preset: str) -> set[frozenset[int]]:
    """Pairs of files that the whole chain (hash, search, confirmation) takes for one picture."""
    pixels = [np.asarray(Image.open(path).convert("RGB")) for path in paths]
    fine, coarse = (np.stack(means) for means in zip(*(area_means(luma(p)) for p in pixels), strict=True))
    sizes = np.array([(p.shape[1], p.shape[0]) for p in pixels])
    rules, h256 = PRESETS[preset], hash256(fine)
    found: Matches = concatenate(list(join_self(hash64(coarse), rules.distance64)))
    bits = distance256(h256[found.left, found.orientation], h256[found.right, 0])
    near = correlation(fine[found.left], fine[found.right], found.orientation)
    aspect = same_aspect(sizes[found.left], sizes[found.right], found.orientation, rules.aspect)
    found = found.take(confirmed(rules, aspect, bits, near))
    return {frozenset(pair) for pair in zip(found.left.tolist(), found.right.tolist(), strict=True)}


def test_known_duplicates(shared_data: Path) -> None:
    folder = shared_data / "dedup_cases"
    files = sorted([*folder.glob("bases/*"), *folder.glob("variants/*")])
    place = {str(path.relative_to(folder)): i for i, path in enumerate(files)}
    pairs = joined(files, "standard")
    recall: dict[str, list[bool]] = {}
    for row in csv.DictReader((folder / "pairs.csv").open()):
        pair = frozenset((place[row["base"]], place[row["variant"]]))
        recall.setdefault(row["kind"], []).append(pair in pairs)
    share = {kind: sum(hits) / len(hits) for kind, hits in recall.items()}
    certain = {"exact_copy", "jpeg_q70", "png_copy", "resize_75", "resize_128", "brightness_112", "contrast_112"}
    certain |= {"flip_h", "flip_v", "rot90", "rot180", "rot270", "blur"}
    assert {kind: share[kind] for kind in certain} == dict.fromkeys(certain, 1.0), share
    base = [path.name[:3] for path in files]
    assert not [tuple(files[i].name for i in pair) for pair in pairs if len({base[i] for i in pair}) > 1]
    for row in csv.DictReader((folder / "negatives.csv").open()):
        assert frozenset((place[row["a"]], place[row["b"]])) not in pairs


def test_correlation_equals_numpy_and_ignores_gain() -> None:
    rng = np.random.default_rng(0)
    left = rng.integers(0, 30000, (8, 64, 64)).astype(np.uint16)
    right = np.stack([orient(left[g], g) * 2 + 100 for g in range(8)]).astype(np.uint16)
    turns = np.arange(8, dtype=np.uint8)
    assert np.allclose(correlation(left, right, turns), 1)
    other = rng.integers(0, 30000, (8, 64, 64)).astype(np.uint16)
    expected = [np.corrcoef(orient(left[g], g).ravel(), other[g].ravel())[0, 1] for g in range(8)]
    assert np.allclose(correlation(left, other, turns), expected)
    assert correlation(np.zeros((1, 64, 64), np.uint16), left[:1], turns[:1])[0] == 0


def test_aspect_is_compared_after_the_turn() -> None:
    left = np.array([[200, 100], [200, 100], [200, 100]])
    right = np.array([[100, 200], [100, 200], [215, 100]])
    assert same_aspect(left, right, np.array([4, 0, 0], np.uint8), 0.1).tolist() == [True, False, True]


@given(st.integers(1, 30), st.integers(0, 2**32), st.integers(0, 60))
@settings(max_examples=60, deadline=None)
def test_keep_rule(count: int, seed: int, pairs: int) -> None:
    """The rule read aloud: in order of rank, drop whoever is tied to someone kept."""
    rng = np.random.default_rng(seed)
    rank = rng.permutation(count)
    left, right = rng.integers(0, count, (2, pairs))
    left, right = left[left != right], right[left != right]
    tied = {frozenset(pair) for pair in zip(left.tolist(), right.tolist(), strict=True)}
    kept: list[int] = []
    for item in np.argsort(rank).tolist():
        if not any(frozenset((item, other)) in tied for other in kept):
            kept.append(item)
    result = keep(rank, left, right)
    assert sorted(np.flatnonzero(result.edge < 0).tolist()) == sorted(kept)
    for item in range(count):
        if result.edge[item] >= 0:
            assert {item, int(result.keeper[item])} == {int(left[result.edge[item]]), int(right[result.edge[item]])}
            best = min((rank[k], k) for k in kept if frozenset((item, k)) in tied)[1]
            assert result.keeper[item] == best
        assert rank[result.group[item]] <= rank[item]
        assert result.group[item] == result.group[result.keeper[item]]


def test_chains_are_not_trusted() -> None:
    """a ~ b ~ c: b goes with a, c stays although it is in the group; a kept c would never hang on a dropped b."""
    result = keep(np.array([0, 1, 2]), np.array([0, 1]), np.array([1, 2]))
    assert result.edge.tolist() == [-1, 0, -1]
    assert result.group.tolist() == [0, 0, 0]
