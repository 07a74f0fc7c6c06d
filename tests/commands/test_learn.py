"""src/learn.py: from a folder of recordings to a detector, on generated recordings of people."""

import io
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

import learn
import score
from choose import make_scorer
from unlabeledasd.detection import load
from unlabeledasd.detection.conformal import conformal_threshold, p_values
from unlabeledasd.detection.learning import Learned, read_learned, write_learned
from unlabeledasd.results import find_csv, read_scores
from unlabeledasd.runs.folder import UNTRAINED, Run

RATE = 8000


def sound(seed: int, seconds: float = 1.5, rate: int = RATE, tone_hz: float = 0.0) -> np.ndarray:
    """A hum with harmonics in noise; tone_hz: what an anomaly adds."""
    rng, t = np.random.default_rng(seed), np.arange(round(seconds * rate)) / rate
    hum = sum(np.sin(2 * np.pi * 110 * k * t + rng.uniform(0, 6)) / k for k in range(1, 6))
    wave = 0.05 * hum + 0.02 * rng.standard_normal(len(t))
    return wave + 0.05 * np.sin(2 * np.pi * tone_hz * t)


def write(folder: Path, name: str, wave: np.ndarray, rate: int = RATE, **kind) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    soundfile.write(folder / name, wave, rate, **kind)
    return folder / name


def call(monkeypatch, script, *arguments) -> int:
    monkeypatch.setattr(sys, "argv", [script.__file__, *map(str, arguments)])
    with pytest.raises(SystemExit) as stop:
        script.main()
    return stop.value.code or 0


