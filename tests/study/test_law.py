"""Intervals of known samples; the law finds what was planted, and says how sure it is."""

import numpy as np
import pytest

from vmae_jax.study import law as law_lib
from vmae_jax.study.law import Estimate


def planted(clips, limit=90.0, gap=50.0, rate=0.5):
    return limit - gap * (np.asarray(clips) / 100) ** -rate


def test_the_interval_of_a_known_sample():
    """Mean 60, deviation 10, three runs: 4.3027 (t, 2 degrees, 95 %) x 10 / sqrt(3)."""
    found = law_lib.mean([50, 60, 70])
    assert (found.value, found.low, found.high) == pytest.approx((60, 35.1586, 84.8414), abs=1e-4)
    narrow = law_lib.mean([50, 60, 70], confidence=0.5)
    assert found.low < narrow.low < narrow.high < found.high


def test_an_interval_ends_at_what_an_accuracy_can_be():
    assert law_lib.mean([90, 99, 100]).high == 100
    assert law_lib.mean([0, 2, 5]).low == 0


def test_one_run_says_nothing_of_its_spread():
    assert law_lib.mean([50]) == Estimate(50.0)
    assert law_lib.difference([50], [40, 41]) == Estimate(9.5)
    assert law_lib.fit([100, 200, 400], [50, 60, 65]).at(800).low is None


def test_the_interval_of_a_known_difference():
    """Welch: standard error sqrt(1/3 + 4/3), 2.94 degrees of freedom, t = 3.2188."""
    found = law_lib.difference([51, 52, 53], [40, 42, 44])
    assert found.value == pytest.approx(10)
    assert (found.high - 10, 10 - found.low) == pytest.approx((4.1554, 4.1554), abs=1e-4)
    half = law_lib.difference([51, 52, 53], [40, 42, 44], scale=0.5)
    assert half.low == pytest.approx(found.low / 2)
    assert law_lib.difference([5, 5], [3, 3]) == Estimate(2.0, 2.0, 2.0)


def test_a_planted_law_is_found():
    clips = np.repeat([100, 400, 1600], 3)
    law = law_lib.fit(clips, planted(clips))
    assert (law.limit, law.gap, law.rate) == pytest.approx((90, 50, 0.5), rel=0.01)
    assert law.at(6400).value == pytest.approx(planted(6400), abs=0.1)
    assert law.gain(1600).value == pytest.approx(planted(3200) - planted(1600), abs=0.05)
    assert law.at(400).high - law.at(400).low < 0.1


@pytest.mark.parametrize("seeds", [2, 3])
def test_intervals_of_the_law_hold_the_truth_as_often_as_they_say(seeds):
    """Of 300 studies, within three deviations (1.3 % each) of 95 %, or more; not by being wide."""
    rng = np.random.default_rng(0)
    clips = np.repeat([100, 400, 1600], seeds)
    truths = [planted(400), planted(6400), planted(3200) - planted(1600), 90, 0.5]
    hits, widths = np.zeros(len(truths)), []
    for _ in range(300):
        law = law_lib.fit(clips, planted(clips) + rng.normal(0, 3, len(clips)))
        found = [law.at(400), law.at(6400), law.gain(1600), law.ceiling(), law.speed()]
        widths.append(found[0].high - found[0].low)
        hits += [e.low <= truth <= e.high for e, truth in zip(found, truths, strict=True)]
    assert (hits / 300 >= 0.91).all(), hits / 300
    # At a size that was tried, the law knows no less than the runs of that size alone would.
    assert np.median(widths) < 2 * 3 * law_lib._quantile(0.95, seeds - 1) / np.sqrt(seeds)


def test_the_band_widens_beyond_the_sizes():
    rng = np.random.default_rng(1)
    clips = np.repeat([100, 400, 1600], 3)
    law = law_lib.fit(clips, planted(clips) + rng.normal(0, 2, len(clips)))
    inside, outside = law.at(400), law.at(100 * 1600)
    assert outside.high - outside.low > 1.2 * (inside.high - inside.low)
    for found in (inside, outside, law.ceiling(), law.speed(), law.gain(1600)):
        assert found.low <= found.value <= found.high


@pytest.mark.parametrize("accuracies", [[10, 40, 70], [50, 50, 50], [70, 60, 50], [99, 100, 100]])
def test_no_accuracies_make_an_impossible_law(accuracies):
    """Straight lines over the logarithm, constants, losses: still a limit of at most 100."""
    law = law_lib.fit([100, 400, 1600] * 2, [*accuracies, *np.subtract(accuracies, 0.5)])
    assert law.limit <= 100
    assert law.gap >= 0
    assert 0 <= law.at(1e9).low <= law.at(1e9).value <= law.at(1e9).high <= 100


def test_accuracies_that_do_not_differ_leave_the_rate_open():
    law = law_lib.fit([100, 400, 1600] * 2, [100.0] * 6)
    assert (law.limit, law.gap) == (100, 0)
    assert (law.speed().low, law.speed().high) == (law_lib.RATES[0], law_lib.RATES[-1])
    assert law.gain(1600).value == pytest.approx(0)


def test_two_sizes_make_no_law():
    assert law_lib.fit([100, 100, 200, 200], [50, 51, 60, 61]) is None
