"""Smoothing, thinning out and sparklines keep what matters of a curve."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from mindrl.report.curves import smooth, sparkline, thin_extremes, thin_mean, window_for
from mindrl.report.figures import Line, measured
from mindrl.report.key_figures import duration, short

CURVES = arrays(np.float64, st.integers(1, 400), elements=st.floats(-1e3, 1e3))


def steps_of(values: np.ndarray) -> np.ndarray:
    return np.arange(len(values), dtype=np.float64)


@given(CURVES)
def test_thinning_keeps_the_extremes(values: np.ndarray) -> None:
    steps, kept = thin_extremes(steps_of(values), values, 50)
    assert len(kept) <= 50
    assert (kept.min(), kept.max()) == (values.min(), values.max())
    assert np.all(np.diff(steps) > 0)
    assert np.array_equal(values[steps.astype(int)], kept)


@given(CURVES)
def test_thinned_means_stay_inside_the_curve(values: np.ndarray) -> None:
    steps, means = thin_mean(steps_of(values), values, 50)
    assert len(steps) == len(means) == min(len(values), 50)
    assert means.min() >= values.min() - 1e-9
    assert means.max() <= values.max() + 1e-9


def test_smoothing_is_a_centred_mean() -> None:
    assert smooth(np.array([0.0, 3.0, 6.0, 0.0]), 3).tolist() == [1.5, 3.0, 3.0, 3.0]


def test_smoothing_leaves_gaps_out_and_open() -> None:
    smoothed = smooth(np.array([1.0, np.nan, 3.0]), 3)
    assert smoothed[0] == 1.0
    assert np.isnan(smoothed[1])
    assert smoothed[2] == 3.0


@pytest.mark.parametrize("num_points", [1, 39, 40, 150, 5000])
def test_the_window_is_odd_and_short(num_points: int) -> None:
    window = window_for(num_points)
    assert window % 2 == 1
    assert window <= max(1, num_points // 10)


def test_a_sparkline_spans_from_low_to_high() -> None:
    assert sparkline(np.linspace(0, 1, 8)) == "▁▂▃▄▅▆▇█"
    assert sparkline(np.array([2.0, 2.0])) == "▁▁"
    assert sparkline(np.array([np.nan])) == ""
    assert len(sparkline(np.arange(1000.0))) == 40


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "–"),
        (0.0, "0"),
        (0.85, "0.85"),
        (9.4e-6, "9.4e-6"),
        (1e-4, "1e-4"),
        (6011.2, "6,011"),
        (-0.5, "-0.5"),
    ],
)
def test_numbers_are_short(value: float | None, text: str) -> None:
    assert short(value) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(75.0, "75.0 s"), (214.0, "3 min 34 s"), (7260.0, "2 h 01 min"), (None, "–")]
)
def test_durations_are_said_as_people_say_them(seconds: float | None, text: str) -> None:
    assert duration(seconds) == text


def test_stacked_areas_begin_where_the_first_step_was_measured():
    steps, absent = np.arange(3.0), np.nan
    rollout = Line("rollout", "blue", steps, np.array([absent, 1.0, 2.0]))
    update = Line("update", "purple", steps, np.array([absent, 3.0, absent]))
    assert [line.steps.tolist() for line in measured([rollout, update])] == [[1.0, 2.0], [1.0, 2.0]]
