"""What LAUNCHER=slurm submits, and what its tasks do, with stand-ins for python and Slurm;
tests/jobs/test_slurm.py has a real one."""

import shlex
import signal
import time
from pathlib import Path

import pytest
from launcher_job import make_job

from conftest import ROOT, write_script


@pytest.fixture
def job(tmp_path):
    return make_job(tmp_path)


def option(submitted: list[str], name: str) -> str | None:
    found = [word.partition("=")[2] for word in submitted if word.startswith(f"--{name}=")]
    assert len(found) < 2
    return found[0] if found else None


def commands(submitted: list[str]) -> list[list[str]]:
    return [shlex.split(line) for line in Path(submitted[-1], "commands").read_text().splitlines()]


def test_slurm_submits_one_array_and_the_table_after_it(job):
    done = job(LAUNCHER="slurm", JOBS="2", SBATCH_OPTIONS="--partition=gpu --time=4:00:00")
    assert done.returncode == 0, done.stderr
    array, table = job.submitted()
    assert array[1:3] == ["--partition=gpu", "--time=4:00:00"]
    assert (option(array, "array"), option(array, "dependency")) == ("0-2%2", None)
    assert (option(table, "array"), option(table, "dependency")) == ("0-0%2", "afterany:1")
    assert [words[:4] for words in commands(array)] == [
        ["python", "src/train.py", "dataset=demo", "method=na_1024"]
    ] * 3
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
    (job.folder / "queue").write_text(
        f"1_0 0 {option(first, 'comment')}\n2_0 0 another job's comment\n"
    )
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


def test_slurm_submits_a_run_once(job):
    job(LAUNCHER="slurm", SEEDS="1 2 1")
    assert [words[4] for words in commands(job.submitted()[0])] == ["seed=1", "seed=2"]


def test_slurm_makes_each_source_of_labels_once(job):
    methods = "pattr_bic_pre_subloss_0256_4096 pattr_bic_pre_subloss_0256_4096 na_1024"
    done = job(
        "jobs/exp/exp3.sh", LAUNCHER="slurm", DATASETS="demo_unlabeled", METHODS=methods, SEEDS="1"
    )
    assert done.returncode == 0, done.stderr
    labels = next(array for array in job.submitted() if option(array, "job-name") == "pseudo_attr")
    assert option(labels, "array") == "0-0"
    assert "SOURCES=class" in commands(labels)[0]


@pytest.mark.parametrize("status", [0, 1, 3, 130])
def test_slurm_looks_at_finished_runs(job, status):
    """With OVERRIDES they are asked, and their answer is reported."""
    for seed in "23":
        (job.folder / f"results/demo/na_1024_{seed}/all").mkdir(parents=True)
        (job.folder / f"results/demo/na_1024_{seed}/all/done").touch()
    done = job(LAUNCHER="slurm", SEEDS="2 3", OVERRIDES="threads=1", STATUS=str(status))
    assert done.returncode == {0: 0, 1: 1, 3: 0, 130: 130}[status]
    assert done.stderr == {
        1: "failed: demo na_1024 2\n",
        3: "locked elsewhere: demo na_1024 2\n",
    }.get(status, "")
    assert sum(line.startswith("begin") for line in job.log()) == (1 if status == 130 else 2)


SPELLINGS = ["overwrite=true", "overwrite=True", "+overwrite=1", "++overwrite=yes", "overwrite=on"]


@pytest.mark.parametrize("word", SPELLINGS)
def test_slurm_submits_what_is_to_be_overwritten(job, word):
    (job.folder / "results/demo/na_1024_1/all").mkdir(parents=True)
    (job.folder / "results/demo/na_1024_1/all/done").touch()
    job(LAUNCHER="slurm", SEEDS="1", OVERRIDES=f"{word} threads=1")
    assert word in commands(job.submitted()[0])[0]


def test_the_table_asks_for_no_gpu_but_gives_way(job):
    job(LAUNCHER="slurm", SBATCH_OPTIONS="--gres=gpu:a100:1")
    array, table = job.submitted()
    assert [word for word in array if word.startswith("--gres")] == ["--gres=gpu:a100:1"]
    assert [word for word in table if word.startswith("--gres")] == [
        "--gres=none",
        "--gres=gpu:a100:1",
    ]
    assert option(table, "cpus-per-task") == "1"


