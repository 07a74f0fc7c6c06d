"""LAUNCHER=slurm on a real Slurm of two nodes on this host (tests/jobs/slurm.sh): runs are ended
and queued again, a node goes down, one is drained, and in the end every file of scores is that of
a local run.

  python -m pytest -m cluster tests/jobs/test_slurm.py

as root, with slurm-wlm and munge; 5 to 15 minutes on 2 cores.
"""

import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from conftest import ROOT, SECONDS, files_below, make_machine

LACKING = [name for name in ("slurmctld", "slurmd", "sbatch", "munged") if not shutil.which(name)]
LIMIT_SECONDS = 900  # many times what a stage takes

pytestmark = [
    pytest.mark.slow,
    pytest.mark.cluster,
    pytest.mark.timeout(3600),
    pytest.mark.skipif(
        bool(LACKING), reason=f"not installed: {', '.join(LACKING)} (apt install slurm-wlm munge)"
    ),
    pytest.mark.skipif(os.geteuid() != 0, reason="a Slurm of its own takes root"),
]


@pytest.fixture(scope="module")
def slurm():
    """Calls a command of Slurm; its output."""
    folder = Path(
        tempfile.mkdtemp(prefix="slurm")
    )  # short: a socket's path has at most 107 characters
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setenv("SLURM_CONF", str(folder / "slurm.conf"))

        def call(command: str) -> str:
            return subprocess.run(
                command.split(), check=True, capture_output=True, text=True
            ).stdout

        try:
            subprocess.run([ROOT / "tests/jobs/slurm.sh", "start", folder], check=True)
            yield call
        finally:
            subprocess.run([ROOT / "tests/jobs/slurm.sh", "stop", folder], check=True)
            shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def environment(tmp_path_factory) -> dict[str, str]:
    data = tmp_path_factory.mktemp("data")
    make_machine(data / "tiny/all/raw/fan", 200.0)
    make_machine(data / "tiny/all/raw/pump", 900.0)
    for clip in (data / "tiny/all/raw/fan").rglob("*_speed_*"):  # hidden attributes
        clip.rename(clip.with_name(clip.name.partition("_speed")[0] + ".wav"))
    settings = [
        f"dataset.clip_seconds={SECONDS}",
        "dataset.batch_size=4",
        "score_epochs=[2,14]",
        "threads=1",
        "trainer.accelerator=cpu",
        "model.extractor.n_ffts=[4096]",
    ]
    return {
        "DATA_DIR": str(data),
        "DATASETS": "folder:tiny",
        "OVERRIDES": " ".join(settings),
        "OMP_NUM_THREADS": "1",
        "SBATCH_OPTIONS": "--cpus-per-task=1",
        "REPORT": "--version epoch_2_14",
        "SETTINGS": "accelerator=cpu n_jobs=1",
    }


@pytest.fixture(autouse=True)
def nodes(slurm):
    """Both are there again after a test, without jobs."""
    yield
    slurm("scancel --user=root")
    for line in slurm("sinfo --noheader --Node --states=drain,down --format=%n").split():
        slurm(f"scontrol update nodename={line} state=resume")


EXPERIMENTS = (
    ("exp2.sh", {"SEEDS": "1 2"}),
    (
        "exp3.sh",
        {
            "SEEDS": "1",
            "METHODS": "pattr_bic_pre_subloss_0256_4096 pattr_bic_triplet_subloss_0256_4096",
        },
    ),
)


