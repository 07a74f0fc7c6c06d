"""TargetKmeansCos against brute force, geometry and the fixed-point property of k-means."""

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from sklearn.base import clone
from sklearn.exceptions import NotFittedError

from unlabeledasd import scoring
from unlabeledasd.scoring import TargetKmeansCos


def unit(x: np.ndarray) -> np.ndarray:
    return x / np.sqrt((x**2).sum(1, keepdims=True))


def brute_force(embedding, references) -> np.ndarray:
    """min over references c of 1 - <e / |e|, c>, one number at a time."""
    scores = []
    for e in embedding:
        length = sum(v * v for v in e) ** 0.5
        scores.append(
            min(1 - sum(a * b for a, b in zip(e / length, c, strict=True)) for c in references)
        )
    return np.array(scores)


def blobs(n_blobs: int = 16, n_each: int = 12, dim: int = 20, seed: int = 0) -> np.ndarray:
    """Tight groups around axes, so that k-means has one evident solution."""
    rng = np.random.default_rng(seed)
    points = np.repeat(np.eye(dim)[:n_blobs], n_each, axis=0) + 0.05 * rng.standard_normal(
        (n_blobs * n_each, dim)
    )
    return 10 ** rng.uniform(-2, 2, (len(points), 1)) * points  # any length


def test_hand_computed_with_centers_shorter_than_one():
    """Pairs at +-30 degrees around two axes: centres of length cos 30; an axis has 1 - cos 30."""
    c, s = np.cos(np.pi / 6), np.sin(np.pi / 6)
    source = np.array([[c, s, 0, 0], [c, -s, 0, 0], [0, 0, c, s], [0, 0, c, -s]])
    scorer = TargetKmeansCos(2).fit(source, np.zeros(4))
    np.testing.assert_allclose(
        sorted(scorer.centers_.tolist()), [[0, 0, c, 0], [c, 0, 0, 0]], atol=1e-12
    )
    test = np.array([[1, 0, 0, 0], [c, s, 0, 0], [0, 1, 0, 0], [-1, 0, -1, 0], [0, 0, 7, 0]])
    np.testing.assert_allclose(
        scorer.score(test), [1 - c, 1 - c**2, 1, 1 + c / 2**0.5, 1 - c], atol=1e-12
    )
    scorer.fit(
        np.concatenate([source, [[0, 9, 0, 0]]]), [0, 0, 0, 0, 1]
    )  # a target clip counts as it is
    np.testing.assert_allclose(scorer.score(test), [1 - c, 1 - c**2, 0, 1 + 0, 1 - c], atol=1e-12)


def test_centers_are_the_means_of_the_groups():
    source = blobs()
    scorer = TargetKmeansCos().fit(source, np.zeros(len(source), bool))
    means = unit(source).reshape(16, 12, -1).mean(1)
    assert scorer.centers_.shape == means.shape
    order = [np.square(scorer.centers_ - mean).sum(1).argmin() for mean in means]
    np.testing.assert_allclose(scorer.centers_[order], means, atol=1e-10)
    assert (np.linalg.norm(scorer.centers_, axis=1) < 0.999).all()  # not renormalised


@pytest.mark.parametrize("n_targets", [0, 1, 10])
def test_brute_force_score_and_k_means_fixed_point(n_targets):
    rng = np.random.default_rng(n_targets)
    train, test = rng.standard_normal((120 + n_targets, 6)), rng.standard_normal((40, 6)) * 3
    is_target = np.zeros(len(train), bool)
    is_target[rng.permutation(len(train))[:n_targets]] = True
    scorer = TargetKmeansCos(5).fit(train, is_target)
    source = unit(train[~is_target])
    nearest = np.square(source[:, None] - scorer.centers_[None]).sum(-1).argmin(1)
    for k in range(
        5
    ):  # where Lloyd's iteration rests: each centre is the mean of the clips nearest to it
        np.testing.assert_allclose(scorer.centers_[k], source[nearest == k].mean(0), atol=1e-10)
    np.testing.assert_allclose(scorer.targets_, unit(train[is_target]), atol=1e-14)
    references = [*scorer.centers_, *unit(train[is_target])]
    np.testing.assert_allclose(scorer.score(test), brute_force(test, references), atol=1e-12)
    np.testing.assert_allclose(scorer.score(train[is_target]) if n_targets else 0, 0, atol=1e-12)


