"""LAUNCHER=ray without Ray: what reaches its driver, what the driver does on a node, and what
comes back."""

import os
import shlex
import subprocess
import sys
import time
from pathlib import Path

import pytest

from conftest import ROOT, write_script
from ray_runs import Task, execute, last_line, places, read_tasks, setting
from unlabeledasd.errors import InputError

STAND_IN = """#!/bin/sh
case "$1" in
  *missing_requirements.py) exit 0 ;;
  jobs/launch/ray_runs.py) cat > "$LOG"; printf "$ANSWERS"; exit $STATUS ;;
  src/train.py) echo "not by Ray: $*" >&2; exit 1 ;;
esac
"""


@pytest.fixture
def job(tmp_path):
    """jobs/exp/exp2.sh with a stand-in for python, which keeps what ray_runs.py would read."""
    stand_in = write_script(tmp_path / "bin/python", STAND_IN)

    def run(**environment: str):
        clean = {
            "PATH": f"{stand_in.parent}:{os.environ['PATH']}",
            "LOG": str(tmp_path / "runs"),
            "DATASETS": "demo",
            "RESULTS_DIR": str(tmp_path / "results"),
            "DATA_DIR": str(tmp_path),
            "LAUNCHER": "ray",
            "METHODS": "subloss_0256_4096",
            "SEEDS": "1 2 3",
            "ANSWERS": r"2 0\n0 0\n1 0\n",
            "STATUS": "0",
            **environment,
        }
        return subprocess.run(
            [ROOT / "jobs/exp/exp2.sh"],
            env=clean,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )

    run.read = lambda: read_tasks((tmp_path / "runs").read_bytes())
    return run


def test_runs_reach_the_driver_as_the_local_launcher_has_them(job, tmp_path):
    place = tmp_path / "it's a\nplace, jörg"
    place.mkdir()
    assert job(DATA_DIR=str(place)).returncode == 0
    runs = job.read()
    assert [run.name for run in runs] == [f"demo subloss_0256_4096 {seed}" for seed in (1, 2, 3)]
    assert [run.folder for run in runs] == [
        f"{tmp_path}/results/demo/subloss_0256_4096_{n}" for n in (1, 2, 3)
    ]
    words = [
        subprocess.run(
            ["bash", "-c", f"printf '%s\\0' {run.command}"],
            capture_output=True,
            text=True,
            check=True,
        ).stdout.split("\0")[:-1]
        for run in runs
    ]
    assert [word for word in words[1] if word.startswith(("python", "seed="))] == [
        "python",
        "seed=2",
    ]
    assert f"data_dir='{place}'".replace("t's", r"t\'s") in words[0]
    # the same command lines as those of the local launcher
    plain = {launcher: job(LAUNCHER=launcher, DRY_RUN="1").stdout for launcher in ("local", "ray")}
    assert plain["ray"] == plain["local"]
    assert len(plain["ray"].splitlines()) == 3


def test_what_the_driver_reports_of_runs(job):
    done = job(ANSWERS=r"2 0\n0 3\n1 -9\n")
    assert done.returncode == 1
    assert (
        done.stderr
        == "locked elsewhere: demo subloss_0256_4096 1\nfailed: demo subloss_0256_4096 2\n"
    )


@pytest.mark.parametrize("status", [1, 130])
def test_a_driver_that_fails_ends_the_job(job, status):
    assert job(STATUS=str(status), ANSWERS=r"0 0\n").returncode == status


def test_term_ends_the_driver(job, tmp_path):
    stand_in = tmp_path / "bin/python"
    wait = (
        'trap "echo ended >> $LOG; exit 1" TERM; echo begun > "$LOG"; while :; do sleep 0.1; done'
    )
    stand_in.write_text(f"#!/bin/bash\n[[ $1 == jobs/launch/ray_runs.py ]] || exit 0\n{wait}\n")
    log = tmp_path / "runs"
    environment = {
        "PATH": f"{stand_in.parent}:{os.environ['PATH']}",
        "LOG": str(log),
        "DATASETS": "demo",
        "DATA_DIR": str(tmp_path),
        "RESULTS_DIR": str(tmp_path / "results"),
        "LAUNCHER": "ray",
        "TMPDIR": str(tmp_path / "temporary"),
    }
    (tmp_path / "temporary").mkdir()
    process = subprocess.Popen(
        [ROOT / "jobs/exp/exp2.sh"], env=environment, stdout=subprocess.DEVNULL
    )
    while not (log.exists() and log.read_text()):
        time.sleep(0.05)
    process.terminate()
    assert process.wait(30) == 143
    assert log.read_text() == "begun\nended\n"
    assert list((tmp_path / "temporary").iterdir()) == []


