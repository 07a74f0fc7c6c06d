"""Scores that compare distances within the source and the target domain, which has few clips.

d_d(x) = distance to the nearest clip of domain d; u_d = distance of each clip of d to its nearest
other clip of d. The score is the minimum over the domains of a relative distance. A domain without
clips takes no part; one with a single clip takes the u of all clips together.
"""

import numpy as np

from unlabeledasd.errors import InputError
from unlabeledasd.scorers.references import (
    EPS,
    Learned,
    ReferenceScorer,
    check_count,
    cosine_distances,
    densities,
    reduce_others,
    reduce_rows,
)
from unlabeledasd.scoring import unit_rows

FLOOR = 0.1  # a domain's scale is at least this part of the larger one: 10 clips may lie together
TIE = 1e-6  # weight of the distance where empirical distributions are equal

Pair = tuple[np.ndarray, np.ndarray]  # of the source domain, of the target domain


def smallest(distances: np.ndarray) -> np.ndarray:
    """Minimum of each row (n, N) -> (n,); infinite without columns."""
    return distances.min(axis=1, initial=np.inf)


class DomainScorer(ReferenceScorer):
    """Base: distances to both domains; a subclass has `summarize` and `relate`."""

    def learn(self, references: np.ndarray, is_target: np.ndarray) -> Learned:
        source, target = references[~is_target], references[is_target]
        u = self.within(source, target)
        if 1 in (len(source), len(target)):
            both = reduce_others(references, smallest) if len(references) > 1 else np.empty(0)
            u = (both if len(source) == 1 else u[0], both if len(target) == 1 else u[1])
        return {"source": source, "target": target, **self.summarize(u)}

    def measure(self, x: np.ndarray, learned: Learned) -> np.ndarray:
        distances = self.between(x, learned["source"], learned["target"])
        scores = [self.relate(d, learned, domain) for domain, d in enumerate(distances)]
        return np.minimum(*scores)

    def within(self, source: np.ndarray, target: np.ndarray) -> Pair:
        """u of both domains, (S,) and (T,); infinite for a single clip."""
        return reduce_others(source, smallest), reduce_others(target, smallest)

    def between(self, x: np.ndarray, source: np.ndarray, target: np.ndarray) -> Pair:
        """d of both domains, (n,) each; infinite for a domain without clips."""
        return reduce_rows(x, source, smallest), reduce_rows(x, target, smallest)

    def summarize(self, u: Pair) -> Learned:
        """What is kept of u, by name."""
        raise NotImplementedError

    def relate(self, d: np.ndarray, learned: Learned, domain: int) -> np.ndarray:
        """Relative distances of d (n,); domain 0: source, 1: target."""
        raise NotImplementedError


def floored(scales: list[float]) -> np.ndarray:
    """Scales of both domains, each at least FLOOR of the larger one and never 0."""
    return np.maximum(scales, max(FLOOR * max(scales), EPS))


class DomainZ(DomainScorer):
    """min_d (d_d(x) - mean u_d) / std u_d; can be negative (arXiv 2409.05035)."""

    def summarize(self, u: Pair) -> Learned:
        means = [of.mean() if len(of) else 0.0 for of in u]
        return {
            "means": np.array(means),
            "scales": floored([of.std() if len(of) else 0.0 for of in u]),
        }

    def relate(self, d: np.ndarray, learned: Learned, domain: int) -> np.ndarray:
        return (d - learned["means"][domain]) / learned["scales"][domain]


class DomainRatio(DomainScorer):
    """min_d d_d(x) / median u_d."""

    def summarize(self, u: Pair) -> Learned:
        return {"scales": floored([np.median(of) if len(of) else 0.0 for of in u])}

    def relate(self, d: np.ndarray, learned: Learned, domain: int) -> np.ndarray:
        return d / learned["scales"][domain]


class DomainEcdf(DomainScorer):
    """min_d F_d(d_d(x)), F_d the empirical distribution of u_d; ties are broken by the distance."""

    def summarize(self, u: Pair) -> Learned:
        return {"source_steps": np.sort(u[0]), "target_steps": np.sort(u[1])}

    def relate(self, d: np.ndarray, learned: Learned, domain: int) -> np.ndarray:
        steps = learned["target_steps" if domain else "source_steps"]
        return np.searchsorted(steps, d, "right") / max(len(steps), 1) + TIE * d


class MemMixup(DomainZ):
    """DomainZ after 0.9 t + 0.1 s was added to the target clips for every target clip t and source
    clip s (arXiv 2409.05035).

    The u of a target clip is its distance to what was made of the other target clips, since its own
    mixtures lie around it. Mixtures are not stored: their cosines follow from those of t and s.
    """

    def __init__(self, weight: float = 0.9, parts: str | int = "whole"):
        super().__init__(parts)
        if not 0 < weight <= 1:
            raise InputError(f"weight={weight}: above 0 and at most 1")
        self.weight = weight

    def within(self, source: np.ndarray, target: np.ndarray) -> Pair:
        families = self.to_families(target, source, target)
        np.fill_diagonal(families, np.inf)
        return reduce_others(source, smallest), smallest(families)

    def between(self, x: np.ndarray, source: np.ndarray, target: np.ndarray) -> Pair:
        return reduce_rows(x, source, smallest), smallest(self.to_families(x, source, target))

    def to_families(self, x: np.ndarray, source: np.ndarray, target: np.ndarray) -> np.ndarray:
        """Distances of x (n, D) to the nearest of each target clip and its mixtures, (n, T)."""
        x, source, target = unit_rows(x), unit_rows(source), unit_rows(target)
        nearest = cosine_distances(x, target)
        for i, clip in enumerate(target if len(source) else target[:0]):
            mixtures = unit_rows(self.weight * clip + (1 - self.weight) * source)
            to_mixtures = reduce_rows(x, mixtures, smallest)
            nearest[:, i] = np.minimum(nearest[:, i], to_mixtures)
        return nearest


class DomainLdn(ReferenceScorer):
    """Minimum over the domains of the LDN ratio within the domain.

    K is `k_source` and `k_target`, bounded by the other clips of the domain, and in the source
    domain by a twentieth of its clips: with 54 clips, 16 neighbours are no neighbourhood.
    """

    FRACTION = 0.05

    def __init__(self, k_source: int = 16, k_target: int = 9, parts: str | int = "whole"):
        super().__init__(parts)
        self.k_source = check_count("k_source", k_source)
        self.k_target = check_count("k_target", k_target)

    def learn(self, references: np.ndarray, is_target: np.ndarray) -> Learned:
        b = np.empty(len(references))
        k_source = min(self.k_source, max(1, int(self.FRACTION * (~is_target).sum())))
        for domain, k in ((~is_target, k_source), (is_target, self.k_target)):
            b[domain] = densities(references[domain], k)
            if domain.sum() == 1:
                b[domain] = densities(references, 1)[domain]
        return {"references": references, "densities": b}

    def measure(self, x: np.ndarray, learned: Learned) -> np.ndarray:
        b = learned["densities"] + EPS
        return reduce_rows(x, learned["references"], lambda distances: (distances / b).min(axis=1))
