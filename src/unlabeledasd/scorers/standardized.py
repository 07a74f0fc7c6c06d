"""Scorers on standardised embeddings: a dimension counts as much as it varies on normal clips."""

import numpy as np
from sklearn.base import BaseEstimator, clone
from sklearn.exceptions import NotFittedError

from unlabeledasd.scoring import scores_and_parts

ANCHOR = 100.0  # standard deviations
FLOOR = 0.1  # of the mean standard deviation: the least one that a dimension gets


class Standardized(BaseEstimator):
    """Another scorer after every dimension was standardised by the machine's training clips.

    Values become (x - mean) / standard deviation. In front of each part goes the constant ANCHOR,
    large against these values, so that the angles which scorers compare follow Euclidean
    distances: 1 - cos = |x - y|^2 / (2 ANCHOR^2), nearly. Made for values with units, such as the
    levels and spreads of encoders/spectral; the embedding of a trained network needs none of it.
    A dimension that does not vary counts as it is. Learns `mean_`, `scale_` and what `scorer`
    learns.
    """

    def __init__(self, scorer: BaseEstimator):
        self.scorer = scorer

    @property
    def column(self) -> str:
        """Name of the score column: that of the scorer, and standardized."""
        return f"{self.scorer.column}-standardized"

    def fit(self, embedding: np.ndarray, is_target: np.ndarray) -> "Standardized":
        """embedding (N, D) or (N, P, D), of any length; is_target (N,) bool or 0/1."""
        if len(embedding) == 0:
            raise ValueError("Standardized.fit: no training clips")
        clips = np.asarray(embedding, dtype=np.float64)
        self.mean_, spread = clips.mean(axis=0), clips.std(axis=0)
        scale = np.maximum(spread, FLOOR * spread.mean())
        self.scale_ = np.where(scale > 0, scale, 1.0)
        fitted = clone(self.scorer).fit(self.standardize(clips), is_target)
        for name, value in vars(fitted).items():
            if name.endswith("_"):
                setattr(self, name, value)
        return self

    def score(self, embedding: np.ndarray) -> np.ndarray:
        """embedding (N, D) or (N, P, D) -> anomaly scores (N,), higher = more anomalous."""
        return self.score_with_parts(embedding)[0]

    def score_with_parts(self, embedding: np.ndarray) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """(scores (N,), those of the parts of the inner scorer)."""
        return scores_and_parts(self.restored(), self.standardize(embedding))

    def restored(self) -> BaseEstimator:
        """The fitted inner scorer."""
        if not hasattr(self, "scale_"):
            raise NotFittedError("Standardized.score before fit")
        fitted = clone(self.scorer)
        for name, value in vars(self).items():
            if name.endswith("_") and name not in ("mean_", "scale_"):
                setattr(fitted, name, value)
        return fitted

    def standardize(self, embedding: np.ndarray) -> np.ndarray:
        """(N, D) or (N, P, D) -> float64, one dimension more in each part: the anchor."""
        values = (np.asarray(embedding, dtype=np.float64) - self.mean_) / self.scale_
        anchor = np.full((*values.shape[:-1], 1), ANCHOR)
        return np.concatenate([anchor, values], axis=-1)
