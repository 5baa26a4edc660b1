"""Selection against plain loops over the text of the method, and the properties that it promises."""

import math
from collections import Counter
from itertools import permutations

import numpy as np
import pytest
import torch
from scipy.stats import chisquare

from selectivemae.core.errors import ConfigError
from selectivemae.core.order import sample_key
from selectivemae.ops.noise import gumbel, uniform
from selectivemae.ops.phases import Phase, phase_at
from selectivemae.ops.selection import EXPANSION, SEEDS, TARGETS, Counts, counts, draw, draw_visible, select

PHASES = {
    "near": Phase("near", "near", 1.0),
    "far": Phase("far", "far", 1.0),
    "random": Phase("random", "random", 1.0),
    "near>far": Phase("near", "far", 0.5),
    "far>near": Phase("far", "near", 0.7),
    "far>random": Phase("far", "random", 0.34),
    "near>random, begun": Phase("near", "random", 0.99),
}


def keys(n: int, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(sample_key(seed, 0, np.arange(n)))


def test_counts_of_the_paper() -> None:
    assert counts(196, 0.85, 0.25) == Counts(196, 29, 14, (7, 8), 49)
    assert counts(196, 0.75, None) == Counts(196, 49, 24, (12, 13), 147)


@pytest.mark.parametrize(
    ("patches", "ratio", "visible"), [(100, 0.55, 45), (400, 0.8, 80), (400, 0.9, 40), (100, 0.9, 10)]
)
def test_counts_do_not_lose_a_token_to_rounding(patches: int, ratio: float, visible: int) -> None:
    assert counts(patches, ratio, 0.05).visible == visible


@pytest.mark.parametrize("patches", range(2, 60))
def test_counts_add_up(patches: int) -> None:
    for mask in (0.2, 0.5, 0.75, 0.85, 0.95):
        try:
            number = counts(patches, mask, 0.25)
        except ConfigError:
            continue
        assert number.seeds + sum(number.rounds) == number.visible
        assert number.seeds == number.visible // 2 >= 1
        assert number.rounds[0] == (number.visible - number.seeds) // 2
        assert 1 <= number.targets <= patches - number.visible


@pytest.mark.parametrize(
    ("ratios", "message"),
    [
        ((0.99, 0.25), "leaves 0 of 16 patches visible"),
        ((0.9, 0.25), "leaves 1 of 16 patches visible"),
        ((0.5, 0.01), "leaves none of 16 patches to rebuild"),
        ((0.5, 0.75), "asks for 12 of 16 patches, but mask ratio 0.5 hides only 8"),
    ],
)
def test_ratios_that_leave_nothing(ratios: tuple[float, float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        counts(16, *ratios)


def slow_select(tokens, logits, key, phase: Phase, number: Counts, mode: str) -> tuple[list[int], list[int]]:
    """One image's selection as the method's text says it, by lists and loops (method.md, section 3)."""
    patches = range(number.patches)
    unit = tokens.astype(np.float64) / np.linalg.norm(tokens.astype(np.float64), axis=1, keepdims=True)
    chance = uniform(key[None], EXPANSION, number.patches)[0].tolist()

    def richest(purpose: int, k: int, among: list[int]) -> list[int]:
        noise = gumbel(key[None], purpose, number.patches)[0].numpy()
        score = logits + noise if mode == "sample" else logits
        return sorted(among, key=lambda i: -score[i])[:k]

    chosen = richest(SEEDS, number.seeds, list(patches))
    for n in number.rounds:
        free = [i for i in patches if i not in chosen]
        highest = {i: round(max(float(unit[i] @ unit[j]) for j in chosen), 5) for i in free}
        scores = {
            "near": lambda i, h=highest: h[i],
            "far": lambda i, h=highest: -h[i],
            "random": lambda i: chance[i],
        }
        by_old = sorted(free, key=lambda i: (-scores[phase.old](i), i))[: math.floor(phase.share * n + 1e-9)]
        rest = sorted((i for i in free if i not in by_old), key=lambda i: (-scores[phase.new](i), i))
        chosen += by_old + rest[: n - len(by_old)]
    targets = richest(TARGETS, number.targets, [i for i in patches if i not in chosen])
    return sorted(chosen), sorted(targets)


@pytest.mark.parametrize("mode", ["sample", "topk"])
@pytest.mark.parametrize("name", PHASES)
@pytest.mark.parametrize(("patches", "ratios"), [(36, (0.5, 0.3)), (12, (0.7, 0.25)), (9, (0.75, 0.25))])
def test_selection_equals_plain_loops(name: str, mode: str, patches: int, ratios: tuple[float, float]) -> None:
    generator = torch.Generator().manual_seed(patches)
    number, key = counts(patches, *ratios), keys(8)
    tokens = torch.randn(8, patches, 6, generator=generator)
    # Whole tenths in another order for each image: well apart, so that the richest are no matter of lot.
    logits = torch.rand(8, patches, generator=generator).argsort(1) / 10.0
    visible, targets = select(tokens, logits, key, PHASES[name].as_tensor("cpu"), number, mode)
    for b in range(8):
        wanted = slow_select(tokens[b].numpy(), logits[b].numpy(), key[b], PHASES[name], number, mode)
        assert (visible[b].tolist(), targets[b].tolist()) == wanted


@pytest.mark.parametrize("name", PHASES)
def test_ids_are_disjoint_sorted_and_in_range(name: str) -> None:
    number = counts(64, 0.6, 0.3)
    tokens, logits = torch.randn(20, 64, 8), torch.randn(20, 64)
    visible, targets = select(tokens, logits, keys(20), PHASES[name].as_tensor("cpu"), number, "sample")
    assert visible.shape == (20, number.visible)
    assert targets.shape == (20, number.targets)
    assert visible.dtype == targets.dtype == torch.int64
    for seen, wanted in zip(visible.tolist(), targets.tolist(), strict=True):
        assert seen == sorted(set(seen))
        assert wanted == sorted(set(wanted))
        assert not set(seen) & set(wanted)
        assert 0 <= min(seen + wanted) <= max(seen + wanted) < 64


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("name", ["near", "far", "random", "near>far"])
def test_an_images_choice_does_not_depend_on_its_batch(name: str, threads: int) -> None:
    number, generator = counts(196, 0.85, 0.25), torch.Generator().manual_seed(1)
    tokens = torch.randn(13, 196, 192, generator=generator)
    tokens[3] = tokens[3, :1] + 1e-3 * tokens[3]  # an image of nearly equal patches
    logits, key = torch.randn(13, 196, generator=generator), keys(13)
    phase = PHASES[name].as_tensor("cpu")
    whole = select(tokens, logits, key, phase, number, "sample")
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        for part in (slice(0, 1), slice(3, 4), slice(2, 9), slice(5, 13)):
            got = select(tokens[part], logits[part], key[part], phase, number, "sample")
            assert torch.equal(got[0], whole[0][part])
            assert torch.equal(got[1], whole[1][part])
    finally:
        torch.set_num_threads(before)


def test_no_gradient_flows_through_the_choice() -> None:
    tokens = torch.randn(2, 36, 8, requires_grad=True)
    logits = torch.randn(2, 36, requires_grad=True)
    number = counts(36, 0.5, 0.25)
    for ids in select(tokens, logits, keys(2), PHASES["near"].as_tensor("cpu"), number, "sample"):
        assert not ids.requires_grad


@pytest.mark.parametrize("name", PHASES)
def test_equal_tokens_and_equal_richness_still_give_a_selection(name: str) -> None:
    number = counts(49, 0.6, 0.3)
    flat = torch.ones(4, 49, 8), torch.zeros(4, 49)
    visible, targets = select(*flat, keys(4), PHASES[name].as_tensor("cpu"), number, "topk")
    assert len({tuple(row) for row in targets.tolist()}) == 4  # by lot: not the same for each image
    assert all(len(set(row)) == number.visible for row in visible.tolist())


def test_draws_have_the_probabilities_of_softmax() -> None:
    """Of 4 patches 2 without replacement: P(i, then j) = p_i p_j / (1 - p_i)."""
    logits = torch.tensor([0.0, 1.0, -0.5, 0.4])
    p = torch.softmax(logits.double(), 0).numpy()
    n = 20000
    drawn = Counter(map(tuple, draw(logits.expand(n, 4), keys(n), SEEDS, 2, "sample").tolist()))
    pairs = list(permutations(range(4), 2))
    expected = [n * p[i] * p[j] / (1 - p[i]) for i, j in pairs]
    assert chisquare([drawn[pair] for pair in pairs], expected).pvalue > 1e-4


def test_draws_of_equals_and_plain_masking_are_even() -> None:
    n = 6000
    for ids in (draw(torch.zeros(n, 10), keys(n), SEEDS, 3, "topk"), draw_visible(keys(n), counts(10, 0.7, 0.2))):
        assert ids.shape == (n, 3)
        assert chisquare(np.bincount(ids.flatten().numpy(), minlength=10)).pvalue > 1e-4


def test_seeds_and_targets_are_drawn_independently() -> None:
    n, logits = 4000, torch.zeros(4000, 8)
    first, second = (draw(logits, keys(n), purpose, 1, "sample").flatten().numpy() for purpose in (SEEDS, TARGETS))
    table = np.zeros((8, 8))
    np.add.at(table, (first, second), 1)
    assert chisquare(table.ravel()).pvalue > 1e-4


def test_topk_takes_the_richest() -> None:
    logits = torch.linspace(-2, 2, 20).expand(50, 20)
    assert draw(logits, keys(50), SEEDS, 5, "topk").sort(1).values.tolist() == [[15, 16, 17, 18, 19]] * 50
    taken = torch.zeros(50, 20, dtype=torch.bool)
    taken[:, 17:] = True
    assert draw(logits, keys(50), SEEDS, 3, "topk", taken).sort(1).values.tolist() == [[14, 15, 16]] * 50


def test_added_patches_are_most_alike_near_and_least_alike_far() -> None:
    generator, number = torch.Generator().manual_seed(0), counts(64, 0.7, 0.2)
    tokens = torch.randn(30, 64, 8, generator=generator)
    unit = torch.nn.functional.normalize(tokens, dim=-1)
    seeds = draw(torch.zeros(30, 64), keys(30), SEEDS, number.seeds, "sample")
    means = []
    for progress in (0.1, 0.36, 0.37, 0.5):  # near, within the ramp, far
        phase = phase_at(progress, "near-far-random").as_tensor("cpu")
        visible, _ = select(tokens, torch.zeros(30, 64), keys(30), phase, number, "sample")
        similarity = []
        for b in range(30):
            added = sorted(set(visible[b].tolist()) - set(seeds[b].tolist()))
            similarity.append((unit[b, added] @ unit[b, seeds[b]].T).amax(1).mean().item())
        means.append(np.mean(similarity))
    assert means == sorted(means, reverse=True)
    assert means[0] > means[-1] + 0.2


@pytest.mark.parametrize("scale", [1.0, 1e-3, 1e-6])
def test_topk_takes_the_highest_at_any_temperature(scale: float) -> None:
    logits = torch.randn(64, 40, generator=torch.Generator().manual_seed(0)) * scale
    chosen = draw(logits, keys(64), SEEDS, 9, "topk").sort(dim=1).values
    assert torch.equal(chosen, logits.topk(9, dim=1).indices.sort(dim=1).values)


def test_topk_draws_lots_among_equals() -> None:
    chosen = draw(torch.zeros(4000, 10), keys(4000), SEEDS, 3, "topk")
    assert chisquare(torch.bincount(chosen.flatten(), minlength=10).numpy()).pvalue > 1e-4
