"""False alarms at a stated rate: split conformal prediction.

Of n scores of normal clips that neither network nor scorer has seen, the threshold at rate a is the
ceil((n + 1)(1 - a))-th smallest. The chance that a further normal clip, exchangeable with these,
scores above it is at most a (V. Vovk et al., "Algorithmic Learning in a Random World", 2005).
"""

import itertools
import math

import numpy as np

from unlabeledasd.decisions import decision_threshold
from unlabeledasd.errors import InputError


def rank(count: int, rate: float) -> int:
    """ceil((count + 1)(1 - rate)), safe against the last digit of 1 - rate."""
    return math.ceil(round((count + 1) * (1 - rate), 9))


def least_scores(rate: float) -> int:
    """How many calibration scores a false-alarm rate needs: at least 1 / rate - 1."""
    if not 0 < rate < 1:
        raise InputError(f"alarm rate {rate}: between 0 and 1")
    return math.ceil(round(1 / rate - 1, 9))


def conformal_threshold(calibration: np.ndarray, rate: float) -> float:
    """The score above which a clip is an alarm; calibration (n,): scores of unseen normal clips.

    InputError where n is too small for the rate.
    """
    count, needed = len(calibration), least_scores(rate)
    if count < needed:
        raise InputError(
            f"alarm rate {rate:g}: needs {needed} calibration scores, there are {count}; "
            f"the lowest rate is {1 / (count + 1):.3g}"
        )
    return float(np.sort(calibration)[rank(count, rate) - 1])


def threshold(
    held_out: np.ndarray, rate: float | None, kind: str = "auto", quantile: float = 0.9
) -> float:
    """decisions.decision_threshold of the held-out scores (N,); auto is conformal with a rate.

    rate: of a detector or run whose held-out clips are unknown to network and scorer; None: of
    another one.
    """
    if rate is not None and kind == "auto":
        return conformal_threshold(held_out, rate)
    return decision_threshold(held_out, kind, quantile)


def p_values(calibration: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """(1 + number of calibration scores >= s) / (n + 1) for each of scores (M,)."""
    ordered = np.sort(calibration)
    at_least = len(ordered) - np.searchsorted(ordered, scores, "left")
    return (1 + at_least) / (len(ordered) + 1)


def onset_rate(rate: float, needed: int, last: int) -> float:
    """How often false alarms begin, per window, where each is `needed` of the `last` windows.

    For windows that err at `rate` independently of each other: a window begins an alarm where it is
    anomalous, as needed - 1 of the last - 1 before it, and the one before these is not. Windows
    that are alike err in runs, so that alarms begin more often, at most at `rate`.
    """
    ways = math.comb(last - 1, needed - 1)
    return ways * rate**needed * (1 - rate) ** (last - needed + 1)


def windows_in_a_row(rate: float, windows: float) -> int:
    """The least K for which K anomalous windows in a row begin at most once in `windows`."""
    return next(k for k in itertools.count(1) if onset_rate(rate, k, k) * windows <= 1)


def false_alarms(calibration: np.ndarray, rate: float, rounds: int = 200, seed: int = 0) -> float:
    """The rate of false alarms of one half of the scores by the threshold of the other half.

    The mean over random halves; nan where half of the scores is too few for the rate.
    """
    half = len(calibration) // 2
    if half < least_scores(rate):
        return math.nan
    rng = np.random.default_rng(seed)
    rates = []
    for _ in range(rounds):
        mixed = rng.permutation(calibration)
        rates.append((mixed[half:] > conformal_threshold(mixed[:half], rate)).mean())
    return float(np.mean(rates))
