"""src/score.py and src/export.py on a tiny run: the scores of src/infer.py, any recording, a
watched folder.
"""

import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass

import numpy as np
import pandas as pd
import pytest
import scipy.signal
import soundfile
import torch

import export
import score
import train
from conftest import ROOT, SECONDS, tiny, write_wav
from conftest import call as call_train
from unlabeledasd.decisions import decision_threshold
from unlabeledasd.detection import portable
from unlabeledasd.detection.detector import Detector
from unlabeledasd.detection.recordings import read_blocks, windows
from unlabeledasd.errors import InputError
from unlabeledasd.networks import MultiResolutionNet
from unlabeledasd.runs.folder import Run
from unlabeledasd.runs.hardware import best_precision
from unlabeledasd.spectra import StftMagnitude, spectrum_magnitude

RATE = 16000
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT / "src")}


@pytest.fixture(scope="module")
def run(data_dir, tmp_path_factory) -> Run:
    results = tmp_path_factory.mktemp("results")
    with pytest.MonkeyPatch.context() as monkeypatch:
        settings = tiny(data_dir, results, "precision=32-true", method="subloss_0256_4096")
        assert call_train(train, monkeypatch, *settings) == 0
    return Run(results / "tiny/subloss_0256_4096_1")


@pytest.fixture(scope="module")
def exported(run, tmp_path_factory):
    pytest.importorskip("onnxscript", reason="the export requirements are not installed")
    out = tmp_path_factory.mktemp("exported") / "detector"
    done = call(export, run.folder, out)
    assert done.returncode == 0, done.stderr
    return out


@dataclass
class Done:
    returncode: int
    stdout: str
    stderr: str


