"""LAUNCHER=local with several runs at a time, and what LAUNCHER=slurm submits, with stand-ins for python and Slurm."""

import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import ROOT

PYTHON = f"""#!/bin/bash
case "$1" in
  *missing_requirements.py) exit 0 ;;
  src/dataset_facts.py) exec {sys.executable} "$@" ;;
  src/train.py) ;;
  *) echo "$*" >> "$LOG"; exit 0 ;;
esac
echo "begin $OMP_NUM_THREADS ${{CUDA_VISIBLE_DEVICES:-none}} $*" >> "$LOG"
echo "seen by the log: $*"
case "$*" in *seed=${{SLOW:-none}}*)
  trap 'sleep 0.5; echo interrupted >> "$LOG"; exit 130' INT TERM
  for _ in {{1..600}}; do sleep 0.1; done ;;
esac
for _ in {{1..100}}; do [[ $(grep -c begin "$LOG") -lt ${{TOGETHER:-1}} ]] || break; sleep 0.1; done
status=0
case "$*" in
  *seed=2* | *seed=?2?*) status=${{STATUS:-0}} ;;
  *) [[ -z "${{STATUS:-}}" ]] || sleep 0.5 ;;   # seed 2 is through first
esac
echo "end $*" >> "$LOG"
exit $status
"""
SBATCH = """#!/bin/bash
printf '%q ' "$@" >> "$LOG" && echo >> "$LOG"
echo "$(grep -c -- --parsable "$LOG");the_cluster"
exit ${SBATCH_STATUS:-0}
"""

SQUEUE = """#!/bin/bash
case "$*" in
  *--jobs=5_1*) cat "$QUEUE" ;;
  *--jobs=5*) cat "$QUEUE" "$QUEUE" ;;   # every task of the array
  *) [[ ! -e "$QUEUE" ]] || cat "$QUEUE" ;;
esac
"""


@pytest.fixture
def job(tmp_path):
    stand_ins = {"python": PYTHON, "sbatch": SBATCH, "squeue": SQUEUE,
                 "scancel": '#!/bin/bash\necho "scancel $*" >> "$LOG"\n',
                 "scontrol": '#!/bin/bash\necho "scontrol $*" >> "$LOG"\n'}  # fmt: skip
    (tmp_path / "bin").mkdir()
    for name, script in stand_ins.items():
        (tmp_path / "bin" / name).write_text(script)
        (tmp_path / "bin" / name).chmod(0o755)

    def start(script: str = "jobs/exp/exp1.sh", *arguments: str, **environment: str) -> subprocess.Popen:
        clean = {"PATH": f"{tmp_path}/bin:{os.environ['PATH']}", "LOG": f"{tmp_path}/log", "QUEUE": f"{tmp_path}/queue",
                 "RESULTS_DIR": f"{tmp_path}/results", "LABEL_DIR": f"{tmp_path}/label", "DATA_DIR": str(tmp_path),
                 "DATASETS": "demo", "METHODS": "na_1024", "SEEDS": "1 2 3", **environment}  # fmt: skip
        return subprocess.Popen([ROOT / script, *arguments], env=clean, start_new_session=True, text=True,
                                stdout=subprocess.PIPE, stderr=subprocess.PIPE)  # fmt: skip

    def finished(script: str = "jobs/exp/exp1.sh", *arguments: str, **environment: str) -> subprocess.CompletedProcess:
        process = start(script, *arguments, **environment)
        out, err = process.communicate()
        return subprocess.CompletedProcess(script, process.returncode, out, err)

    finished.start = start
    finished.folder = tmp_path
    finished.log = lambda: (tmp_path / "log").read_text().splitlines() if (tmp_path / "log").exists() else []
    finished.submitted = lambda: [shlex.split(line) for line in finished.log() if "--parsable" in line]
    return finished


def option(submitted: list[str], name: str) -> str | None:
    found = [word.partition("=")[2] for word in submitted if word.startswith(f"--{name}=")]
    assert len(found) < 2
    return found[0] if found else None


def commands(submitted: list[str]) -> list[list[str]]:
    return [shlex.split(line) for line in Path(submitted[-1], "commands").read_text().splitlines()]


