"""The job scripts, with a stand-in for python where the runs themselves do not matter."""

import os
import shlex
import subprocess

import pytest

from conftest import DATASETS, METHODS, ROOT, compose, write_script
from unlabeledasd.files import write_json

STAND_IN = """#!/bin/sh
case "$1" in
  *missing_requirements.py) exit 0 ;;
  src/train.py)
    echo "RUNS_AFTER=$RUNS_AFTER $*" >> "$LOG"
    case "$*" in *seed=2*) exit ${STATUS:-0} ;; esac
    exit 0 ;;
  src/infer.py) echo "$*" >> "$LOG"; exit 0 ;;
  src/report.py) echo "report $*"; exit 0 ;;
esac
exit 99
"""


@pytest.fixture
def job(tmp_path):
    stand_in = write_script(tmp_path / "bin/python", STAND_IN)

    def run(script: str, *arguments: str, **environment: str):
        names = (
            "DATA_DIR",
            "DATASETS",
            "METHODS",
            "SEEDS",
            "OVERRIDES",
            "DRY_RUN",
            "FAIL_FAST",
            "RESULTS_DIR",
            "REPORT",
            "LAUNCHER",
        )
        clean = {name: value for name, value in os.environ.items() if name not in names}
        clean |= {
            "PATH": f"{stand_in.parent}:{clean['PATH']}",
            "LOG": str(tmp_path / "log"),
            "RESULTS_DIR": str(tmp_path / "results"),
            "DATA_DIR": str(tmp_path),
        }
        clean |= environment
        return subprocess.run(
            [ROOT / "jobs/exp" / script, *arguments],
            env=clean,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )

    run.log = lambda: (
        (tmp_path / "log").read_text().splitlines() if (tmp_path / "log").exists() else []
    )
    return run


def test_grid_of_table_1(job):
    lines = job("exp1.sh", DRY_RUN="1", DATA_DIR="").stdout.splitlines()
    assert len(lines) == len(set(lines)) == 7 * 2 * 5
    assert all(line.startswith("python src/train.py dataset=dcase202") for line in lines)
    methods = {
        word.partition("=")[2]
        for line in lines
        for word in line.split()
        if word.startswith("method=")
    }
    assert methods == {method for method in METHODS if method.startswith("na_")}
    assert job.log() == []


@pytest.mark.parametrize(
    ("script", "runs", "methods"),
    [("exp4.sh", 9 * 2 * 5, ("best_", "multires_", "subloss_", "featex_")),
     ("exp5.sh", 11 * 2, ("spectral_", "beats_", "panns", "openl3"))],
)  # fmt: skip
def test_grids_beyond_the_paper(job, script, runs, methods):
    lines = job(script, DRY_RUN="1", DATA_DIR="").stdout.splitlines()
    assert len(lines) == len(set(lines)) == runs
    named = {line.partition("method=")[2].split()[0] for line in lines}
    assert named <= set(METHODS)
    assert all(any(name.startswith(head) for name in named) for head in methods)
    assert all(name.startswith(methods) for name in named)


def test_tables_of_further_scorers(job, tmp_path):
    """Kept embeddings are scored where the run has finished and the scorer has no scores yet."""
    for seed in (1, 2):
        done = tmp_path / f"results/demo/subloss_0256_4096_{seed}/all/done"
        done.parent.mkdir(parents=True)
        done.touch()
    scored = done.parent / "infer/knn.yaml"  # of seed 2
    scored.parent.mkdir()
    scored.touch()
    found = job(
        "exp4.sh",
        METHODS="subloss_0256_4096",
        DATASETS="demo",
        SEEDS="1 2",
        SCORERS="knn",
        STATUS="0",
    )
    assert found.returncode == 0, found.stderr
    folder = tmp_path / "results/demo/subloss_0256_4096_1"
    assert [line for line in job.log() if "infer" in line] == [
        f"src/infer.py run={folder} name=knn scorer=knn"
    ]
    tables = [line for line in found.stdout.splitlines() if line.startswith("report ")]
    assert [line.split("--name ")[1].split()[0] for line in tables] == [
        "table4_part",
        "table4_knn_part",
    ]
    assert tables[1].endswith("--version knn")


def test_grid_of_table_2(job):
    lines = job("exp2.sh", DRY_RUN="1").stdout.splitlines()
    assert len(lines) == 2 * 2 * 5
    assert sum("featex_0256_4096" in line for line in lines) == 10


def test_every_default_names_a_config(job):
    for script in ("exp1.sh", "exp2.sh"):
        for line in job(script, DRY_RUN="1").stdout.splitlines():
            settings = dict(word.split("=") for word in shlex.split(line)[2:])
            assert settings["dataset"] in DATASETS
            assert settings["method"] in METHODS


def test_runs_one_after_the_other(job, tmp_path):
    overrides = "data.num_workers=2 score_epochs=[1]"
    done = job(
        "exp2.sh",
        METHODS="subloss_0256_4096",
        DATASETS="demo folder:pumps",
        SEEDS="1 2",
        OVERRIDES=overrides,
    )
    assert done.returncode == 0, done.stderr
    log = job.log()
    assert [line.split()[0] for line in log] == [f"RUNS_AFTER={n}" for n in (3, 2, 1, 0)]
    assert "dataset=demo method=subloss_0256_4096 seed=1" in log[0]
    assert "dataset=folder dataset.name=pumps method=subloss_0256_4096 seed=2" in log[3]
    assert all(line.endswith(overrides) for line in log)
    assert "4 of 4 runs to do, about " in done.stdout
    assert (
        "--name table2_part --datasets demo pumps --methods subloss_0256_4096 --seeds 1 2"
        in done.stdout
    )