@pytest.fixture(scope="module")
def recordings(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("people") / "pump"
    for i in range(40):
        write(folder, f"rec {i}.wav", sound(i))
    return folder


@pytest.fixture(scope="module")
def made(recordings, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("made") / "detector"
    with pytest.MonkeyPatch.context() as monkeypatch:
        assert call(monkeypatch, learn, recordings, "--out", out) == 0
    return out


@pytest.fixture
def detector(made, tmp_path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "detector"))


def test_normal_and_anomalous_recordings(made, tmp_path, monkeypatch, capsys):
    for i in range(10):
        write(tmp_path / "new", f"normal_{i}.wav", sound(100 + i))
        write(tmp_path / "new", f"anomaly_{i}.wav", sound(200 + i, tone_hz=1700))
    assert call(monkeypatch, score, made, tmp_path / "new", "--format", "jsonl") == 0
    output = capsys.readouterr()
    assert "no rate of false alarms" not in output.err
    rows = {Path(r["clip"]).stem: r for r in map(json.loads, output.out.splitlines())}
    assert all(rows[f"anomaly_{i}"]["decision"] == "anomaly" for i in range(10))
    assert sum(rows[f"normal_{i}"]["decision"] == "anomaly" for i in range(10)) <= 3
    found = load(made)
    calibration = found.machines["pump"].held_out
    assert len(calibration) == 10
    assert rows["normal_0"]["threshold"] == conformal_threshold(calibration, 0.1)
    for row in rows.values():
        assert row["p_value"] == p_values(calibration, np.array([row["score"]]))[0]


def test_calibration_scores_are_those_of_recordings_that_are_no_references(made):
    run = Run(made)
    windows = read_learned(run).windows
    roles = windows.groupby("recording").role.unique()
    assert roles.map(len).max() == 1
    assert roles.map(lambda role: role[0]).value_counts().to_dict() == {
        "reference": 30,
        "calibration": 10,
    }
    detector = load(made)
    file = find_csv(run, "pump", UNTRAINED, "held_out_score")
    for row in read_scores(file).itertuples():
        assert detector.score_file(row.path) == pytest.approx(row.score, rel=1e-5)


def test_what_recorders_write(tmp_path, monkeypatch, capsys):
    folder = tmp_path / "mixed/fan"
    for i in range(8):
        stereo = np.column_stack([sound(i, rate=48000), 0.1 * sound(50 + i, rate=48000)])
        write(folder, f"a{i}.wav", stereo, 48000, subtype="PCM_24")
        write(folder, f"b{i}.mp3", sound(20 + i, rate=44100), 44100)
        write(folder, f"c{i}.flac", sound(40 + i))
    (folder / ".DS_Store").write_bytes(b"x")
    half = write(folder, "half.wav", sound(70))
    half.write_bytes(half.read_bytes()[:5000])
    (folder / "text.wav").write_text("no sound")
    write(folder, "anomaly_1.wav", sound(80))
    shutil.copy(folder / "c1.flac", folder / "c1 (1).flac")
    assert call(monkeypatch, learn, folder, "--out", tmp_path / "d") == 1
    output = capsys.readouterr()
    assert "the first channel" in output.out
    assert "left out: 1 hidden" in output.out
    assert "fan: 24 recordings" in output.out
    assert "8000, 44100, 48000 Hz, 1, 2 channel(s)" in output.out
    for problem in ("half.wav: truncated", "text.wav: cannot be read", "named as an anomaly"):
        assert output.err.count(problem) == 1
    assert "c1.flac: the same recording as" in output.err
    assert "4 could not be used, see above" in output.err
    detector = load(tmp_path / "d")
    assert detector.sample_rate == RATE
    left, right = sound(90, rate=48000), 0.1 * sound(91, rate=48000)
    both = write(tmp_path, "new.wav", np.column_stack([left, right]), 48000, subtype="PCM_24")
    alone = write(tmp_path, "left.wav", left, 48000, subtype="PCM_24")
    assert detector.score_file(both) == detector.score_file(alone)


def test_the_mean_of_the_channels(tmp_path, monkeypatch, capsys):
    folder = tmp_path / "fan"
    for i in range(10):
        write(folder, f"{i}.wav", np.column_stack([sound(i), sound(50 + i)]))
    assert call(monkeypatch, learn, folder, "--out", tmp_path / "d", "--channel", "mean") == 0
    assert "the mean of all channels" in capsys.readouterr().out
    assert load(tmp_path / "d").channel is None


def test_a_dead_channel_is_reported(recordings, tmp_path, monkeypatch, capsys):
    folder = tmp_path / "pump"
    for i in range(14):
        write(folder, f"{i}.wav", np.column_stack([sound(i), np.zeros(len(sound(i)))]))
    assert call(monkeypatch, learn, folder, "--out", tmp_path / "d", "--channel", 1) == 0
    assert "silent, no sound in it; used as it is:" in capsys.readouterr().out


def test_a_quieter_microphone_is_no_anomaly(made):
    detector = load(made)
    loud = [detector.score(sound(300 + i), RATE) for i in range(5)]
    quiet = [detector.score(0.1 * sound(300 + i), RATE) for i in range(5)]
    assert quiet == pytest.approx(loud, rel=0.02)


def test_add_and_undo(detector, tmp_path, monkeypatch, capsys):
    before = Run(detector).scorers(UNTRAINED).read_bytes()
    for i in range(8):
        write(tmp_path / "more", f"{i}.wav", sound(400 + i, tone_hz=900))
    odd = sound(500, tone_hz=900)
    was = load(detector).score(odd, RATE)
    assert call(monkeypatch, learn, tmp_path / "more", "--add", detector) == 0
    assert "added: 8 recordings" in capsys.readouterr().out
    now = load(detector)
    assert now.score(odd, RATE) < was
    assert len(now.machines["pump"].held_out) == 12
    assert call(monkeypatch, learn, tmp_path / "more", "--add", detector) == 1
    assert "the detector has learned it already" in capsys.readouterr().err
    assert call(monkeypatch, learn, "--undo", detector) == 0
    assert Run(detector).scorers(UNTRAINED).read_bytes() == before
    assert call(monkeypatch, learn, "--undo", detector) == 1
    assert "nothing was added" in capsys.readouterr().err


def test_an_interrupted_call_is_completed(detector, recordings, tmp_path, monkeypatch, capsys):
    run = Run(detector)
    before = run.scorers(UNTRAINED).read_bytes()
    run.done_marker.unlink()  # as if it had been killed while it wrote
    run.scorers(UNTRAINED).unlink()
    assert call(monkeypatch, score, detector, recordings) == 1
    assert "no finished run there" in capsys.readouterr().err
    assert call(monkeypatch, learn, recordings, "--add", detector) == 1
    output = capsys.readouterr()
    assert "an earlier call was interrupted; it is completed now" in output.out
    assert "the detector has learned it already" in output.err
    assert run.is_done
    assert run.scorers(UNTRAINED).read_bytes() == before
    run.done_marker.unlink()
    assert call(monkeypatch, learn, recordings, "--out", detector) == 0


def test_one_long_recording(tmp_path, monkeypatch, capsys):
    write(tmp_path / "pump", "long.wav", sound(1, seconds=60))
    assert call(monkeypatch, learn, tmp_path / "pump", "--out", tmp_path / "d", "--seconds", 1) == 0
    assert "no rate is promised: with too few recordings for 0.1" in capsys.readouterr().out
    windows = read_learned(Run(tmp_path / "d")).windows
    assert windows.role.value_counts().to_dict() == {"reference": 87, "calibration": 30}
    # the 119 windows begin every 0.5 s: two between the parts are left out
    assert windows.unit[windows.role == "calibration"].iloc[0].endswith("@89")


def test_a_machine_with_too_few_recordings_does_not_end_the_others(
    recordings, tmp_path, monkeypatch, capsys
):
    shutil.copytree(recordings, tmp_path / "all/pump")
    write(tmp_path / "all/fan", "only.wav", sound(600))
    assert call(monkeypatch, learn, tmp_path / "all", "--out", tmp_path / "d") == 1
    output = capsys.readouterr()
    assert "error: fan: 1 recordings" in output.err
    assert list(load(tmp_path / "d").machines) == ["pump"]


def test_few_recordings_are_scored_without_themselves(tmp_path, monkeypatch, capsys):
    for i in range(12):
        write(tmp_path / "pump", f"{i}.wav", sound(i))
    assert call(monkeypatch, learn, tmp_path / "pump", "--out", tmp_path / "d") == 0
    printed = capsys.readouterr().out
    assert (
        "12 recordings to compare with, 12 calibration scores; alarms at a rate of about" in printed
    )
    learned = read_learned(Run(tmp_path / "d"))
    scorer = make_scorer("standardized_domain_z")
    scores = read_scores(find_csv(Run(tmp_path / "d"), "pump", UNTRAINED, "held_out_score"))
    found = dict(zip(scores.path, scores.score, strict=True))
    for name in learned.windows.recording:
        inside = (learned.windows.recording == name).to_numpy()
        others = learned.embedding[~inside]
        own = scorer.fit(others, np.zeros(len(others), bool)).score(learned.embedding[inside])
        assert found[name] == pytest.approx(own.mean())


def test_a_folder_per_machine_and_known_states(tmp_path, monkeypatch, capsys):
    for machine in ("fan", "pump"):
        for i in range(14):
            folder = tmp_path / "all" / machine / "train"
            write(folder, f"normal_{i}.wav", sound(i + 50 * len(machine)))
        write(tmp_path / "all" / machine / "test", "anomaly_0.wav", sound(7, tone_hz=2000))
        write(tmp_path / "all" / machine / "test", "normal_0.wav", sound(1000 + len(machine)))
    arguments = (tmp_path / "all", "--out", tmp_path / "d", "--test", tmp_path / "all")
    assert call(monkeypatch, learn, *arguments) == 0
    printed = capsys.readouterr().out
    assert "not learned from: 4 recordings below test/" in printed
    assert set(load(tmp_path / "d").machines) == {"fan", "pump"}
    assert "test fan: 1 normal, 1 anomalous; AUC 1.000" in printed


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--out", "d", "--alarm-rate", "0.01"], "an alarm rate of 0.01 needs 99 recordings"),
        (["--out", "d", "--alarm-rate", "2"], "alarm rate 2.0: between 0 and 1"),
        (["--out", "d", "--test", "gone"], "--test gone: no such folder"),
        (["--add", "gone"], "gone: no detector of src/learn.py (learned.npz is missing)"),
    ],
)
def test_what_is_refused(recordings, arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert call(monkeypatch, learn, recordings, *arguments) == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "d/all/done").exists()


