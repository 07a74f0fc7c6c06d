"""Errors that a user can fix: src/train.py prints them in one line, with exit status 1."""

import pytest

import train
from conftest import call, make_machine, tiny, write_wav
from unlabeledasd.runs.folder import Run


def clip(raw):
    return raw / "fan/train/section_00_source_train_normal_0000_speed_1.wav"


@pytest.mark.parametrize(
    ("spoil", "overrides", "words"),
    [
        (lambda raw: None, ["method=foo"], ["'method/foo'", "na_1024", "subloss_0256_4096"]),
        (lambda raw: None, ["dataset=foo"], ["'dataset/foo'", "dcase2024", "folder"]),
        (
            lambda raw: None,
            ["data_dir=/nowhere"],
            ["/nowhere/tiny/all/raw: no such folder", "data_dir"],
        ),
        (lambda raw: None, ["seed=???"], ["seed is not set"]),
        (
            lambda raw: None,
            ["dataset.clip_seconds=4"],
            ["clip_seconds=4", "70,014 samples", "4.376 s"],
        ),
        (lambda raw: None, ["score_epochs=[]"], ["score_epochs=[]"]),
        (lambda raw: None, ["score_epochs=[4,2]"], ["score_epochs=[4, 2]: ascending"]),
        (lambda raw: None, ["dataset.batch_size=1"], ["batch_size=1"]),
        (lambda raw: None, ["label.fields=[speed]"], ["label.fields=['speed']", "attribute"]),
        (lambda raw: None, ["foo=1"], ["foo"]),
        (
            lambda raw: (raw / "fan/test").rename(raw / "fan/tests"),
            [],
            ["fan/test: no such folder"],
        ),
        (
            lambda raw: write_wav(clip(raw), samplerate=8000),
            [],
            ["train_normal_0000", "8000 Hz, expected 16000 Hz"],
        ),
        (lambda raw: clip(raw).write_bytes(b"RIFF"), [], ["train_normal_0000", "cannot be read"]),
        (
            lambda raw: write_wav(raw / "fan/train/x.wav"),
            ["dataset.grammar=dcase"],
            ["fan/train/x.wav", "not a DCASE"],
        ),
        (
            lambda raw: None,
            ["label.fields=[section]"],
            ["one class in all (00)", "zero", "add another machine"],
        ),
        (
            lambda raw: None,
            ["label.fields=[section]", "model.loss.n_subclusters=1"],
            ["one class in all (00)", "zero", "add another machine"],
        ),
        (
            lambda raw: None,
            ["label.fields=[machine]", "model.loss.n_subclusters=1"],
            ["model.loss.n_subclusters=1: the scale needs 3 centres, here are 2"],
        ),
    ],
)
def test_one_line(tmp_path, monkeypatch, capsys, spoil, overrides, words):
    raw = tmp_path / "tiny/all/raw"
    for machine, hz in (("fan", 100), ("pump", 300)):
        make_machine(raw / machine, hz)
    spoil(raw)
    arguments = tiny(tmp_path, tmp_path / "results", *overrides)
    assert call(train, monkeypatch, *arguments, "check=true") == 1
    error = capsys.readouterr().err.replace("\r", "\n").strip().splitlines()[-1].strip()
    assert error.startswith("error: ")
    assert all(word in error for word in words), error
    assert not (tmp_path / "results").exists()  # a check writes nothing


def test_check_passes_and_writes_nothing(data_dir, tmp_path, monkeypatch, capsys):
    assert call(train, monkeypatch, *tiny(data_dir, tmp_path / "results"), "check=true") == 0
    printed = capsys.readouterr().out
    assert "8 classes" in printed  # 2 machines x 2 speeds x 2 domains
    assert "check passed" in printed
    assert not (tmp_path / "results").exists()


def test_clips_that_changed_since_the_run_began(tmp_path, monkeypatch, capsys):
    make_machine(tmp_path / "tiny/all/raw/fan", 100)
    arguments = tiny(tmp_path, tmp_path / "results", "score_epochs=[1]")
    assert call(train, monkeypatch, *arguments) == 0
    run = Run(tmp_path / "results/tiny/na_1024_1")
    run.done_marker.unlink()
    write_wav(tmp_path / "tiny/all/raw/fan/train/section_00_source_train_normal_0099_speed_3.wav")
    assert call(train, monkeypatch, *arguments) == 1
    assert "fan/train 8 now, 7 before" in capsys.readouterr().err
    run.contents.unlink()  # as a run that was begun before these were kept
    assert call(train, monkeypatch, *arguments) == 1
    assert "labels.json: differs from the labels of the clips now" in capsys.readouterr().err


def test_help(monkeypatch, capsys):
    assert call(train, monkeypatch, "--help") == 0
    printed = capsys.readouterr().out
    assert "check=true" in printed
    assert "subloss_0256_4096" in printed
