"""Scores that take the density around each reference into account.

b_i = mean distance of reference y_i to its K nearest other references. The minimum is over the
whole expression, so that the reference chosen need not be the nearest.
"""

import numpy as np

from unlabeledasd.scorers.references import (
    EPS,
    Learned,
    ReferenceScorer,
    check_count,
    densities,
    reduce_others,
    reduce_rows,
)


class DensityScorer(ReferenceScorer):
    """Base: learns the references and their b."""

    def __init__(self, k: int = 1, parts: str | int = "whole"):
        super().__init__(parts)
        self.k = check_count("k", k)

    def learn(self, references: np.ndarray, is_target: np.ndarray) -> Learned:
        return {"references": references, "densities": densities(references, self.k)}


class LdnRatio(DensityScorer):
    """min_i D(x, y_i) / (b_i + eps): local density normalisation (Wilkinghoff, ICASSP 2025)."""

    def measure(self, x: np.ndarray, learned: Learned) -> np.ndarray:
        b = learned["densities"] + EPS
        return reduce_rows(x, learned["references"], lambda distances: (distances / b).min(axis=1))


class LdnDifference(DensityScorer):
    """min_i [D(x, y_i) - b_i] (Wilkinghoff, ICASSP 2025); can be negative."""

    def measure(self, x: np.ndarray, learned: Learned) -> np.ndarray:
        b = learned["densities"]
        return reduce_rows(x, learned["references"], lambda distances: (distances - b).min(axis=1))


class VarMin(DensityScorer):
    """min_i [D(x, y_i) - alpha b_i], with the alpha of least variance over the references.

    Matsumoto, Fujimura et al., DCASE Workshop 2025. For every reference z: u_z = distance to its
    nearest other reference, v_z = b of that one; alpha = Cov(u, v) / Var(v), 0 where v does not
    vary; not clipped. Scores can be negative.
    """

    def __init__(self, k: int = 4, parts: str | int = "whole"):
        super().__init__(k, parts)

    def learn(self, references: np.ndarray, is_target: np.ndarray) -> Learned:
        learned = super().learn(references, is_target)
        alpha = least_variance_factor(references, learned["densities"])
        return {**learned, "alpha": np.asarray(alpha)}

    def measure(self, x: np.ndarray, learned: Learned) -> np.ndarray:
        shift = learned["alpha"] * learned["densities"]
        return reduce_rows(
            x, learned["references"], lambda distances: (distances - shift).min(axis=1)
        )


def least_variance_factor(references: np.ndarray, b: np.ndarray) -> float:
    """The alpha for which u - alpha v varies least over the references."""
    if len(references) < 2:
        return 0.0
    nearest = reduce_others(
        references, lambda distances: np.stack([distances.min(axis=1), distances.argmin(axis=1)], 1)
    )
    u, v = nearest[:, 0], b[nearest[:, 1].astype(int)]
    variance = v.var()
    if variance < EPS**2:
        return 0.0
    return float(np.mean((u - u.mean()) * (v - v.mean())) / variance)