def test_a_detector_is_not_written_over(recordings, made, monkeypatch, capsys):
    assert call(monkeypatch, learn, recordings, "--out", made) == 1
    assert "exists; --add adds to it, or name another folder" in capsys.readouterr().err


class Input(io.TextIOWrapper):
    def __init__(self, data: bytes):
        super().__init__(io.BytesIO(data))


def test_a_stream(made, monkeypatch, capsys):
    detector = load(made)
    wave = np.concatenate([sound(1, 4.5), sound(2, 4.5, tone_hz=1700)])
    data = np.round(wave * 32768).astype("<i2")
    stereo = np.column_stack([np.zeros_like(data), data]).tobytes() + b"\0"  # half a sample more
    monkeypatch.setattr(sys, "stdin", Input(stereo))
    arguments = (made, "-", "--stream-channels", 2, "--channel", 1, "--alarm-of", "2/3")
    assert call(monkeypatch, score, *arguments) == 0
    rows = list(map(json.loads, capsys.readouterr().out.splitlines()))
    curve = detector.curve(data, RATE, hop_seconds=detector.n_samples / RATE)
    assert [row["start_s"] for row in rows] == curve.start_s.tolist()
    assert [row["score"] for row in rows] == pytest.approx(curve.score.tolist(), rel=1e-5)
    decisions = [row["decision"] == "anomaly" for row in rows]
    assert decisions[3:] == [True] * 3
    assert [row["alarm"] for row in rows] == [
        sum(decisions[max(0, i - 2) : i + 1]) >= 2 for i in range(6)
    ]