def call(module, *arguments) -> Done:
    """An entry point as the command line would call it."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        try:
            module.main([str(argument) for argument in arguments])
            status = 0
        except SystemExit as stop:
            status = stop.code
    return Done(status or 0, out.getvalue(), err.getvalue())


def scored(*arguments) -> list[dict]:
    done = call(score, *arguments, "--format", "jsonl")
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


# --- ordinary clips --------------------------------------------------------------------------


def test_scores_are_those_of_infer(run, data_dir):
    folder = data_dir / "tiny/all/raw/fan/test"
    found = scored(run.folder, folder)
    table = pd.read_csv(run.version("fan", "epoch_1_2") / "ensemble_test_score.csv")
    assert [v["clip"] for v in found] == [
        str(folder / path.rpartition("/")[2]) for path in table.path
    ]
    np.testing.assert_allclose([v["score"] for v in found], table["AS-ensemble"], atol=1e-6)
    held_out = pd.read_csv(run.version("fan", "epoch_1_2") / "ensemble_held_out_score.csv")[
        "AS-ensemble"
    ]
    threshold = decision_threshold(held_out.to_numpy())
    for result in found:
        assert result["machine"] == "fan"
        assert result["threshold"] == pytest.approx(threshold)
        assert result["decision"] == ("anomaly" if result["score"] > threshold else "normal")
        assert result["percentile"] == pytest.approx(100 * (held_out < result["score"]).mean())
        assert result["windows"] == 1


def test_a_run_of_another_precision_is_scored_in_it(data_dir, tmp_path, monkeypatch):
    """Where the CPU multiplies bfloat16, the scores of src/infer.py are met closer than float32
    would.
    """
    if best_precision(torch.device("cpu")) != "bf16-mixed":
        pytest.skip("this CPU has no bfloat16: float32 is used")
    settings = tiny(data_dir, tmp_path, "precision=bf16-mixed", "score_epochs=[1]")
    assert call_train(train, monkeypatch, *settings) == 0
    run = Run(tmp_path / "tiny/na_1024_1")
    found = scored(run.folder, data_dir / "tiny/all/raw/fan/test")
    table = pd.read_csv(run.version("fan", "epoch1") / "epoch1_test_score.csv")
    np.testing.assert_allclose([v["score"] for v in found], table.iloc[:, 3], atol=1e-6)


def test_formats_say_the_same(run, data_dir):
    clip = sorted((data_dir / "tiny/all/raw/pump/test").iterdir())[0]
    (result,) = scored(run.folder, clip)
    text = call(score, run.folder, clip).stdout
    assert text.split()[0] == f"{result['score']:.4f}"
    assert result["decision"] in text
    assert text.rstrip().endswith(str(clip))
    lines = call(score, run.folder, clip, "--format", "csv").stdout
    assert lines.splitlines()[0].split(",") == list(result)
    values = ["" if value is None else str(value) for value in result.values()]
    assert lines.splitlines()[1].split(",") == values


def test_runs_without_the_data(run, data_dir, tmp_path):
    """The run folder alone: its configuration points to clips that are not there."""
    copy = tmp_path / "copy"
    subprocess.run(["cp", "-r", run.folder, copy], check=True)
    config = (copy / "all/config.yaml").read_text()
    (copy / "all/config.yaml").write_text(config.replace(str(data_dir), "/gone"))
    clip = write_wav(tmp_path / "a.wav")
    here, there = (scored(folder, clip, "--machine", "fan")[0] for folder in (run.folder, copy))
    assert here == there


def test_normal_recordings_of_ones_own_give_the_threshold(run, tmp_path):
    normal = [write_wav(tmp_path / f"normal/{i}.wav", hz=400.0 + 7 * i, seed=i) for i in range(8)]
    scores = np.array([scored(run.folder, clip, "--machine", "fan")[0]["score"] for clip in normal])
    clip = write_wav(tmp_path / "a.wav", hz=1000.0)
    (result,) = scored(
        run.folder, clip, "--machine", "fan", "--normal", tmp_path / "normal", "--quantile", "0.8"
    )
    assert result["threshold"] == pytest.approx(decision_threshold(scores, quantile=0.8), rel=1e-5)
    assert result["percentile"] == pytest.approx(100 * (scores < result["score"]).mean())
    (tmp_path / "none").mkdir()
    done = call(score, run.folder, clip, "--machine", "fan", "--normal", tmp_path / "none")
    assert (done.returncode, "none: no recording in it" in done.stderr) == (1, True)


# --- any recording ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("a.flac", {}),
        ("a.wav", {"subtype": "FLOAT"}),
        ("a.wav", {"samplerate": 44100}),
        ("a.ogg", {"samplerate": 48000, "subtype": "VORBIS", "format": "OGG"}),
        ("a.wav", {"samplerate": 8000, "seconds": 0.7}),
    ],
)
def test_formats_and_rates(run, tmp_path, name, options):
    clip = write_wav(tmp_path / "pump" / name, **options)
    (result,) = scored(run.folder, clip)
    assert result["machine"] == "pump"
    assert 0 < result["score"] < 2


def test_links_and_equal_names(run, tmp_path):
    """A link is of the machine whose folder it lies in, wherever it leads; curves of equal names
    stay apart.
    """
    for name in ("fan/monday", "fan/tuesday", "pump"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "a.wav").symlink_to(write_wav(tmp_path / "elsewhere/pump/b.wav"))
    found = scored(run.folder, tmp_path / "fan", tmp_path / "pump", "--curves", tmp_path / "curves")
    assert [result["machine"] for result in found] == ["fan", "fan", "pump"]
    curves = sorted(
        p.relative_to(tmp_path / "curves").as_posix() for p in (tmp_path / "curves").rglob("*.csv")
    )
    assert curves == [
        "fan/monday/fan_a.wav.csv",
        "fan/tuesday/fan_a.wav.csv",
        "pump/pump_a.wav.csv",
    ]


def test_channels(run, tmp_path):
    left, right = (0.1 * np.random.default_rng(seed).standard_normal(RATE * 5) for seed in (0, 1))
    files = {"left": left, "mean": (left + right) / 2, "both": np.stack([left, right], 1)}
    for name, wave in files.items():
        soundfile.write(tmp_path / f"{name}.wav", wave, RATE, subtype="FLOAT")
    mean_of_both, left_of_both, left_alone, mean_alone = (
        scored(run.folder, tmp_path / f"{name}.wav", "--machine", "fan", *channel)[0]["score"]
        for name, channel in (
            ("both", []),
            ("both", ["--channel", "0"]),
            ("left", []),
            ("mean", []),
        )
    )
    assert mean_of_both == pytest.approx(mean_alone, abs=1e-6)
    assert left_of_both == pytest.approx(left_alone, abs=1e-6)
    assert abs(left_alone - mean_alone) > 1e-5


def test_resampling_in_blocks_is_resampling_at_once(tmp_path):
    librosa = pytest.importorskip("librosa")
    wave = np.random.default_rng(0).standard_normal(44100 * 25).astype(np.float32) * 0.1
    soundfile.write(tmp_path / "a.wav", wave, 44100, subtype="FLOAT")
    found = np.concatenate(list(read_blocks(tmp_path / "a.wav", RATE)))
    expected = librosa.resample(wave, orig_sr=44100, target_sr=RATE, res_type="soxr_hq")
    assert len(found) == len(expected)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_a_tone_keeps_its_pitch(tmp_path):
    write_wav(tmp_path / "a.wav", seconds=3, hz=1234.0, samplerate=48000)
    wave = np.concatenate(list(read_blocks(tmp_path / "a.wav", RATE)))
    spectrum = np.abs(np.fft.rfft(wave))
    assert spectrum.argmax() * RATE / len(wave) == pytest.approx(1234.0, abs=0.5)


@pytest.mark.parametrize("n_samples", [1, 3, 10, 11, 14, 15, 20, 37])
@pytest.mark.parametrize("hop", [1, 4, 5, 10])
@pytest.mark.parametrize("block", [1, 7, 100])
def test_windows(n_samples, hop, block):
    wave = np.arange(n_samples, dtype=np.float32)
    found = list(windows((wave[i : i + block] for i in range(0, n_samples, block)), 10, hop))
    starts = list(range(0, max(n_samples - 10, 0) + 1, hop))
    if n_samples > 10 and starts[-1] + 10 < n_samples:
        starts.append(n_samples - 10)
    assert [start for start, _ in found] == starts
    for start, window in found:
        expected = np.resize(wave, 10) if n_samples < 10 else wave[start : start + 10]
        assert window.tolist() == expected.tolist()


def test_long_recording(run, tmp_path):
    """A recording of 20 s, quiet and then another machine's pitch: the curve shows where."""
    rng, time = np.random.default_rng(0), np.arange(20 * RATE) / RATE
    wave = 0.2 * np.sin(
        2 * np.pi * np.where(time < 10, 200, 3000) * time
    ) + 0.02 * rng.standard_normal(len(time))
    soundfile.write(tmp_path / "long.wav", wave, RATE)
    arguments = (run.folder, tmp_path / "long.wav", "--machine", "fan", "--hop", "2")
    (result,) = scored(*arguments, "--curves", tmp_path / "curves", "--pictures")
    curve = pd.read_csv(tmp_path / "curves/fan_long.wav.csv")
    assert curve.start_s.tolist() == [*np.arange(0, 15, 2), 20 - SECONDS]
    assert result["windows"] == 9
    assert result["score"] == pytest.approx(curve.score.mean())
    assert result["worst_start_s"] == curve.start_s[curve.score.idxmax()]
    assert result["windows_above"] == (curve.score > result["threshold"]).sum()
    soundfile.write(tmp_path / "part.wav", wave[: round(SECONDS * RATE)], RATE)
    (part,) = scored(run.folder, tmp_path / "part.wav", "--machine", "fan")
    assert part["score"] == pytest.approx(curve.score[0], abs=1e-6)
    assert (tmp_path / "curves/fan_long.wav.png").read_bytes().startswith(b"\x89PNG")
    assert "of 9 windows above" in call(score, *arguments).stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{run}", "{tmp}/nowhere.wav"], "nowhere.wav: no such recording or folder"),
        (
            ["{run}", "{tmp}/a.wav"],
            "a.wav: no folder of it is named as a machine, from {tmp}/a.wav downwards; "
            "--machine takes fan pump",
        ),
        (
            ["{run}", "{tmp}/a.wav", "--machine", "valve"],
            "--machine valve: unknown; the run has fan pump",
        ),
        (["{run}", "{tmp}/text.wav", "--machine", "fan"], "text.wav: cannot be read as audio"),
        (["{run}", "{tmp}/empty.wav", "--machine", "fan"], "empty.wav: no samples in it"),
        (
            ["{run}", "{tmp}/half.wav", "--machine", "fan"],
            "half.wav: truncated, 50,000 of the 140,800 bytes",
        ),
        (
            ["{run}", "{tmp}/nan.wav", "--machine", "fan"],
            "nan.wav: sample 0 is nan, not a finite number",
        ),
        (
            ["{run}", "{tmp}/two.wav", "--machine", "fan", "--channel", "2"],
            "two.wav: 2 channels, but channel 2",
        ),
        (
            ["{run}", "{tmp}/a.wav", "--machine", "fan", "--hop", "0"],
            "--hop 0.0: more than 0 and at most 4.4 s",
        ),
        (
            ["{run}", "{tmp}/a.wav", "--machine", "fan", "--quantile", "90"],
            "--quantile 90.0: between 0 and 1",
        ),
        (["{run}", "{tmp}/void"], "void: no recording in it"),
        (["{run}", "{tmp}/a.wav", "--watch"], "--watch: one folder, not"),
        (["{tmp}", "{tmp}/a.wav"], "no finished run there, and no card.json"),
    ],
)
def test_what_cannot_be_scored_is_reported_in_one_line(run, tmp_path, arguments, message):
    write_wav(tmp_path / "a.wav")
    (tmp_path / "text.wav").write_text("no audio")
    (tmp_path / "half.wav").write_bytes((tmp_path / "a.wav").read_bytes()[:50_044])
    soundfile.write(tmp_path / "empty.wav", np.empty(0), RATE)
    soundfile.write(tmp_path / "nan.wav", np.full(RATE, np.nan), RATE, subtype="FLOAT")
    soundfile.write(tmp_path / "two.wav", np.zeros((RATE, 2)), RATE)
    (tmp_path / "void").mkdir()
    done = call(score, *(a.format(run=run.folder, tmp=tmp_path) for a in arguments))
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert done.stderr.startswith("error: ")
    assert message.format(tmp=tmp_path) in done.stderr
    assert done.stdout == ""


