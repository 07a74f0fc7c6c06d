"""jobs/exp/exp3.sh and pseudoattr/pseudo_attr.sh: what they call, with a stand-in for python."""

import os
import shlex
import subprocess
import sys

import pytest

from conftest import ROOT, write_script

STAND_IN = f"""#!/bin/sh
case "$1" in
  *missing_requirements.py) exit 0 ;;
  -m) exec {sys.executable} "$@" ;;
  src/report.py) exit 0 ;;
esac
echo "$*" >> "$LOG"
case "$*" in *"$FAILS"*) exit ${{STATUS:-0}} ;; esac
"""


@pytest.fixture
def job(tmp_path):
    stand_in = write_script(tmp_path / "bin/python", STAND_IN)

    def run(script: str, **environment: str):
        clean = {
            "PATH": f"{stand_in.parent}:{os.environ['PATH']}",
            "LOG": str(tmp_path / "log"),
            "FAILS": "nothing",
            "RESULTS_DIR": str(tmp_path / "results"),
            "DATA_DIR": str(tmp_path),
            "DATASETS": "demo_unlabeled",
            "SEEDS": "1",
            **environment,
        }
        return subprocess.run(
            [ROOT / script], env=clean, cwd=tmp_path, capture_output=True, text=True, check=False
        )

    run.log = lambda: (
        (tmp_path / "log").read_text().splitlines() if (tmp_path / "log").exists() else []
    )
    return run


@pytest.fixture
def exp3(job):
    def run(**environment: str):
        return job("jobs/exp/exp3.sh", **environment)

    run.log = job.log
    return run


def words(line: str) -> dict[str, str]:
    return dict(word.split("=", 1) for word in shlex.split(line)[1:])


def test_stages_in_their_order(exp3):
    assert exp3().returncode == 0
    log = exp3.log()
    scripts = [line.split()[0].rpartition("/")[2] for line in log]
    assert scripts == [
        "train.py",
        *["train_triplet.py"] * 2,
        *["embed.py", "cluster.py"] * 2,
        "cluster.py",
        *["train.py"] * 4,
    ]
    assert words(log[0])["method"] == "subloss_0256_4096"
    assert [words(line)["machine"] for line in log[1:3]] == ["gearbox", "bearing"]
    assert [words(line)["source"] for line in log[3:8]] == [
        "class",
        "class",
        "triplet",
        "triplet",
        "gt",
    ]


def test_the_whole_grid(exp3):
    lines = [
        line.removeprefix("python ")
        for line in exp3(DRY_RUN="1", DATASETS="", SEEDS="").stdout.splitlines()
    ]
    scripts = [line.split()[0] for line in lines]
    # teachers; 14 and 7 unlabeled machines; 2 sources with seeds, 2 without, gt of 2024; 5 rows each
    assert scripts.count("src/train.py") == 2 * 5 + 2 * 5 * 5
    assert scripts.count("src/train_triplet.py") == (14 + 7) * 5
    assert (scripts.count("pseudoattr/embed.py"), scripts.count("pseudoattr/cluster.py")) == (
        2 * 12,
        2 * 12 + 1,
    )


def test_settings_reach_what_has_them(exp3, tmp_path):
    overrides = (
        "dataset.channel=0 data.num_workers=1 +trainer.limit_train_batches=2 score_epochs=[1,14]"
    )
    assert (
        exp3(
            OVERRIDES=overrides, LABEL_DIR="my labels", SETTINGS="labeler.criterion=bic"
        ).returncode
        == 0
    )
    for line in exp3.log():
        if "train_triplet" in line:
            assert line.endswith(overrides.removesuffix(" score_epochs=[1,14]"))
        elif "train.py" in line:
            assert line.endswith(overrides)
        else:
            assert line.endswith("labeler.criterion=bic dataset.channel=0")
        assert ("label_dir" in line) == (" method=subloss" not in line and "triplet.py" not in line)
        assert "label_dir" not in line or f"label_dir='{tmp_path}/my labels'" in line


def test_rows_without_pseudo_labels_need_no_teacher(exp3):
    assert exp3(METHODS="pattr_macdom_subloss_0256_4096", SEEDS="1 2").returncode == 0
    assert [words(line)["method"] for line in exp3.log()] == ["pattr_macdom_subloss_0256_4096"] * 2


@pytest.mark.parametrize(
    ("fails", "status", "message", "last"),
    [
        ("machine=bearing", "1", "stage teachers not finished", "train_triplet.py"),
        ("embed.py", "1", "no labels: demo_unlabeled class 1\n", "cluster.py"),
        ("embed.py", "3", "held elsewhere: demo_unlabeled class 1\n", "cluster.py"),
        ("train_triplet.py", "130", "", "train_triplet.py"),
    ],
)
def test_what_is_not_finished_ends_the_script(exp3, fails, status, message, last):
    done = exp3(FAILS=fails, STATUS=status)
    assert done.returncode == (130 if status == "130" else 1)
    assert message in done.stderr
    assert last in exp3.log()[-1]


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"STAGES": "table typo"}, "STAGES=typo: allowed are teachers labels students table"),
        ({"DATASETS": "demo nope"}, "error: dataset nope: unknown; allowed are "),
    ],
)
def test_errors_before_anything_is_done(exp3, environment, message):
    done = exp3(**environment)
    assert done.returncode == 1
    assert done.stderr.startswith(message)
    assert len(done.stderr.splitlines()) == 1
    assert exp3.log() == []


def test_the_grid_of_labels(job):
    lines = job("pseudoattr/pseudo_attr.sh", DRY_RUN="1", DATASETS="", SEEDS="").stdout.splitlines()
    # embed and cluster of 2 datasets x (2 sources x 5 seeds + 2); cluster of the true attributes of 2024
    assert len(lines) == len(set(lines)) == 2 * 2 * 12 + 1
    assert job.log() == []
    labels = [words(line.removeprefix("python ")) for line in lines]
    assert {word["source"] for word in labels} == {"class", "triplet", "openl3", "panns", "gt"}
    assert [word["dataset"] for word in labels if word["source"] == "gt"] == ["dcase2024"]
    assert {word["label_dir"] for word in labels} == {"pseudoattr/label"}
    assert {len({w["seed"] for w in labels if w["source"] == s}) for s in ("class", "triplet")} == {
        5
    }


def test_a_source_that_lacks_something_does_not_stop_the_others(job, tmp_path):
    done = job(
        "pseudoattr/pseudo_attr.sh",
        SEEDS="3",
        SOURCES="openl3 class",
        DATA_DIR=".",
        LABEL_DIR="mine",
        SETTINGS="fit_on=all",
        OVERRIDES="dataset.channel=0 seed=2",
        TRAIN_MISSING="1",
        FAILS="source=openl3",
        STATUS="1",
    )
    assert done.returncode == 1
    assert done.stderr == "no labels: demo_unlabeled openl3\n"
    assert [line.split()[0] for line in job.log()] == [
        f"pseudoattr/{s}.py" for s in ("embed", "embed", "cluster")
    ]
    more = f" label_dir={tmp_path}/mine fit_on=all train_missing=true dataset.channel=0"
    assert all(line.endswith(more) for line in job.log())