def test_finished_runs_need_no_cluster(job, tmp_path):
    for seed in (1, 2, 3):
        marker = tmp_path / f"results/demo/subloss_0256_4096_{seed}/all/done"
        marker.parent.mkdir(parents=True)
        marker.touch()
    assert job(STATUS="1").returncode == 0
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("data", [b"a\0b\0", b"a\0b\0c", b"a\0b\0c\0d\0"])
def test_half_a_list_of_runs_is_refused(data):
    with pytest.raises(InputError, match="three strings for each run"):
        read_tasks(data)


def driver(folder: Path, runs: bytes = b"", module: str = "", **environment: str):
    """ray_runs.py with a module in the place of Ray."""
    (folder / "ray.py").write_text(module)
    path = f"{folder}{os.pathsep}{ROOT / 'src'}"
    return subprocess.run(
        [sys.executable, ROOT / "jobs/launch/ray_runs.py"],
        input=runs,
        capture_output=True,
        env={**os.environ, "PYTHONPATH": path, **environment},
        check=False,
    )


def test_without_ray(tmp_path):
    done = driver(tmp_path, module="raise ImportError('No module named ray')")
    assert done.returncode == 1
    message = (
        "error: LAUNCHER=ray needs Ray, which is not installed here: pip install -e '.[ray]'\n"
    )
    assert done.stderr.decode() == message
    assert done.stdout == b""


def test_no_cluster_at_the_address(tmp_path):
    module = "def init(**_): raise ConnectionError('Could not find\\n any cluster')"
    done = driver(tmp_path, module=module, RAY_ADDRESS="10.0.0.1:6379")
    assert done.returncode == 1
    assert done.stderr.decode() == "error: RAY_ADDRESS=10.0.0.1:6379: Could not find any cluster\n"


@pytest.mark.parametrize("text", ["0", "-1", "1.5", "all", "²"])
def test_settings_are_whole_numbers(text, monkeypatch):
    monkeypatch.setenv("CPUS_PER_RUN", text)
    with pytest.raises(InputError, match=f"CPUS_PER_RUN={text}: a whole number, at least 1"):
        setting("CPUS_PER_RUN", 4)


@pytest.mark.parametrize(
    ("node", "cpus", "per_gpu", "count"),
    [
        ({"CPU": 64, "GPU": 8}, 1, 4, 32),
        ({"CPU": 64, "GPU": 8}, 4, 4, 16),
        ({"CPU": 8}, 1, 2, 0),
        ({"CPU": 64, "GPU": 2}, 1, 3, 6),
        ({"CPU": 7}, 2, None, 3),
        ({"GPU": 4}, 1, 1, 0),
    ],
)
def test_places_of_a_node(node, cpus, per_gpu, count):
    assert places(node, cpus, per_gpu) == count


@pytest.mark.parametrize("on_gpu", [False, True])
def test_a_run_on_its_node(on_gpu, tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5")  # as Ray sets it for a task
    folder = tmp_path / "new/run"
    folder.mkdir(parents=True)
    (folder / "launch.log").write_text("before\n")
    command = 'printf "%s\\n" "$PWD" "$MARK" "[$CUDA_VISIBLE_DEVICES]"; echo "it broke" >&2; exit 7'
    run = Task("a b 1", str(folder), f"bash -c {shlex.quote(command)}")
    status, _, _ = execute(
        run, str(ROOT), {"PATH": os.environ["PATH"], "MARK": "of the driver"}, on_gpu
    )
    assert status == 7
    before, header, *output = (folder / "launch.log").read_text().splitlines()
    assert before == "before"
    assert header.endswith(run.command)
    assert output == [str(ROOT), "of the driver", "[5]" if on_gpu else "[]", "it broke"]
    assert last_line(str(folder)) == "it broke"


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.skipif(
    sys.platform != "linux", reason="elsewhere nothing binds a process to its parent"
)
def test_a_run_ends_with_its_worker(tmp_path):
    """Even if the worker has no time to tidy up, and the run takes no notice of signals."""
    pidfile = tmp_path / "pid"
    command = f"trap '' TERM HUP INT; echo $$ > {pidfile}; while :; do sleep 0.05; done"
    run = Task("a", str(tmp_path), f"bash -c {shlex.quote(command)}")
    script = (
        f"from ray_runs import Task, execute\n"
        f"execute(Task(*{tuple(run)}), {str(ROOT)!r}, {{'PATH': {os.environ['PATH']!r}}}, False)"
    )
    path = os.pathsep.join([str(ROOT / "jobs/launch"), str(ROOT / "src")])
    worker = subprocess.Popen(
        [sys.executable, "-c", script], env={**os.environ, "PYTHONPATH": path}
    )
    deadline = time.monotonic() + 60
    while not (pidfile.exists() and pidfile.read_text().endswith("\n")):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    pid = int(pidfile.read_text())
    assert alive(pid)
    worker.kill()
    worker.wait()
    while alive(pid):
        assert time.monotonic() < deadline, "it outlives its worker"
        time.sleep(0.02)
