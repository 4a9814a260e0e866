"""Axes have round numbers, thinning keeps what was there."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmae_jax.report.charts import Axis, Line, axis_of, thinned
from vmae_jax.report.run import Curve, number

FINITE = st.floats(-1e12, 1e12)


@given(st.lists(FINITE, min_size=1, max_size=50), st.booleans(), st.booleans())
def test_every_value_has_its_place_and_ticks_lie_on_the_axis(values, log, zero):
    curve = Curve(np.arange(len(values)), np.array(values))
    axis = axis_of([Line("a", curve, 0)], log, zero)
    assert (axis(curve.values) >= -1e-9).all()
    assert (axis(curve.values) <= 1 + 1e-9).all()
    ticks = axis.ticks()
    assert ticks == sorted(ticks)
    assert 2 <= len(ticks) <= 12
    assert all(-1e-6 <= place <= 1 + 1e-6 for place in axis(np.array(ticks)))


def test_a_logarithmic_scale_where_it_helps():
    def log_of(*values):
        return axis_of([Line("a", Curve(np.arange(2), np.array(values)), 0)], True, False).log

    assert log_of(0.01, 1.0)
    assert not log_of(0.5, 1.0)
    assert not log_of(0.0, 1.0)
    assert not log_of(-1.0, 1.0)


@given(st.integers(241, 5000), st.integers(0, 2**32 - 1))
def test_thinning_keeps_extremes_means_and_order(count, seed):
    rng = np.random.default_rng(seed)
    steps = np.sort(rng.choice(10 * count, count, replace=False))
    values = rng.normal(size=count)
    values[rng.random(count) < 0.01] = np.nan
    curve = Curve(steps, values)
    found, means, low, high = thinned(curve, Axis(0, max(steps[-1], 1)))
    assert len(found) <= 240
    assert (np.diff(found) > 0).all()
    assert np.nanmin(low) == np.nanmin(values)
    assert np.nanmax(high) == np.nanmax(values)
    good = ~np.isnan(means)
    assert (low[good] <= means[good] + 1e-12).all()
    assert (means[good] <= high[good] + 1e-12).all()


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (0.017414, "0.01741"), (328.352, "328.4"), (1.2e-7, "1.2e-07"), (-2.5, "-2.5"),
     (999_999, "999,999"), (1e9, "1e+09"), (100.0, "100"), (float("nan"), "NaN"),
     (float("-inf"), "−∞")],
)  # fmt: skip
def test_numbers_are_short(value, text):
    assert number(value) == text
