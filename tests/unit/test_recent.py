"""Recent scores and drift: against scipy, by simulation, and what a state file keeps."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
from scipy.stats import kstwo

from reporting.drift import sentence
from unlabeledasd.detection.recent import (
    KEPT,
    LEAST,
    LEVEL,
    RECORDINGS,
    TESTED,
    WINDOWS,
    Drift,
    Recent,
    Scored,
    drift,
    read,
)
from unlabeledasd.errors import InputError


def scored(score: float, key: str = "", is_alarm: bool = False) -> Scored:
    return Scored("2026-11-26T10:00:00+00:00", f"/c/{key}.wav", key, score, score, 9.0, is_alarm)


def series(scores, threshold: float = np.inf) -> list[Scored]:
    return [scored(float(s), str(i), bool(s > threshold)) for i, s in enumerate(scores)]


@pytest.mark.parametrize("shift", [0.0, 1.2, -1.2])
def test_the_test_of_kolmogorov_and_smirnov(shift):
    """The distance by its definition, the p-value by its limit; only the last scores count."""
    rng = np.random.default_rng(3)
    calibration, last = rng.standard_normal(400), shift + rng.standard_normal(TESTED)
    every = np.concatenate([calibration, last])
    cumulated = [(x[:, None] <= every).mean(0) for x in (last, calibration)]
    gaps = cumulated[0] - cumulated[1]
    found = drift(calibration, series([*rng.uniform(50, 60, 30), *last]))
    n = len(calibration) * TESTED / (len(calibration) + TESTED)
    assert found.p_value == pytest.approx(kstwo.sf(np.abs(gaps).max(), round(n)), rel=0.3)
    assert found.is_higher == (gaps.min() < -gaps.max())
    assert found.word == {0.0: None, 1.2: "higher", -1.2: "lower"}[shift]
    assert found.tested == TESTED


def test_clips_that_look_new():
    """Those above the place of the largest distance, without alarms."""
    calibration = np.arange(100.0)
    found = drift(calibration, series([*range(10), *range(80, 110)], threshold=105))
    assert found.is_higher
    assert (found.tested, found.alarms) == (40, 4)
    # at 79 the calibration has 80 % below, the last scores 25 %; at 80 these gain more
    assert found.clips == tuple(f"/c/{i}.wav" for i in range(10, 36))
    lower = drift(calibration, series(range(-40, 10)))
    assert (lower.word, lower.clips) == ("lower", ())


def test_too_few_scores_are_not_tested():
    assert drift(np.arange(30.0), series(range(90, 90 + LEAST - 1))) is None
    assert drift(np.arange(30.0), series(range(90, 90 + LEAST))).word == "higher"
    assert drift(np.empty(0), series(range(50))) is None


def test_how_often_drift_is_said():
    """Of 60 machines: rarely within 300 normal recordings, mostly soon after a shift of scores."""
    rng, n = np.random.default_rng(0), 60
    said, found = 0, 0
    for _ in range(n):
        calibration, scores = rng.gamma(3, 1, 40), rng.gamma(3, 1, 300)
        looks = range(20, 301, 20)
        said += any(drift(calibration, series(scores[:end])).is_found for end in looks)
        found += drift(calibration, series(scores + 2)).is_found  # 2: 1.2 standard deviations
    assert said <= 3
    assert found >= 0.85 * n


def test_single_alarms_are_no_drift():
    rng = np.random.default_rng(1)
    calibration, last = rng.gamma(3, 1, 40), rng.gamma(3, 1, TESTED)
    last[::10] = 1000.0
    found = drift(calibration, series(last, threshold=100))
    assert (found.word, found.alarms) == (None, 5)


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (
            Drift(1e-6, True, 50, 4, tuple("abcde")),
            "these 5 clips look new but not faulty: confirm",
        ),
        (Drift(1e-6, True, 50, 10, ("a",)), "this clip looks new but not faulty"),
        (Drift(1e-6, True, 50, 13, ("a",)), "13 are alarms; a fault, or another microphone"),
        (Drift(1e-6, False, 50, 0, ()), "lower than calibration"),
    ],
)
def test_what_is_said(found, said):
    line = sentence("pump", RECORDINGS, found, 0.05)
    assert said in line
    assert "\n" not in line
    assert ("--add" in line) == (found.looks_new(0.05))
    if len(found.clips) == 5:
        assert line.endswith(": a, b, c and 2 more")


def test_the_level_is_the_limit():
    assert not Drift(LEVEL, True, 50, 0, ()).is_found
    assert Drift(0.999 * LEVEL, True, 50, 0, ()).is_found


# --- the state file -------------------------------------------------------------------------------


def detector(*machines: str, seed: int = 0) -> SimpleNamespace:
    scores = np.random.default_rng(seed).standard_normal(20)
    own = SimpleNamespace(held_out=scores, held_out_windows=None)
    return SimpleNamespace(machines=dict.fromkeys(machines, own))


def test_a_recording_counts_once_and_the_oldest_leave(tmp_path):
    file = tmp_path / "recent.json"
    recent = Recent(file, detector("fan", "pump"))
    for i in range(KEPT + 5):
        recent.add("fan", RECORDINGS, scored(i, f"k{i}"))
    recent.add("fan", RECORDINGS, scored(0.5, f"k{KEPT}"))  # scored again
    recent.add("pump", WINDOWS, scored(1.0, "stream 0"))
    recent.save()
    again = Recent(file, detector("fan", "pump"))
    expected = [0.5 if i == KEPT else float(i) for i in range(5, KEPT + 5)]
    assert [one.score for one in again.of("fan", RECORDINGS)] == expected
    assert again.of("pump", WINDOWS) == [scored(1.0, "stream 0")]
    assert again.of("pump", RECORDINGS) == again.of("other", WINDOWS) == []
    assert [path.name for path in tmp_path.iterdir()] == ["recent.json"]


def test_two_processes_write_one_file(tmp_path):
    one, two = (Recent(tmp_path / "recent.json", detector("fan")) for _ in range(2))
    one.add("fan", RECORDINGS, scored(1.0, "a"))
    two.add("fan", RECORDINGS, scored(2.0, "b"))
    one.save()
    two.save()
    kept = Recent(tmp_path / "recent.json", detector("fan")).of("fan", RECORDINGS)
    assert [entry.score for entry in kept] == [1.0, 2.0]


def test_scores_of_a_changed_machine_begin_again(tmp_path):
    file = tmp_path / "recent.json"
    recent = Recent(file, detector("fan"))
    recent.add("fan", RECORDINGS, scored(1.0, "a"))
    recent.save()
    later = Recent(file, detector("fan", seed=1))  # after learn.py --add
    assert later.of("fan", RECORDINGS) == []
    later.add("fan", RECORDINGS, scored(2.0, "b"))
    later.save()
    assert [one.score for one in read(file)["fan"][RECORDINGS]] == [2.0]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{}",
        "[1]",
        '{"machines": [1]}',
        '{"machines": {"fan": {"calibration": "x"}}}',
        "RIFF\xff",
    ],
)
def test_another_file_is_not_written_over(text, tmp_path):
    file = tmp_path / "recording.wav"
    file.write_text(text, encoding="latin-1")
    with pytest.raises(InputError, match=r"recording.wav: no file of recent scores"):
        Recent(file, detector("fan"))


def test_only_numbers_are_read(tmp_path):
    file = tmp_path / "recent.json"
    recent = Recent(file, detector("fan"))
    recent.add("fan", RECORDINGS, scored(1.0, "a"))
    recent.save()
    state = json.loads(file.read_text())
    state["machines"]["fan"][RECORDINGS][0]["score"] = "1"
    file.write_text(json.dumps(state))
    with pytest.raises(InputError, match="no file of recent scores"):
        read(file)