def test_one_bad_recording_does_not_stop_the_others(run, tmp_path):
    for name in ("fan/a.wav", "fan/c.wav"):
        write_wav(tmp_path / name)
    (tmp_path / "fan/b.wav").write_bytes(b"RIFF")
    done = call(score, run.folder, tmp_path / "fan")
    assert done.returncode == 1
    assert [line.split("/")[-1] for line in done.stdout.splitlines()] == ["a.wav", "c.wav"]
    assert "b.wav: cannot be read" in done.stderr


def tone(seed: int = 0) -> np.ndarray:
    rng, time = np.random.default_rng(seed), np.arange(round(SECONDS * RATE)) / RATE
    return 0.1 * np.sin(2 * np.pi * 210 * time) + 0.02 * rng.standard_normal(len(time))


def test_a_folder_as_people_bring_it(run, tmp_path):
    """What can be scored is scored, with a note where it needs one; the rest is reported."""
    fan = tmp_path / "pump/new/fan"  # pump/ lies above the argument
    good = write_wav(fan / "good.wav")
    waves = {"silent": np.zeros(80000), "constant": np.full(80000, 0.5), "few": tone()[:7]}
    waves |= {"opposite": np.stack([tone(), -tone()], 1), "offset": 0.3 + 0.01 * tone()}
    for name, wave in waves.items():
        soundfile.write(fan / f"{name}.wav", wave, RATE)
    huge = tone(1)
    huge[1234] = 1e30
    for name, wave in {"loud": 20 * tone(2), "integers": 32768 * tone(3), "huge": huge}.items():
        soundfile.write(fan / f"{name}.wav", wave, RATE, subtype="FLOAT")
    (fan / "half.wav").write_bytes(good.read_bytes()[:90_000])
    (fan / "good (1).wav").write_bytes(good.read_bytes())
    stopped = bytearray(write_wav(fan / "stopped.wav", seed=7).read_bytes())
    stopped[40:44] = bytes(4)
    (fan / "stopped.wav").write_bytes(stopped)
    write_wav(tmp_path / "archive/there.wav", seed=8)
    (fan / "day_2").symlink_to(tmp_path / "archive")
    (fan / "again").symlink_to(fan)
    write_wav(tmp_path / "x.wav", seed=9).rename(fan / os.fsdecode(b"L\xfcfter.wav"))
    write_wav(fan.parent / "elsewhere/y.wav", seed=10)
    for name in (".Trash-1000/files/gone.wav", "@eaDir/a.wav", "b.wav.part", "notes.txt"):
        write_wav(tmp_path / "x.wav")
        (fan / name).parent.mkdir(parents=True, exist_ok=True)
        (fan / name).write_bytes((tmp_path / "x.wav").read_bytes())
    os.mkfifo(fan / "pipe.wav")

    done = call(score, run.folder, fan.parent, "--format", "jsonl", "--curves", tmp_path / "curves")
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert {result["machine"] for result in found} == {"fan"}
    notes = {result["clip"].rpartition("/")[2]: result["note"] for result in found}
    words = {
        "good.wav": f"the same recording as {fan}/good (1).wav",
        "good (1).wav": None,
        r"L\xfcfter.wav": None,
        "there.wav": None,
        "silent.wav": "silent",
        "constant.wav": "constant at 0.5",
        "few.wav": "only 7 samples",
        "opposite.wav": "its channels cancel each other",
        "offset.wav": "offset (DC) of 0.3",
        "loud.wav": "beyond full scale",
        "integers.wav": "in the range of integers",
        "stopped.wav": "its header declares 0 bytes of samples; 140,800 are there and used",
    }
    assert set(notes) == set(words)
    for name, word in words.items():
        assert (word in (notes[name] or "")) if word else notes[name] is None, notes
        assert word is None or re.search(
            f"^note: .*{re.escape(name)}: .*{re.escape(word)}", done.stderr, re.MULTILINE
        )
    for error in (
        "huge.wav: sample 1234 is 1e+30, beyond 1e+10",
        "half.wav: truncated, 89,956 of the 140,800 bytes",
        "y.wav: no folder of it is named as a machine",
    ):
        assert re.search(f"^error: .*{re.escape(error)}", done.stderr, re.MULTILINE)
    last = done.stderr.splitlines()[-1]
    assert last.startswith("note: 12 recordings scored; 3 could not be; left out: ")
    for part in ("1 hidden", "1 linked again", "1 no regular file", "1 of the system"):
        assert part in last
    assert len(list((tmp_path / "curves").rglob("*.csv"))) == len(found)


