"""The curriculum: the published fractions, ramps that only fall, and boundaries that make sense."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from selectivemae.core.errors import ConfigError
from selectivemae.ops.phases import BOUNDARIES, ORDERS, check_boundaries, phase_at


def test_the_published_epochs_of_800() -> None:
    """Near until 280, ramp to far until 300, far until 580, ramp to random until 600 (method.md, section 3)."""
    assert [b * 800 for b in BOUNDARIES[3]] == pytest.approx([280, 300, 580, 600])
    for epoch in range(801):
        phase = phase_at(epoch / 800, "near-far-random")
        if epoch < 280:
            wanted, share = "near", 1.0
        elif epoch < 300:
            wanted, share = "near>far", (300 - epoch) / 20
        elif epoch < 580:
            wanted, share = "far", 1.0
        elif epoch < 600:
            wanted, share = "far>random", (600 - epoch) / 20
        else:
            wanted, share = "random", 1.0
        if epoch not in (280, 300, 580, 600):  # on a boundary rounding decides; both sides agree there
            assert phase.name == wanted
        assert phase.share == pytest.approx(share, abs=1e-9)


@given(st.sampled_from(sorted(ORDERS)), st.floats(0, 1), st.floats(0, 1))
@settings(deadline=None)
def test_ramps_are_monotone(order: str, one: float, other: float) -> None:
    early, late = (phase_at(t, order) for t in sorted((one, other)))
    modes = ORDERS[order]
    assert modes.index(early.old) <= modes.index(late.old)
    if early.old == late.old and early.new == late.new:
        assert early.share >= late.share
    for phase in (early, late):
        assert 0 < phase.share <= 1
        assert phase.new in (phase.old, modes[min(modes.index(phase.old) + 1, len(modes) - 1)])


@given(st.lists(st.floats(0, 1), min_size=4, max_size=4).map(sorted), st.floats(0, 1))
@settings(deadline=None)
def test_any_boundaries_give_a_phase(boundaries: list[float], progress: float) -> None:
    check_boundaries("far-near-random", tuple(boundaries))
    assert 0 < phase_at(progress, "far-near-random", tuple(boundaries)).share <= 1


def test_single_modes_never_change() -> None:
    assert {phase_at(i / 10, mode).name for i in range(11) for mode in ("near", "far", "random")} == {
        "near", "far", "random",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("order", "boundaries", "message"),
    [
        ("near-far-random", (0.5, 0.6), "needs 4 phase boundaries, not 2"),
        ("random", (0.5,), "needs 0"),
        ("near-random", (0.6, 0.5), "must ascend"),
        ("near-random", (0.5, 1.5), "within 0..1"),
        ("near-random", (0.5, float("nan")), "within 0..1"),
    ],
)
def test_boundaries_that_do_not_fit(order: str, boundaries: tuple[float, ...], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check_boundaries(order, boundaries)
