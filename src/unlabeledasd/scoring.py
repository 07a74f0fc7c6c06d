"""The paper's anomaly scorer, by scikit-learn's contract; `scorers/` has others.

A scorer is fitted on the normal training clips of one machine; higher scores are more anomalous.
Its learned arrays (the attributes that end in "_") are all it needs to score.
"""

import math
from collections.abc import Mapping
from contextlib import AbstractContextManager
from functools import cache
from typing import TypeVar

import numpy as np
from sklearn.base import BaseEstimator, clone
from sklearn.cluster import KMeans
from sklearn.exceptions import NotFittedError
from sklearn.preprocessing import normalize
from threadpoolctl import ThreadpoolController

from unlabeledasd.errors import InputError, check_range

T = TypeVar("T")


@cache  # its constructor reads the list of all libraries
def thread_pools() -> ThreadpoolController:
    """The thread pools of the libraries that are loaded."""
    return ThreadpoolController()


def one_thread() -> AbstractContextManager:
    """A context with one thread for BLAS and OpenMP, so that the order of sums does not vary."""
    return thread_pools().limit(limits=1)


def unit_rows(x: np.ndarray) -> np.ndarray:
    """x (N, ...) -> (N, D) float64, rows of unit length; a row of zeros stays as it is."""
    rows = np.asarray(x, dtype=np.float64).reshape(len(x), math.prod(np.shape(x)[1:]))
    return normalize(rows) if len(rows) else rows


class TargetKmeansCos(BaseEstimator):
    """Smallest cosine distance to k-means centres of the source clips and to all target clips.

    arXiv 2409.09332. The centres are means of unit vectors and are not normalised again, as in the
    published system. Without target clips: the centres alone; with fewer source clips than
    centres, each is its own centre.
    """

    def __init__(self, n_clusters: int = 16):
        check_range("n_clusters", n_clusters, 1)
        self.n_clusters = n_clusters

    @property
    def column(self) -> str:
        """Name of the score column."""
        return f"AS-{type(self).__name__}-{self.n_clusters}-plain"

    def fit(self, embedding: np.ndarray, is_target: np.ndarray) -> "TargetKmeansCos":
        """embedding (N, D) or (N, P, D), normalised here as a whole; is_target (N,) bool or 0/1."""
        if len(embedding) == 0:
            raise ValueError("TargetKmeansCos.fit: no training clips")
        is_target = np.asarray(is_target).astype(bool)
        unit = unit_rows(embedding)
        source, self.targets_ = unit[~is_target], unit[is_target]
        if len(source) <= self.n_clusters:
            self.centers_ = source
        else:
            kmeans = KMeans(self.n_clusters, n_init=10, random_state=0)
            with one_thread():
                self.centers_ = kmeans.fit(source).cluster_centers_
        return self

    def score(self, embedding: np.ndarray) -> np.ndarray:
        """embedding (N, D) or (N, P, D), normalised here -> anomaly scores (N,), in [0, 2]."""
        if not hasattr(self, "centers_"):
            raise NotFittedError("TargetKmeansCos.score before fit")
        references = np.concatenate([self.centers_, self.targets_])
        return (1 - unit_rows(embedding) @ references.T).min(axis=1)


def default_first(scorers: Mapping[str, T], average: str | None) -> dict[str, T]:
    """The scorers by name, the default one in front: `average`, or the first one for None.

    The default scorer has the first score column and is averaged over the epochs.
    """
    if average is None:
        return dict(scorers)
    if average not in scorers:
        raise InputError(f"average={average}: allowed are {', '.join(scorers)}")
    return {average: scorers[average], **scorers}


def scores_and_parts(
    scorer: BaseEstimator, embedding: np.ndarray
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """(scores (N,), the scores (N,) of the parts that they combine, by name) of embeddings.

    No parts where the scorer compares embeddings as a whole.
    """
    if not hasattr(scorer, "score_with_parts"):
        return scorer.score(embedding), {}
    scores, parts = scorer.score_with_parts(embedding)
    return scores, parts if len(parts) > 1 else {}


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
