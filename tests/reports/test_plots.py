"""Plots: the smoothing against its definition, and what the picture holds."""

import io
from pathlib import Path

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from run_folders import EPOCHS, LINES, lines, write_run

from selectivemae.reports.plots import PROBE, loss_plot, numbers, phases, smoothed, thinned
from selectivemae.reports.records import read_run

figures = st.lists(st.one_of(st.floats(-1e3, 1e3), st.just(float("nan"))), max_size=40)


@settings(deadline=None)
@given(figures, st.integers(1, 12))
def test_smoothed_is_the_mean_of_the_window(values: list[float], span: int):
    got = smoothed(np.array(values, float), span)
    for i, value in enumerate(got):
        half = min(i, span)
        window = [v for v in values[i - half : i + half + 1] if np.isfinite(v)]
        if window:
            np.testing.assert_allclose(value, sum(window) / len(window), atol=1e-9)
        else:
            assert np.isnan(value)


def test_a_straight_line_stays_one_where_the_window_is_whole():
    line = np.arange(100.0)
    np.testing.assert_allclose(smoothed(line, 7)[:-7], line[:-7])


@settings(deadline=None)
@given(st.integers(0, 500), st.integers(0, 2**31))
def test_thinning_keeps_order_and_extremes(count: int, seed: int):
    y = np.random.default_rng(seed).normal(size=count)
    x = np.arange(count, dtype=float)
    kept_x, kept_y = thinned(x, y, 50)
    assert len(kept_x) <= 50
    assert (np.diff(kept_x) > 0).all()
    np.testing.assert_array_equal(y[kept_x.astype(int)], kept_y)
    if count:
        assert kept_y.min() == y.min()
        assert kept_y.max() == y.max()


def test_figures_that_are_no_numbers_are_nan():
    got = numbers([{"loss": 1.5}, {"loss": "nan"}, {}, {"loss": None}], "loss")
    np.testing.assert_array_equal(got, [1.5, np.nan, np.nan, np.nan])


def test_phases_are_stretches_that_follow_each_other():
    spans = phases([r for r in lines() if r["kind"] == "train"])
    assert [name for *_, name in spans] == ["near", "far", "random"]
    assert [begin for begin, *_ in spans] == [0.0, spans[0][1], spans[1][1]]
    assert spans[-1][1] == EPOCHS
    assert abs(spans[0][1] - 0.4 * EPOCHS) <= EPOCHS / LINES + 1e-9


def opened(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).astype(int)


def pixels_of(image: np.ndarray, colour: str) -> int:
    wanted = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
    return int((np.abs(image - wanted).max(axis=2) <= 2).sum())


def test_the_plot_is_the_same_each_time_and_shows_the_probe_where_there_is_one(tmp_path: Path):
    probed = read_run(write_run(tmp_path / "a"))
    plain = read_run(write_run(tmp_path / "b", lines(probes=False)))
    png = loss_plot(probed)
    assert png is not None
    assert png == loss_plot(probed)
    assert pixels_of(opened(png), PROBE) > 50
    without = loss_plot(plain)
    assert without is not None
    assert pixels_of(opened(without), PROBE) == 0


def test_no_plot_of_nothing_and_one_of_a_single_step(tmp_path: Path):
    assert loss_plot(read_run(write_run(tmp_path / "empty", []))) is None
    assert loss_plot(read_run(write_run(tmp_path / "one", lines(1)))) is not None
    broken = [r | {"loss": "nan"} for r in lines(3)]
    assert loss_plot(read_run(write_run(tmp_path / "nan", broken))) is not None
