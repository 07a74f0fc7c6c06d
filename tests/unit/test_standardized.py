"""Standardized against Euclidean distances and its invariances."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.base import clone
from sklearn.exceptions import NotFittedError

from conftest import compose
from settings.build import build
from unlabeledasd.scorers.density import VarMin
from unlabeledasd.scorers.domains import DomainZ
from unlabeledasd.scorers.references import Knn
from unlabeledasd.scorers.standardized import ANCHOR, Standardized
from unlabeledasd.scoring import TargetKmeansCos


def clips(seed: int, n: int, shape: tuple[int, ...] = (6,)) -> np.ndarray:
    rng = np.random.default_rng(seed)
    scales = np.geomspace(0.01, 100, shape[-1])  # dimensions of different units
    return 7 + scales * rng.standard_normal((n, *shape))


@settings(max_examples=30, deadline=None)
@given(st.integers(8, 30), st.integers(0, 1000))
def test_nearest_by_standardized_euclidean_distance(n, seed):
    train, test = clips(seed, n), clips(seed + 1, 5)
    spread = train.std(0)
    scale = np.maximum(spread, 0.1 * spread.mean())
    pairs = (test[:, None] - train[None]) / scale
    nearest = (pairs**2).sum(-1).min(1)
    found = Standardized(Knn()).fit(train, np.zeros(n, bool)).score(test)
    # (1 - cos) / 2 = |x - y|^2 / (4 ANCHOR^2), as far as both are short against the anchor
    np.testing.assert_allclose(found * 4 * ANCHOR**2, nearest, rtol=0.05, atol=1e-6)


@pytest.mark.parametrize(
    "scorer", [Knn(), VarMin(parts="mean"), DomainZ(), TargetKmeansCos(n_clusters=4)]
)
@pytest.mark.parametrize("shape", [(6,), (3, 4)])
def test_units_do_not_count(scorer, shape):
    if len(shape) == 1 and getattr(scorer, "parts", "whole") != "whole":
        pytest.skip("no parts")
    rng = np.random.default_rng(0)
    train, test = rng.standard_normal((40, *shape)), rng.standard_normal((9, *shape))
    is_target = np.arange(40) >= 30
    units, shifts = np.geomspace(1, 5, shape[-1]), rng.standard_normal(shape)
    found = Standardized(scorer).fit(train, is_target).score(test)
    other = Standardized(scorer).fit(units * train + shifts, is_target).score(units * test + shifts)
    np.testing.assert_allclose(other, found, rtol=1e-5, atol=1e-10)
    assert (np.argsort(found) != np.arange(9)).any()


def test_learned_arrays_are_all_it_needs():
    train, test = clips(0, 20, (2, 5)), clips(1, 4, (2, 5))
    fitted = Standardized(VarMin(parts="mean")).fit(train, np.arange(20) > 15)
    learned = {name: value for name, value in vars(fitted).items() if name.endswith("_")}
    assert all(isinstance(value, np.ndarray) for value in learned.values())
    other = clone(fitted)
    with pytest.raises(NotFittedError):
        other.score(test)
    vars(other).update(learned)
    np.testing.assert_array_equal(other.score(test), fitted.score(test))
    np.testing.assert_allclose(other.score(test[:1]), fitted.score(test)[:1], rtol=1e-9)


def test_odd_sets():
    for n in (1, 2):
        same = np.ones((n, 5))
        fitted = Standardized(DomainZ()).fit(same, np.zeros(n, bool))
        scores = fitted.score(np.stack([same[0], same[0] + 1]))
        assert np.isfinite(scores).all()
        assert scores[1] > scores[0]
    with pytest.raises(ValueError, match="no training clips"):
        Standardized(Knn()).fit(np.empty((0, 5)), np.empty(0))


def test_every_yaml():
    for name in ("knn", "ldn_ratio", "varmin", "domain_z"):
        both = compose("infer", ["run=x", "name=y", f"scorer=[{name},standardized_{name}]"]).scorer
        scorer = build(both[f"standardized_{name}"])
        assert isinstance(scorer, Standardized)
        assert scorer.scorer.get_params() == build(both[name]).get_params()
        assert scorer.column == f"{build(both[name]).column}-standardized"
