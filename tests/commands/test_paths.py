"""Names that a shell or a parser could take for something else reach the programs as they are, in
every script."""

import itertools
import os
import shlex
import subprocess
import sys

import pandas as pd
import pytest

import infer
import train
from conftest import ROOT, call, compose, tiny, write_script, write_wav

NAMES = [
    "-dash",
    "~",
    "*",
    "{a,b}",
    "#x",
    'it\'s "so"; `touch pwned` $(touch pwned)',
    "new\nline tab\tstop back\\slash",
]
# answers what scripts ask before they call a program; notes the arguments of everything else
STAND_IN = f"""#!/bin/sh
case "$1" in
  *missing_requirements.py) exit 0 ;;
  -m) exec {shlex.quote(sys.executable)} "$@" ;;
esac
printf '%s\\0' "$@" >> "$LOG"
printf '\\0' >> "$LOG"
"""


@pytest.fixture
def script(tmp_path):
    """Runs a script in tmp_path/caller -> the argument lists of the programs that it called."""
    stand_in, log, caller = (
        write_script(tmp_path / "bin/python", STAND_IN),
        tmp_path / "log",
        tmp_path / "caller",
    )
    caller.mkdir()

    def run(path: str, *arguments: str, **environment: str) -> list[list[str]]:
        log.write_bytes(b"")
        names = (
            "DATA_DIR",
            "DATASETS",
            "METHODS",
            "SEEDS",
            "OVERRIDES",
            "DRY_RUN",
            "RESULTS_DIR",
            "LABEL_DIR",
            "SOURCES",
        )
        clean = {name: value for name, value in os.environ.items() if name not in names}
        clean |= {"PATH": f"{stand_in.parent}:{clean['PATH']}", "LOG": str(log), **environment}
        done = subprocess.run(
            ["bash", ROOT / path, *arguments],
            env=clean,
            cwd=caller,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert not list(caller.rglob("pwned"))
        return [words.split("\0") for words in log.read_text().split("\0\0") if words]

    run.folder = caller
    return run


def settings(entry: str, words: list[str]):
    """The configuration that a call of an entry point composes, by Hydra's own parser."""
    return compose(entry, words[1:])


@pytest.mark.parametrize("name", NAMES)
def test_jobs(script, name):
    folder = script.folder / name
    folder.mkdir()
    grid = {
        "DATASETS": "demo_unlabeled",
        "SEEDS": "1",
        "DATA_DIR": name,
        "RESULTS_DIR": f"{name}/out",
    }
    for job in ("exp1.sh", "exp2.sh"):
        calls = script(f"jobs/exp/{job}", METHODS="na_1024 na_0256", **grid)
        assert [words[0] for words in calls] == ["src/train.py", "src/train.py", "src/report.py"]
        for words in calls[:2]:
            config = settings("train", words)
            assert (config.data_dir, config.results_dir) == (str(folder), f"{folder}/out")
        assert f"--results-dir={folder}/out" in calls[2]
    calls = script("jobs/exp/exp3_triplet.sh", **grid)
    assert calls
    for words in calls:
        assert settings("triplet", words).data_dir == str(folder)
    calls = script("pseudoattr/pseudo_attr.sh", SOURCES="class", LABEL_DIR=f"{name}/label", **grid)
    assert [words[0] for words in calls] == ["pseudoattr/embed.py", "pseudoattr/cluster.py"]
    for words in calls:
        config = settings("pseudo", words)
        assert (config.data_dir, config.label_dir) == (str(folder), f"{folder}/label")


@pytest.mark.parametrize("name", NAMES)
def test_results_in_the_repository_are_not_taken_for_options(script, name):
    """Their path is shortened, so it begins with the name."""
    results = ROOT / name
    try:
        calls = script(
            "jobs/exp/exp1.sh",
            DATASETS="demo",
            SEEDS="1 2",
            METHODS="na_1024",
            DATA_DIR=str(script.folder),
            RESULTS_DIR=str(results),
        )
        assert settings("train", calls[0]).results_dir == name
        assert f"--results-dir={name}" in calls[-1]
    finally:
        if results.is_dir():
            results.rmdir()


@pytest.mark.parametrize("name", NAMES)
def test_ensemble(script, name):
    (script.folder / name).mkdir()
    (script.folder / f"{name}.yaml").write_text("")
    calls = script(
        "ensemble/ensemble.sh",
        DATASETS="demo",
        METHODS="na_1024",
        SEEDS="1",
        CONFIG=f"{name}.yaml",
        RESULTS_DIR=name,
    )
    config, run = script.folder / f"{name}.yaml", script.folder / name / "demo/na_1024_1"
    assert calls == [["ensemble/ensemble.py", f"--config={config}", "--", str(run)]]


@pytest.mark.parametrize("name", NAMES)
def test_preprocessing(script, name):
    [words] = script("preprocess/add_gt_info.sh", "dcase2023", "--dry-run", DATA_DIR=name)
    assert words == [
        f"{ROOT}/preprocess/add_gt_info.py",
        str(script.folder / name),
        "dcase2023",
        "--dry-run",
    ]
    path = f"./{name}"  # a leading dash is an option to every program
    for program, *arguments in (
        ("check_data", path, "demo"),
        ("download", path, "dcase2023"),
        ("make_demo", path),
    ):
        assert script(f"preprocess/{program}.sh", *arguments) == [
            [f"{ROOT}/preprocess/{program}.py", *arguments]
        ]


def test_machines_with_odd_names_have_triplet_models(script):
    raw = script.folder / "data/own/all/raw"
    machines = ["pump 1", "it's", "-v", "*", "$(touch pwned)"]
    for machine in machines:
        write_wav(raw / machine / "train/0.wav", seconds=0.1)
    calls = script("jobs/exp/exp3_triplet.sh", DATASETS="folder:own", SEEDS="1", DATA_DIR="data")
    assert sorted(settings("triplet", words).machine for words in calls) == sorted(machines)


def test_a_run_on_odd_names(tmp_path, monkeypatch):
    """Machines, clips, folders and the name of a version, through training, scoring and
    inference."""
    raw = tmp_path / "data/own/all/raw"
    machines = ['it\'s "a" pump', "-fan\n*", "$(touch pwned)[x]"]
    seeds = itertools.count()
    for m, machine in enumerate(machines):
        for split, count in (("train/-a", 3), ("test/normal", 2), ("test/anomaly", 2)):
            for i in range(count):
                name = f'-{i} "x",\n;$(touch pwned)\'[{i}].wav'
                write_wav(raw / machine / split / name, hz=200 * (m + 1), seed=next(seeds))
    results = tmp_path / "-out"
    monkeypatch.chdir(tmp_path)
    arguments = tiny(
        tmp_path / "data",
        results,
        "dataset.name=own",
        "score_epochs=[1,2]",
        "dataset.hide=[]",
        "model.extractor.n_ffts=[4096]",
    )
    assert call(train, monkeypatch, *arguments) == 0
    run = results / "own/na_1024_1"
    assert call(infer, monkeypatch, f"run={run}", "name='[a]*'", "accelerator=cpu") == 0
    for machine in machines:
        scores = [
            pd.read_csv(run / machine / "infer" / version / "ensemble_test_score.csv")
            for version in ("version_epoch_1_2", "version_[a]*")
        ]
        assert scores[0].equals(scores[1])
        assert set(scores[0].path) == {
            p.relative_to(raw).as_posix() for p in (raw / machine / "test").rglob("*.wav")
        }
    assert not list(tmp_path.rglob("pwned"))
