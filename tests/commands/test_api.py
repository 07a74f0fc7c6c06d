"""The Python API: unlabeledasd.detection.load on a run, from the checkout and from a wheel."""

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile
import soxr

import train
from conftest import ROOT, SECONDS, call, tiny, write_wav
from unlabeledasd.decisions import decision_threshold
from unlabeledasd.detection import load
from unlabeledasd.detection.recordings import array_blocks
from unlabeledasd.errors import InputError
from unlabeledasd.runs.folder import Run

RATE = 16000


@pytest.fixture(scope="module")
def run(data_dir, tmp_path_factory) -> Run:
    results = tmp_path_factory.mktemp("results")
    with pytest.MonkeyPatch.context() as monkeypatch:
        settings = tiny(data_dir, results, "precision=32-true", method="na_4096")
        assert call(train, monkeypatch, *settings) == 0
    return Run(results / "tiny/na_4096_1")


@pytest.fixture(scope="module")
def detector(run):
    return load(run.folder)


def stored_scores(run: Run, machine: str, split: str) -> pd.Series:
    file = run.version(machine, "epoch_1_2") / f"ensemble_{split}_score.csv"
    return pd.read_csv(file).set_index("path")["AS-ensemble"]


def test_scores_are_those_of_the_run(run, data_dir, detector):
    raw = data_dir / "tiny/all/raw"
    assert list(detector.machines) == ["fan", "pump"]
    for path, expected in stored_scores(run, "fan", "test").items():
        assert detector.score_file(raw / path, machine="fan") == pytest.approx(expected, abs=1e-6)
        samples, rate = soundfile.read(raw / path, dtype="int16")
        for array in (samples, samples / 32768, samples.astype(np.int32) * 65536):
            score = detector.score(array, rate, machine="fan")
            assert score == pytest.approx(expected, abs=1e-6)
    held_out = stored_scores(run, "fan", "held_out").to_numpy()
    assert detector.threshold("fan") == pytest.approx(decision_threshold(held_out))


def test_an_array_is_scored_as_the_file_of_its_samples(detector, tmp_path):
    """Another sample rate, longer than a window, two channels."""
    rng = np.random.default_rng(0)
    samples = 0.1 * rng.standard_normal((round(2.3 * SECONDS * 44100), 2))
    soundfile.write(tmp_path / "a.wav", samples, 44100, subtype="FLOAT")
    for options in ({}, {"channel": 1}, {"hop_seconds": 1.0}):
        of_file = detector.curve_file(tmp_path / "a.wav", "pump", **options)
        of_array = detector.curve(samples, 44100, "pump", **options)
        assert of_array.start_s.tolist() == of_file.start_s.tolist()
        np.testing.assert_allclose(of_array.score, of_file.score, atol=1e-5)
        score = detector.score(samples, 44100, "pump", **options)
        assert score == pytest.approx(of_array.score.mean(), abs=1e-9)
        assert len(of_array) == (7 if options.get("hop_seconds") else 4)


def test_array_blocks():
    stereo = np.arange(6, dtype=np.float64).reshape(3, 2) / 10
    (mean,) = array_blocks(stereo, RATE, RATE)
    assert mean.dtype == np.float32
    np.testing.assert_allclose(mean, [0.05, 0.25, 0.45], rtol=1e-6)
    (right,) = array_blocks(stereo, RATE, RATE, channel=1)
    np.testing.assert_allclose(right, [0.1, 0.3, 0.5], rtol=1e-6)
    (only,) = array_blocks(stereo[:, :1], RATE, RATE, channel=1)  # as recordings of one channel
    np.testing.assert_allclose(only, [0, 0.2, 0.4], rtol=1e-6)
    (scaled,) = array_blocks(np.array([-32768, 16384], dtype=np.int16), RATE, RATE)
    assert scaled.tolist() == [-1.0, 0.5]
    tone = np.sin(np.arange(48000) / 20)
    (slower,) = array_blocks(tone, 48000, RATE)
    np.testing.assert_allclose(slower, soxr.resample(tone, 48000, RATE), atol=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"machine": "valve"}, "machine=valve: the machines of this run are fan, pump"),
        ({"machine": None}, "machine=None: the machines of this run are fan, pump"),
        ({"samples": np.empty(0)}, "no samples in it"),
        ({"samples": np.zeros((2, 3, 4))}, r"samples of shape \(2, 3, 4\): expected"),
        ({"samples": np.full(9, np.nan)}, "not all of them are finite"),
        ({"samples": np.zeros(9, dtype=np.uint8)}, "dtype uint8: expected float, int16 or int32"),
        ({"samples": np.zeros((9, 2)), "channel": 2}, "samples of 2 channels, but channel=2"),
        ({"sample_rate": 0}, "sample_rate=0: more than 0"),
        ({"hop_seconds": 0}, "hop_seconds=0: more than 0 and at most 4.4 s"),
    ],
)
def test_what_cannot_be_scored(detector, options, message):
    given = {"samples": np.zeros(9), "sample_rate": RATE, "machine": "fan", **options}
    with pytest.raises(InputError, match=message):
        detector.score(**given)


