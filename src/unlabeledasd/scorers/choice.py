"""How well a scorer separates normal clips from pseudo-anomalies, so no anomaly is needed.

Normal training clips are held out from the scorer and compared with clips that are not normal for
it: clips of other machines, clips of an attribute that the scorer has not seen, and embeddings
whose dimensions were shuffled among the clips. Both domains count alike, as in the official score.
"""

from collections.abc import Iterator

import numpy as np
from sklearn.base import BaseEstimator, clone
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import KFold

from unlabeledasd.scoring import one_thread

FOLDS = 5
KINDS = ("machines", "attributes", "shuffled")
MOST_ATTRIBUTES = 8  # the most frequent ones, since each needs FOLDS fits


def pseudo_anomaly_auc(
    scorer: BaseEstimator,
    embedding: np.ndarray,
    is_target: np.ndarray,
    attribute: np.ndarray,
    others: np.ndarray,
    seed: int = 0,
) -> dict[str, float]:
    """AUC by KINDS of pseudo-anomalies, the mean over folds and domains; nan where there is none.

    embedding (N, ...), is_target (N,) bool, attribute (N,): the training clips of one machine;
    others (M, ...): training clips of other machines. Needs two clips.
    """
    rng = np.random.default_rng(seed)
    found: dict[str, list[tuple[bool, float]]] = {kind: [] for kind in KINDS}
    with one_thread():
        for kept, left_out in folds(np.arange(len(embedding))):
            fitted = clone(scorer).fit(embedding[kept], is_target[kept])
            normal, target = fitted.score(embedding[left_out]), is_target[left_out]
            if len(others):
                found["machines"] += aucs(normal, target, fitted.score(others))
            found["shuffled"] += aucs(normal, target, fitted.score(shuffled(embedding, rng)))
        names, counts = np.unique(attribute, return_counts=True)
        for name in names[np.argsort(-counts, kind="stable")][:MOST_ATTRIBUTES]:
            of_others = np.flatnonzero(attribute != name)
            if len(of_others) < 2:
                continue
            for kept, left_out in folds(of_others):
                fitted = clone(scorer).fit(embedding[kept], is_target[kept])
                normal, target = fitted.score(embedding[left_out]), is_target[left_out]
                unseen = fitted.score(embedding[attribute == name])
                found["attributes"] += aucs(normal, target, unseen)
    return {kind: over_domains(values) for kind, values in found.items()}


def folds(rows: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(kept, left out) parts of rows."""
    for kept, left_out in KFold(min(FOLDS, len(rows)), shuffle=True, random_state=0).split(rows):
        yield rows[kept], rows[left_out]


def shuffled(embedding: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Each dimension permuted among the clips on its own: their spread, not what goes together."""
    flat = embedding.reshape(len(embedding), -1)
    return rng.permuted(flat, axis=0).reshape(embedding.shape)


def aucs(
    normal: np.ndarray, is_target: np.ndarray, anomalous: np.ndarray
) -> list[tuple[bool, float]]:
    """(is target, AUC) of the normal clips of each domain against all anomalous ones."""
    found = []
    for target in np.unique(is_target):
        scores = np.concatenate([normal[is_target == target], anomalous])
        labels = np.repeat([0, 1], [len(scores) - len(anomalous), len(anomalous)])
        found.append((bool(target), float(roc_auc_score(labels, scores))))
    return found


def over_domains(found: list[tuple[bool, float]]) -> float:
    """The mean over the domains of each one's mean AUC; nan for none."""
    domains = {target for target, _ in found}
    means = [np.mean([auc for target, auc in found if target == domain]) for domain in domains]
    return float(np.mean(means)) if means else np.nan