def test_curves_never_share_a_name(run, tmp_path):
    wave = tone()
    (tmp_path / "fan").mkdir()
    for name in ("a.wav", "a.flac", "a.WAV", "a.flac.wav"):
        file_format = "FLAC" if name == "a.flac" else "WAV"
        soundfile.write(tmp_path / "fan" / name, wave, RATE, format=file_format)
    done = call(score, run.folder, tmp_path / "fan", "--curves", tmp_path / "curves")
    assert done.returncode == 0, done.stderr
    found = {file.name for file in (tmp_path / "curves").iterdir()}
    assert found == {f"fan_{name}.csv" for name in ("a.wav", "a.flac", "a.WAV", "a.flac.wav")}


def test_a_missing_file_does_not_end_a_batch(run, tmp_path):
    clip = write_wav(tmp_path / "a.wav")
    done = call(score, run.folder, tmp_path / "nowhere.wav", clip, "--machine", "fan")
    assert done.returncode == 1
    assert done.stdout.rstrip().endswith(str(clip))
    assert "nowhere.wav: no such recording or folder" in done.stderr


def test_whatever_one_recording_raises_the_others_are_scored(run, tmp_path, monkeypatch):
    for name in ("a", "b", "c"):
        write_wav(tmp_path / f"fan/{name}.wav")
    whole = Detector.curve_file

    def curve_file(self, path, *rest):
        if path.name == "b.wav":
            raise RuntimeError("an error\nof two lines")
        return whole(self, path, *rest)

    monkeypatch.setattr(Detector, "curve_file", curve_file)
    done = call(score, run.folder, tmp_path / "fan")
    assert done.returncode == 1
    assert [line[-5:] for line in done.stdout.splitlines()] == ["a.wav", "c.wav"]
    assert "fan/b.wav: cannot be used (RuntimeError: an error of two lines)" in done.stderr


