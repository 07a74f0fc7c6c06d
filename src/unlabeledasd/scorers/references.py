"""What the scorers that compare a clip with reference clips share; the k nearest references.

D(x, y) = (1 - cos(x, y)) / 2, in [0, 1]; references y_i are all training clips of a machine.
"""

import math
from collections.abc import Callable, Iterator

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.exceptions import NotFittedError

from unlabeledasd.errors import InputError
from unlabeledasd.scoring import one_thread, unit_rows

PART_SIZE = 128  # dimensions of a branch of an embedding (N, D)
CHUNK_BYTES = 32e6  # of distances that are in memory at a time
EPS = 1e-12  # least divisor; distances are correct to about 1e-16

Reduce = Callable[[np.ndarray], np.ndarray]  # distances (n, N) -> (n, ...)
Learned = dict[str, np.ndarray]


def chunks(n_rows: int, n_columns: int) -> Iterator[slice]:
    """Slices of rows, each with at most CHUNK_BYTES of float64 in `n_columns` columns."""
    step = max(1, int(CHUNK_BYTES / 8 / max(n_columns, 1)))
    for start in range(0, max(n_rows, 1), step):  # one empty slice of no rows
        yield slice(start, start + step)


def reduce_rows(x: np.ndarray, references: np.ndarray, reduce: Reduce) -> np.ndarray:
    """`reduce` of the distances of each row of x (n, D) to the references (N, D), in chunks."""
    x, references = unit_rows(x), unit_rows(references)
    rows = chunks(len(x), len(references))
    return np.concatenate([reduce(cosine_distances(x[some], references)) for some in rows])


def reduce_others(references: np.ndarray, reduce: Reduce) -> np.ndarray:
    """As `reduce_rows` for each reference itself, at an infinite distance from itself."""
    references, parts = unit_rows(references), []
    for rows in chunks(len(references), len(references)):
        distances = cosine_distances(references[rows], references)
        own = np.arange(len(distances))
        distances[own, rows.start + own] = np.inf
        parts.append(reduce(distances))
    return np.concatenate(parts)


def cosine_distances(x: np.ndarray, references: np.ndarray) -> np.ndarray:
    """D between unit-norm rows (n, D) and (N, D) -> (n, N)."""
    return np.maximum(1 - x @ references.T, 0) / 2


def mean_of_smallest(distances: np.ndarray, k: int) -> np.ndarray:
    """Mean of the k smallest distances of each row (n, N) -> (n,); 1 <= k <= N."""
    return np.partition(distances, k - 1, axis=1)[:, :k].mean(axis=1)


def densities(references: np.ndarray, k: int) -> np.ndarray:
    """b_i: mean distance of each reference to its k nearest others (N,); k is bounded by N - 1.

    0 for a single reference, and for one that has k duplicates.
    """
    k = min(k, len(references) - 1)
    if k < 1:
        return np.zeros(len(references))
    return reduce_others(references, lambda distances: mean_of_smallest(distances, k))


class ReferenceScorer(BaseEstimator):
    """Base of scorers that treat the parts of an embedding alike.

    parts: "whole" compares embeddings as they are. "mean" and "max" compare every part with the
    same part of the references, and take the mean or the maximum of the scores; a number takes
    that part alone. The parts of embeddings (N, P, D) are their P vectors, those of (N, D) are
    branches of 128 dimensions. A subclass has `learn` and `measure`, both for one part.
    """

    def __init__(self, parts: str | int = "whole"):
        if isinstance(parts, str) and parts not in ("whole", "mean", "max"):
            raise InputError(
                f"parts={parts}: allowed are whole, mean, max and the number of a part"
            )
        self.parts = parts

    @property
    def column(self) -> str:
        """Name of the score column: class, settings, and parts unless these are "whole"."""
        names = [name for name in self.get_params() if name not in ("parts", "random_state")]
        settings = [str(getattr(self, name)) for name in names]
        if self.parts != "whole":
            settings.append(f"part{self.parts}" if isinstance(self.parts, int) else self.parts)
        return "-".join(["AS", type(self).__name__, *settings])

    def fit(self, embedding: np.ndarray, is_target: np.ndarray) -> "ReferenceScorer":
        """embedding (N, D) or (N, P, D), of any length; is_target (N,) bool or 0/1."""
        if len(embedding) == 0:
            raise ValueError(f"{type(self).__name__}.fit: no training clips")
        is_target = np.asarray(is_target).astype(bool)
        with one_thread():
            learned = [self.learn(part, is_target) for part in self.split(embedding)]
        for name in learned[0]:
            setattr(self, f"{name}_", np.stack([part[name] for part in learned]))
        return self

    def score(self, embedding: np.ndarray) -> np.ndarray:
        """embedding (N, D) or (N, P, D) -> anomaly scores (N,), higher = more anomalous."""
        return self.score_with_parts(embedding)[0]

    def score_with_parts(self, embedding: np.ndarray) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """(scores (N,), those of each part, from 0): the mean or the maximum of these."""
        kept = {name[:-1]: value for name, value in vars(self).items() if name.endswith("_")}
        if not kept:
            raise NotFittedError(f"{type(self).__name__}.score before fit")
        scores = []
        with one_thread():
            for i, part in enumerate(self.split(embedding)):
                scores.append(self.measure(part, {name: kept[name][i] for name in kept}))
        whole = np.max(scores, axis=0) if self.parts == "max" else np.mean(scores, axis=0)
        return whole, {str(i): score for i, score in enumerate(scores)}

    def split(self, embedding: np.ndarray) -> np.ndarray:
        """The parts that `parts` names, (P, N, D)."""
        embedding = np.asarray(embedding)
        if self.parts == "whole":
            return embedding.reshape(1, len(embedding), math.prod(embedding.shape[1:]))
        if embedding.ndim == 2:
            size = embedding.shape[1]
            if size % PART_SIZE:
                raise InputError(
                    f"parts={self.parts}: {size} dimensions are not branches of {PART_SIZE}"
                )
            embedding = embedding.reshape(len(embedding), size // PART_SIZE, PART_SIZE)
        n_parts = embedding.shape[1]
        if isinstance(self.parts, int):
            if not -n_parts <= self.parts < n_parts:
                raise InputError(f"parts={self.parts}: the embedding has {n_parts} parts, from 0")
            embedding = embedding[:, [self.parts]]
        return embedding.swapaxes(0, 1)

    def learn(self, references: np.ndarray, is_target: np.ndarray) -> Learned:
        """What is kept of the training clips (N, D), by name; `fit` stacks it over the parts."""
        raise NotImplementedError

    def measure(self, x: np.ndarray, learned: Learned) -> np.ndarray:
        """Scores (n,) of clips (n, D) by what `learn` returned."""
        raise NotImplementedError


def check_count(name: str, value: int) -> int:
    """`value` if it is at least 1, or an InputError."""
    if value < 1:
        raise InputError(f"{name}={value}: at least 1")
    return value


class Knn(ReferenceScorer):
    """Mean distance to the k nearest training clips of either domain, of all where k is more."""

    def __init__(self, k: int = 1, parts: str | int = "whole"):
        super().__init__(parts)
        self.k = check_count("k", k)

    def learn(self, references: np.ndarray, is_target: np.ndarray) -> Learned:
        return {"references": references}

    def measure(self, x: np.ndarray, learned: Learned) -> np.ndarray:
        references = learned["references"]
        k = min(self.k, len(references))
        return reduce_rows(x, references, lambda distances: mean_of_smallest(distances, k))