def test_a_stream_with_rare_false_alarms(made, monkeypatch, capsys):
    """One in an hour of 2400 windows that err at 0.1: 0.9 x 2400 x 0.1 ** 4 < 1."""
    wave = np.concatenate([sound(1, 3), sound(2, 9, tone_hz=1700)])
    monkeypatch.setattr(sys, "stdin", Input(np.round(wave * 32768).astype("<i2").tobytes()))
    assert call(monkeypatch, score, made, "-", "--false-alarm-every", 1, "--no-state") == 0
    output = capsys.readouterr()
    assert "an alarm is 4 anomalous windows in a row (6 s): a false one begins every" in output.err
    assert "every 4.63 hours if windows err independently" in output.err
    assert "more often, at most every 15 s" in output.err
    rows = list(map(json.loads, output.out.splitlines()))
    decisions = [row["decision"] == "anomaly" for row in rows]
    assert decisions[2:] == [True] * 6
    expected = [i >= 3 and all(decisions[i - 3 : i + 1]) for i in range(8)]
    assert [row["alarm"] for row in rows] == expected


@pytest.fixture(scope="module")
def of_long_recordings(tmp_path_factory) -> Path:
    """A detector whose calibration recordings have 7 windows each."""
    folder = tmp_path_factory.mktemp("long")
    for i in range(24):
        write(folder / "pump", f"{i}.wav", sound(700 + i, seconds=4))
    with pytest.MonkeyPatch.context() as monkeypatch:
        arguments = (folder / "pump", "--out", folder / "d", "--seconds", 1)
        assert call(monkeypatch, learn, *arguments) == 0
    return folder / "d"


def test_a_stream_is_decided_by_single_windows(of_long_recordings, monkeypatch, capsys):
    detector = load(of_long_recordings)
    windows = detector.of_windows().machines["pump"].held_out
    file = find_csv(Run(of_long_recordings), "pump", UNTRAINED, "held_out_window_score")
    recordings = read_scores(file)
    places = []
    for row in recordings.itertuples():
        curve = detector.curve_file(row.path).score.to_numpy()
        places.append(int(np.abs(curve - row.score).argmin()))
        assert curve[places[-1]] == pytest.approx(row.score, rel=1e-4)
    assert recordings.path.is_unique
    assert len(set(places)) > 1  # at random
    assert windows.tolist() == recordings.score.tolist()
    data = np.round(sound(1, 20) * 32768).astype("<i2")
    monkeypatch.setattr(sys, "stdin", Input(data.tobytes()))
    assert call(monkeypatch, score, of_long_recordings, "-") == 0
    rows = list(map(json.loads, capsys.readouterr().out.splitlines()))
    assert len(rows) == 20
    threshold = conformal_threshold(windows, 0.1)
    assert threshold > detector.threshold("pump")  # of means, which vary less
    for row in rows:
        assert row["threshold"] == threshold
        assert row["p_value"] == p_values(windows, np.array([row["score"]]))[0]


