"""What src/score.py keeps of the scores of a detector, and says of their drift."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from test_learn import RATE, Input, call, sound, write

import learn
import score
from unlabeledasd.detection import load
from unlabeledasd.detection.recent import RECORDINGS, WINDOWS, drift, read


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("drift")
    for i in range(60):
        write(folder / "pump", f"{i}.wav", sound(i))
    with pytest.MonkeyPatch.context() as monkeypatch:
        assert call(monkeypatch, learn, folder / "pump", "--out", folder / "detector") == 0
    return folder / "detector"


@pytest.fixture
def detector(made, tmp_path) -> tuple:
    """The detector, the option that gives this test its own state file, the file."""
    return made, ("--state", tmp_path / "state.json"), tmp_path / "state.json"


def recordings(folder: Path, count: int, seed: int, more=0.0) -> Path:
    for i in range(count):
        added = more * np.random.default_rng(i).standard_normal(round(1.5 * RATE))
        write(folder, f"{i}.wav", sound(seed + i) + added)
    return folder


def rows_of(capsys) -> tuple[list[dict], str]:
    output = capsys.readouterr()
    return list(map(json.loads, output.out.splitlines())), output.err


def test_no_drift(detector, tmp_path, monkeypatch, capsys):
    made, state, file = detector
    arguments = (made, recordings(tmp_path / "new", 20, 1000), *state, "--format", "jsonl")
    assert call(monkeypatch, score, *arguments) == 0
    rows, errors = rows_of(capsys)
    assert "as a whole" not in errors
    assert [row["drift"] for row in rows] == [None] * 20
    assert [row["drift_p_value"] is None for row in rows] == [True] * 9 + [False] * 11
    kept = read(file)["pump"][RECORDINGS]
    assert {one.clip: one.score for one in kept} == {
        str(tmp_path / row["clip"]): row["score"] for row in rows
    }
    assert [one.is_alarm for one in kept] == [row["decision"] == "anomaly" for row in rows]
    held_out = load(made).machines["pump"].held_out
    assert rows[-1]["drift_p_value"] == drift(held_out, kept).p_value


def test_what_is_new_is_said_once_for_equal_recordings(detector, tmp_path, monkeypatch, capsys):
    """One of the rare operating states, all the time: high scores, below the threshold."""
    made, state, file = detector
    found = load(made)
    ordered = np.sort(found.machines["pump"].held_out)
    states = {i: found.score(sound(3000 + i), RATE) for i in range(40)}
    i = next(i for i, value in states.items() if ordered[-4] < value < 0.95 * ordered[-2])
    rng = np.random.default_rng(0)
    for k in range(30):
        wave = sound(3000 + i)
        write(tmp_path / "new", f"{k}.wav", wave + 1e-4 * rng.standard_normal(len(wave)))
    for _ in range(2):
        arguments = (made, tmp_path / "new", *state, "--format", "jsonl")
        assert call(monkeypatch, score, *arguments) == 0
        rows, errors = rows_of(capsys)
        assert rows[-1]["drift"] == "higher"
        (line,) = [line for line in errors.splitlines() if "as a whole" in line]
        assert "scores of the last 30 recordings are higher than calibration" in line
        assert "0 are alarms; these 30 clips look new but not faulty: confirm and add" in line
        assert len(read(file)["pump"][RECORDINGS]) == 30


def test_faults_are_not_to_be_added(detector, tmp_path, monkeypatch, capsys):
    made, state, _ = detector
    assert call(monkeypatch, score, made, recordings(tmp_path, 12, 0, more=0.3), *state) == 0
    errors = capsys.readouterr().err
    assert "12 are alarms; a fault, or another microphone" in errors
    assert "--add" not in errors


def test_a_stream_keeps_one_score_a_minute(detector, monkeypatch, capsys):
    made, state, file = detector
    quiet = sound(1, 12 * 60)
    quiet[100 * RATE : 102 * RATE] += sound(2, 2, tone_hz=1700)  # in the second minute
    quiet[150 * RATE :] += 0.05 * np.random.default_rng(0).standard_normal(570 * RATE)
    data = np.round(quiet * 32768).astype("<i2").tobytes()
    monkeypatch.setattr(sys, "stdin", Input(data))
    assert call(monkeypatch, score, made, "-", "--alarm-of", "2/2", *state) == 0
    rows, errors = rows_of(capsys)
    kept = read(file)["pump"][WINDOWS]
    every = 40  # windows of 1.5 s
    assert [one.score for one in kept] == [row["score"] for row in rows[::every]]
    for i, one in enumerate(kept):
        own = rows[i * every : (i + 1) * every]
        assert one.highest == max(row["score"] for row in own)
        assert one.is_alarm == any(row["alarm"] for row in own)
    assert kept[1].is_alarm
    assert kept[1].highest > kept[1].score
    assert rows[-1]["drift"] == "higher"
    assert errors.count("kept windows are higher than calibration as a whole") == 1


def test_where_the_state_is_kept(detector, tmp_path, monkeypatch, capsys):
    made, state, _ = detector
    new = recordings(tmp_path / "new", 1, 0)
    default = made / "recent.json"
    assert call(monkeypatch, score, made, new, "--no-state") == 0
    assert not default.exists()
    assert call(monkeypatch, score, made, new) == 0
    assert len(read(default)["pump"][RECORDINGS]) == 1
    default.unlink()
    capsys.readouterr()
    assert call(monkeypatch, score, made, new, "--state", "/proc/no.json") == 0
    assert "/proc/no.json: cannot be written" in capsys.readouterr().err
    assert call(monkeypatch, score, made, new, "--no-state", *state) == 1
    assert "not together with --no-state" in capsys.readouterr().err
    mistaken = new / "0.wav"
    before = mistaken.read_bytes()
    assert call(monkeypatch, score, made, new, "--state", mistaken) == 1
    assert "0.wav: no file of recent scores" in capsys.readouterr().err
    assert mistaken.read_bytes() == before