def test_two_at_a_time(job):
    done = job(JOBS="2", TOGETHER="2")  # a run goes on when two have begun
    assert done.returncode == 0, done.stderr
    runs = [line for line in job.log() if line.startswith(("begin", "end"))]
    assert [line.split()[0] for line in runs[:3]] == ["begin", "begin", "end"]
    running = [sum(1 if line.startswith("begin") else -1 for line in runs[: n + 1]) for n in range(len(runs))]
    assert max(running) == 2
    assert len(runs) == 6
    assert "3 of 3, status 0: " in done.stdout
    for seed in "123":
        log = job.folder / f"results/demo/na_1024_{seed}/launch.log"
        assert log.read_text().startswith("seen by the log: src/train.py dataset=demo method=na_1024 ")
        assert f" seed={seed} " in log.read_text()
    threads = {line.split()[1] for line in runs if line.startswith("begin")}
    assert threads == {str((os.cpu_count() + 1) // 2)}


def test_gpus_are_filled(job):
    done = job(GPUS="2 5", JOBS_PER_GPU="2", SEEDS="1 3 4 5", TOGETHER="4", OMP_NUM_THREADS="7")
    assert done.returncode == 0, done.stderr
    begun = [line.split()[1:3] for line in job.log() if line.startswith("begin")]
    assert sorted(begun) == [["7", "2"], ["7", "2"], ["7", "5"], ["7", "5"]]


@pytest.mark.parametrize(
    ("status", "fail_fast", "runs", "returncode", "message"),
    [("1", "", 4, 1, "failed: demo na_1024 2\n"), ("1", "1", 2, 1, "failed: demo na_1024 2\n"),
     ("3", "", 4, 0, "held elsewhere: demo na_1024 2\n"), ("130", "", 2, 130, "")],
)  # fmt: skip
def test_one_of_several_does_not_finish(job, status, fail_fast, runs, returncode, message):
    done = job(JOBS="2", SEEDS="1 2 3 4", STATUS=status, FAIL_FAST=fail_fast, TOGETHER="2")
    assert done.returncode == returncode
    assert message in done.stderr
    assert sum(line.startswith("begin") for line in job.log()) == runs


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
    [({"JOBS": "two"}, "JOBS=two: a number of runs at a time, at least 1"),
     ({"JOBS_PER_GPU": "0"}, "JOBS_PER_GPU=0: a number of runs at a time, at least 1"),
     ({"LAUNCHER": "slurm", "NO_SLURM": "1"}, "LAUNCHER=slurm: no sbatch here; call this where jobs are submitted")],
)  # fmt: skip
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


def test_slurm_submits_one_array_and_the_table_after_it(job):
    done = job(LAUNCHER="slurm", JOBS="2", SBATCH_OPTIONS="--partition=gpu --time=4:00:00")
    assert done.returncode == 0, done.stderr
    array, table = job.submitted()
    assert array[1:3] == ["--partition=gpu", "--time=4:00:00"]
    assert (option(array, "array"), option(array, "dependency")) == ("0-2%2", None)
    assert (option(table, "array"), option(table, "dependency")) == ("0-0%2", "afterany:1")
    assert [words[:4] for words in commands(array)] == [
        ["python", "src/train.py", "dataset=demo", "method=na_1024"]] * 3  # fmt: skip
    assert [words[4] for words in commands(array)] == ["seed=1", "seed=2", "seed=3"]
    assert commands(table)[0][:2] == ["python", "src/report.py"]
    for task, seed in enumerate("123"):
        link = Path(option(array, "output").replace("%a", str(task)))
        assert link.readlink() == job.folder / f"results/demo/na_1024_{seed}/launch.log"
    assert "submitted: job 1, 3 tasks" in done.stdout


def test_slurm_submits_what_is_missing(job):
    (job.folder / "results/demo/na_1024_1/all").mkdir(parents=True)
    (job.folder / "results/demo/na_1024_1/all/done").touch()
    assert job(LAUNCHER="slurm", SEEDS="1 2").returncode == 0
    first, _ = job.submitted()
    (job.folder / "queue").write_text(f"1_0 0 {option(first, 'comment')}\n2_0 0 another job's comment\n")
    done = job(LAUNCHER="slurm", SEEDS="1 2 3")
    assert f"in the queue already, job 1_0: {job.folder}/results/demo/na_1024_2" in done.stdout
    array, table = job.submitted()[2:]
    assert [words[4] for words in commands(array)] == ["seed=3"]
    assert option(table, "dependency") == "afterany:1_0:3"


def test_slurm_has_nothing_to_do(job):
    (job.folder / "results/demo/na_1024_1/all").mkdir(parents=True)
    (job.folder / "results/demo/na_1024_1/all/done").touch()
    done = job(LAUNCHER="slurm", METHODS="na_1024 na_1024", SEEDS="1")
    assert done.returncode == 0
    assert [line.split()[0] for line in job.log()] == ["src/report.py"]  # at once


def test_a_waiting_table_is_replaced(job):
    job(LAUNCHER="slurm")
    array, table = job.submitted()
    comments = [option(submitted, "comment") for submitted in (array, table)]
    tasks = [("1_0", 0, 0), ("1_1", 1, 0), ("1_2", 2, 0), ("2_0", 0, 1)]
    (job.folder / "queue").write_text("".join(f"{job_id} {n} {comments[which]}\n" for job_id, n, which in tasks))
    job(LAUNCHER="slurm")
    assert [line for line in job.log() if line.startswith("scancel")] == ["scancel --state=PENDING 2_0"]
    assert option(job.submitted()[2], "dependency") == "afterany:1_0:1_1:1_2"
    assert len(job.submitted()) == 3


def test_slurm_refuses(job):
    done = job(LAUNCHER="slurm", SBATCH_STATUS="1", SEEDS="1")
    assert done.returncode == 1
    assert done.stderr == "failed: demo na_1024 1\n"
    assert list((job.folder / "results/.slurm").iterdir()) == []


@pytest.mark.parametrize("dry_run", ["", "1"])
def test_stages_of_experiment_3_wait_for_each_other(job, dry_run):
    done = job("jobs/exp/exp3.sh", LAUNCHER="slurm", DATASETS="demo_unlabeled", METHODS="", SEEDS="1", DRY_RUN=dry_run,
               SETTINGS="fit_on=all", OVERRIDES="threads=1")  # fmt: skip
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    arrays = [shlex.split(line) for line in lines if line.startswith("sbatch")] if dry_run else job.submitted()
    names = [option(array, "job-name") for array in arrays]
    ids = [f"ID_{n}_OF_{name}" for n, name in zip((1, 2, 1, 1), names, strict=False)] if dry_run else "1234"
    teachers, triplets, labels, students, *table = arrays
    assert names[:4] == ["exp3", "exp3_triplet", "pseudo_attr", "exp3"]
    assert [option(array, "array") for array in (teachers, triplets, labels, students)] == ["0-0", "0-1", "0-2", "0-3"]
    waits = [option(array, "dependency") for array in arrays]
    assert waits[:4] == [None, None, f"afterok:{ids[0]}:{ids[1]}", f"afterok:{ids[2]}"]
    assert all("--kill-on-invalid-dep=yes" in array for array in (labels, students))
    if dry_run:
        assert table == []
        assert job.log() == []
        assert not (job.folder / "results").exists()
        made = [shlex.split(line) for line in lines if line.startswith("env ")]
    else:
        assert waits[4:] == ["afterany:4"]
        made = commands(labels)
    settings = [dict(word.split("=", 1) for word in words[1:-1]) for words in made]
    assert [s["SOURCES"] for s in settings] == ["class", "triplet", "gt"]
    assert all(s["LAUNCHER"] == "local" and s["SETTINGS"] == "fit_on=all" and s["OVERRIDES"] == "threads=1"
               for s in settings)  # fmt: skip
    assert {words[-1] for words in made} == {"pseudoattr/pseudo_attr.sh"}


def test_labels_that_are_there_are_not_submitted(job):
    labels = job.folder / "label/demo_unlabeled/class_1"
    labels.mkdir(parents=True)
    (labels / "labels.json").touch()
    environment = {"LAUNCHER": "slurm", "DATASETS": "demo_unlabeled", "SOURCES": "class", "SEEDS": "1"}
    assert "there already" in job("pseudoattr/pseudo_attr.sh", **environment).stdout
    assert job.submitted() == []
    job("pseudoattr/pseudo_attr.sh", **environment, AFTER_JOBS="77")  # a teacher is in the queue
    assert option(job.submitted()[0], "dependency") == "afterok:77"


TASK = {"SLURM_ARRAY_TASK_ID": "1", "SLURM_ARRAY_JOB_ID": "5", "SLURM_JOB_ID": "5", "SLURM_CPUS_ON_NODE": "6"}


@pytest.fixture
def submission(job):
    command = "python src/train.py dataset=demo seed=\\[{}\\] "
    (job.folder / "commands").write_text("".join(command.format(n) + "\n" for n in range(3)))
    return str(ROOT), str(job.folder)


@pytest.mark.parametrize("status", [0, 3])
def test_a_task_is_its_line_of_the_submission(job, submission, status):
    (job.folder / "commands").write_text((job.folder / "commands").read_text().replace("1", "2", 1))
    done = job("jobs/exp/slurm_job.sh", *submission, **TASK, STATUS=str(status or ""))
    assert done.returncode == status
    assert [line for line in job.log() if "begin" in line] == ["begin 6 none src/train.py dataset=demo seed=[2]"]
    assert "job 5_1 on " in done.stdout
    assert "scontrol" not in "".join(job.log())


@pytest.mark.parametrize("sent", [signal.SIGUSR1, signal.SIGTERM])
@pytest.mark.parametrize("state", ["RUNNING", "SIGNALING", "COMPLETING"])
def test_a_task_that_is_told_to_end(job, submission, sent, state):
    """Queued again, unless Slurm itself ends it."""
    (job.folder / "queue").write_text(f"{state}\n")
    process = job.start("jobs/exp/slurm_job.sh", *submission, **TASK, SLOW="?")
    while not any(line.startswith("begin") for line in job.log()):
        time.sleep(0.05)
    time.sleep(0.3)
    process.send_signal(sent)
    assert process.wait(30) == 130
    assert job.log()[1:] == ["interrupted", *(["scontrol requeue 5_1"] if state != "COMPLETING" else [])]
    process.communicate()
