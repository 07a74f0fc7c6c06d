"""Figures of DCASE Task 2 by counting pairs, an own ROC curve, and by hand."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unlabeledasd.metrics import FURTHER, challenge_score
from unlabeledasd.metrics import evaluate as evaluate_all

KEYS = [
    "hmean_official",
    "0_source_auc_all",
    "0_target_auc_all",
    "0_all_pauc_all",
    "0_source_pauc_all",
    "0_target_pauc_all",
    "0_source_auc_only",
    "0_source_pauc_only",
    "0_target_auc_only",
    "0_target_pauc_only",
]
OFFICIAL = KEYS[1:4]


def evaluate(*arguments, **flags) -> dict[str, float]:
    """The metrics of KEYS; those behind them are harmonic means of these."""
    found = evaluate_all(*arguments, **flags)
    assert list(found) == [*KEYS, *FURTHER]
    return {key: found[key] for key in KEYS}


MONOTONE = [np.exp, np.arctan, np.float32, lambda s: 2 * s**3 - 5, lambda s: 1e-9 * s]


def auc(normals, anomalies) -> float:
    """The share of pairs in which the anomaly scores higher; a tie is half a pair."""
    if len(normals) == 0 or len(anomalies) == 0:
        return float("nan")
    return sum((a > n) + (a == n) / 2 for a in anomalies for n in normals) / (
        len(normals) * len(anomalies)
    )


def pauc(normals, anomalies, max_fpr: float = 0.1) -> float:
    """Area under the ROC polygon up to max_fpr, as D. K. McClish standardises it.

    (1 + (area - least) / (most - least)) / 2
    """
    if len(normals) == 0 or len(anomalies) == 0:
        return float("nan")
    x0 = y0 = area = 0.0
    for threshold in sorted({*normals, *anomalies}, reverse=True):
        x1, y1 = (
            sum(n >= threshold for n in normals) / len(normals),
            sum(a >= threshold for a in anomalies),
        )
        y1 /= len(anomalies)
        if x1 > max_fpr:  # cut the last segment
            area += (max_fpr - x0) * (y0 + (y0 + (y1 - y0) * (max_fpr - x0) / (x1 - x0))) / 2
            break
        area += (x1 - x0) * (y0 + y1) / 2
        x0, y0 = x1, y1
    least, most = max_fpr**2 / 2, max_fpr
    return (1 + (area - least) / (most - least)) / 2


def reference(scores, normal, target) -> dict[str, float]:
    clips = list(zip(scores, normal, target, strict=True))
    (n_s, n_t), (a_s, a_t) = (
        [[s for s, n, t in clips if n == kind and t == d] for d in (0, 1)] for kind in (1, 0)
    )
    anomalies = a_s + a_t
    values = [
        auc(n_s, anomalies),
        auc(n_t, anomalies),
        pauc(n_s + n_t, anomalies),
        pauc(n_s, anomalies),
        pauc(n_t, anomalies),
        auc(n_s, a_s),
        pauc(n_s, a_s),
        auc(n_t, a_t),
        pauc(n_t, a_t),
    ]
    a, b, c = values[:3]
    return dict(
        zip(KEYS, [a * b * c and 3 * a * b * c / (a * b + b * c + c * a), *values], strict=True)
    )


clips = st.lists(
    st.tuples(st.integers(-9, 9), st.booleans(), st.booleans()), min_size=1, max_size=60
)


@settings(max_examples=30, deadline=None)
@given(clips)
def test_all_figures_with_ties_and_absent_domains(clips):
    scores, normal, target = map(list, zip(*clips, strict=True))
    found = evaluate(scores, normal, target)
    assert list(found) == KEYS
    assert found == pytest.approx(reference(scores, normal, target), nan_ok=True, abs=1e-12)


def test_one_machine_of_200_clips_without_ties():
    rng = np.random.default_rng(0)
    normal, target = np.arange(200) % 2 == 0, np.arange(200) % 4 < 2
    scores = rng.standard_normal(200) + 0.8 * ~normal + 0.3 * target
    assert evaluate(scores, normal, target) == pytest.approx(
        reference(scores, normal, target), abs=1e-12
    )


def test_by_hand():
    found = evaluate(
        [1, 3, 2, 5, 4, 4, 2, 6],
        is_normal=[1, 1, 1, 1, 0, 0, 0, 0],
        is_target=[0, 0, 1, 1, 0, 0, 1, 1],
    )
    assert found["0_source_auc_all"] == pytest.approx((4 + 3) / 8)  # 1 and 3 against 4, 4, 2, 6
    assert found["0_target_auc_all"] == pytest.approx((3.5 + 1) / 8)
    # up to the first false positive, at 1/4, one of four anomalies is found: area 0.1 x 1/4
    assert found["0_all_pauc_all"] == pytest.approx((1 + (0.025 - 0.005) / 0.095) / 2)
    assert found["0_source_auc_only"] == 1
    assert found["0_source_pauc_only"] == pytest.approx(1)
    assert found["0_target_auc_only"] == pytest.approx(2.5 / 4)


@pytest.mark.parametrize(
    ("sign", "auc", "pauc"), [(1, 1, 1), (0, 0.5, 0.5), (-1, 0, (1 - 0.005 / 0.095) / 2)]
)
def test_perfect_chance_and_reversed(sign, auc, pauc):
    normal, target = np.repeat([True, False], 20), np.tile([True, False], 20)
    found = evaluate(sign * (~normal + 0.0), normal, target)
    official = [auc, auc, pauc]
    assert [found[k] for k in OFFICIAL] == pytest.approx(official)
    assert found["hmean_official"] == (
        0 if sign < 0 else pytest.approx(3 / sum(1 / v for v in official))
    )


def test_further_columns_of_the_authors():
    rng = np.random.default_rng(3)
    normal, target = np.arange(80) % 2 == 0, np.arange(80) % 4 < 2
    found = evaluate_all(rng.standard_normal(80) + ~normal, normal, target)
    s, t = "0_source_", "0_target_"
    parts = {
        "hmean_0_{d}_auc_only": [s + "auc_only", t + "auc_only"],
        "hmean_0_source_{a}_only": [s + "auc_only", s + "pauc_only"],
        "hmean_0_target_{a}_only": [t + "auc_only", t + "pauc_only"],
        "hmean_0_{d}_{a}_only": [d + a for d in (s, t) for a in ("auc_only", "pauc_only")],
        "hmean_0_{d}_auc_all": [s + "auc_all", t + "auc_all"],
        "hmean_0_{d}_{a}_all": [d + a for d in (s, t) for a in ("auc_all", "pauc_all")],
    }
    assert list(found)[-6:] == list(parts)
    for name, keys in parts.items():
        assert found[name] == pytest.approx(len(keys) / sum(1 / found[key] for key in keys))


@pytest.mark.parametrize("kind", [bool, int, np.int64, float])
@pytest.mark.parametrize("container", [list, np.array])
def test_flags_of_any_kind(kind, container):
    scores, *flags = [3, 1, 4, 1, 5, 9, 2, 6], [1, 0, 1, 0, 1, 1, 0, 0], [0, 0, 0, 0, 1, 1, 1, 1]
    found = evaluate(container(scores), *(container([kind(x) for x in flag]) for flag in flags))
    assert found == pytest.approx(reference(scores, *flags))


@pytest.mark.parametrize(
    "absent", ["target", "target normals", "target anomalies", "anomalies", "normals"]
)
def test_nan_exactly_where_something_is_absent(absent):
    normal, target = np.tile([True, False], 20), np.repeat([True, False], 20)
    scores = np.arange(40.0) % 7
    gone = {
        "target": target,
        "target normals": target & normal,
        "target anomalies": target & ~normal,
        "anomalies": ~normal,
        "normals": normal,
    }[absent]
    found = evaluate(scores[~gone], normal[~gone], target[~gone])
    expected = {
        "target": {k for k in KEYS if "target" in k} | {"hmean_official"},
        "target normals": {k for k in KEYS if "target" in k} | {"hmean_official"},
        "target anomalies": {k for k in KEYS if "target" in k and "only" in k},
    }.get(absent, set(KEYS))
    assert {key for key, value in found.items() if np.isnan(value)} == expected


@settings(max_examples=20, deadline=None)
@given(clips, st.sampled_from(MONOTONE), st.integers(0, 1000))
def test_only_the_order_of_scores_counts(clips, stretch, seed):
    scores, normal, target = (np.array(x) for x in zip(*clips, strict=True))
    expected = evaluate(scores, normal, target)
    order = np.random.default_rng(seed).permutation(len(clips))
    found = evaluate(stretch(scores)[order], normal[order], target[order])
    assert found == pytest.approx(expected, nan_ok=True, abs=1e-12)
    for key, value in evaluate(-scores, normal, target).items():
        assert "_auc_" not in key or value == pytest.approx(1 - expected[key], nan_ok=True)


def machine(*official: float) -> dict[str, float]:
    return {
        "hmean_official": -1.0,
        **dict(zip(OFFICIAL, official, strict=True)),
        "0_source_auc_only": 0.123,
    }


def test_challenge_score_is_one_harmonic_mean_over_all_values():
    assert challenge_score([machine(1, 1, 1), machine(0.5, 0.5, 0.5)]) == pytest.approx(
        2 / 3
    )  # arithmetic: 3 / 4
    values = np.random.default_rng(0).uniform(0.4, 1, (7, 3))
    assert challenge_score([machine(*v) for v in values]) == pytest.approx(21 / (1 / values).sum())
    assert challenge_score([machine(0.9, 0.9, 0.9), machine(0.0, 1, 1)]) == 0
    assert np.isnan(challenge_score([machine(0.9, 0.9, 0.9), machine(0.5, np.nan, 0.5)]))
    assert np.isnan(challenge_score([]))


def test_what_cannot_be_evaluated_is_an_error():
    with pytest.raises(ValueError, match="1 of 2 scores are nan"):
        evaluate([0.1, np.nan], [1, 0], [0, 0])
    with pytest.raises(ValueError, match="2, 1, 2"):
        evaluate([0.1, 0.2], [1], [0, 0])


@pytest.mark.parametrize("flag", [np.nan, 2, None])
def test_unknown_flags_are_refused(flag):
    with pytest.raises(ValueError, match="must be bool or 0/1"):
        evaluate([0.1, 0.2], [1, 0], [0, flag])
