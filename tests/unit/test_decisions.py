"""Thresholds and decisions against scipy, scikit-learn and brute force."""

import numpy as np
import pytest
from scipy import optimize, special, stats
from sklearn.metrics import precision_recall_fscore_support
from sklearn.model_selection import KFold

from unlabeledasd.decisions import decision_metrics, decision_threshold, held_out_scores, percentile
from unlabeledasd.errors import InputError
from unlabeledasd.scoring import TargetKmeansCos


def test_gamma_threshold():
    rng = np.random.default_rng(0)
    scores = rng.gamma(3.0, 0.05, 20_000)
    truth = stats.gamma.ppf(0.9, 3.0, scale=0.05)
    assert decision_threshold(scores) == pytest.approx(truth, rel=0.02)
    # the likelihood equations: log k - digamma(k) = log mean - mean log, scale = mean / k
    few = scores[:50]
    gap = np.log(few.mean()) - np.log(few).mean()
    shape = optimize.brentq(lambda k: np.log(k) - special.digamma(k) - gap, 1e-3, 1e3)
    expected = stats.gamma.ppf(0.8, shape, scale=few.mean() / shape)
    assert decision_threshold(few, quantile=0.8) == pytest.approx(expected, rel=1e-4)


def test_copies_of_training_clips_do_not_spoil_the_gamma_threshold():
    scores = np.random.default_rng(0).gamma(3.0, 0.05, 100)
    assert decision_threshold(np.append(scores, [0, 1e-17])) == decision_threshold(scores)


def test_empirical_threshold():
    assert decision_threshold(np.arange(11.0), "empirical") == 9
    assert decision_threshold(np.array([0.2]), "empirical") == 0.2


def test_auto_takes_scores_of_any_range():
    """Gamma where it can be fitted, else the quantile, which moves and scales with the scores."""
    scores = np.random.default_rng(0).gamma(3.0, 0.05, 100)
    assert decision_threshold(scores) == decision_threshold(scores, "gamma")
    quantile = np.quantile(scores, 0.9)
    assert decision_threshold(scores - 1) == pytest.approx(quantile - 1)
    assert decision_threshold(5 * scores - 2) == pytest.approx(5 * quantile - 2)
    assert decision_threshold(np.array([0.1, 0.1])) == pytest.approx(0.1)
    assert 0.08 < (scores - 1 > decision_threshold(scores - 1)).mean() < 0.12


@pytest.mark.parametrize(
    ("scores", "arguments", "message"),
    [
        ([0.1, 0.2], {"kind": "normal"}, "threshold=normal: allowed are auto, gamma, empirical"),
        ([0.1, 0.2], {"quantile": 90}, "quantile=90: between 0 and 1"),
        ([0.1, 0.1], {"kind": "gamma"}, "threshold=gamma: cannot be fitted to 2 held-out scores"),
        ([-1.0, 0.1, 0.2], {"kind": "gamma"}, "threshold=empirical takes any"),
        ([], {"kind": "gamma"}, "at least 2 source training clips"),
        ([], {"kind": "empirical"}, "at least 2 source training clips"),
    ],
)
def test_thresholds_that_cannot_be(scores, arguments, message):
    with pytest.raises(InputError, match=message):
        decision_threshold(np.array(scores), **arguments)


def test_held_out_scores_are_of_refits():
    rng = np.random.default_rng(0)
    embedding, is_target = rng.standard_normal((60, 4)), np.arange(60) % 12 == 0
    scores = held_out_scores(TargetKmeansCos(3), embedding, is_target)
    source = embedding[~is_target]
    for fit, left_out in KFold(5, shuffle=True, random_state=0).split(source):
        rows = np.concatenate([source[fit], embedding[is_target]])
        scorer = TargetKmeansCos(3).fit(rows, np.arange(len(rows)) >= len(fit))
        np.testing.assert_allclose(scores[left_out], scorer.score(source[left_out]))


def test_held_out_scores_are_like_those_of_new_clips():
    """Clips that a scorer was fitted on score lower; held-out ones are distributed as new ones."""
    rng = np.random.default_rng(0)
    training, new = rng.standard_normal((300, 16)), rng.standard_normal((3000, 16))
    scorer, nobody = TargetKmeansCos(), np.zeros(300, bool)
    fresh = scorer.fit(training, nobody).score(new)
    threshold = decision_threshold(held_out_scores(scorer, training, nobody))
    assert 0.05 < (fresh > threshold).mean() < 0.16
    optimistic = decision_threshold(scorer.score(training))
    assert (fresh > optimistic).mean() > 0.2


@pytest.mark.parametrize(("n_source", "expected"), [(0, 0), (1, 0), (2, 2), (4, 4)])
def test_few_clips(n_source, expected):
    embedding = np.random.default_rng(0).standard_normal((n_source + 2, 4))
    assert (
        len(held_out_scores(TargetKmeansCos(), embedding, np.arange(n_source + 2) >= n_source))
        == expected
    )


def test_percentile():
    held_out = np.array([3.0, 1.0, 2.0, 2.0])
    found = percentile(held_out, np.array([0.0, 1.0, 2.0, 2.5, 9.0]))
    assert found.tolist() == [
        stats.percentileofscore(held_out, x, "mean") for x in (0, 1, 2, 2.5, 9)
    ]
    assert np.isnan(percentile(np.array([]), np.array([1.0]))).all()


@pytest.mark.parametrize("seed", range(5))
def test_precision_recall_f1(seed):
    rng = np.random.default_rng(seed)
    decided, is_normal, is_target = rng.random((3, 50)) < 0.4
    if seed == 0:
        decided[:] = False  # no alarm at all
    metrics = decision_metrics(decided, is_normal, is_target)
    for name, rows in (("source", ~is_target), ("target", is_target)):
        expected = precision_recall_fscore_support(
            ~is_normal[rows], decided[rows], average="binary", zero_division=0
        )
        found = [metrics[f"{metric}_{name}"] for metric in ("precision", "recall", "f1")]
        np.testing.assert_allclose(found, expected[:3])
    without_target = decision_metrics(decided, is_normal, np.zeros(50, bool))
    assert all(
        np.isnan(without_target[f"{metric}_target"]) for metric in ("precision", "recall", "f1")
    )
