"""Fused views: the z of each view by itself, and the network whose evaluation adds spectra."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.base import clone
from sklearn.exceptions import NotFittedError

from conftest import SECONDS, compose, tiny
from settings.build import build
from unlabeledasd.decisions import held_out_scores
from unlabeledasd.encoders.spectral import LogMelStatistics, PowerSpectrum
from unlabeledasd.encoders.views import NetWithSpectra
from unlabeledasd.errors import InputError
from unlabeledasd.networks import MultiResolutionNet
from unlabeledasd.runs.fusion import standardize
from unlabeledasd.scorers.density import LdnRatio
from unlabeledasd.scorers.domains import DomainZ
from unlabeledasd.scorers.references import Knn
from unlabeledasd.scorers.standardized import Standardized
from unlabeledasd.scorers.views import FusedViews
from unlabeledasd.scoring import learned_arrays, restore, scores_and_parts


def scorer(back_size: int = 5) -> FusedViews:
    return FusedViews(LdnRatio(parts="mean"), Standardized(DomainZ()), back_size)


@settings(max_examples=15, deadline=None)
@given(st.integers(6, 30), st.integers(0, 3), st.integers(0, 99))
def test_mean_of_the_z_of_both_views(n, n_target, seed):
    rng = np.random.default_rng(seed)
    train, test = rng.standard_normal((n, 261)), rng.standard_normal((7, 261))
    is_target = np.arange(n) < n_target
    fitted = scorer().fit(train, is_target)
    expected = []
    for part, columns in (
        (LdnRatio(parts="mean"), slice(256)),
        (Standardized(DomainZ()), slice(256, 261)),
    ):
        own = clone(part).fit(train[:, columns], is_target).score(test[:, columns])
        expected.append(standardize(own, held_out_scores(part, train[:, columns], is_target)))
    np.testing.assert_allclose(fitted.score(test), np.mean(expected, axis=0), rtol=1e-9)
    scores, views = scores_and_parts(fitted, test)
    np.testing.assert_array_equal(scores, fitted.score(test))
    assert list(views) == ["front", "back"]
    np.testing.assert_allclose(list(views.values()), expected, rtol=1e-9)
    # a clip's score does not depend on the others
    np.testing.assert_allclose(fitted.score(test[2:3]), fitted.score(test)[2:3], rtol=1e-9)
    again = restore(scorer(), {f"m/{k}": v for k, v in learned_arrays(fitted).items()}, "m/")
    np.testing.assert_array_equal(again.score(test), fitted.score(test))


@pytest.mark.parametrize(("n", "target"), [(1, 0), (1, 1), (2, 1), (3, 3), (5, 0)])
def test_odd_sets(n, target):
    train = np.repeat(np.random.default_rng(0).standard_normal((1, 261)), n, axis=0)
    is_target = np.arange(n) < target
    assert np.isfinite(scorer().fit(train, is_target).score(train + 1)).all()


def test_what_it_refuses():
    with pytest.raises(InputError, match="back_size=0: at least 1"):
        scorer(0)
    with pytest.raises(InputError, match=r"back_size=9: not for embeddings of shape \(3, 9\)"):
        FusedViews(Knn(), Knn(), 9).fit(np.ones((3, 9)), np.zeros(3))
    with pytest.raises(NotFittedError):
        scorer().score(np.ones((1, 261)))
    with pytest.raises(ValueError, match="no training clips"):
        scorer().fit(np.ones((0, 261)), np.zeros(0))
    assert scorer().column == "AS-FusedViews-LdnRatio-1-mean+DomainZ-standardized"


def test_views_of_views():
    """Half of the score is the front's; the other half is z of the mean of two z."""
    rng = np.random.default_rng(0)
    train, test, is_target = rng.standard_normal((20, 9)), rng.standard_normal((7, 9)), np.zeros(20)
    inner = FusedViews(Knn(), Standardized(Knn()), 2)
    fitted = FusedViews(Knn(), inner, 5).fit(train, is_target)
    own = [
        standardize(clone(s).fit(x, is_target).score(y), held_out_scores(s, x, is_target > 0))
        for s, x, y in ((Knn(), train[:, :4], test[:, :4]), (inner, train[:, 4:], test[:, 4:]))
    ]
    np.testing.assert_allclose(fitted.score(test), np.mean(own, axis=0), rtol=1e-9)
    arrays = {f"m/{name}": value for name, value in learned_arrays(fitted).items()}
    again = restore(FusedViews(Knn(), inner, 5), arrays, "m/")
    np.testing.assert_array_equal(again.score(test), fitted.score(test))


@pytest.mark.parametrize("lines", [False, True])
def test_spectra_follow_the_embedding_in_evaluation(lines):
    torch.manual_seed(0)
    net = NetWithSpectra([256], clip_seconds=SECONDS, lines=lines)
    plain = MultiResolutionNet([256], clip_seconds=SECONDS)
    plain.load_state_dict(net.state_dict(), strict=True)
    wave = torch.randn(3, net.n_samples)
    spectra = [LogMelStatistics(level_removed=False, clip_seconds=SECONDS)(wave)[0].flatten(1)]
    spectra += [PowerSpectrum(clip_seconds=SECONDS)(wave)[0].flatten(1)] * lines
    assert net.spectra_size == sum(view.shape[1] for view in spectra)
    with torch.no_grad():
        embedding, branches = net.eval()(wave)
        expected, parts = plain.eval()(wave)
        assert torch.equal(embedding, torch.cat([expected, *spectra], dim=1))
        assert all(map(torch.equal, branches, parts))
        trained, _ = net.train()(wave)
    assert trained.shape == (3, net.embedding_size)


def test_lines_of_recordings_of_a_low_rate():
    net = NetWithSpectra([256], clip_seconds=SECONDS * 4, sample_rate=4000, lines=True).eval()
    with torch.no_grad():
        assert torch.isfinite(net(torch.randn(2, net.n_samples))[0]).all()


def test_the_recommended_method_takes_them_apart(tmp_path):
    config = compose("train", tiny(tmp_path, tmp_path, method="best_0256_1024_4096"))
    net = build(config.model.extractor)
    found = build(config.scorer["views"])
    assert found.back_size == net.spectra_size
    assert found.back.back_size == net.spectra[-1].embedding_size
    assert config.model.loss.trainable
