"""Pseudo-labels: the choice of clusters, and what does not fit."""

import numpy as np
import pytest
from scipy.stats import multivariate_normal
from sklearn.mixture import GaussianMixture
from sklearn.model_selection import KFold

from unlabeledasd.errors import InputError
from unlabeledasd.pseudo.clustering import PseudoLabeler, agreement


def separated(
    n_clusters: int, n_clips: int, size: int = 2, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Points (N, size) around centres 40 standard deviations apart or more; clusters (N,)."""
    rng = np.random.default_rng(seed)
    cluster = np.sort(np.arange(n_clips) % n_clusters)
    grid = 40.0 * np.stack(
        np.unravel_index(rng.permutation(4**size)[:n_clusters], (4,) * size), axis=1
    )
    return grid[cluster] + rng.standard_normal((n_clips, size)), cluster


@pytest.mark.parametrize("order", ["sorted", "shuffled"])
@pytest.mark.parametrize("criterion", ["cv_bic", "bic"])
@pytest.mark.parametrize("n_clusters", [1, 7])
def test_separated_clusters_are_found_in_any_order(n_clusters, criterion, order):
    points, truth = separated(n_clusters, 200)
    rows = np.arange(200) if order == "sorted" else np.random.default_rng(1).permutation(200)
    labels, curve = PseudoLabeler(criterion)._cluster(points[rows], 9)
    assert len(curve) == 9
    assert curve.argmin() + 1 == len(np.unique(labels)) == n_clusters
    assert agreement(labels, truth[rows]) == (1, pytest.approx(1))


def test_curve_of_one_component_by_hand():
    """cv_bic: -2 log-likelihood + 5 ln n of the held-out clips, mean over folds.

    5 parameters: two means, three covariances.
    """
    points, _ = separated(2, 50)
    values = []
    for train, held_out in KFold(5, shuffle=True, random_state=0).split(points):
        normal = multivariate_normal(
            points[train].mean(0), np.cov(points[train].T, bias=True) + 1e-6 * np.eye(2)
        )
        values.append(-2 * normal.logpdf(points[held_out]).sum() + 5 * np.log(len(held_out)))
    assert PseudoLabeler()._cluster(points, 3)[1][0] == pytest.approx(np.mean(values))
    for n, value in enumerate(PseudoLabeler("bic")._cluster(points, 3)[1], start=1):
        assert value == pytest.approx(GaussianMixture(n, random_state=0).fit(points).bic(points))


def test_order_of_clips_does_not_matter():
    source, cluster = separated(6, 150, size=8)
    target, kind = separated(2, 20, size=8, seed=1)
    embedding, is_target = np.concatenate([source, target + 100]), np.arange(170) >= 150
    labeler = PseudoLabeler().fit(embedding, is_target)
    assert labeler.n_clusters_ == {"source": 6, "target": 2}
    assert (
        agreement(labeler.labels_[:150], cluster)[0]
        == agreement(labeler.labels_[150:], kind)[0]
        == 1
    )
    assert labeler.map_.shape == (170, 2)
    assert {domain: len(curve) for domain, curve in labeler.criterion_.items()} == {
        "source": 16,
        "target": 2,
    }
    rows = np.random.default_rng(2).permutation(170)
    again = PseudoLabeler().fit(embedding[rows], is_target[rows])
    np.testing.assert_array_equal(again.labels_, labeler.labels_[rows])
    np.testing.assert_array_equal(again.map_, labeler.map_[rows])


def test_cluster_0_is_the_largest():
    points, _ = separated(3, 60)
    labels, _ = PseudoLabeler()._cluster(points[:50], 5)
    assert np.bincount(labels).tolist() == [20, 20, 10]


def test_other_clips_shape_the_map_alone():
    embedding, _ = separated(3, 30, size=8)
    others, _ = separated(3, 15, size=8, seed=3)
    alone = PseudoLabeler().fit(embedding, np.zeros(30))
    together = PseudoLabeler().fit(embedding, np.zeros(30), others)
    assert together.labels_.shape == (30,)
    assert together.map_.shape == (30, 2)
    assert not np.array_equal(alone.map_, together.map_)


@pytest.mark.parametrize("criterion", ["cv_bic", "bic"])
@pytest.mark.parametrize("distinct", [None, 1, 5])
@pytest.mark.parametrize(
    ("n_source", "n_target"), [(1, 0), (0, 3), (3, 3), (4, 5), (5, 4), (30, 2)]
)
def test_few_and_equal_clips(n_source, n_target, distinct, criterion):
    n_clips = n_source + n_target
    embedding = np.random.default_rng(0).standard_normal((n_clips, 6))
    if distinct:
        embedding = embedding[np.arange(n_clips) % distinct]
    labeler = PseudoLabeler(criterion).fit(embedding, np.arange(n_clips) >= n_source)
    assert np.isfinite(labeler.map_).all()
    for domain, n, most in (("source", n_source, 16), ("target", n_target, 2)):
        limit = 1 if n < 5 else min(n, most, distinct or n)
        assert (n > 0) <= labeler.n_clusters_[domain] <= limit
        assert len(labeler.criterion_[domain]) <= (0 if n < 5 else limit)
    equal = (embedding[:, None] == embedding).all(-1)
    same_domain = np.equal.outer(*[np.arange(n_clips) >= n_source] * 2)
    assert (labeler.map_[:, None] == labeler.map_).all(-1)[equal].all()
    assert np.equal.outer(labeler.labels_, labeler.labels_)[equal & same_domain].all()


def test_errors():
    with pytest.raises(InputError, match="criterion='aic': allowed are cv_bic, bic"):
        PseudoLabeler("aic").fit(np.zeros((3, 2)), np.zeros(3))
    for setting in ("max_source=0", "max_target=0", "n_folds=1", "n_neighbors=1"):
        name, value = setting.split("=")
        with pytest.raises(InputError, match=f"^{setting}: allowed is at least"):
            PseudoLabeler(**{name: int(value)}).fit(np.zeros((3, 2)), np.zeros(3))
    with pytest.raises(InputError, match="not finite"):
        PseudoLabeler().fit(np.full((3, 2), np.nan), np.zeros(3))
    with pytest.raises(ValueError, match="no training clips"):
        PseudoLabeler().fit(np.zeros((0, 2)), np.zeros(0))
