"""Interpolated target clips, so that ten of them weigh more against hundreds of source clips."""

import numpy as np

from unlabeledasd.errors import InputError
from unlabeledasd.scorers.references import Knn, Learned, check_count, reduce_others
from unlabeledasd.scoring import unit_rows


class Smote(Knn):
    """Knn with interpolated target clips (SMOTE, as in arXiv 2507.10264).

    Adds y + a (y' - y), a ~ U(0, 1), y' one of the `neighbors` target clips nearest to the target
    clip y, until there are `ratio` times as many target clips as source clips. A machine with
    fewer than two target clips gets none.
    """

    def __init__(
        self,
        k: int = 1,
        ratio: float = 0.2,
        neighbors: int = 2,
        random_state: int = 0,
        parts: str | int = "whole",
    ):
        super().__init__(k, parts)
        if ratio < 0:
            raise InputError(f"ratio={ratio}: at least 0")
        self.ratio = ratio
        self.neighbors = check_count("neighbors", neighbors)
        self.random_state = random_state

    def learn(self, references: np.ndarray, is_target: np.ndarray) -> Learned:
        target, n_source = unit_rows(references[is_target]), (~is_target).sum()
        n_new = int(self.ratio * n_source) - len(target)
        if len(target) < 2 or n_new < 1:
            return {"references": references}
        rng = np.random.default_rng(self.random_state)
        made = interpolate(target, self.neighbors, n_new, rng)
        return {"references": np.concatenate([references, made.astype(references.dtype)])}


def interpolate(
    clips: np.ndarray, neighbors: int, count: int, rng: np.random.Generator
) -> np.ndarray:
    """`count` points (count, D) between a random clip (N, D) and one of its nearest others."""
    k = min(neighbors, len(clips) - 1)
    nearest = reduce_others(clips, lambda distances: np.argsort(distances, axis=1)[:, :k])
    first = rng.integers(len(clips), size=count)
    second = nearest[first, rng.integers(k, size=count)]
    share = rng.random((count, 1))
    return clips[first] + share * (clips[second] - clips[first])
