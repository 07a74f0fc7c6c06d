"""Two views of a clip in one embedding, each by its own scorer, fused without labels."""

import numpy as np
from sklearn.base import BaseEstimator, clone
from sklearn.exceptions import NotFittedError

from unlabeledasd.decisions import held_out_scores
from unlabeledasd.errors import InputError

VIEWS = ("front", "back")


class FusedViews(BaseEstimator):
    """Mean of the z-scores of the front and the back of an embedding, as runs/fusion computes them.

    The last `back_size` dimensions are the back. z = (score - mean) / standard deviation of the
    scores of source training clips that were held out from the scorer, so no other test clip
    matters; with fewer than two such clips, or where all score the same, the score itself. Learns
    what both scorers learn, and `means_`, `deviations_` (2,).
    """

    def __init__(self, front: BaseEstimator, back: BaseEstimator, back_size: int):
        if back_size < 1:
            raise InputError(f"back_size={back_size}: at least 1")
        self.front, self.back, self.back_size = front, back, back_size

    @property
    def column(self) -> str:
        """Name of the score column: those of both scorers."""
        front, back = (part.column.removeprefix("AS-") for part in (self.front, self.back))
        return f"AS-FusedViews-{front}+{back}"

    def fit(self, embedding: np.ndarray, is_target: np.ndarray) -> "FusedViews":
        """embedding (N, D), D more than back_size; is_target (N,) bool or 0/1."""
        if len(embedding) == 0:
            raise ValueError("FusedViews.fit: no training clips")
        is_target = np.asarray(is_target).astype(bool)
        means, deviations = [], []
        for name, view in zip(VIEWS, self.split(embedding), strict=True):
            scorer = getattr(self, name)
            for key, value in vars(clone(scorer).fit(view, is_target)).items():
                if key.endswith("_"):
                    setattr(self, f"{name}_{key}", value)
            held_out = held_out_scores(scorer, view, is_target)
            varies = len(held_out) > 1 and held_out.std() > 1e-12 * np.abs(held_out).max()
            means.append(held_out.mean() if varies else 0.0)
            deviations.append(held_out.std() if varies else 1.0)
        self.means_, self.deviations_ = np.array(means), np.array(deviations)
        return self

    def score(self, embedding: np.ndarray) -> np.ndarray:
        """embedding (N, D) -> anomaly scores (N,), higher = more anomalous."""
        return self.score_with_parts(embedding)[0]

    def score_with_parts(self, embedding: np.ndarray) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """(scores (N,), the z (N,) of each view): the mean of these."""
        if not hasattr(self, "means_"):
            raise NotFittedError("FusedViews.score before fit")
        views = zip(VIEWS, self.split(embedding), strict=True)
        scores = np.stack([self.restored(name).score(view) for name, view in views], axis=1)
        z = (scores - self.means_) / self.deviations_
        return z.mean(axis=1), dict(zip(VIEWS, z.T, strict=True))

    def restored(self, name: str) -> BaseEstimator:
        """The fitted scorer of a view."""
        fitted = clone(getattr(self, name))
        for key, value in vars(self).items():
            if key.startswith(f"{name}_") and key.endswith("_"):
                setattr(fitted, key.removeprefix(f"{name}_"), value)
        return fitted

    def split(self, embedding: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        embedding = np.asarray(embedding)
        if embedding.ndim != 2 or embedding.shape[1] <= self.back_size:
            shape = tuple(embedding.shape)
            raise InputError(f"back_size={self.back_size}: not for embeddings of shape {shape}")
        return embedding[:, : -self.back_size], embedding[:, -self.back_size :]