def test_the_table_of_another_part_stays(job):
    job(LAUNCHER="slurm", SEEDS="1 2")
    comment = option(job.submitted()[1], "comment")
    (job.folder / "queue").write_text(f"2_0 0 {comment}\n")
    job(LAUNCHER="slurm", SEEDS="1 3")
    assert not any(line.startswith("scancel") for line in job.log())
    assert len(job.submitted()) == 4
    assert "cancelled: job 2_0" in job(LAUNCHER="slurm", SEEDS="1 2").stdout


def test_a_variable_of_the_user_is_no_file(job):
    (job.folder / "mine").write_text("7\n")
    job(LAUNCHER="slurm", JOB_IDS=f"{job.folder}/mine")
    assert (job.folder / "mine").read_text() == "7\n"


def test_a_waiting_table_is_replaced(job):
    job(LAUNCHER="slurm")
    array, table = job.submitted()
    comments = [option(submitted, "comment") for submitted in (array, table)]
    tasks = [("1_0", 0, 0), ("1_1", 1, 0), ("1_2", 2, 0), ("2_0", 0, 1)]
    (job.folder / "queue").write_text(
        "".join(f"{job_id} {n} {comments[which]}\n" for job_id, n, which in tasks)
    )
    job(LAUNCHER="slurm")
    assert [line for line in job.log() if line.startswith("scancel")] == [
        "scancel --state=PENDING 2_0"
    ]
    assert option(job.submitted()[2], "dependency") == "afterany:1_0:1_1:1_2"
    assert len(job.submitted()) == 3


def test_slurm_refuses(job):
    done = job(LAUNCHER="slurm", SBATCH_STATUS="1", SEEDS="1")
    assert done.returncode == 1
    assert done.stderr == "failed: demo na_1024 1\n"
    assert list((job.folder / "results/.slurm").iterdir()) == []