@settings(max_examples=30, deadline=None)
@given(n_source=st.integers(0, 16), n_target=st.integers(0, 5), seed=st.integers(0, 1000))
def test_few_source_clips_are_their_own_centers(n_source, n_target, seed):
    rng = np.random.default_rng(seed)
    train, test = rng.standard_normal((n_source + n_target, 4)), rng.standard_normal((9, 4))
    assume(len(train))
    is_target = rng.permutation(np.arange(len(train)) < n_target)
    scores = TargetKmeansCos(16).fit(train, is_target).score(test)
    np.testing.assert_allclose(scores, brute_force(test, unit(train)), atol=1e-12)
    if n_source > 1:
        assert (
            len(TargetKmeansCos(n_source - 1).fit(train, is_target).centers_) == n_source - 1
        )  # one too many


def test_length_of_embeddings_does_not_count():
    rng = np.random.default_rng(1)
    train, test, is_target = blobs(dim=16), rng.standard_normal((30, 16)), np.arange(192) % 20 == 0
    expected = TargetKmeansCos().fit(unit(train), is_target).score(unit(test))
    lengths = 10 ** rng.uniform(-5, 5, (len(train), 1))
    found = TargetKmeansCos().fit(train * lengths, is_target).score(test * lengths[:30])
    np.testing.assert_allclose(found, expected, atol=1e-9)
    single = (
        TargetKmeansCos()
        .fit(unit(train).astype(np.float32), is_target)
        .score(test.astype(np.float32))
    )
    np.testing.assert_allclose(single, expected, atol=1e-5)


def test_rotation_of_all_embeddings_changes_nothing():
    rng = np.random.default_rng(2)
    train, test, is_target = blobs(), rng.standard_normal((30, 20)), np.arange(192) % 20 == 0
    rotation = np.linalg.qr(rng.standard_normal((20, 20)))[0]
    rotated = TargetKmeansCos().fit(train @ rotation, is_target).score(test @ rotation)
    np.testing.assert_allclose(
        rotated, TargetKmeansCos().fit(train, is_target).score(test), atol=1e-9
    )


def test_each_test_clip_is_scored_by_itself():
    rng = np.random.default_rng(3)
    train, test = rng.standard_normal((100, 8)), rng.standard_normal((50, 8))
    scorer, order = TargetKmeansCos().fit(train, np.arange(100) >= 90), rng.permutation(50)
    scores = scorer.score(test)
    assert scores.shape == (50,)
    np.testing.assert_allclose(scorer.score(test[order]), scores[order], atol=1e-12)
    np.testing.assert_allclose([scorer.score(row[None])[0] for row in test], scores, atol=1e-12)


@pytest.mark.parametrize(
    "kind", [np.asarray, list, lambda x: x.astype(int), lambda x: x.astype(float)]
)
def test_flags_of_any_kind_and_the_same_result_twice(kind):
    rng = np.random.default_rng(4)
    train, is_target = rng.standard_normal((80, 8)), np.arange(80) % 7 == 0
    before = train.copy()
    expected = TargetKmeansCos().fit(train, is_target)
    np.random.seed(5)  # noqa: NPY002  global state must not matter
    found = TargetKmeansCos().fit(train, kind(is_target))
    assert np.array_equal(found.centers_, expected.centers_)
    assert np.array_equal(found.targets_, expected.targets_)
    assert np.array_equal(train, before)


def test_settings_of_k_means(monkeypatch):
    made = []

    class Spy(scoring.KMeans):
        def fit(self, *args):
            made.append(self.get_params())
            return super().fit(*args)

    monkeypatch.setattr(scoring, "KMeans", Spy)
    TargetKmeansCos().fit(blobs(), np.zeros(192))
    assert [(p["n_clusters"], p["n_init"], p["random_state"]) for p in made] == [(16, 10, 0)]


def test_scikit_learn_contract():
    scorer = TargetKmeansCos()
    assert scorer.get_params() == {"n_clusters": 16}
    assert scorer.column == "AS-TargetKmeansCos-16-plain"
    assert scorer.fit(np.eye(3), [0, 0, 1]) is scorer
    with pytest.raises(NotFittedError):
        clone(scorer).score(np.eye(3))
    with pytest.raises(ValueError, match="no training clips"):
        TargetKmeansCos().fit(np.empty((0, 8)), [])
