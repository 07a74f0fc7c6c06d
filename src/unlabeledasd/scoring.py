"""Anomaly scorers, by scikit-learn's contract: fitted on one machine's normal training clips; higher = more
anomalous. A scorer's learned arrays (the attributes that end in "_") are all it needs to score."""

from collections.abc import Mapping
from contextlib import AbstractContextManager
from functools import cache

import numpy as np
from sklearn.base import BaseEstimator, clone
from sklearn.cluster import KMeans
from sklearn.exceptions import NotFittedError
from sklearn.preprocessing import normalize
from threadpoolctl import ThreadpoolController

from unlabeledasd.errors import check_range


@cache  # looking for them reads the list of all libraries
def thread_pools() -> ThreadpoolController:
    return ThreadpoolController()


def one_thread() -> AbstractContextManager:
    """For scikit-learn's fits: several threads would add up partial sums in the order in which they finish."""
    return thread_pools().limit(limits=1)


class TargetKmeansCos(BaseEstimator):
    """Least cosine distance to k-means centres of the source clips and to every target clip (arXiv 2409.09332).

    The centres are means of unit vectors and stay as they come, shorter than 1, as in the published system.
    No target clips: the centres alone; fewer source clips than centres: each is its own centre.
    """

    def __init__(self, n_clusters: int = 16):
        self.n_clusters = n_clusters

    @property
    def column(self) -> str:
        """Name of the score column."""
        return f"AS-{type(self).__name__}-{self.n_clusters}-plain"

    def fit(self, embedding: np.ndarray, is_target: np.ndarray) -> "TargetKmeansCos":
        """embedding (N, D), normalised here; is_target (N,) bool or 0/1."""
        check_range("n_clusters", self.n_clusters, 1)
        if len(embedding) == 0:
            raise ValueError("TargetKmeansCos.fit: no training clips")
        is_target = np.asarray(is_target).astype(bool)
        unit = normalize(np.asarray(embedding, dtype=np.float64))
        source, self.targets_ = unit[~is_target], unit[is_target]
        if len(source) <= self.n_clusters:
            self.centers_ = source
        else:
            kmeans = KMeans(self.n_clusters, n_init=10, random_state=0)
            with one_thread():
                self.centers_ = kmeans.fit(source).cluster_centers_
        return self

    def score(self, embedding: np.ndarray) -> np.ndarray:
        """embedding (N, D), normalised here -> anomaly scores (N,), in [0, 2]."""
        if not hasattr(self, "centers_"):
            raise NotFittedError("TargetKmeansCos.score before fit")
        unit = normalize(np.asarray(embedding, dtype=np.float64))
        return (1 - unit @ np.concatenate([self.centers_, self.targets_]).T).min(axis=1)


def learned_arrays(scorer: BaseEstimator) -> dict[str, np.ndarray]:
    """What a fitted scorer learned: its attributes that end in "_", by name."""
    return {name: value for name, value in vars(scorer).items() if name.endswith("_")}


def restore(
    scorer: BaseEstimator, arrays: Mapping[str, np.ndarray], prefix: str = ""
) -> BaseEstimator:
    """A fitted copy of `scorer`: it gets the arrays of the names that begin with `prefix`."""
    fitted = clone(scorer)
    for name, value in arrays.items():
        if name.startswith(prefix):
            setattr(fitted, name.removeprefix(prefix), value)
    return fitted
