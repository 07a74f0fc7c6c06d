"""From scores to decisions, as DCASE Challenge Task 2 asks for them: a threshold per machine from training clips
that the scorer had not seen, and the official precision, recall and F1 of the decisions."""

import numpy as np
from sklearn.base import BaseEstimator, clone
from sklearn.model_selection import KFold

from unlabeledasd.errors import InputError

FOLDS = 5
THRESHOLDS = ("gamma", "empirical")


def held_out_scores(
    scorer: BaseEstimator, embedding: np.ndarray, is_target: np.ndarray
) -> np.ndarray:
    """Score each source training clip by the scorer refitted without it and its fold: what new normal clips get, as far
    as the network that made the embeddings treats those it was trained on alike.

    embedding (N, D); is_target (N,) bool -> scores (number of source clips,), in their order; empty for fewer than 2.
    Target clips take part in every refit and get no score: each is its own reference.
    """
    source, target = np.flatnonzero(~is_target), np.flatnonzero(is_target)
    scores = np.empty(len(source))
    if len(source) < 2:
        return scores[:0]
    for kept, left_out in KFold(min(FOLDS, len(source)), shuffle=True, random_state=0).split(
        source
    ):
        rows = np.concatenate([source[kept], target])
        scores[left_out] = (
            clone(scorer).fit(embedding[rows], is_target[rows]).score(embedding[source[left_out]])
        )
    return scores


def decision_threshold(held_out: np.ndarray, kind: str = "gamma", quantile: float = 0.9) -> float:
    """The score above which a clip is called anomalous: a quantile of the held-out scores (N,).

    gamma: of the gamma distribution of the greatest likelihood, beginning at 0; empirical: of the scores themselves.
    """
    if kind not in THRESHOLDS:
        raise InputError(f"threshold={kind}: allowed are {', '.join(THRESHOLDS)}")
    if not 0 < quantile < 1:
        raise InputError(f"quantile={quantile}: between 0 and 1")
    if kind == "empirical":
        if len(held_out) == 0:
            raise InputError(
                "no held-out scores, so no threshold: a machine needs at least 2 source training clips"
            )
        return float(np.quantile(held_out, quantile))
    from scipy.stats import gamma  # slow to import

    positive = held_out[
        held_out > 1e-9
    ]  # a copy of another clip scores 0, which a gamma distribution cannot give
    if (held_out < -1e-9).any() or len(np.unique(positive)) < 2:
        raise InputError(
            f"threshold=gamma: cannot be fitted to {len(held_out)} held-out scores of which {len(positive)} are "
            "positive; allowed are two or more different ones and none below 0; threshold=empirical takes any"
        )
    shape, _, scale = gamma.fit(positive, floc=0)
    return float(gamma.ppf(quantile, shape, scale=scale))


def percentile(held_out: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Percent of the held-out scores (N,) that lie below each of `scores` (M,); an equal one counts half."""
    ordered = np.sort(held_out)
    below, up_to = (np.searchsorted(ordered, scores, side) for side in ("left", "right"))
    return (
        50 * (below + up_to) / len(held_out) if len(held_out) else np.full(np.shape(scores), np.nan)
    )


def decision_figures(
    is_anomalous: np.ndarray, is_normal: np.ndarray, is_target: np.ndarray
) -> dict[str, float]:
    """Precision, recall and F1 per domain, its normal clips against its own anomalies, as the official evaluator.

    is_anomalous: decisions (N,) bool; is_normal, is_target (N,) bool or 0/1. A ratio without cases is 0; nan where a
    domain has no clip.
    """
    decided, anomaly = np.asarray(is_anomalous, bool), ~np.asarray(is_normal).astype(bool)
    target = np.asarray(is_target).astype(bool)
    figures = {}
    for name, domain in (("source", ~target), ("target", target)):
        hits, alarms, anomalies = (
            (a & domain).sum() for a in (decided & anomaly, decided, anomaly)
        )
        # F1 = 2 P R / (P + R) = 2 hits / (alarms + anomalies)
        for figure, above, below in (
            ("precision", hits, alarms),
            ("recall", hits, anomalies),
            ("f1", 2 * hits, alarms + anomalies),
        ):
            figures[f"{figure}_{name}"] = (
                float(above / max(below, 1)) if domain.any() else float("nan")
            )
    return figures
