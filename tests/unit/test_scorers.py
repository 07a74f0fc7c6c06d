"""The scorers beyond the paper's against double loops over single distances, and closed forms."""

from functools import cache
from statistics import fmean, median, pstdev

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.base import clone
from sklearn.covariance import LedoitWolf
from sklearn.exceptions import NotFittedError
from sklearn.metrics import roc_auc_score

from conftest import ROOT, compose
from settings.build import build
from unlabeledasd.decisions import held_out_scores
from unlabeledasd.errors import InputError
from unlabeledasd.networks import BRANCH_SIZE
from unlabeledasd.scorers import references
from unlabeledasd.scorers.density import LdnDifference, VarMin
from unlabeledasd.scorers.domains import (
    DomainEcdf,
    DomainLdn,
    DomainRatio,
    DomainZ,
    MemMixup,
)
from unlabeledasd.scorers.gaussian import Mahalanobis
from unlabeledasd.scorers.references import Knn, ReferenceScorer
from unlabeledasd.scorers.smote import Smote, interpolate
from unlabeledasd.scoring import TargetKmeansCos, scores_and_parts

# test_standardized and test_views have the others
FILES = sorted(file.stem for file in (ROOT / "src/config/scorer").glob("*.yaml"))
NAMES = [name for name in FILES if not name.startswith(("standardized_", "beam", "views"))]
BEYOND = [name for name in NAMES if name != "target_kmeans_cos"]
EPS = 1e-12


def make(name: str, **changes) -> ReferenceScorer:
    """The scorer of src/config/scorer/<name>.yaml, with other settings."""
    return clone(from_yaml(name)).set_params(**changes)


@cache
def from_yaml(name: str) -> ReferenceScorer:
    return build(compose("infer", ["run=x", "name=y", f"scorer={name}"]).scorer[name])


def distance(x, y) -> float:
    """(1 - cos) / 2, from sums over the dimensions."""
    dot = sum(a * b for a, b in zip(x, y, strict=True))
    lengths = sum(a * a for a in x) * sum(b * b for b in y)
    return max(1 - dot / lengths**0.5, 0) / 2


