"""From scores to decisions, as DCASE Challenge Task 2 requires them.

A threshold per machine from training clips that were held out from the scorer, and the official
precision, recall and F1 of the decisions.
"""

import numpy as np
from sklearn.base import BaseEstimator, clone
from sklearn.model_selection import KFold

from unlabeledasd.errors import InputError
from unlabeledasd.scoring import scores_and_parts

FOLDS = 5
THRESHOLDS = ("auto", "gamma", "empirical")


def held_out_scores(
    scorer: BaseEstimator, embedding: np.ndarray, is_target: np.ndarray
) -> np.ndarray:
    """Scores of the source training clips by scorers that were refitted without their fold.

    They are the scores of new normal clips, if the network that made the embeddings treats new
    clips like those it was trained on. embedding (N, D); is_target (N,) bool -> scores (number of
    source clips,), in their order; empty for fewer than 2. Target clips take part in every refit
    and get no score: each is its own reference.
    """
    return held_out_with_parts(scorer, embedding, is_target)[0]


def held_out_with_parts(
    scorer: BaseEstimator, embedding: np.ndarray, is_target: np.ndarray
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """(held_out_scores, those of the parts that they combine), as of scoring.scores_and_parts."""
    source, target = np.flatnonzero(~is_target), np.flatnonzero(is_target)
    scores = np.empty(len(source))
    parts: dict[str, np.ndarray] = {}
    if len(source) < 2:
        return scores[:0], parts
    folds = KFold(min(FOLDS, len(source)), shuffle=True, random_state=0)
    for kept, left_out in folds.split(source):
        rows = np.concatenate([source[kept], target])
        refitted = clone(scorer).fit(embedding[rows], is_target[rows])
        scores[left_out], found = scores_and_parts(refitted, embedding[source[left_out]])
        for name, values in found.items():
            parts.setdefault(name, np.empty(len(source)))[left_out] = values
    return scores, parts


def decision_threshold(held_out: np.ndarray, kind: str = "auto", quantile: float = 0.9) -> float:
    """The score above which a clip is called anomalous: a quantile of the held-out scores (N,).

    kind: gamma takes it from the gamma distribution of greatest likelihood that begins at 0,
    empirical from the scores themselves, which may be negative; auto is gamma where that can be
    fitted, and empirical where it cannot.
    """
    if kind not in THRESHOLDS:
        raise InputError(f"threshold={kind}: allowed are {', '.join(THRESHOLDS)}")
    if not 0 < quantile < 1:
        raise InputError(f"quantile={quantile}: between 0 and 1")
    if len(held_out) == 0:
        needed = "a machine needs at least 2 source training clips"
        raise InputError(f"no held-out scores, so no threshold: {needed}")
    # a copy of another clip scores 0, which has no density in a gamma distribution
    positive = held_out[held_out > 1e-9]
    fits_gamma = (held_out >= -1e-9).all() and len(np.unique(positive)) > 1
    if kind == "empirical" or (kind == "auto" and not fits_gamma):
        return float(np.quantile(held_out, quantile))
    if not fits_gamma:
        counts = f"{len(held_out)} held-out scores of which {len(positive)} are positive"
        allowed = "allowed are two or more different ones and none below 0"
        remedy = "threshold=empirical takes any"
        raise InputError(f"threshold=gamma: cannot be fitted to {counts}; {allowed}; {remedy}")
    from scipy.stats import gamma  # slow to import

    shape, _, scale = gamma.fit(positive, floc=0)
    return float(gamma.ppf(quantile, shape, scale=scale))


def percentile(held_out: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Percent of the held-out scores (N,) that lie below each of `scores` (M,).

    An equal score counts half; nan without held-out scores.
    """
    if len(held_out) == 0:
        return np.full(np.shape(scores), np.nan)
    ordered = np.sort(held_out)
    below = np.searchsorted(ordered, scores, "left")
    up_to = np.searchsorted(ordered, scores, "right")
    return 50 * (below + up_to) / len(held_out)


def decision_metrics(
    is_anomalous: np.ndarray, is_normal: np.ndarray, is_target: np.ndarray
) -> dict[str, float]:
    """Precision, recall and F1 per domain, as the official evaluator computes them.

    Normal clips of a domain are compared with its own anomalies. is_anomalous: decisions (N,)
    bool; is_normal, is_target (N,) bool or 0/1. A ratio without cases is 0; nan where a domain
    has no clip.
    """
    decided = np.asarray(is_anomalous, bool)
    anomaly = ~np.asarray(is_normal).astype(bool)
    target = np.asarray(is_target).astype(bool)
    metrics = {}
    for name, domain in (("source", ~target), ("target", target)):
        hits = (decided & anomaly & domain).sum()
        alarms = (decided & domain).sum()
        anomalies = (anomaly & domain).sum()
        ratios = {
            "precision": (hits, alarms),
            "recall": (hits, anomalies),
            "f1": (2 * hits, alarms + anomalies),  # 2 P R / (P + R)
        }
        for metric, (above, below) in ratios.items():
            value = float(above / max(below, 1)) if domain.any() else float("nan")
            metrics[f"{metric}_{name}"] = value
    return metrics
