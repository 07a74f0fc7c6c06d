"""Distance to a Gaussian distribution of the training clips."""

import numpy as np
from sklearn.covariance import ledoit_wolf

from unlabeledasd.scorers.references import EPS, Learned, ReferenceScorer, check_count
from unlabeledasd.scoring import unit_rows


class Mahalanobis(ReferenceScorer):
    """Smaller Mahalanobis distance to the source and to the target clips, of unit-norm embeddings.

    The covariance of a domain is shrunk as by Ledoit and Wolf (2004). A target domain of fewer
    than `least` clips has a mean of its own and the covariance of the source clips.
    """

    def __init__(self, least: int = 32, parts: str | int = "whole"):
        super().__init__(parts)
        self.least = check_count("least", least)

    def learn(self, references: np.ndarray, is_target: np.ndarray) -> Learned:
        clips = unit_rows(references)
        source, target = clips[~is_target], clips[is_target]
        groups = [group for group in (source, target) if len(group)]
        factors = [whitening(groups[0])]
        if len(groups) == 2:
            factors.append(whitening(target) if len(target) >= self.least else factors[0])
        return {
            "means": np.stack([group.mean(axis=0) for group in groups]),
            "factors": np.stack(factors).astype(np.float32),
        }

    def measure(self, x: np.ndarray, learned: Learned) -> np.ndarray:
        groups = zip(learned["means"], learned["factors"], strict=True)
        distances = [
            np.linalg.norm((unit_rows(x) - mean) @ factor, axis=1) for mean, factor in groups
        ]
        return np.min(distances, axis=0)


def whitening(clips: np.ndarray) -> np.ndarray:
    """A (D, D) with A A^T = inverse of the shrunk covariance of clips (N, D)."""
    covariance, _ = ledoit_wolf(clips) if len(clips) > 1 else (np.zeros(2 * clips.shape[1:]), 0)
    values, vectors = np.linalg.eigh(covariance)
    return vectors / np.sqrt(np.maximum(values, 0) + EPS)