def test_one_bad_normal_recording_is_reported(run, tmp_path):
    for i in range(4):
        write_wav(tmp_path / f"normal/{i}.wav", hz=400.0 + 7 * i, seed=i)
    (tmp_path / "normal/bad.wav").write_bytes(b"RIFF")
    clip = write_wav(tmp_path / "a.wav")
    arguments = [run.folder, clip, "--machine", "fan", "--normal", tmp_path / "normal"]
    done = call(score, *arguments)
    assert (done.returncode, len(done.stdout.splitlines())) == (1, 1)
    assert "normal/bad.wav: cannot be read" in done.stderr


@pytest.mark.parametrize("form", ["text", "csv", "jsonl"])
def test_names_in_an_encoding_that_lacks_their_letters(run, tmp_path, form):
    write_wav(tmp_path / "x.wav").rename(tmp_path / "Lüfter_風扇.wav")
    command = [sys.executable, ROOT / "src/score.py", run.folder, tmp_path, "--machine", "fan"]
    done = subprocess.run(
        [*command, "--format", form],
        capture_output=True,
        text=True,
        env=ENVIRONMENT | {"PYTHONIOENCODING": "ascii"},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert r"L\xfcfter_\u98a8\u6247.wav" in done.stdout


# --- a watched folder ------------------------------------------------------------------------


def test_watch(run, tmp_path):
    """Clips that exist, one that comes in parts, and a bad one: each is printed once, whole."""
    folder = tmp_path / "fan"
    whole = write_wav(tmp_path / "whole.wav", hz=333.0)
    write_wav(folder / "first.wav")
    (expected,) = scored(run.folder, whole, "--machine", "fan")
    options = ["--watch", "--settle", "2.5", "--format", "jsonl"]
    command = [sys.executable, ROOT / "src/score.py", run.folder, folder, *options]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT
    )
    try:
        assert json.loads(process.stdout.readline())["clip"].endswith("first.wav")
        content = whole.read_bytes()
        with (folder / "second.wav").open("wb") as file:
            for part in (content[:50_000], content[50_000:100_000], content[100_000:]):
                file.write(part)
                file.flush()
                time.sleep(0.8)
        second = json.loads(process.stdout.readline())
        assert second["clip"].endswith("second.wav")
        assert second["score"] == pytest.approx(expected["score"], rel=1e-5)  # threads may differ
        (folder / "bad.wav").write_bytes(b"no audio")
        assert "bad.wav: cannot be read" in process.stderr.readline()
        write_wav(folder / "deeper/third.wav")
        assert json.loads(process.stdout.readline())["clip"].endswith("third.wav")
    finally:
        process.send_signal(signal.SIGINT)
        rest, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    assert rest == ""