def test_finished_runs_are_skipped(job, tmp_path):
    marker = tmp_path / "results/demo/subloss_0256_4096_1/all/done"
    marker.parent.mkdir(parents=True)
    marker.touch()
    done = job("exp2.sh", METHODS="subloss_0256_4096", DATASETS="demo", SEEDS="1 2")
    assert "already finished, skipping: " in done.stdout
    assert "1 of 2 runs to do" in done.stdout
    assert len(job.log()) == 1
    # with other settings or clips than it may have had, src/train.py is asked
    job(
        "exp2.sh",
        METHODS="subloss_0256_4096",
        DATASETS="demo",
        SEEDS="1",
        OVERRIDES="model.optimizer.lr=0.1",
    )
    assert job.log()[1].endswith("model.optimizer.lr=0.1")


def test_newer_clips_of_a_finished_run(job, tmp_path):
    raw = tmp_path / "demo/all/raw"
    (raw / "fan/train").mkdir(parents=True)
    (raw / "fan/train/1.wav").touch()
    marker = tmp_path / "results/demo/subloss_0256_4096_1/all/done"
    marker.parent.mkdir(parents=True)
    marker.touch()
    run = {"METHODS": "subloss_0256_4096", "DATASETS": "demo", "SEEDS": "1"}
    contents = marker.with_name("contents.json")
    write_json(contents, {"root": str(raw), "folders": {}})
    assert "already finished, skipping: " in job("exp2.sh", **run).stdout
    write_json(contents, {"root": str(tmp_path / "other/all/raw"), "folders": {}})
    job("exp2.sh", **run)
    assert len(job.log()) == 1
    write_json(contents, {"root": str(raw), "folders": {}})
    while (raw / "fan/train/2.wav").touch() or (
        (raw / "fan/train/2.wav").stat().st_ctime_ns <= contents.stat().st_ctime_ns
    ):
        pass  # until the clock of the file system has moved
    job("exp2.sh", **run)
    assert len(job.log()) == 2


@pytest.mark.parametrize(
    ("status", "fail_fast", "runs", "returncode", "message"),
    [
        ("1", "", 3, 1, "failed: demo subloss_0256_4096 2"),
        ("1", "1", 2, 1, "failed: demo subloss_0256_4096 2"),
        ("3", "", 3, 0, "locked elsewhere: demo subloss_0256_4096 2"),
        ("130", "", 2, 130, ""),
    ],
)
def test_a_run_that_does_not_finish(job, status, fail_fast, runs, returncode, message):
    grid = {"METHODS": "subloss_0256_4096", "DATASETS": "demo", "SEEDS": "1 2 3"}
    done = job("exp2.sh", **grid, STATUS=status, FAIL_FAST=fail_fast)
    assert len(job.log()) == runs
    assert done.returncode == returncode
    assert message in done.stderr


@pytest.mark.parametrize(
    ("arguments", "environment", "message"),
    [
        ([], {"DATA_DIR": ""}, "set data_dir in it, or export DATA_DIR"),
        ([], {"DATA_DIR": "/nowhere"}, "DATA_DIR=/nowhere: no such folder"),
        ([], {"LAUNCHER": "pbs"}, "LAUNCHER=pbs: allowed are local, slurm, ray"),
        (["extra"], {}, "takes no arguments"),
    ],
)
def test_errors_in_one_line(job, arguments, environment, message):
    done = job("exp1.sh", *arguments, **environment)
    assert done.returncode == 1
    assert message in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert job.log() == []


def test_relative_folders_are_the_callers(job, tmp_path):
    (tmp_path / "data").mkdir()
    assert (
        job("exp2.sh", DATASETS="demo", SEEDS="1", DATA_DIR="data", RESULTS_DIR="out").returncode
        == 0
    )
    assert f"data_dir={tmp_path}/data results_dir={tmp_path}/out" in job.log()[0]


NAMES = ["my data", "jörg", "a,b", "a=b", "it's (1)", "${x}", "2024", "1e3", "null", r"a\b", "[x]"]


@pytest.mark.parametrize("name", NAMES)
def test_names_reach_the_program_as_they_are(job, tmp_path, name):
    """Through the shell, and through Hydra's own parser."""
    (tmp_path / name).mkdir()
    own = name if " " not in name else "pumps"  # DATASETS is a list of words
    grid = {"DATASETS": f"folder:{own}", "METHODS": "na_1024", "SEEDS": "1"}
    done = job("exp1.sh", **grid, DATA_DIR=str(tmp_path / name), DRY_RUN="1")
    config = compose("train", shlex.split(done.stdout)[2:])
    assert config.data_dir == str(tmp_path / name)
    assert config.dataset.name == own


def test_the_table_gets_its_settings(job):
    done = job(
        "exp1.sh",
        DATASETS="demo",
        METHODS="na_1024 na_0256",
        SEEDS="1",
        REPORT="--html --baseline na_1024",
    )
    line = done.stdout.splitlines()[-1]
    assert line.startswith(
        "report src/report.py --name table1_part --datasets demo --methods na_1024 na_0256 "
    )
    assert line.endswith("--html --baseline na_1024")
