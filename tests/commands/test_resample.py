"""dataset.resample=true: clips of other rates and several channels, as if converted beforehand."""

import numpy as np
import pandas as pd
import pytest
import soundfile
import soxr

import infer
import train
from conftest import call
from unlabeledasd.runs.folder import Run

RATES = (48000, 44100, 16000)


def recording(seed: int, rate: int) -> np.ndarray:
    """2 s of a tone in noise (T,)."""
    rng, time = np.random.default_rng(seed), np.arange(2 * rate) / rate
    return 0.2 * np.sin(2 * np.pi * (300 + 40 * (seed % 5)) * time) + 0.02 * rng.normal(
        size=len(time)
    )


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Folders `theirs` (48 kHz 24-bit stereo, 44.1 kHz, 16 kHz) and `ours`, converted by soxr."""
    folder = tmp_path_factory.mktemp("data")
    for i in range(15):
        rate = RATES[i % 3]
        wave = recording(i, rate)
        split, suffix = ("train", "wav") if i < 9 else ("test/normal", "flac")
        name = f"all/raw/fan/{split}/{i}.{suffix}"
        for owner in ("theirs", "ours"):
            (folder / owner / name).parent.mkdir(parents=True, exist_ok=True)
        stored = np.column_stack([wave, recording(50 + i, rate)]) if rate == 48000 else wave
        subtype = "PCM_24" if rate == 48000 else "PCM_16"
        soundfile.write(folder / "theirs" / name, stored, rate, subtype)
        wave = soundfile.read(folder / "theirs" / name, always_2d=True)[0][:, 0]  # as it is stored
        ours = soxr.resample(wave, rate, 16000) if rate != 16000 else wave
        soundfile.write(folder / "ours" / name, ours, 16000, "PCM_16")
    return folder


def given(data, owner: str, *more: str) -> list[str]:
    return [f"dataset.name={owner}", "dataset=folder", "method=spectral_level", "seed=1",
            "dataset.clip_seconds=2", f"data_dir={data}", f"results_dir={data}/results",
            "trainer.accelerator=cpu", "scorer=[knn]", *more]  # fmt: skip


def scores(run: Run, version: str) -> pd.Series:
    table = pd.read_csv(run.version("fan", version) / "untrained_test_score.csv")
    return table.set_index("path").iloc[:, 2]


def test_like_converted_clips(data, monkeypatch, capsys):
    assert call(train, monkeypatch, *given(data, "theirs")) == 1
    assert "Hz, expected 16000 Hz" in capsys.readouterr().err
    originals = {p: p.read_bytes() for p in (data / "theirs/all/raw").rglob("*.*")}
    assert call(train, monkeypatch, *given(data, "theirs", "dataset.resample=true")) == 0
    assert "note: 10 clips converted to 16000 Hz" in capsys.readouterr().out
    assert call(train, monkeypatch, *given(data, "ours")) == 0
    theirs, ours = (Run(data / f"results/{owner}/spectral_level_1") for owner in ("theirs", "ours"))
    pd.testing.assert_series_equal(
        scores(theirs, "untrained"), scores(ours, "untrained"), atol=2e-3, check_names=False
    )
    assert scores(ours, "untrained").std() > 0
    arguments = (f"run={ours.folder}", "name=x", "dataset=folder", "dataset.name=theirs",
                 "dataset.resample=true", f"data_dir={data}", "dataset.clip_seconds=2",
                 "accelerator=cpu", "scorer=[knn]")  # fmt: skip
    assert call(infer, monkeypatch, *arguments) == 0
    pd.testing.assert_series_equal(
        scores(ours, "x"), scores(ours, "untrained"), atol=2e-3, check_names=False
    )
    assert {p: p.read_bytes() for p in (data / "theirs/all/raw").rglob("*.*")} == originals


def test_converted_once_and_again_when_a_clip_changes(data, monkeypatch, capsys):
    settings = given(data, "theirs", "dataset.resample=true", f"run_dir={data}/other")
    assert call(train, monkeypatch, *settings, "check=true") == 0
    capsys.readouterr()
    assert call(train, monkeypatch, *settings, "check=true") == 0
    assert "converted" not in capsys.readouterr().out
    clip = data / "theirs/all/raw/fan/train/0.wav"
    soundfile.write(clip, recording(99, 48000), 48000)
    assert call(train, monkeypatch, *settings, "check=true") == 0
    assert "note: 1 clips converted" in capsys.readouterr().out