# --- exported --------------------------------------------------------------------------------


@pytest.mark.parametrize("n_fft", [256, 1024, 4096])
def test_spectra_without_torch(n_fft):
    wave = np.random.default_rng(0).standard_normal((2, 70_400)).astype(np.float32) * 0.1
    stft = StftMagnitude(n_fft)
    found = portable.stft_magnitude(wave, n_fft, stft.first, stft.n_bins)
    np.testing.assert_allclose(found, stft(torch.from_numpy(wave)).numpy(), atol=2e-5)
    frequencies, _, reference = scipy.signal.stft(
        wave, RATE, window="hann", nperseg=n_fft, scaling="psd", padded=False, boundary="even"
    )
    assert frequencies[stft.first] == frequencies[frequencies >= 200][0]
    assert len(frequencies) - stft.first == stft.n_bins
    # scipy divides by sqrt(fs sum w^2), and takes one more frame where the clip ends within one
    expected = np.abs(reference[:, stft.first :, : found.shape[2]]) * np.sqrt(RATE)
    np.testing.assert_allclose(found[..., 1:-1], expected[..., 1 : found.shape[2] - 1], atol=2e-5)
    spectrum = portable.spectrum_magnitude(wave)
    np.testing.assert_allclose(
        spectrum, spectrum_magnitude(torch.from_numpy(wave)).numpy(), rtol=1e-4, atol=1e-3
    )


