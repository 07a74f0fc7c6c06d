"""src/learn.py --train: a network for one machine, calibrated on recordings it has not seen."""

import json

import numpy as np
import pytest
from test_learn import call, sound, write

import learn
import score
from settings import learned as settings
from unlabeledasd.detection import load
from unlabeledasd.detection.conformal import conformal_threshold
from unlabeledasd.detection.learning import read_learned
from unlabeledasd.results import find_csv, read_scores
from unlabeledasd.runs.folder import Run
from unlabeledasd.runs.training import KeepEpochs


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    """(recordings, detector, what was printed): training was stopped after its first epoch."""
    folder = tmp_path_factory.mktemp("train")
    for i in range(26):
        write(folder / "pump", f"{i}.wav", sound(i))
    arguments = (folder / "pump", "--out", folder / "d", "--train")
    keep = KeepEpochs.on_train_epoch_end

    def stop(self, trainer, module):
        keep(self, trainer, module)
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(settings, "EPOCHS", 2)
        monkeypatch.setattr(KeepEpochs, "on_train_epoch_end", stop)
        monkeypatch.setattr(learn.sys, "argv", ["learn.py", *map(str, arguments)])
        with pytest.raises((KeyboardInterrupt, SystemExit)):
            learn.main()
    return folder, arguments


@pytest.fixture(scope="module")
def made(stopped):
    folder, arguments = stopped
    assert not Run(folder / "d").is_done
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(settings, "EPOCHS", 2)
        assert call(monkeypatch, learn, *arguments) == 0
    return folder / "d"


def test_a_stopped_training_resumes(made):
    run = Run(made)
    seconds = json.loads(run.progress.read_text())["seconds"]
    assert len(seconds) == 1  # the second epoch alone
    assert run.epochs == [2]
    assert not list(made.rglob("*.tmp"))


def test_calibration_recordings_are_unknown_to_network_and_scorer(made):
    run = Run(made)
    windows = read_learned(run).windows
    aside = set(windows.recording[windows.role == "calibration"])
    trained = {path.partition("@")[0] for path in json.loads(run.labels.read_text())["clips"]}
    assert len(aside) == 9
    assert trained == set(windows.recording) - aside
    detector = load(made)
    file = find_csv(run, "pump", "epoch2", "held_out_score")
    held_out = read_scores(file)
    assert set(held_out.path) == aside
    assert detector.threshold() == conformal_threshold(held_out.score.to_numpy(), 0.1)
    row = held_out.iloc[0]
    assert detector.score_file(row.path) == pytest.approx(row.score, rel=1e-4, abs=1e-4)


def test_it_hears_an_anomaly(made, tmp_path, monkeypatch, capsys):
    write(tmp_path / "new", "anomaly.wav", sound(200, tone_hz=1700))
    assert call(monkeypatch, score, made, tmp_path / "new", "--format", "jsonl", "--no-state") == 0
    row = json.loads(capsys.readouterr().out)
    assert row["decision"] == "anomaly"
    assert row["p_value"] == pytest.approx(0.1)


def test_recordings_are_added_and_taken_back(made, tmp_path, monkeypatch):
    before = read_learned(Run(made))
    for i in range(4):
        write(tmp_path / "pump", f"{i}.wav", sound(900 + i))
    assert call(monkeypatch, learn, tmp_path / "pump", "--add", made) == 0
    added = read_learned(Run(made))
    assert len(added.windows) == len(before.windows) + 4
    size = before.embedding.shape[1]
    assert added.embedding.shape[1] == size  # of the trained network
    assert call(monkeypatch, learn, "--undo", made) == 0
    np.testing.assert_array_equal(read_learned(Run(made)).embedding, before.embedding)


def test_other_recordings_begin_again(stopped, tmp_path, monkeypatch, capsys):
    """Too few of them: what is said, and nothing of the detector remains half made."""
    folder, _ = stopped
    arguments = ("--out", tmp_path / "d", "--train")
    few = [folder / "pump" / f"{i}.wav" for i in range(12)]
    assert call(monkeypatch, learn, *few, *arguments) == 1
    assert "--train: pump: 12 recordings; an alarm rate of 0.1 needs 18" in capsys.readouterr().err
    fewer = [folder / "pump" / f"{i}.wav" for i in range(20)]
    assert call(monkeypatch, learn, *fewer, *arguments) == 1
    assert "--train: 11 windows to train on, at least 16" in capsys.readouterr().err
    assert not (tmp_path / "d/all/done").exists()
