"""LAUNCHER=local with several runs at a time, and what no launcher takes, with a stand-in for
python."""

import os
import signal
import subprocess
import time

import pytest
from launcher_job import make_job

from conftest import write_script


@pytest.fixture
def job(tmp_path):
    return make_job(tmp_path)


def change_python(job, old: str, new: str) -> None:
    stand_in = job.folder / "bin/python"
    assert old in stand_in.read_text()
    stand_in.write_text(stand_in.read_text().replace(old, new, 1))


def test_two_at_a_time(job):
    done = job(JOBS="2", TOGETHER="2")  # a run waits until two have begun
    assert done.returncode == 0, done.stderr
    runs = [line for line in job.log() if line.startswith(("begin", "end"))]
    assert [line.split()[0] for line in runs[:3]] == ["begin", "begin", "end"]
    running = [
        sum(1 if line.startswith("begin") else -1 for line in runs[: n + 1])
        for n in range(len(runs))
    ]
    assert max(running) == 2
    assert len(runs) == 6
    assert "3 of 3, status 0: " in done.stdout
    for seed in "123":
        log = job.folder / f"results/demo/na_1024_{seed}/launch.log"
        header, output = log.read_text().splitlines()
        assert header.startswith("== 20")
        assert f": python src/train.py dataset=demo method=na_1024 seed={seed} " in header
        assert output.startswith(
            f"seen by the log: src/train.py dataset=demo method=na_1024 seed={seed} "
        )
    threads = {line.split()[1] for line in runs if line.startswith("begin")}
    assert threads == {str(max(1, len(os.sched_getaffinity(0)) // 2))}


def test_gpus_are_filled(job):
    done = job(GPUS="2 5", JOBS_PER_GPU="2", SEEDS="1 3 4 5", TOGETHER="4", OMP_NUM_THREADS="7")
    assert done.returncode == 0, done.stderr
    begun = [line.split()[1:3] for line in job.log() if line.startswith("begin")]
    assert sorted(begun) == [["7", "2"], ["7", "2"], ["7", "5"], ["7", "5"]]


@pytest.mark.parametrize(("gpus", "seeds", "seen"), [("3", "1 4", "3"), ("2 5", "1", "2")])
def test_one_run_at_a_time_has_the_first_gpu(job, gpus, seeds, seen):
    assert job(GPUS=gpus, SEEDS=seeds, OMP_NUM_THREADS="7").returncode == 0
    assert [line.split()[2] for line in job.log() if line.startswith("begin")] == [seen] * len(
        seeds.split()
    )


def test_labels_have_the_first_gpu_and_all_threads(job):
    noted = '*) echo "labels ${OMP_NUM_THREADS:-all} $CUDA_VISIBLE_DEVICES $*" >> "$LOG"'
    change_python(job, '*) echo "$*" >> "$LOG"', noted)
    done = job(
        "jobs/exp/exp3.sh", DATASETS="demo_unlabeled", METHODS="", SEEDS="1", GPUS="GPU-7f3a 5"
    )
    assert done.returncode == 0, done.stderr
    labels = [
        line.split()[1:4]
        for line in job.log()
        if line.startswith("labels") and "pseudoattr/" in line
    ]
    assert [words[:2] for words in labels] == [["all", "GPU-7f3a"]] * len(labels)
    assert len(labels) == 5  # embed and cluster of two sources, cluster of the true attributes
    several = {
        line.split()[1] for line in job.log() if line.startswith("begin") and "method=pattr" in line
    }
    assert several == {str(max(1, len(os.sched_getaffinity(0)) // 2))}


@pytest.mark.parametrize(
    ("status", "fail_fast", "runs", "returncode", "message"),
    [
        ("1", "", 4, 1, "failed: demo na_1024 2\n"),
        ("1", "1", 2, 1, "failed: demo na_1024 2\n"),
        ("3", "", 4, 0, "locked elsewhere: demo na_1024 2\n"),
        ("130", "", 2, 130, ""),
    ],
)
def test_one_of_several_does_not_finish(job, status, fail_fast, runs, returncode, message):
    done = job(JOBS="2", SEEDS="1 2 3 4", STATUS=status, FAIL_FAST=fail_fast, TOGETHER="2")
    assert done.returncode == returncode
    assert done.stderr.endswith(message)
    assert "vanished" not in done.stderr
    assert sum(line.startswith("begin") for line in job.log()) == runs
    ends = sum(line.startswith("end") for line in job.log())
    assert ends == runs  # it waited for the others
    assert done.stdout.count(", status ") == runs


def test_runs_that_never_began_have_failed(job):
    write_script(job.folder / "bin/xargs", "#!/bin/bash\necho 'xargs: no' >&2\nexit 1\n")
    done = job(JOBS="2", SEEDS="1 2")
    assert done.returncode == 1
    assert done.stderr.endswith("failed: demo na_1024 1\nfailed: demo na_1024 2\n")


def test_a_run_that_vanishes_has_failed(job):
    """local_run.sh is killed, which would report how it ended."""
    change_python(job, "status=0\n", 'case "$*" in *seed=2*) kill -9 $PPID ;; esac\nstatus=0\n')
    done = job(JOBS="2", SEEDS="1 2")
    assert done.returncode == 1
    assert done.stderr.endswith("failed: demo na_1024 2\n")


@pytest.mark.parametrize("seeds", ["1", "1 2 3 4"])
def test_term_ends_what_was_started(job, seeds):
    """One at a time, and two."""
    process = job.start(JOBS="2", SEEDS=seeds, SLOW="?")
    count = min(2, len(seeds.split()))
    while sum(line.startswith("begin") for line in job.log()) < count:
        time.sleep(0.05)
    time.sleep(0.3)
    process.terminate()
    assert process.wait(30) == 143
    assert [line.split()[0] for line in job.log()] == ["begin"] * count + ["interrupted"] * count
    process.communicate()


def test_term_ends_a_script_that_was_called(job):
    stop = 'trap \'echo interrupted >> "$LOG"; exit 130\' TERM\necho begin >> "$LOG"\n'
    stop += "while :; do sleep 0.1; done"
    change_python(job, "  src/train.py) ;;", f"  pseudoattr/*) {stop} ;;\n  src/train.py) ;;")
    process = job.start(
        "jobs/exp/exp3.sh", DATASETS="demo_unlabeled", METHODS="", SEEDS="1", STAGES="labels"
    )
    while job.log() != ["begin"]:
        time.sleep(0.05)
    process.terminate()
    assert process.wait(30) == 143
    assert job.log() == ["begin", "interrupted"]
    process.communicate()


def test_interrupt_ends_all_of_several(job):
    process = job.start(JOBS="2", SEEDS="1 2 3 4", SLOW="?")  # every one is
    while sum(line.startswith("begin") for line in job.log()) < 2:
        time.sleep(0.05)
    time.sleep(0.3)
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(30) == 130
    assert sum(line == "interrupted" for line in job.log()) == 2  # it waited for them
    assert sum(line.startswith("begin") for line in job.log()) == 2
    process.communicate()


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"JOBS": "two"}, "JOBS=two: a number of runs at a time, at least 1"),
        ({"JOBS_PER_GPU": "0"}, "JOBS_PER_GPU=0: a number of runs at a time, at least 1"),
        ({"JOBS_PER_GPU": "5"}, "JOBS_PER_GPU=5: needs GPUS, the GPUs to share, such as GPUS=0"),
        (
            {"GPUS": " "},
            "GPUS= : numbers of GPUs or their ids (GPU-..., MIG-...), with blanks between",
        ),
        (
            {"GPUS": "0,1"},
            "GPUS=0,1: numbers of GPUs or their ids (GPU-..., MIG-...), with blanks between",
        ),
        (
            {"LAUNCHER": "slurm", "NO_SLURM": "1"},
            "LAUNCHER=slurm: no sbatch here; call this where jobs are submitted",
        ),
    ],
)
def test_errors_in_one_line(job, environment, message):
    if environment.pop("NO_SLURM", None):
        (job.folder / "bin/sbatch").unlink()
        links = job.folder / "links"  # everything of the path but Slurm
        links.mkdir()
        for name in ("bash", "env", "dirname", "basename", "id", "awk", "mktemp", "tr"):
            (links / name).symlink_to(subprocess.check_output(["which", name], text=True).strip())
        environment["PATH"] = f"{job.folder}/bin:{links}"
    done = job(**environment)
    assert done.returncode == 1
    assert done.stderr == f"{message}\n"
    assert job.log() == []
