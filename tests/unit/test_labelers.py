"""Clusterings of embeddings: blobs that are known, scikit-learn, and odd sets."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.cluster import AgglomerativeClustering
from sklearn.datasets import make_blobs
from sklearn.metrics import adjusted_rand_score

from unlabeledasd.encoders.spectral import LogMelStatistics
from unlabeledasd.errors import InputError
from unlabeledasd.evaluation import embed
from unlabeledasd.pseudo.embedders import Spectral
from unlabeledasd.pseudo.labelers import CLUSTERINGS, EmbeddingLabeler


@pytest.fixture(autouse=True)
def without_umap(monkeypatch):
    """Its map is drawn alone; it takes seconds."""
    monkeypatch.setattr(
        "unlabeledasd.pseudo.clustering.PseudoLabeler._reduce", lambda self, x: x[:, :2]
    )


def blobs(n: int, centers: int, seed: int = 0):
    return make_blobs(n, 20, centers=centers, cluster_std=0.1, random_state=seed)


@pytest.mark.parametrize("clustering", CLUSTERINGS)
def test_blobs_of_each_domain(clustering):
    (source, of_source), (target, of_target) = blobs(60, 4), blobs(20, 2, seed=1)
    x, is_target = np.concatenate([source, target]), np.arange(80) >= 60
    found = EmbeddingLabeler(clustering, 4, 2).fit(x, is_target)
    assert adjusted_rand_score(found.labels_[:60], of_source) == 1
    assert adjusted_rand_score(found.labels_[60:], of_target) == 1
    assert found.n_clusters_ == {"source": 4, "target": 2}
    assert np.bincount(found.labels_[:60]).tolist() == sorted(np.bincount(of_source))[::-1]


def test_agglomerative_is_that_of_scikit_learn():
    x = np.random.default_rng(0).standard_normal((40, 5))
    found = EmbeddingLabeler("agglomerative", 6).fit(x, np.zeros(40)).labels_
    assert adjusted_rand_score(found, AgglomerativeClustering(6).fit_predict(x)) == 1


@settings(max_examples=20, deadline=None)
@given(st.sampled_from(CLUSTERINGS), st.integers(1, 12), st.integers(1, 4), st.integers(0, 99))
def test_odd_sets(clustering, n, copies, seed):
    """Few clips, duplicates, no target clips; equal clips have equal labels, in any order."""
    rng = np.random.default_rng(seed)
    x = np.tile(rng.standard_normal((n, 3)), (copies, 1))
    is_target = rng.random(len(x)) < 0.3
    is_target = np.tile(is_target[:n], copies)
    labeler = EmbeddingLabeler(clustering, 5, 2)
    labels = labeler.fit(x, is_target).labels_
    assert (labels.reshape(copies, n) == labels[:n]).all()
    assert labels[~is_target].max(initial=0) <= (5 if clustering != "hdbscan" else n)
    order = rng.permutation(len(x))
    again = labeler.fit(x[order], is_target[order]).labels_
    for domain in (True, False):
        rows = is_target[order] == domain
        assert adjusted_rand_score(again[rows], labels[order][rows]) == 1 or not rows.any()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"clustering": "dbscan"},
            "clustering='dbscan': allowed are kmeans, agglomerative, hdbscan",
        ),
        ({"n_source": 0}, "n_source=0: allowed is at least 1"),
        ({"n_target": 0}, "n_target=0: allowed is at least 1"),
    ],
)
def test_what_it_refuses(settings, message):
    with pytest.raises(InputError, match=message):
        EmbeddingLabeler(**settings).fit(np.ones((3, 2)), np.zeros(3))


def test_spectra_as_an_embedder(data_dir):
    root, paths = data_dir / "tiny/all/raw", []
    for machine in ("fan", "pump"):
        paths += sorted(str(p.relative_to(root)) for p in (root / machine / "train").iterdir())
    found = Spectral(clip_seconds=1.0).embed(root, paths)
    assert found.shape == (len(paths), 256)
    banded = LogMelStatistics(clip_seconds=1.0)
    expected = embed(banded, root, paths)[:, :, 1:].reshape(len(paths), -1)
    np.testing.assert_allclose(found, expected, rtol=1e-6)