def test_one_machine_needs_no_name(detector):
    from dataclasses import replace

    alone = replace(detector, machines={"fan": detector.machines["fan"]})
    noise = 0.1 * np.random.default_rng(0).standard_normal(RATE)
    assert alone.score(noise, RATE) == detector.score(noise, RATE, machine="fan")
    assert alone.threshold() == detector.threshold("fan")


@pytest.mark.parametrize("node", ["extractor", "scorer"])
@pytest.mark.parametrize(
    "target",
    [
        "os.system",
        "unlabeledasd.networks.torch",
        "unlabeledasd.networks.nn.Linear",
        "unlabeledasd.networks.InputError",  # imported there, not defined there
        "unlabeledasd.networks.least_samples",
        "unlabeledasd.files.write_text",
        "nowhere",
        "",
    ],
)
def test_a_folder_names_no_class_outside_the_library(run, tmp_path, node, target):
    folder = Path(shutil.copytree(run.folder, tmp_path / "run"))
    config = folder / "all/config.yaml"
    was = {"extractor": "networks.MultiResolutionNet", "scorer": "scoring.TargetKmeansCos"}[node]
    text = config.read_text()
    assert f"unlabeledasd.{was}" in text
    config.write_text(text.replace(f"unlabeledasd.{was}", f"'{target}'"))
    with pytest.raises(InputError, match=r"config\.yaml: .*_target_=.*: allowed are the classes"):
        load(folder)


def test_no_run(tmp_path):
    with pytest.raises(InputError, match=r"no finished run there, and no card\.json"):
        load(tmp_path)


@pytest.mark.slow
def test_from_a_wheel(run, data_dir, tmp_path):
    """Nothing but the wheel, in another folder: no Hydra, no command, no checkout."""
    wheel = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-q"]
    source = tmp_path / "source"
    for name in ("src/unlabeledasd", "pyproject.toml", "README.md", "LICENSE"):
        place = source / name
        place.parent.mkdir(parents=True, exist_ok=True)
        (shutil.copytree if (ROOT / name).is_dir() else shutil.copy)(ROOT / name, place)
    subprocess.run([*wheel, source, "-w", tmp_path / "wheels"], check=True)
    (file,) = (tmp_path / "wheels").glob("unlabeledasd-*.whl")
    with zipfile.ZipFile(file) as archive:
        archive.extractall(tmp_path / "installed")
    clip = write_wav(tmp_path / "x.wav", samplerate=44100)
    program = f"""
import json, sys
from unlabeledasd.detection import load
early = sorted({{"torch", "sklearn", "pandas"}} & set(sys.modules))
detector = load({str(run.folder)!r})
score = detector.score_file({str(clip)!r}, machine="pump")
foreign = sorted({{"hydra", "omegaconf", "settings", "pytorch_lightning"}} & set(sys.modules))
place = sys.modules["unlabeledasd"].__file__
print(json.dumps([place, score, detector.threshold("pump"), early, foreign]))
"""
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path / "installed")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    place, score, threshold, early, foreign = json.loads(done.stdout)
    assert Path(place).is_relative_to(tmp_path / "installed")
    detector = load(run.folder)
    assert score == pytest.approx(detector.score_file(clip, "pump"), rel=1e-9)
    assert threshold == pytest.approx(detector.threshold("pump"), rel=1e-9)
    assert (early, foreign) == ([], [])
