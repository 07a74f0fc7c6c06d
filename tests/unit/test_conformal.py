"""Conformal thresholds: by hand, by the definition, and the law of the false-alarm rate."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import betabinom, kstest

from unlabeledasd.detection.conformal import (
    conformal_threshold,
    false_alarms,
    least_scores,
    onset_rate,
    p_values,
    windows_in_a_row,
)
from unlabeledasd.errors import InputError

floats = st.floats(-5, 5).map(lambda x: round(x, 1))


def test_by_hand():
    scores = np.array([3.0, 1, 2, 5, 4, 9, 8, 7, 6])
    assert conformal_threshold(scores, 0.1) == 9  # the 9th of 9: ceil(10 x 0.9)
    assert conformal_threshold(scores, 0.2) == 8
    assert conformal_threshold(scores, 0.25) == 8  # ceil(7.5)
    assert p_values(scores, np.array([9.5, 9, 8.5, 0])).tolist() == [0.1, 0.2, 0.2, 1.0]


@pytest.mark.parametrize(("rate", "needed"), [(0.1, 9), (0.05, 19), (0.01, 99), (0.3, 3), (0.5, 1)])
def test_how_many_a_rate_needs(rate, needed):
    assert least_scores(rate) == needed
    conformal_threshold(np.arange(needed), rate)
    message = f"needs {needed} calibration scores, there are {needed - 1}; the lowest rate is"
    with pytest.raises(InputError, match=message):
        conformal_threshold(np.arange(needed - 1), rate)


@pytest.mark.parametrize("rate", [0.0, 1.0, -0.1, 2.0])
def test_a_rate_is_between_0_and_1(rate):
    with pytest.raises(InputError, match="between 0 and 1"):
        least_scores(rate)


@given(st.lists(floats, min_size=19, max_size=60), floats, st.sampled_from([0.05, 0.1, 0.37]))
def test_an_alarm_is_a_p_value_up_to_the_rate(scores, score, rate):
    scores = np.array(scores)
    (p,) = p_values(scores, np.array([score]))
    assert p == (1 + sum(s >= score for s in scores)) / (len(scores) + 1)
    assert (score > conformal_threshold(scores, rate)) == (p <= rate + 1e-12)


@pytest.mark.parametrize(("count", "rate"), [(9, 0.1), (30, 0.1), (99, 0.05)])
def test_false_alarms_follow_their_law(count, rate):
    """Of m new scores, the false alarms are beta-binomial (m, n + 1 - k, k); k one off is not."""
    rng, m = np.random.default_rng(count), 50
    draws = rng.standard_normal((4000, count + m))
    alarms = [(row[count:] > conformal_threshold(row[:count], rate)).sum() for row in draws]
    k = int(np.ceil(round((count + 1) * (1 - rate), 9)))
    assert np.mean(alarms) / m == pytest.approx((count + 1 - k) / (count + 1), abs=0.004)
    assert np.mean(alarms) / m <= rate + 0.004
    jitter = rng.uniform(size=len(alarms))  # randomised: a discrete law made continuous

    def distance(k):
        law = betabinom(m, count + 1 - k, k)
        uniform = law.cdf(np.array(alarms) - 1) + jitter * law.pmf(alarms)
        return kstest(uniform, "uniform").pvalue

    assert distance(k) > 1e-3
    assert distance(k - 1) < 1e-6


def test_halves():
    scores = np.random.default_rng(0).standard_normal(400)
    assert false_alarms(scores, 0.1) == pytest.approx(0.1, abs=0.02)
    assert np.isnan(false_alarms(scores[:17], 0.1))


@pytest.mark.parametrize(("needed", "last"), [(1, 1), (2, 2), (2, 3), (3, 5), (4, 4)])
def test_alarms_of_independent_windows_begin_at_their_rate(needed, last):
    rng, rate, n = np.random.default_rng(needed * last), 0.2, 400_000
    sums = np.convolve(rng.uniform(size=n) < rate, np.ones(last, int))[:n]
    is_alarm = sums >= needed
    begins = (is_alarm[1:] & ~is_alarm[:-1]).mean()
    assert begins == pytest.approx(onset_rate(rate, needed, last), rel=0.06)
    assert begins <= rate


def test_windows_in_a_row():
    assert windows_in_a_row(0.1, 11) == 1  # 0.1 x 0.9 x 11 = 0.99
    assert windows_in_a_row(0.1, 12) == 2
    assert windows_in_a_row(0.1, 110) == 2
    assert windows_in_a_row(0.05, 24 * 360) == 4  # a day of 10 s: 0.95 x 8640 / 20 ** 4 = 0.05
