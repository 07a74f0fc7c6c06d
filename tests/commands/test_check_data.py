"""preprocess/check_data.py: the table, what it finds, and its exit status."""

import itertools
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile

import check_data
import train
from conftest import ROOT, call, make_machine, tiny, write_wav
from settings import datasets as dataset_facts
from unlabeledasd.errors import InputError

TINY = """
defaults: [base]
name: tiny
machines: {development: [fan], evaluation: [saw]}
unlabeled: [saw]
records: {development: 1, evaluation_train: 2, evaluation_test: 3}
clips: {train_source: 3, train_target: 1, test_normal: 2, test_anomaly: 2}
clips_of: {saw: {test_normal: 3, test_anomaly: 1}}
"""


@pytest.fixture
def data_dir(tmp_path, monkeypatch) -> Path:
    config = tmp_path / "config"
    config.mkdir()
    for name in ("base", "folder"):
        (config / f"{name}.yaml").write_text((dataset_facts.CONFIG / f"{name}.yaml").read_text())
    (config / "tiny.yaml").write_text(TINY)
    monkeypatch.setattr(dataset_facts, "CONFIG", config)
    seed = itertools.count()
    for machine, attribute, normal in (("fan", "vel_1", 2), ("saw", "noAttribute", 3)):
        for kind, count in (
            ("source_train_normal", 3),
            ("target_train_normal", 1),
            ("source_test_normal", normal),
            ("target_test_anomaly", 4 - normal),
        ):
            for i in range(count):
                name = f"section_00_{kind}_{i:04d}_{attribute}.wav"
                write_wav(
                    raw(tmp_path) / machine / kind.split("_")[1] / name,
                    seconds=0.1 + 0.1 * (i == 1),
                    seed=next(seed),
                )
    return tmp_path


def raw(data_dir: Path) -> Path:
    return data_dir / "tiny/all/raw"


def clip(data_dir: Path, name: str = "section_00_source_train_normal_0002_vel_1.wav") -> Path:
    return raw(data_dir) / "fan/train" / name


def check(data_dir: Path, dataset: str = "tiny") -> int:
    try:
        check_data.main([str(data_dir), dataset])
    except SystemExit as stop:
        return stop.code
    return 0


def test_ready(data_dir, capsys):
    assert check(data_dir) == 0
    lines = capsys.readouterr().out.splitlines()
    heads = [
        "train source",
        "train target",
        "test normal",
        "test anomaly",
        "attributes",
        "seconds",
        "GB",
    ]
    assert " ".join(lines[0].split()) == " ".join(heads)
    assert [line.split() for line in lines[1:3]] == [
        ["fan", "3", "1", "2", "2", "yes", "0.1-0.2", "0.00"],
        ["saw", "3", "1", "3", "1", "no", "0.1-0.2", "0.00"],
    ]
    assert lines[3:] == ["tiny: 16 clips, 0.00 GB: experiments can start"]


def test_true_attributes_are_reported(data_dir, capsys):
    file = data_dir / "tiny/ground_truth/saw/attributes_00_train_correspondence.csv"
    file.parent.mkdir(parents=True)
    file.touch()
    assert check(data_dir) == 0
    assert "no, true ones here" in capsys.readouterr().out


def rename_saw(data_dir: Path) -> None:
    for i, file in enumerate(sorted((raw(data_dir) / "saw/test").iterdir())):
        file.rename(file.with_name(f"section_00_{i:04d}.wav"))


def rename(data_dir: Path, old: str, new: str) -> None:
    clip(data_dir).rename(clip(data_dir, clip(data_dir).name.replace(old, new)))