class Truth:
    """What the table of scorers says, by loops over single distances.

    Clips are numbers: 0 ... N - 1 the training clips, the test clips after them.
    """

    def __init__(self, clips: np.ndarray, target: np.ndarray, test: np.ndarray):
        every = [*clips.tolist(), *test.tolist()]
        self.d = [[distance(x, y) for y in every] for x in every]
        self.densities: dict[tuple[int, int, int], float] = {}
        self.all = list(range(len(clips)))
        self.domains = [[i for i in self.all if target[i] == flag] for flag in (0, 1)]

    def others(self, i: int, clips: list[int]) -> list[float]:
        """Sorted distances of clip i to the other ones of `clips`."""
        return sorted(self.d[i][j] for j in clips if j != i)

    def density(self, i: int, clips: list[int], k: int) -> float:
        if (i, len(clips), k) not in self.densities:
            self.densities[i, len(clips), k] = fmean(self.others(i, clips)[:k] or [0.0])
        return self.densities[i, len(clips), k]

    def within(self, domain: list[int]) -> list[float]:
        """u: of a domain's clips to their nearest others; of all clips for a single one."""
        clips = self.all if len(domain) == 1 else domain
        return [self.others(i, clips)[0] for i in clips if len(clips) > 1]

    def knn(self, x: int, k: int) -> float:
        return fmean(sorted(self.d[x][i] for i in self.all)[:k])

    def ldn_ratio(self, x: int, k: int) -> float:
        return min(self.d[x][i] / (self.density(i, self.all, k) + EPS) for i in self.all)

    def ldn_difference(self, x: int, k: int, alpha: float = 1.0) -> float:
        return min(self.d[x][i] - alpha * self.density(i, self.all, k) for i in self.all)

    def varmin(self, x: int, k: int) -> float:
        u, v = [], []
        for z in self.all if len(self.all) > 1 else []:
            nearest = min((i for i in self.all if i != z), key=lambda i: self.d[z][i])
            u.append(self.d[z][nearest])
            v.append(self.density(nearest, self.all, k))
        alpha = 0.0
        if v and pstdev(v) > 1e-12:
            covariance = fmean((p - fmean(u)) * (q - fmean(v)) for p, q in zip(u, v, strict=True))
            alpha = covariance / pstdev(v) ** 2
        return self.ldn_difference(x, k, alpha)

    def domain_ldn(self, x: int) -> float:
        n_source = len(self.domains[0])
        ratios = []
        for domain, k in zip(self.domains, (min(16, max(1, n_source // 20)), 9), strict=True):
            for i in domain:
                b = self.density(i, domain, k)
                if len(domain) == 1:  # its nearest clip of the other domain
                    b = self.density(i, self.all, 1)
                ratios.append(self.d[x][i] / (b + EPS))
        return min(ratios)

    def domain_z(self, x: int) -> float:
        u = [self.within(domain) for domain in self.domains]
        deviations = [pstdev(of) if of else 0.0 for of in u]
        return min(
            (min(self.d[x][i] for i in domain) - fmean(u[own] or [0.0])) / floored(deviations)[own]
            for own, domain in enumerate(self.domains)
            if domain
        )

    def domain_ratio(self, x: int) -> float:
        medians = [median(of) if of else 0.0 for of in map(self.within, self.domains)]
        return min(
            min(self.d[x][i] for i in domain) / floored(medians)[own]
            for own, domain in enumerate(self.domains)
            if domain
        )

    def domain_ecdf(self, x: int) -> float:
        scores = []
        for domain in filter(None, self.domains):
            nearest, u = min(self.d[x][i] for i in domain), self.within(domain)
            scores.append(sum(value <= nearest for value in u) / max(len(u), 1) + 1e-6 * nearest)
        return min(scores)


def floored(scales: list[float]) -> list[float]:
    return [max(scale, 0.1 * max(scales), EPS) for scale in scales]


def assert_close(found, expected) -> None:
    """A b or a scale of 0 turns the rounding of a distance, 1e-16, into 1e-4."""
    huge = np.max(np.abs(expected)) > 1e6
    rtol, atol = (1e-3, 1e-2) if huge else (1e-5, 1e-8)
    np.testing.assert_allclose(found, expected, rtol=rtol, atol=atol)


@st.composite
def machines(draw, n_max: int = 40):
    """(training clips (N, 3), is_target (N,), 5 test clips): some clips twice, or one domain."""
    n = draw(st.integers(1, n_max))
    n_target = draw(st.sampled_from([0, n, min(1, n), min(3, n), n // 2]))
    rng = np.random.default_rng(draw(st.integers(0, 10_000)))
    clips = rng.standard_normal((n, 3))
    if draw(st.booleans()):
        clips = clips[rng.integers(n, size=n)]
    target = rng.permutation(np.arange(n) < n_target)
    return clips, target, rng.standard_normal((5, 3))


BY_LOOPS = [name for name in BEYOND if hasattr(Truth, name)]


@pytest.mark.parametrize("name", BY_LOOPS)
@settings(max_examples=30, deadline=None)
@given(machine=machines(), k=st.sampled_from([1, 2, 4, 60]))
def test_loops_over_single_distances(name, machine, k):
    clips, target, test = machine
    scorer, truth, given_k = make(name), Truth(*machine), {}
    if "k" in scorer.get_params():
        given_k = {"k": k}
    found = scorer.set_params(**given_k).fit(clips, target).score(test)
    assert_close(found, [getattr(truth, name)(len(clips) + i, **given_k) for i in range(5)])


@settings(max_examples=20, deadline=None)
@given(machine=machines(n_max=10))
def test_memmixup_by_loops(machine):
    """DomainZ with the mixtures as clips; u of a target clip is to what others were made into."""
    clips, target, test = machine
    truth = Truth(*machine)
    unit = [clip / np.linalg.norm(clip) for clip in clips]
    families = {
        t: [unit[t], *(0.9 * unit[t] + 0.1 * unit[s] for s in truth.domains[0])]
        for t in truth.domains[1]
    }
    u = [truth.within(domain) for domain in truth.domains]
    if len(families) > 1:
        u[1] = [
            min(distance(unit[t], y) for other in families if other != t for y in families[other])
            for t in families
        ]
    scales = floored([pstdev(of) if of else 0.0 for of in u])
    made = [[unit[s] for s in truth.domains[0]], [y for of in families.values() for y in of]]
    expected = [
        min(
            (min(distance(x, y) for y in own) - fmean(u[d] or [0.0])) / scales[d]
            for d, own in enumerate(made)
            if own
        )
        for x in test
    ]
    assert_close(make("memmixup").fit(clips, target).score(test), expected)


@settings(max_examples=30, deadline=None)
@given(machine=machines(), seed=st.integers(0, 3))
def test_smote_adds_points_between_near_target_clips(machine, seed):
    clips, target, test = machine
    scorer = make("smote").set_params(random_state=seed).fit(clips, target)
    kept = scorer.references_[0]
    np.testing.assert_array_equal(kept[: len(clips)], clips)
    n_new = int(0.2 * (~target).sum()) - target.sum() if target.sum() > 1 else 0
    assert len(kept) == len(clips) + max(n_new, 0)
    own = clips[target] / np.linalg.norm(clips[target], axis=1, keepdims=True)
    lengths = np.linalg.norm(own[:, None] - own, axis=-1)
    np.fill_diagonal(lengths, np.inf)
    near = lengths <= np.sort(lengths, axis=1)[:, 1:2] + 1e-9 if len(own) > 2 else lengths < 9
    for point in kept[len(clips) :]:  # on a segment from a target clip to one of its nearest two
        to_ends = np.linalg.norm(own - point, axis=1)
        assert (to_ends[:, None] + to_ends - lengths)[near].min() < 1e-9
    found = scorer.score(test)
    np.testing.assert_allclose(found, Knn(1).fit(kept, np.zeros(len(kept))).score(test))
    assert (found <= Knn(1).fit(clips, target).score(test) + 1e-12).all()


def test_interpolation_is_uniform():
    """Between two clips only: the share is U(0, 1), of mean 1/2 and variance 1/12."""
    clips = np.array([[1.0, 0.0], [0.0, 1.0]])
    made = interpolate(clips, 2, 20_000, np.random.default_rng(0))
    np.testing.assert_allclose(made.sum(axis=1), 1)
    assert made[:, 0].mean() == pytest.approx(0.5, abs=0.01)
    assert made[:, 0].var() == pytest.approx(1 / 12, abs=0.002)


@pytest.mark.parametrize("n_target", [0, 10, 40])
def test_mahalanobis_distance(n_target):
    rng = np.random.default_rng(0)
    clips, test = rng.standard_normal((200 + n_target, 5)), rng.standard_normal((20, 5))
    target = np.arange(len(clips)) >= 200
    unit = clips / np.linalg.norm(clips, axis=1, keepdims=True)
    covariance = LedoitWolf().fit(unit[~target]).covariance_
    expected = []
    for domain in (~target, target):
        if domain.any():
            if domain is target and n_target >= 32:
                covariance = LedoitWolf().fit(unit[target]).covariance_
            inverse, mean = np.linalg.inv(covariance), unit[domain].mean(axis=0)
            away = test / np.linalg.norm(test, axis=1, keepdims=True) - mean
            expected.append(np.sqrt(np.einsum("ni,ij,nj->n", away, inverse, away)))
    found = Mahalanobis().fit(clips, target).score(test)
    np.testing.assert_allclose(found, np.min(expected, axis=0), rtol=1e-4)


def around(axis: int, radius: float, n: int, rng: np.random.Generator) -> np.ndarray:
    """Unit vectors (n, 30) at an angle of about `radius` from an axis, in all directions."""
    sideways = rng.standard_normal((n, 30))
    sideways[:, axis] = 0
    sideways *= radius / np.linalg.norm(sideways, axis=1, keepdims=True)
    sideways[:, axis] = 1
    return sideways


@pytest.mark.parametrize("name", ["ldn_ratio", "ldn_difference", "varmin"])
def test_clusters_of_different_density(name):
    """Anomalies of a dense cluster lie nearer to it than normal clips of a loose one to theirs."""
    rng = np.random.default_rng(0)
    training = np.concatenate([around(0, 0.02, 100, rng), around(1, 0.5, 100, rng)])
    normal = np.concatenate([around(0, 0.02, 50, rng), around(1, 0.5, 50, rng)])
    anomalies = around(0, 0.25, 50, rng)
    test, wrong = np.concatenate([normal, anomalies]), np.arange(150) >= 100
    nobody = np.zeros(200, bool)
    assert roc_auc_score(wrong, make(name).fit(training, nobody).score(test)) == 1
    assert roc_auc_score(wrong, Knn().fit(training, nobody).score(test)) < 0.6


def test_alpha_is_one_where_densities_are_distances():
    """Pairs at different angles: each clip's nearest other is its partner, so that u = v = b."""
    angles = np.deg2rad([0, 1, 60, 64, 120, 130, 200, 220])
    circle = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    scorer = VarMin(k=1).fit(circle, np.zeros(8))
    assert scorer.alpha_[0] == pytest.approx(1)
    test = np.random.default_rng(0).standard_normal((20, 2))
    difference = LdnDifference(k=1).fit(circle, np.zeros(8)).score(test)
    np.testing.assert_allclose(scorer.score(test), difference, atol=1e-12)


def test_alpha_is_zero_where_densities_are_equal():
    scorer = VarMin().fit(np.eye(9), np.zeros(9))  # all at the same distance from each other
    assert scorer.alpha_[0] == 0
    test = np.random.default_rng(0).standard_normal((20, 9))
    np.testing.assert_array_equal(scorer.score(test), Knn().fit(np.eye(9), np.zeros(9)).score(test))


def test_alpha_gives_the_least_variance():
    rng = np.random.default_rng(1)
    clips = np.concatenate([around(0, 0.1, 30, rng), around(1, 0.7, 30, rng)])
    scorer = VarMin().fit(clips, np.zeros(60))
    b, alpha = scorer.densities_[0], scorer.alpha_[0]
    d = (1 - clips @ clips.T / np.outer(*[np.linalg.norm(clips, axis=1)] * 2)) / 2
    np.fill_diagonal(d, np.inf)
    nearest = d.argmin(axis=1)

    def variance(factor: float) -> float:
        return np.var(d.min(axis=1) - factor * b[nearest])

    assert 0.2 < alpha < 2
    assert variance(alpha) < min(variance(alpha - 0.01), variance(alpha + 0.01), variance(0))


def test_few_target_clips_count_as_much_as_many_source_clips():
    """A new target clip is as far from the ten as these are from each other, and that is normal."""
    rng = np.random.default_rng(0)
    source, target = around(0, 0.1, 200, rng), around(1, 0.4, 10, rng)
    training, flags = np.concatenate([source, target]), np.arange(210) >= 200
    test = np.concatenate(
        [around(0, 0.1, 50, rng), around(1, 0.4, 50, rng), around(0, 0.3, 50, rng)]
    )
    wrong = np.arange(150) >= 100
    assert roc_auc_score(wrong, Knn().fit(training, flags).score(test)) < 0.6
    for name in ("domain_z", "domain_ratio", "domain_ecdf", "domain_ldn", "memmixup"):
        assert roc_auc_score(wrong, make(name).fit(training, flags).score(test)) > 0.9, name


@pytest.mark.parametrize("name", BEYOND)
@settings(max_examples=8, deadline=None)
@given(machine=machines(n_max=6), parts=st.sampled_from(["whole", "mean", "max", 0, -1]))
def test_odd_sets_have_finite_scores(name, machine, parts):
    clips, target, test = machine
    for training in (clips, np.repeat(clips[:1], len(clips), axis=0), 0 * clips):
        bands = np.stack([training, training[:, ::-1]], axis=1)
        scorer = clone(make(name).set_params(parts=parts)).fit(bands, target)
        scores = scorer.score(np.stack([test, test], axis=1))
        assert scores.shape == (5,)
        assert np.isfinite(scores).all()
        assert scorer.score(np.empty((0, 2, 3))).shape == (0,)


@pytest.mark.parametrize("name", NAMES)
def test_each_test_clip_is_scored_by_itself(name):
    rng = np.random.default_rng(3)
    train, test = rng.standard_normal((60, 8)), rng.standard_normal((30, 8))
    scorer, order = make(name).fit(train, np.arange(60) >= 50), rng.permutation(30)
    scores = scorer.score(test)
    np.testing.assert_allclose(scorer.score(test[order]), scores[order], rtol=1e-9, atol=1e-12)
    alone = [scorer.score(row[None])[0] for row in test]
    np.testing.assert_allclose(alone, scores, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_length_and_rotation_do_not_count(name):
    rng = np.random.default_rng(1)
    train, test, target = (
        rng.standard_normal((50, 6)),
        rng.standard_normal((20, 6)),
        np.arange(50) > 42,
    )
    expected = make(name).fit(train, target).score(test)
    rotation = np.linalg.qr(rng.standard_normal((6, 6)))[0]
    lengths = 10 ** rng.uniform(-3, 3, (50, 1))
    found = make(name).fit(lengths * train @ rotation, target).score(test @ rotation)
    if name == "mahalanobis":  # its factors are kept in float32
        np.testing.assert_allclose(found, expected, rtol=1e-4)
    else:
        np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("name", BEYOND)
@pytest.mark.parametrize("shape", ["branches", "bands"])
def test_parts_are_scored_by_their_own_references(name, shape):
    rng = np.random.default_rng(0)
    parts = rng.standard_normal((3, 30, BRANCH_SIZE)).astype(np.float32)
    parts[1] *= 100  # would hide the others in the whole embedding
    target = np.arange(20) >= 16
    joined = np.concatenate(parts, axis=1) if shape == "branches" else np.stack(parts, axis=1)
    single = np.array([make(name).fit(p[:20], target).score(p[20:]) for p in parts])

    def score(how: str | int) -> np.ndarray:
        return make(name).set_params(parts=how).fit(joined[:20], target).score(joined[20:])

    np.testing.assert_allclose(score("mean"), single.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(score("max"), single.max(axis=0), rtol=1e-12)
    for i in (0, 2, -1):
        np.testing.assert_array_equal(score(i), single[i])
    for how in ("mean", "max", "whole", 1):
        fitted = make(name).set_params(parts=how).fit(joined[:20], target)
        scores, found = scores_and_parts(fitted, joined[20:])
        np.testing.assert_array_equal(scores, fitted.score(joined[20:]))
        assert list(found) == (["0", "1", "2"] if how in ("mean", "max") else [])
        np.testing.assert_array_equal(list(found.values()), single if found else [])
    flat = np.concatenate(parts, axis=1)
    whole = make(name).fit(flat[:20], target).score(flat[20:])
    np.testing.assert_allclose(score("whole"), whole, rtol=1e-6)


def test_size_of_parts_is_that_of_branches():
    assert references.PART_SIZE == BRANCH_SIZE


@pytest.mark.parametrize("name", NAMES)
def test_held_out_scores_are_of_refits(name):
    """Densities, alpha and statistics of the domains are those of the fold's clips alone."""
    from sklearn.model_selection import KFold

    rng = np.random.default_rng(0)
    clips, target = rng.standard_normal((40, 4)) + 1, np.arange(40) % 8 == 0
    found = held_out_scores(make(name), clips, target)
    source = np.flatnonzero(~target)
    folds = KFold(5, shuffle=True, random_state=0).split(source)
    for kept, left_out in folds:
        rows = np.concatenate([source[kept], np.flatnonzero(target)])
        scores = make(name).fit(clips[rows], target[rows]).score(clips[source[left_out]])
        np.testing.assert_allclose(found[left_out], scores)
    if name == "varmin":
        alphas = [make(name).fit(clips[r], target[r]).alpha_[0] for r in (rows, np.arange(40))]
        assert alphas[0] != alphas[1]


@pytest.mark.parametrize("name", NAMES)
def test_learned_arrays_are_all_that_scoring_needs(name):
    rng = np.random.default_rng(0)
    train, test = (rng.standard_normal((n, 2, 8)).astype(np.float32) for n in (30, 9))
    fitted = make(name).fit(train, np.arange(30) >= 25)
    learned = {key: value for key, value in vars(fitted).items() if key.endswith("_")}
    assert all(isinstance(value, np.ndarray) for value in learned.values())
    assert not any(value.dtype.hasobject for value in learned.values())
    fresh = clone(fitted)
    with pytest.raises(NotFittedError, match="before fit"):
        fresh.score(test)
    vars(fresh).update(learned)
    np.testing.assert_array_equal(fresh.score(test), fitted.score(test))


def test_distances_are_made_in_chunks(monkeypatch):
    rng = np.random.default_rng(0)
    train, test, target = (
        rng.standard_normal((70, 5)),
        rng.standard_normal((33, 5)),
        np.arange(70) > 60,
    )
    expected = {name: make(name).fit(train, target).score(test) for name in BEYOND}
    sizes = []
    whole = references.cosine_distances

    def spy(x, y):
        sizes.append(len(x) * len(y))
        return whole(x, y)

    monkeypatch.setattr(references, "CHUNK_BYTES", 8 * 200)
    monkeypatch.setattr(references, "cosine_distances", spy)
    for name in BEYOND:
        found = make(name).fit(train, target).score(test)
        np.testing.assert_allclose(found, expected[name], rtol=1e-6, atol=1e-12)
    assert max(sizes) <= 200


def test_columns():
    """Each yaml has a column of its own, named by class, settings and parts."""
    columns = [make(name).column for name in NAMES]
    assert len(set(columns)) == len(NAMES)
    assert make("knn").column == "AS-Knn-1"
    assert make("domain_ldn", parts="mean").column == "AS-DomainLdn-16-9-mean"
    assert make("varmin", parts=2).column == "AS-VarMin-4-part2"
    assert TargetKmeansCos().column == "AS-TargetKmeansCos-16-plain"


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (lambda: Knn(0), "k=0: at least 1"),
        (lambda: Knn(parts="maen"), "parts=maen: allowed are whole, mean, max"),
        (lambda: DomainLdn(k_target=0), "k_target=0: at least 1"),
        (lambda: MemMixup(1.5), r"weight=1\.5: above 0 and at most 1"),
        (lambda: Smote(ratio=-1), "ratio=-1: at least 0"),
        (lambda: Smote(neighbors=0), "neighbors=0: at least 1"),
        (lambda: Mahalanobis(least=0), "least=0: at least 1"),
        (lambda: TargetKmeansCos(0), "n_clusters=0: allowed is at least 1"),
        (lambda: Knn(parts="mean").fit(np.eye(5), [0] * 5), "5 dimensions are not branches of 128"),
        (lambda: Knn(parts=2).fit(np.zeros((4, 2, 3)), [0] * 4), "parts=2: the embedding has 2"),
    ],
)
def test_settings_that_cannot_be(made, message):
    with pytest.raises(InputError, match=message):
        made()


@pytest.mark.parametrize("scorer", [Knn(), DomainZ(), DomainEcdf(), DomainRatio()])
def test_no_training_clips(scorer):
    with pytest.raises(ValueError, match="no training clips"):
        scorer.fit(np.empty((0, 4)), [])
