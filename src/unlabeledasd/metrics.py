"""The official metrics of DCASE Challenge Task 2, per machine and over machines."""

from collections.abc import Iterable

import numpy as np
from scipy.stats import hmean
from sklearn.metrics import roc_auc_score

from unlabeledasd.errors import InputError

SECTION = "0"
OFFICIAL = tuple(
    f"{SECTION}_{name}" for name in ("source_auc_all", "target_auc_all", "all_pauc_all")
)
MAX_FPR = 0.1
SINCE_2022 = "hmean_official"
# Official score of the challenge by year: its column, and the columns that it is a mean of. Each is
# a mean over all these values of all machines and sections.
OFFICIAL_OF = {
    SINCE_2022: OFFICIAL,
    "hmean_official_2021": tuple(
        f"{SECTION}_{domain}_{name}_only"
        for domain in ("source", "target")
        for name in ("auc", "pauc")
    ),
    "mean_official_2020": (f"{SECTION}_source_auc_all", f"{SECTION}_all_pauc_all"),
}
ARITHMETIC = ("mean_official_2020",)  # the others are harmonic means
# Harmonic means in the authors' result CSVs, under their literal names, braces included: over the
# domains {d}, and over AUC and pAUC {a}.
FURTHER = {
    "hmean_0_{d}_auc_only": ("source_auc_only", "target_auc_only"),
    "hmean_0_source_{a}_only": ("source_auc_only", "source_pauc_only"),
    "hmean_0_target_{a}_only": ("target_auc_only", "target_pauc_only"),
    "hmean_0_{d}_{a}_only": (
        *("source_auc_only", "source_pauc_only"),
        *("target_auc_only", "target_pauc_only"),
    ),
    "hmean_0_{d}_auc_all": ("source_auc_all", "target_auc_all"),
    "hmean_0_{d}_{a}_all": (
        *("source_auc_all", "source_pauc_all"),
        *("target_auc_all", "target_pauc_all"),
    ),
}


def harmonic_mean(values: list[float]) -> float:
    """nan if one is nan or there is none, 0 if one is 0."""
    if len(values) == 0 or np.isnan(values).any():
        return float("nan")
    return float(hmean(np.asarray(values, dtype=float)))


def check_official(official: str) -> None:
    if official not in OFFICIAL_OF:
        raise InputError(f"dataset.official={official}: allowed are {', '.join(OFFICIAL_OF)}")


def official_mean(official: str, values: list[float]) -> float:
    """The mean by which a year's score is made."""
    check_official(official)
    return float(np.mean(values)) if official in ARITHMETIC else harmonic_mean(values)


def official_of(columns: Iterable[str]) -> str:
    """The official score that a result has: of 2020 or 2021, or else that since 2022."""
    return next((name for name in reversed(OFFICIAL_OF) if name in columns), SINCE_2022)


def evaluate(
    scores: np.ndarray,
    is_normal: np.ndarray,
    is_target: np.ndarray,
    official: str = SINCE_2022,
) -> dict[str, float]:
    """All metrics of one machine's test clips, in the order of the result CSV.

    official: a key of OFFICIAL_OF; that of 2020 and of 2021 becomes a further column, the last.

    scores (N,), higher = more anomalous; is_normal, is_target (N,) bool or 0/1. `*_all` compares
    the normal clips of a domain with the anomalies of both domains, `*_only` with those of that
    domain. pAUC goes to a false positive rate of 0.1, standardised so that chance is 0.5. nan
    where a domain or a class is absent.
    """
    scores = np.asarray(scores, dtype=float)
    if not all(np.isin(flags, (0, 1)).all() for flags in (is_normal, is_target)):
        raise ValueError("is_normal and is_target must be bool or 0/1")  # nan would count as true
    normal, target = np.asarray(is_normal).astype(bool), np.asarray(is_target).astype(bool)
    if not len(scores) == len(normal) == len(target):
        lengths = f"{len(scores)}, {len(normal)}, {len(target)}"
        raise ValueError(f"scores, is_normal, is_target differ in length: {lengths}")
    if np.isnan(scores).any():
        raise ValueError(f"{np.isnan(scores).sum()} of {len(scores)} scores are nan")
    domains = {"source": ~target, "target": target}

    def auc(normals: np.ndarray, anomalies: np.ndarray, max_fpr: float | None = None) -> float:
        chosen = normals | anomalies
        if not normals.any() or not anomalies.any():
            return float("nan")
        return float(roc_auc_score(anomalies[chosen], scores[chosen], max_fpr=max_fpr))

    result = {
        f"{SECTION}_{name}_auc_all": auc(normal & domain, ~normal)
        for name, domain in domains.items()
    }
    result[f"{SECTION}_all_pauc_all"] = auc(normal, ~normal, MAX_FPR)
    for name, domain in domains.items():
        result[f"{SECTION}_{name}_pauc_all"] = auc(normal & domain, ~normal, MAX_FPR)
    for name, domain in domains.items():
        result[f"{SECTION}_{name}_auc_only"] = auc(normal & domain, ~normal & domain)
        result[f"{SECTION}_{name}_pauc_only"] = auc(normal & domain, ~normal & domain, MAX_FPR)
    further = {
        name: harmonic_mean([result[f"{SECTION}_{part}"] for part in parts])
        for name, parts in FURTHER.items()
    }
    since_2022 = harmonic_mean([result[name] for name in OFFICIAL])
    own = official_mean(official, [result[name] for name in OFFICIAL_OF.get(official, ())])
    return {SINCE_2022: since_2022, **result, **further} | {official: own}


def challenge_score(results: list[dict[str, float]]) -> float:
    """The mean over all official values of M machines, 3 x M since 2022.

    The year is that of the results, by the column that `evaluate` gave them.
    """
    official = official_of(results[0]) if results else SINCE_2022
    return official_mean(
        official, [result[name] for result in results for name in OFFICIAL_OF[official]]
    )