def cut_off(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-100])


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (
            lambda d: clip(d).unlink(),
            ["2 of 3", "problem: {raw}/fan/train: 2 train source clips, expected 3"],
        ),
        (
            lambda d: clip(d).rename(clip(d).with_suffix(".txt")),
            ["2 train source clips, expected 3"],
        ),
        (
            lambda d: clip(d).rename(clip(d, "x.wav")),
            ["fan/train/x.wav: not a DCASE clip name", "2 of 3"],
        ),
        (lambda d: rename(d, "train_normal", "train_anomaly"), ["an anomalous clip in train/"]),
        (lambda d: rename(d, "train_normal", "test_normal"), ["the folder says train"]),
        (lambda d: clip(d).write_bytes(b""), ["0002_vel_1.wav: cannot be read as audio"]),
        (lambda d: cut_off(clip(d)), ["0002_vel_1.wav: truncated, 3,100 of the 3,200 bytes"]),
        (
            lambda d: soundfile.write(clip(d), np.zeros((9, 2)), 16000),
            ["0002_vel_1.wav: 2 channels, expected one"],
        ),
        (
            lambda d: soundfile.write(clip(d), np.zeros(9), 8000),
            ["sample rate 8000 Hz, expected 16000 Hz"],
        ),
        (
            lambda d: (raw(d) / "saw/test").rename(raw(d) / "saw/tests"),
            ["{raw}/saw/test: no such folder", "0 of 3"],
        ),
        (  # the folders of 2021, which are read of that year alone
            lambda d: (raw(d) / "saw/test").rename(raw(d) / "saw/source_test"),
            ["{raw}/saw/test: no such folder", "0 of 3"],
        ),
        (
            lambda d: (raw(d) / "saw").rename(raw(d) / "jigsaw"),
            ["note: jigsaw: folders of no", "saw/train: no such"],
        ),
        (
            lambda d: [f.unlink() for f in clip(d).parent.iterdir()],
            ["fan/train: no .wav or .flac file in it"],
        ),
        (
            lambda d: (rename_saw(d), (raw(d) / "saw/test/section_00_0000.wav").unlink()),
            ["3 test clips, expected 4"],
        ),
    ],
)
def test_what_is_wrong_is_reported(data_dir, capsys, spoil, words):
    spoil(data_dir)
    assert check(data_dir) == 1
    printed = capsys.readouterr().out
    for word in words:
        assert word.format(raw=raw(data_dir)) in printed
    assert re.search(r"tiny: \d+ clips, 0\.00 GB: not ready, \d to fix\n$", printed)


def test_many_bad_files_are_counted(data_dir, capsys, monkeypatch):
    monkeypatch.setattr(check_data, "LISTED", 2)
    for file in clip(data_dir).parent.iterdir():
        file.write_bytes(b"")
    assert check(data_dir) == 1
    printed = capsys.readouterr().out
    assert printed.count("problem:") == 2
    assert "... and 4 more" in printed


@pytest.mark.parametrize("published", [True, False])
def test_bare_names(data_dir, capsys, monkeypatch, published):
    """Where ground truth is published, experiments wait for it; where it is not, there are scores
    at least.
    """
    monkeypatch.setattr(check_data, "is_published", lambda dataset: published)
    rename_saw(data_dir)
    assert check(data_dir) == published
    printed = capsys.readouterr().out
    assert "test unknown" in printed
    assert "saw: test clips without ground truth" in printed
    assert (f"run DATA_DIR={data_dir} preprocess/add_gt_info.sh tiny" in printed) == published


def test_unlabeled_machines_of_the_yaml(data_dir, capsys):
    for file in (raw(data_dir) / "saw/train").iterdir():
        file.rename(file.with_name(file.name.replace("noAttribute", "vel_1")))
    assert check(data_dir) == 0
    assert "note: saw: hidden attributes here and in `unlabeled`" in capsys.readouterr().out


def test_own_recordings(data_dir, capsys):
    for name in (
        "train/a b.wav",
        "train/sub/c.wav",
        "test/normal/d.wav",
        "test/anomaly/e.wav",
        "test/f.wav",
    ):
        file = data_dir / "own/all/raw/press" / name
        write_wav(file, seconds=0.1, seed=ord(file.stem[-1]))
    assert check(data_dir, "folder:own") == 0
    printed = capsys.readouterr().out
    assert printed.splitlines()[1].split() == [
        "press",
        "2",
        "0",
        "1",
        "1",
        "1",
        "no",
        "0.1",
        "0.00",
    ]
    assert "note: press: test clips without ground truth" in printed


