"""How certain is a difference between two methods: paired bootstrap of the official metrics.

B. Efron and R. Tibshirani, "An Introduction to the Bootstrap", 1993, percentile intervals. A
resample draws as many clips as there are within each domain x condition of a machine, as the test
sets were made; a clip counts as often as it was drawn. Both methods are compared on equal draws.
"""

import numpy as np

from unlabeledasd.metrics import MAX_FPR, OFFICIAL_OF, SINCE_2022


def draw_weights(
    is_normal: np.ndarray, is_target: np.ndarray, n_resamples: int, seed: int
) -> np.ndarray:
    """How often each of N clips was drawn, (n_resamples, N) float.

    Drawn with replacement within domain x condition; is_normal, is_target (N,) bool or 0/1.
    """
    rng = np.random.default_rng(seed)
    strata = 2 * np.asarray(is_normal).astype(int) + np.asarray(is_target).astype(int)
    weights = np.zeros((n_resamples, len(strata)))
    for stratum in np.unique(strata):
        rows = np.flatnonzero(strata == stratum)
        uniform = np.full(len(rows), 1 / len(rows))
        weights[:, rows] = rng.multinomial(len(rows), uniform, size=n_resamples)
    return weights


def weighted_auc(
    scores: np.ndarray, anomalies: np.ndarray, normals: np.ndarray, max_fpr: float = 1.0
) -> np.ndarray:
    """Area under the ROC curve to `max_fpr` of weighted clips, standardised as by scikit-learn.

    scores (N,); anomalies, normals (B, N): weight of each clip as either -> (B,).
    """
    order = np.argsort(-scores, kind="stable")
    last = np.append(np.diff(scores[order]) != 0, True)  # equal scores are one point of the curve
    rates = []
    for weights in (normals, anomalies):
        total = np.cumsum(weights[:, order], axis=1)[:, last] / weights.sum(axis=1, keepdims=True)
        rates.append(np.pad(total, ((0, 0), (1, 0))))
    fpr, tpr = rates
    width, height = np.diff(fpr), np.diff(tpr)
    inside = np.clip(max_fpr - fpr[:, :-1], 0, width)  # the part of each step left of max_fpr
    slope = np.divide(height, width, out=np.zeros_like(height), where=width > 0)
    area = (inside * (tpr[:, :-1] + slope * inside / 2)).sum(axis=1)
    if max_fpr == 1:
        return area
    least = max_fpr**2 / 2  # D. McClish, "Analyzing a portion of the ROC curve", 1989
    return (1 + (area - least) / (max_fpr - least)) / 2


def official_metrics(
    scores: np.ndarray,
    is_normal: np.ndarray,
    is_target: np.ndarray,
    weights: np.ndarray,
    official: str = SINCE_2022,
) -> np.ndarray:
    """The metrics of metrics.OFFICIAL_OF[official], in its order, for weights (B, N) -> (B, M)."""
    normal, target = np.asarray(is_normal).astype(bool), np.asarray(is_target).astype(bool)
    domains = {"source": ~target, "target": target, "all": np.ones_like(target)}
    found = []
    for column in OFFICIAL_OF[official]:
        _, domain, metric, against = column.split("_")
        anomalies = ~normal & domains["all" if against == "all" else domain]
        normals = normal & domains[domain]
        max_fpr = MAX_FPR if metric == "pauc" else 1.0
        found.append(weighted_auc(scores, weights * anomalies, weights * normals, max_fpr))
    return np.stack(found, axis=1)


def resampled_means(values: np.ndarray, n_resamples: int, seed: int) -> np.ndarray:
    """Means of resamples of `values` (N,), one per seed of training -> (n_resamples,)."""
    rng = np.random.default_rng(seed)
    return rng.choice(values, size=(n_resamples, len(values))).mean(axis=1)


def interval(resamples: np.ndarray, level: float = 0.95) -> tuple[float, float]:
    """The percentile interval of resampled values (B,)."""
    low, high = np.quantile(resamples, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