@pytest.mark.parametrize("dry_run", ["", "1"])
def test_stages_of_experiment_3_wait_for_each_other(job, dry_run):
    done = job(
        "jobs/exp/exp3.sh",
        LAUNCHER="slurm",
        DATASETS="demo_unlabeled",
        METHODS="",
        SEEDS="1",
        DRY_RUN=dry_run,
        SETTINGS="fit_on=all",
        OVERRIDES="threads=1",
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    arrays = (
        [shlex.split(line) for line in lines if line.startswith("sbatch")]
        if dry_run
        else job.submitted()
    )
    _, labels, others, students, *table = arrays
    names = [option(array, "job-name") for array in arrays]
    assert names[:4] == ["exp3", "pseudo_attr", "exp3", "exp3"]
    sizes = [option(array, "array") for array in arrays]
    assert sizes[:4] == ["0-2", "0-2", "0-0", "0-2"]  # one row needs no labels, and waits for none
    waits = [option(array, "dependency") for array in arrays]
    ids = ["ID_1_OF_exp3", "ID_1_OF_pseudo_attr"] if dry_run else ["1", "2"]
    assert waits[:4] == [None, f"afterok:{ids[0]}", None, f"afterok:{ids[1]}"]
    assert all("--kill-on-invalid-dep=yes" in array for array in (labels, students))
    if dry_run:
        assert table == []
        assert job.log() == []
        assert not (job.folder / "results").exists()
        made = [shlex.split(line) for line in lines if line.startswith("env ")]
    else:
        assert waits[4:] == ["afterany:3:4"]
        assert "method=pattr_macdom_subloss_0256_4096" in commands(others)[0]
        made = commands(labels)
    settings = [dict(word.split("=", 1) for word in words[1:-1]) for words in made]
    assert [s["SOURCES"] for s in settings] == ["class", "triplet", "gt"]
    assert all(
        s["LAUNCHER"] == "local" and s["SETTINGS"] == "fit_on=all" and s["OVERRIDES"] == "threads=1"
        for s in settings
    )
    assert {words[-1] for words in made} == {"pseudoattr/pseudo_attr.sh"}


def test_a_row_without_labels_waits_for_what_the_caller_names(job):
    job(
        "jobs/exp/exp3.sh", LAUNCHER="slurm", DATASETS="demo_unlabeled", METHODS="", AFTER_JOBS="77"
    )
    waits = [option(array, "dependency") for array in job.submitted()]
    assert waits[:4] == ["afterok:77", "afterok:1", "afterok:77", "afterok:2"]


def test_labels_that_exist_are_not_submitted(job):
    labels = job.folder / "label/demo_unlabeled/class_1"
    labels.mkdir(parents=True)
    (labels / "labels.json").touch()
    environment = {
        "LAUNCHER": "slurm",
        "DATASETS": "demo_unlabeled",
        "SOURCES": "class",
        "SEEDS": "1",
    }
    for overrides in ("", "threads=1"):
        done = job("pseudoattr/pseudo_attr.sh", **environment, OVERRIDES=overrides)
        assert done.stdout == f"labels exist: {labels}\n"
    assert job.submitted() == []
    job("pseudoattr/pseudo_attr.sh", **environment, AFTER_JOBS="77")  # a teacher is in the queue
    assert option(job.submitted()[0], "dependency") == "afterok:77"


TASK = {
    "SLURM_ARRAY_TASK_ID": "1",
    "SLURM_ARRAY_JOB_ID": "5",
    "SLURM_JOB_ID": "5",
    "SLURM_CPUS_ON_NODE": "6",
}


@pytest.fixture
def submission(job):
    command = "python src/train.py dataset=demo seed=\\[{}\\] "
    (job.folder / "commands").write_text("".join(command.format(n) + "\n" for n in range(3)))
    return str(ROOT), str(job.folder)


@pytest.mark.parametrize("status", [0, 3])
def test_a_task_is_its_line_of_the_submission(job, submission, status):
    (job.folder / "commands").write_text((job.folder / "commands").read_text().replace("1", "2", 1))
    done = job("jobs/launch/slurm_job.sh", *submission, **TASK, STATUS=str(status or ""))
    assert done.returncode == status
    assert [line for line in job.log() if "begin" in line] == [
        "begin 6 none src/train.py dataset=demo seed=[2]"
    ]
    assert "job 5_1 on " in done.stdout
    assert "scontrol" not in "".join(job.log())


@pytest.mark.parametrize("sent", [signal.SIGUSR1, signal.SIGTERM])
@pytest.mark.parametrize("state", ["RUNNING", "SIGNALING", "COMPLETING"])
def test_a_task_that_is_stopped(job, submission, sent, state):
    """Queued again, unless Slurm itself ends it."""
    (job.folder / "queue").write_text(f"{state}\n")
    process = job.start("jobs/launch/slurm_job.sh", *submission, **TASK, SLOW="?")
    while not any(line.startswith("begin") for line in job.log()):
        time.sleep(0.05)
    time.sleep(0.3)
    process.send_signal(sent)
    assert process.wait(30) == 130
    assert job.log()[1:] == [
        "interrupted",
        *(["scontrol requeue 5_1"] if state != "COMPLETING" else []),
    ]
    process.communicate()


def test_every_start_of_a_task_belongs_to_one_call(job, submission):
    """So that overwrite=true clears a run once (tests/commands/test_resume.py)."""
    line = 'bash -c "echo call \\$UNLABELEDASD_CALL >> \\$LOG"'
    (job.folder / "commands").write_text(f"first\n{line}\n")
    for count in ("0", "1"):
        job("jobs/launch/slurm_job.sh", *submission, **TASK, SLURM_RESTART_COUNT=count)
    assert job.log() == [f"call {job.folder.name}"] * 2


def test_a_task_without_its_command(job, submission):
    (job.folder / "commands").write_text("python src/train.py\n")
    done = job("jobs/launch/slurm_job.sh", *submission, **TASK)
    assert done.returncode == 1
    assert done.stderr == f"{job.folder}/commands: no line 2 for job 5_1\n"


@pytest.mark.parametrize(("failures", "requeued"), [(4, True), (5, False)])
def test_a_controller_that_does_not_answer(job, submission, failures, requeued):
    (job.folder / "bin/squeue").write_text(
        '#!/bin/bash\necho "squeue" >> "$LOG"\n'
        f'[[ $(grep -c squeue "$LOG") -gt {failures} ]] || exit 1\necho RUNNING\n'
    )
    write_script(
        job.folder / "bin/sleep", '#!/bin/bash\n[[ "$1" != 10 ]] || exit 0\nexec /bin/sleep "$1"\n'
    )
    process = job.start("jobs/launch/slurm_job.sh", *submission, **TASK, SLOW="?")
    while not any(line.startswith("begin") for line in job.log()):
        time.sleep(0.05)
    time.sleep(0.3)
    process.send_signal(signal.SIGUSR1)
    assert process.wait(30) == 130
    assert ("scontrol requeue 5_1" in job.log()) == requeued
    assert job.log().count("squeue") == 5
    process.communicate()