def test_exported_scores_are_the_runs(run, exported, data_dir):
    folder = data_dir / "tiny/all/raw"
    ours, theirs = scored(run.folder, folder), scored(exported, folder)
    assert len(ours) == 2 * (5 + 2 + 8)
    np.testing.assert_allclose([v["score"] for v in theirs], [v["score"] for v in ours], atol=1e-4)
    assert [(v["clip"], v["machine"], v["decision"]) for v in theirs] == [
        (v["clip"], v["machine"], v["decision"]) for v in ours
    ]


def test_scoring_from_an_exported_folder_imports_no_torch(exported, tmp_path):
    clip = write_wav(tmp_path / "fan/a.wav")
    code = (
        "import runpy, sys; sys.argv = ['score.py', *sys.argv[1:]]\n"
        "class Refuse:\n"
        "    def find_spec(self, name, *_):\n"
        "        if name.split('.')[0] in ('torch', 'torchaudio', 'pytorch_lightning'):\n"
        "            raise ImportError(name)\n"
        "sys.meta_path.insert(0, Refuse())\n"
        f"try: runpy.run_path({str(ROOT / 'src/score.py')!r}, run_name='__main__')\n"
        "except SystemExit as stop: print(stop.code, 'torch' in sys.modules)"
    )
    command = [sys.executable, "-c", code, exported, clip]
    done = subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT)
    assert done.stdout.splitlines()[-1] == "0 False", done.stderr
    assert "fan" in done.stdout


def test_card(run, exported):
    card = json.loads((exported / "card.json").read_text())
    assert (card["data"], card["method"], card["seed"], card["epochs"]) == (
        "tiny",
        "subloss_0256_4096",
        1,
        [1, 2],
    )
    result = pd.read_csv(run.version("pump", "epoch_1_2") / "ensemble_test_result.csv").iloc[0]
    assert card["machines"]["pump"]["metrics"]["hmean_official"] == pytest.approx(
        result.hmean_official
    )
    held_out = pd.read_csv(run.version("pump", "epoch_1_2") / "ensemble_held_out_score.csv")[
        "AS-ensemble"
    ]
    expected = {
        kind: decision_threshold(held_out.to_numpy(), kind)
        for kind in ("auto", "gamma", "empirical")
    }
    assert card["machines"]["pump"]["thresholds"] == pytest.approx(expected)
    assert card["licence"]


def test_any_batch_size(exported):
    card = json.loads((exported / "card.json").read_text())
    extract = portable.onnx_extractor(exported / "epoch2.onnx", card["inputs"])
    waves = (
        np.random.default_rng(0).standard_normal((5, card["n_samples"])).astype(np.float32) * 0.1
    )
    together = extract(waves)
    alone = np.concatenate([extract(wave[None]) for wave in waves])
    assert together.shape == (5, 384)
    np.testing.assert_allclose(together, alone, rtol=1e-3, atol=1e-4)