@pytest.fixture
def job(environment, tmp_path):
    def call(script: str, launcher: str, folder: Path, **others: str) -> str:
        """Its output."""
        names = {
            "LAUNCHER": launcher,
            "RESULTS_DIR": str(folder / "results"),
            "LABEL_DIR": str(folder / "label"),
        }
        done = subprocess.run(
            [ROOT / "jobs/exp" / script],
            env={**os.environ, **environment, **names, **others},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    return call


def wait_for(what, seconds: float = LIMIT_SECONDS):
    """The first true value of what()."""
    end = time.monotonic() + seconds
    while not (value := what()):
        assert time.monotonic() < end, "nothing happens"
        time.sleep(0.2)
    return value


def running(slurm) -> list[list[str]]:
    """[job id, node, run folder] of the tasks that run."""
    lines = slurm("squeue --noheader --array --states=RUNNING --format=%i|%N|%o|%K").splitlines()
    tasks = [line.split("|") for line in lines]
    return [
        [task, node, str((Path(command.split()[-1]) / f"{number}.log").readlink().parent)]
        for task, node, command, number in tasks
    ]


def in_training(slurm, not_these: Sequence[str] = ()) -> list[str] | None:
    """A task of another run that has finished an epoch and has more to do."""
    for task in running(slurm):
        if task[2] not in not_these and Path(task[2], "all/checkpoints/last.ckpt").is_file():
            return task
    return None


def results(folder: Path) -> dict[str, bytes]:
    scores = {
        name: text
        for name, text in files_below(folder / "results", "**/*.csv").items()
        if "/logs/" not in name
    }
    for file in sorted((folder / "label").rglob("labels.json")):
        scores[str(file.relative_to(folder))] = json.dumps(
            json.loads(file.read_text())["clips"]
        ).encode()
    return scores


def epochs_of_the_last_start(run: str) -> tuple[int, int]:
    """That it trained itself, and of how many."""
    progress = json.loads(Path(run, "all/progress.json").read_text())
    return len(progress["seconds"]), progress["epochs"]


def test_everything_is_as_in_a_local_run(slurm, job, tmp_path):
    local, cluster = tmp_path / "local", tmp_path / "cluster"
    for script, settings in EXPERIMENTS:
        job(script, "local", local, **settings)

    (script, settings), (stages, more) = EXPERIMENTS
    assert "4 tasks" in job(script, "slurm", cluster, **settings)
    again = job(script, "slurm", cluster, **settings)  # all is in the queue
    assert again.count("in the queue already") == 4
    assert again.count("submitted: ") == 1  # the table
    wait_for(lambda: len(running(slurm)) == 2)

    disturbed = []
    for signal in ("USR1", "TERM"):
        task, _, run = wait_for(lambda: in_training(slurm, disturbed))
        # it would signal the task once more when it runs again
        with subprocess.Popen(["scancel", "--batch", f"--signal={signal}", task]) as command:
            log = Path(run, "launch.log")
            wait_for(lambda: "stopped by a signal, requeued" in log.read_text(), 60)  # noqa: B023
            command.kill()
        disturbed.append(run)
    _, node, run = wait_for(lambda: in_training(slurm, disturbed))
    slurm(f"scontrol update nodename={node} state=down reason=test")
    wait_for(lambda: not slurm("squeue --noheader"))
    for folder in (*disturbed, run):
        assert "start 2: " in Path(folder, "launch.log").read_text()
        assert Path(folder, "all/done").is_file()
        trained, epochs = epochs_of_the_last_start(folder)
        assert trained < epochs  # it went on

    slurm(f"scontrol update nodename={node} state=resume")
    printed = job(stages, "slurm", cluster, **more)
    assert (
        printed.count("submitted: ") == 4
    )  # triplet model, labels, students, table; the teacher is one of experiment 2
    _, node, _ = wait_for(lambda: running(slurm))[0]
    slurm(f"scontrol update nodename={node} state=drain reason=test")
    wait_for(lambda: not slurm("squeue --noheader"))

    expected, found = results(local), results(cluster)
    kinds = [name.rpartition("/")[2] for name in expected]
    assert kinds.count("ensemble_test_score.csv") == (4 + 2) * 2  # runs, machines
    assert kinds.count("labels.json") == 2
    assert {"table2_part.csv", "table3_part.csv"} <= expected.keys()
    assert found.keys() == expected.keys()
    assert [name for name in expected if found[name] != expected[name]] == []


def test_what_waits_for_a_failed_run_is_cancelled(slurm, job, tmp_path):
    job("exp3.sh", "slurm", tmp_path, **EXPERIMENTS[1][1], OVERRIDES="model.no_such_key=1")
    wait_for(lambda: not slurm("squeue --noheader"), 120)
    log = tmp_path / "results/tiny/subloss_0256_4096_1/launch.log"
    assert "no_such_key" in log.read_text()
    assert not list(tmp_path.rglob("labels.json"))
    assert not list(tmp_path.rglob("pattr_*/all"))


def test_what_a_person_cancels_stays_away(slurm, job, tmp_path):
    job("exp2.sh", "slurm", tmp_path, SEEDS="1", METHODS="subloss_0256_4096")
    task, _, run = wait_for(lambda: in_training(slurm))
    slurm(f"scancel {task}")
    wait_for(lambda: not slurm("squeue --noheader"), 60)
    assert not Path(run, "all/done").exists()
    assert Path(run, "launch.log").read_text().count("== ") == 1  # begun once, and not queued again