def test_normal_recordings_give_the_threshold_of_a_stream(made, tmp_path, monkeypatch, capsys):
    for i in range(12):
        write(tmp_path / "loud", f"{i}.wav", sound(800 + i, tone_hz=1700))
    data = np.round(sound(900, 3, tone_hz=1700) * 32768).astype("<i2").tobytes()
    decisions = []
    for arguments in ([], ["--normal", tmp_path / "loud"]):
        monkeypatch.setattr(sys, "stdin", Input(data))
        assert call(monkeypatch, score, made, "-", *arguments) == 0
        rows = map(json.loads, capsys.readouterr().out.splitlines())
        decisions.append({row["decision"] for row in rows})
    assert decisions == [{"anomaly"}, {"normal"}]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--alarm-of", "3/2"], "--alarm-of 3/2: K/M with 1 <= K <= M"),
        (["--false-alarm-every", "0"], "--false-alarm-every=0.0: allowed is from 0.001"),
        (["--false-alarm-every", "9", "--alarm-of", "1/2"], "not together with --false-alarm-"),
        (["--false-alarm-every", "9", "--threshold", "gamma"], "needs the thresholds of a det"),
        (["--stream-rate", "10"], "--stream-rate=10: allowed is from 1000 to"),
        (["--stream-channels", "2", "--channel", "2"], "--channel 2: the stream has 2"),
        ([], "-: no samples came"),
    ],
)
def test_streams_that_are_refused(made, arguments, message, monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdin", Input(b""))
    assert call(monkeypatch, score, made, "-", *arguments) == 1
    assert message in capsys.readouterr().err


def test_a_burst_is_explained(made, recordings, tmp_path, monkeypatch, capsys):
    """Of 2.5 kHz, from 1.9 to 2.2 s: in the second window of 1.5 s."""
    wave, t = sound(9, 3.0), np.arange(3 * RATE) / RATE
    burst = 0.2 * np.sin(2 * np.pi * 2500 * t) * ((t > 1.9) & (t < 2.2))
    file = write(tmp_path / "new", "burst.wav", wave + burst)
    arguments = (made, file, "--explain", tmp_path / "why", "--format", "jsonl")
    assert call(monkeypatch, score, *arguments) == 0
    row = json.loads(capsys.readouterr().out)
    found = json.loads((tmp_path / "why/pump_burst.wav.json").read_text())
    assert row["explanation"] == found["sentence"]
    assert found["low_hz"] <= 2500 <= found["high_hz"]
    assert found["high_hz"] - found["low_hz"] < 700
    assert (found["start_s"], found["end_s"]) == pytest.approx((1.9, 2.2), abs=0.11)
    assert found["difference_db"] > 10
    assert Path(found["nearest_normal"]).parent == recordings
    assert (tmp_path / "why/pump_burst.wav.png").read_bytes().startswith(b"\x89PNG")


def test_without_the_normal_clips_nothing_is_explained(made, tmp_path, monkeypatch, capsys):
    detector = Path(shutil.copytree(made, tmp_path / "detector"))
    learned = read_learned(Run(detector))
    gone = learned.windows.assign(recording="/nowhere/" + learned.windows.unit)
    write_learned(Run(detector), Learned(gone, learned.embedding))
    file = write(tmp_path / "new", "x.wav", sound(5))
    assert call(monkeypatch, score, detector, file, "--explain", tmp_path / "why") == 1
    assert "the nearest normal clip is not there any more" in capsys.readouterr().err


def test_help_is_printed():
    done = subprocess.run(
        [sys.executable, learn.__file__, "--help"], capture_output=True, text=True, check=True
    )
    assert "--alarm-rate" in done.stdout
