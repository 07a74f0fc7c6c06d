"""Pseudo-anomalies: closed forms, and no clip is compared that the scorer has seen."""

import numpy as np
import pytest
from sklearn.base import BaseEstimator

from unlabeledasd.scorers.choice import FOLDS, KINDS, pseudo_anomaly_auc, shuffled
from unlabeledasd.scorers.references import Knn

SEEN: list[set] = []  # rows (by their last dimension) of every fit
SCORED: list[set] = []


class FirstDimension(BaseEstimator):
    """The score is the first dimension; writes down what it is given."""

    def fit(self, embedding, is_target):
        self.rows_ = set(embedding[:, -1])
        SEEN.append(self.rows_)
        return self

    def score(self, embedding):
        SCORED.append(self.rows_ & set(embedding[:, -1]))
        return embedding[:, 0]


def clips(first, n: int, start: int = 0) -> np.ndarray:
    return np.column_stack([np.broadcast_to(first, n), np.arange(start, start + n)])


def test_both_domains_count_alike():
    """18 source clips score 0, 2 target clips 2; others 1: AUC 1 and 0."""
    is_target = np.arange(20) >= 18
    embedding = clips(np.where(is_target, 2.0, 0.0), 20)
    others = clips(1.0, 30, 1000)
    found = pseudo_anomaly_auc(FirstDimension(), embedding, is_target, np.full(20, "a"), others)
    assert found["machines"] == 0.5
    assert np.isnan(found["attributes"])


def test_nothing_that_is_scored_was_fitted():
    SEEN.clear(), SCORED.clear()
    attribute = np.repeat(["a", "b", "c"], [10, 6, 4])
    embedding, others = clips(np.arange(20) % 3, 20), clips(1.0, 5, 1000)
    found = pseudo_anomaly_auc(FirstDimension(), embedding, np.arange(20) > 15, attribute, others)
    assert list(found) == list(KINDS)
    assert len(SEEN) == FOLDS * (1 + 3)
    of_attributes = SEEN[FOLDS:]
    for i, name in enumerate("abc"):
        own = set(np.flatnonzero(attribute == name))
        fits = of_attributes[i * FOLDS : (i + 1) * FOLDS]
        assert not any(fit & own for fit in fits)
        assert set.union(*fits) == set(range(20)) - own
    held_out = [s for s in SCORED if not s]
    # of each fit: held-out clips and others or unseen ones; shuffled embeddings have seen rows
    assert len(held_out) == 2 * len(SEEN)


def test_an_unseen_attribute_by_closed_form():
    """b scores above a always, and a below b: AUC 1 where b is unseen, 0 where a is."""
    attribute = np.repeat(["a", "b"], 10)
    embedding = clips((attribute == "b").astype(float), 20)
    arrays = (embedding, np.zeros(20, bool), attribute, embedding[:0])
    found = pseudo_anomaly_auc(FirstDimension(), *arrays)
    assert found["attributes"] == 0.5
    assert np.isnan(found["machines"])


def test_what_goes_together_is_seen_in_shuffled_dimensions():
    angle = np.random.default_rng(0).uniform(0.2, 1.3, 60)
    circle = np.column_stack([np.cos(angle), np.sin(angle), 3 + 0 * angle])
    noise = np.random.default_rng(1).standard_normal((60, 3))
    values = [
        pseudo_anomaly_auc(Knn(), x, np.zeros(60, bool), np.full(60, "a"), x[:0])["shuffled"]
        for x in (circle, noise)
    ]
    assert values[0] > 0.75
    assert values[1] == pytest.approx(0.5, abs=0.1)


def test_shuffled_keeps_every_dimension():
    x = np.random.default_rng(0).standard_normal((9, 2, 3))
    mixed = shuffled(x, np.random.default_rng(1))
    np.testing.assert_array_equal(np.sort(mixed, axis=0), np.sort(x, axis=0))
    assert (mixed != x).any()