def test_two_channels(data_dir, capsys):
    """As in 2026: the dataset names the channel."""
    text = (dataset_facts.CONFIG / "tiny.yaml").read_text()
    (dataset_facts.CONFIG / "both.yaml").write_text(
        text.replace("name: tiny", "name: tiny\nchannel: 0")
    )
    for file in raw(data_dir).rglob("*.wav"):
        soundfile.write(file, np.zeros((16000, 2)), 16000)
    assert check(data_dir, "both") == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere", "tiny"], r"nowhere/tiny/all/raw: no such folder"),
        (["x", "mine"], r"dataset mine: unknown; allowed are tiny folder:NAME"),
        (["x", "folder"], r"dataset folder: unknown"),
        (["x", "base"], r"dataset base: unknown"),
    ],
)
def test_arguments(data_dir, arguments, message):
    with pytest.raises(InputError, match=message):
        check_data.main(arguments)


@pytest.mark.slow
def test_20000_files_in_seconds(tmp_path):
    """The script as a whole, on as many files as an official dataset has: dcase2024, one machine
    more.
    """
    dataset = dataset_facts.load_dataset("dcase2024")
    soundfile.write(tmp_path / "clip.wav", np.zeros(100, dtype="int16"), 16000)
    content, count = (tmp_path / "clip.wav").read_bytes(), 0
    for machine in [machine for group in dataset.machines.values() for machine in group]:
        attribute = "noAttribute" if machine in dataset.unlabeled else "vel_1"
        expected = dataset_facts.expected_clips(dataset, machine)
        for kind, n in expected.items():
            split, what = kind.split("_")
            name = f"{what}_train_normal" if split == "train" else f"source_test_{what}"
            folder = tmp_path / "dcase2024/all/raw" / machine / split
            folder.mkdir(parents=True, exist_ok=True)
            for i in range(n):
                (folder / f"section_00_{name}_{i:04d}_{attribute}.wav").write_bytes(content)
            count += n
    start = time.monotonic()
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    command = [ROOT / "preprocess/check_data.sh", tmp_path, "dcase2024"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    seconds = time.monotonic() - start
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"dcase2024: {count} clips" in done.stdout
    assert seconds < 30, seconds


@pytest.fixture
def run_on_bare_names(tmp_path, monkeypatch):
    for machine, hz in (("fan", 200), ("saw", 900)):
        make_machine(tmp_path / "own/all/raw" / machine, hz)
    for i, file in enumerate(sorted((tmp_path / "own/all/raw/saw/test").iterdir())):
        file.rename(file.with_name(f"section_00_{i:04d}.wav"))
    settings = ["dataset.name=own", "dataset.grammar=dcase", "score_epochs=[1]"]
    return lambda *more: call(
        train, monkeypatch, *tiny(tmp_path, tmp_path / "results", *settings, *more)
    )


def test_training_says_where_ground_truth_is_missing(run_on_bare_names, tmp_path, capsys):
    assert run_on_bare_names("check=true") == 0
    printed = capsys.readouterr().out
    assert (
        "saw: test clips without ground truth in their names; they get scores, but no metrics."
        in printed
    )
    assert (
        f"To have metrics: DATA_DIR={tmp_path} preprocess/add_gt_info.sh own, and after training"
        in printed
    )


@pytest.mark.slow
def test_scores_without_ground_truth(run_on_bare_names, tmp_path, capsys):
    assert run_on_bare_names("+trainer.limit_train_batches=2") == 0
    assert capsys.readouterr().out.count("To have metrics: ") == 2  # before and after
    run = tmp_path / "results/own/na_1024_1"
    assert (run / "saw/infer/version_epoch1/epoch1_test_score.csv").is_file()
    assert not (run / "saw/infer/version_epoch1/epoch1_test_result.csv").exists()
    assert (run / "fan/infer/version_epoch1/epoch1_test_result.csv").is_file()
