"""Pseudo-labels of one machine without attributes (arXiv 2409.09332): clusters of embeddings.

UMAP maps the training clips of both domains together to two dimensions. Then each domain gets a
Gaussian mixture with full covariances, with the number of components chosen by BIC.
"""

import warnings

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score
from sklearn.mixture import GaussianMixture
from sklearn.model_selection import KFold

from unlabeledasd.errors import InputError, check_range
from unlabeledasd.scoring import one_thread

CRITERIA = ("cv_bic", "bic")
DOMAINS = ("source", "target")
UMAP_LEAST = 4  # points
LEAST = {"max_source": 1, "max_target": 1, "n_folds": 2, "n_neighbors": 2}


class PseudoLabeler(BaseEstimator):
    """Clusters of one machine's training clips, by scikit-learn's contract.

    criterion: "cv_bic" is the BIC of held-out clips, averaged over shuffled folds (the authors'
    code does not shuffle, so that it depends on the order of files); "bic" is the BIC of all
    clips. A domain with fewer than `n_folds` clips is one cluster. A mixture never has more
    components than distinct points to fit. The order of the clips does not matter: they are
    sorted by their embedding first.

    labels_ (N,): cluster within the clip's domain, 0 the largest; map_ (N, 2); criterion_: domain
    -> (K,), the criterion of 1..K components; n_clusters_: domain -> number of clusters that have
    clips.
    """

    def __init__(
        self,
        criterion: str = "cv_bic",
        max_source: int = 16,
        max_target: int = 2,
        n_folds: int = 5,
        n_neighbors: int = 15,
        min_dist: float = 0.1,
        random_state: int = 0,
    ):
        self.criterion = criterion
        self.max_source = max_source
        self.max_target = max_target
        self.n_folds = n_folds
        self.n_neighbors = n_neighbors
        self.min_dist = min_dist
        self.random_state = random_state

    def fit(
        self, embedding: np.ndarray, is_target: np.ndarray, others: np.ndarray | None = None
    ) -> "PseudoLabeler":
        """Cluster embedding (N, D) of clips with is_target (N,) bool or 0/1.

        others (M, D): clips that shape the map but get no label, the test clips in the authors'
        code.
        """
        if self.criterion not in CRITERIA:
            raise InputError(f"criterion={self.criterion!r}: allowed are {', '.join(CRITERIA)}")
        for name, least in LEAST.items():
            check_range(name, getattr(self, name), least)
        if len(embedding) == 0:
            raise ValueError("PseudoLabeler.fit: no training clips")
        embedding = np.asarray(embedding, dtype=np.float32)
        is_target = np.asarray(is_target).astype(bool)
        every = embedding
        if others is not None:
            every = np.concatenate([embedding, np.asarray(others, dtype=np.float32)])
        if not np.isfinite(every).all():
            raise InputError("embeddings with values that are not finite cannot be clustered")
        # equal embeddings have one place in the map; `place` sorts the clips as well
        distinct, place = np.unique(every, axis=0, return_inverse=True)
        place = place.reshape(-1)[: len(embedding)]
        self.map_ = self._reduce(distinct)[place]
        self.labels_ = np.zeros(len(embedding), dtype=int)
        self.criterion_, self.n_clusters_ = {}, {}
        for domain, most in zip(DOMAINS, (self.max_source, self.max_target), strict=True):
            rows = np.flatnonzero(is_target == (domain == "target"))
            rows = rows[np.argsort(place[rows], kind="stable")]
            with one_thread():
                self.labels_[rows], self.criterion_[domain] = self._cluster(self.map_[rows], most)
            self.n_clusters_[domain] = len(np.unique(self.labels_[rows]))
        return self

    def _reduce(self, points: np.ndarray) -> np.ndarray:
        """Distinct points (N, D) -> (N, 2); all in one place where there are too few for UMAP."""
        if len(points) < UMAP_LEAST:
            return np.zeros((len(points), 2))
        with warnings.catch_warnings():
            # about an optional dependency, and about the initialisation of few points
            warnings.simplefilter("ignore")
            from umap import UMAP  # takes seconds

            umap = UMAP(
                n_components=2,
                n_neighbors=min(self.n_neighbors, len(points) - 1),
                min_dist=self.min_dist,
                metric="euclidean",
                random_state=self.random_state,
                n_jobs=1,
            )
            return umap.fit_transform(points).astype(np.float64)

    def _cluster(self, points: np.ndarray, most: int) -> tuple[np.ndarray, np.ndarray]:
        """Points (N, 2) -> cluster of each (N,), the criterion (K,) of 1..K components.

        The criterion is empty where there was no choice.
        """
        if len(points) < self.n_folds:
            return np.zeros(len(points), dtype=int), np.empty(0)
        if self.criterion == "bic":
            folds = [(points, points)]
        else:
            split = KFold(self.n_folds, shuffle=True, random_state=self.random_state).split(points)
            folds = [(points[train], points[held_out]) for train, held_out in split]
        most = min(most, *(len(np.unique(train, axis=0)) for train, _ in folds))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            curve = np.empty(most)
            for n in range(1, most + 1):
                bic = [self._mixture(n).fit(train).bic(held_out) for train, held_out in folds]
                curve[n - 1] = np.mean(bic)
            component = self._mixture(1 + int(curve.argmin())).fit(points).predict(points)
        _, component, sizes = np.unique(component, return_inverse=True, return_counts=True)
        rank = np.argsort(np.argsort(-sizes, kind="stable"))
        return rank[component], curve

    def _mixture(self, n_components: int) -> GaussianMixture:
        return GaussianMixture(n_components, covariance_type="full", random_state=self.random_state)


def agreement(clusters: np.ndarray, attributes: np.ndarray) -> tuple[float, float]:
    """Adjusted Rand index and normalised mutual information of two labelings of the same clips."""
    mutual_information = normalized_mutual_info_score(attributes, clusters)
    return adjusted_rand_score(attributes, clusters), mutual_information