def test_time_mean_is_removed_in_the_graph(tmp_path):
    pytest.importorskip("onnxscript", reason="the export requirements are not installed")
    torch.manual_seed(0)
    network = MultiResolutionNet([1024], clip_seconds=SECONDS, time_mean_removed=[1024]).eval()
    inputs = export.write_network(network, tmp_path / "a.onnx")
    waves = (
        np.random.default_rng(0).standard_normal((2, network.n_samples)).astype(np.float32) * 0.1
    )
    with torch.inference_mode():
        expected = network(torch.from_numpy(waves))[0].numpy()
    found = portable.onnx_extractor(tmp_path / "a.onnx", inputs)(waves)
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("card.json", b"{}", "corrupt, or not what this version writes (KeyError 'epochs')"),
        ("card.json", b"[]", "corrupt, or not what this version writes (TypeError"),
        ("card.json", b"no json", "corrupt, or not what this version writes (JSONDecodeError"),
        ("scorers.npz", b"PK", "scorers.npz: cannot be read as arrays"),
        ("epoch1.onnx", b"no network", "epoch1.onnx: not a network that onnxruntime can load"),
    ],
)
def test_damaged_exports(exported, tmp_path, file, content, message):
    shutil.copytree(exported, tmp_path / "copy")
    (tmp_path / "copy" / file).write_bytes(content)
    done = call(score, tmp_path / "copy", write_wav(tmp_path / "fan/a.wav"))
    assert (done.returncode, len(done.stderr.splitlines())) == (1, 1)
    assert message in done.stderr


def test_neither_a_run_nor_an_export_can_name_another_class(run, exported, tmp_path):
    """They may come from anybody: what they name is not even imported."""
    (tmp_path / "evil_module.py").write_text("raise SystemExit('imported')")
    wav = write_wav(tmp_path / "fan/a.wav")
    for key, name in (
        ("scorer", "scoring.TargetKmeansCos"),
        ("model.extractor", "networks.MultiResolutionNet"),
    ):
        shutil.copytree(run.folder, tmp_path / key)
        config = Run(tmp_path / key).config
        text = config.read_text()
        assert f"_target_: unlabeledasd.{name}" in text
        config.write_text(
            text.replace(f"_target_: unlabeledasd.{name}", "_target_: evil_module.Evil")
        )
    shutil.copytree(exported, tmp_path / "exported")
    card = tmp_path / "exported/card.json"
    card.write_text(
        card.read_text().replace("unlabeledasd.scoring.TargetKmeansCos", "evil_module.Evil")
    )
    for folder, key in (
        ("scorer", "scorer.target_kmeans_cos"),
        ("model.extractor", "model.extractor"),
        ("exported", "scorer"),
    ):
        done = call(score, tmp_path / folder, wav)
        assert (done.returncode, len(done.stderr.splitlines())) == (1, 1)
        assert f"{key}._target_=evil_module.Evil: in no yaml file of src/config" in done.stderr


def test_export_does_not_overwrite(run, exported, tmp_path):
    done = call(export, run.folder, exported)
    assert (done.returncode, len(done.stderr.splitlines())) == (1, 1)
    assert "exists and is not empty" in done.stderr
    done = call(export, tmp_path, tmp_path / "out")
    assert "no finished run there" in done.stderr
    assert not (tmp_path / "out").exists()


def test_windows_refuse_a_hop_that_leaves_gaps():
    with pytest.raises(ValueError, match="hop=11"):
        list(windows([np.zeros(20, np.float32)], 10, 11))


def test_channel_that_is_not_there(tmp_path):
    soundfile.write(tmp_path / "two.wav", np.zeros((100, 2)), RATE)
    with pytest.raises(InputError, match="2 channels, but channel -1"):
        list(read_blocks(tmp_path / "two.wav", RATE, -1))
