"""The state of a run as its folder tells it: folders made by hand, and runs that are stopped."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

import train
from conftest import ROOT, call, make_machine, tiny
from unlabeledasd.files import write_json, write_text
from unlabeledasd.runs import locks
from unlabeledasd.runs import state as progress
from unlabeledasd.runs.folder import Run
from unlabeledasd.runs.state import labels_state, run_state
from unlabeledasd.runs.training import RecordProgress

METHOD = "na_4096"  # the cheapest of them


def hold(run: Run, age: float = 0.0, number: int = 1, **holder) -> Path:
    """A lock, renewed `age` seconds ago, of a process on another host, or as `holder` says."""
    file = run.all / f"lock.{number}"
    far = {
        "host": "far",
        "pid": 7,
        "since": "2026-11-24 10:00:00+00:00",
        "place": "far",
        "started": "1",
    }
    write_text(file, json.dumps({**far, **holder}))
    os.utime(file, (time.time() - age,) * 2)
    return file


def write_progress(run: Run, epoch: int, seconds: list[float], age: float = 0.0) -> None:
    write_json(run.progress, {"epoch": epoch, "epochs": 16, "seconds": seconds})
    os.utime(run.progress, (time.time() - age,) * 2)


@pytest.fixture
def run(tmp_path) -> Run:
    return Run(tmp_path / "results/demo/na_1024_1")


# --- hand-made folders ----------------------------------------------------------------------------------------------


def test_done(run):
    assert run_state(run.folder).state == "missing"
    run.mark_done("hash")
    hold(run)  # src/infer.py works on it
    assert run_state(run.folder).state == "done"
    run.done_marker.write_text("{")
    assert run_state(run.folder).state == "failed"
    assert (
        run_state(run.folder).error
        == f"{run.done_marker}: corrupt; remove it to have the run completed"
    )


def test_running(run):
    hold(run, age=100)  # elsewhere, with a sign of life not long ago
    state = run_state(run.folder)
    assert (state.state, state.doing, state.seconds_left, state.holder["host"]) == (
        "running",
        "starting",
        None,
        "far",
    )
    write_progress(run, 0, [], age=150)
    assert run_state(run.folder).doing == "epoch 1 of 16"
    assert run_state(run.folder).seconds_left is None
    write_progress(run, 3, [400, 100, 120], age=150)
    state = run_state(run.folder)
    assert state.doing == "epoch 4 of 16"
    # 12 more after this one, in which it was 50 s when it last gave a sign of life
    assert state.seconds_left == pytest.approx(12 * 120 + 120 - 50, abs=5)
    write_progress(run, 3, [400, 100, 120], age=9999)  # longer than an epoch took so far
    assert run_state(run.folder).seconds_left == pytest.approx(12 * 120)
    write_progress(run, 16, [120])
    assert (run_state(run.folder).doing, run_state(run.folder).seconds_left) == ("scoring", None)


def test_running_here(run):
    """A process of this machine is alive or not, whatever the age of its lock."""
    hold(run, age=9999, **locks.this_process())
    assert run_state(run.folder).state == "running"
    hold(run, **{**locks.this_process(), "started": "1"})  # an id that was reused
    assert run_state(run.folder).state == "interrupted"


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[]",
        "7",
        '"x"',
        '{"epoch": 1}',
        '{"epoch": "a", "epochs": 2}',
        "\xff",
        '{"epoch": 1, "epochs": null, "seconds": []}',
    ],
)
def test_damaged_files(run, content):
    for name in ("progress.json", "lock.1"):
        run.all.mkdir(parents=True, exist_ok=True)
        (run.all / name).write_bytes(content.encode("latin-1"))
    os.utime(run.all / "lock.1", (time.time() - 999,) * 2)
    assert run_state(run.folder).state == "interrupted"
    os.utime(run.all / "lock.1")
    assert run_state(run.folder).state == "running"  # one that is just being written
    write_text(run.all / "lock.2", json.dumps({"place": locks.place()}))
    assert run_state(run.folder).state == "interrupted"


def test_interrupted(run):
    run.all.mkdir(parents=True)
    assert run_state(run.folder).state == "interrupted"
    hold(run, age=200)
    write_progress(run, 5, [1.0])
    state = run_state(run.folder)
    assert (state.state, state.doing, state.holder["host"]) == (
        "interrupted",
        "5 of 16 epochs trained",
        "far",
    )
    os.utime(run.all / "lock.1", (0, 0))  # given back
    assert run_state(run.folder).holder is None


def test_failed(run):
    write_text(run.error, "x.wav: no samples in it\n")
    assert (run_state(run.folder).state, run_state(run.folder).error) == (
        "failed",
        "x.wav: no samples in it",
    )
    hold(run)
    assert run_state(run.folder).state == "running"  # it was begun again


TRACEBACK = 'Traceback (most recent call last):\n  File "x.py", line 1\nRuntimeError: CUDA error: no device\n'


@pytest.mark.parametrize(
    ("log", "error"),
    [
        (
            "error: trainer.devices=2: a run is for one device\n",
            "error: trainer.devices=2: a run is for one device",
        ),
        (
            TRACEBACK + "srun: error: n1: task 0: Exited with exit code 1\n",
            "RuntimeError: CUDA error: no device",
        ),
        (
            "epoch 1/16\rslurmstepd: error: Detected 1 oom_kill event in StepId=7.batch\n",
            "slurmstepd: error: Detected 1 oom_kill event in StepId=7.batch",
        ),
        (
            "slurmstepd: error: *** JOB 7 ON n1 CANCELLED AT 2026-11-24T10:00:00 DUE TO PREEMPTION ***\n",
            "",
        ),
        (
            "error: x.wav: truncated\n== 2026-11-24 10:00:00: job 5_0 on n1, start 1: python\nprecision 32-true\n",
            "",
        ),
        ("== 10:00: job\nepoch 1/16\rerror: x.wav: truncated\n", "error: x.wav: truncated"),
        (TRACEBACK + "precision 32-true\n" + 9 * "epoch 2/16\r", ""),
        ("", ""),
        ("\xff\xfe", ""),
    ],
)
def test_what_a_launcher_kept(run, log, error):
    run.folder.mkdir(parents=True)
    (run.folder / "launch.log").write_text(log)
    assert (run_state(run.folder).state, run_state(run.folder).error) == (
        "failed" if error else "interrupted",
        error,
    )
    write_progress(run, 3, [], age=-9)  # it went on since, elsewhere
    assert run_state(run.folder).state == "interrupted"


def test_an_attempt_that_kept_no_log(run):
    write_text(run.folder / "launch.log", "error: x.wav: truncated\n")
    os.utime(run.folder / "launch.log", (time.time() - 900,) * 2)
    assert run_state(run.folder).state == "failed"
    hold(run, age=600)  # it began again, and was killed
    assert run_state(run.folder).state == "interrupted"


def test_done_while_it_is_looked_at(run, monkeypatch):
    monkeypatch.setattr(progress, "last_owner", lambda _: write_json(run.done_marker, {}))
    assert run_state(run.folder).state == "done"


def test_what_cannot_be_read(run):
    run.error.mkdir(parents=True)
    assert run_state(run.folder).state == "failed"
    assert run_state(run.folder).error.endswith("error: Is a directory")


def test_labels(tmp_path):
    folder = tmp_path / "label/demo/class_1"
    assert labels_state(folder).state == "missing"
    folder.mkdir(parents=True)  # in the queue of Slurm
    assert labels_state(folder).state == "missing"
    for name in ("gearbox/embedding_train.npz", "fan/embedding_train.npz", "fan/clusters.json"):
        write_text(folder / name, "x")
    state = labels_state(folder)
    assert (state.state, state.doing) == ("interrupted", "2 machines embedded, 1 clustered")
    with locks.locked(folder, folder / "lock"):
        assert labels_state(folder).state == "running"
    write_text(folder / "launch.log", "error: weights.pth: no such file\n")
    assert labels_state(folder).error == "error: weights.pth: no such file"
    write_text(folder / "labels.json", "{}")
    assert labels_state(folder).state == "done"


# --- runs that are stopped ------------------------------------------------------------------------------------------


def test_a_run_that_is_stopped_and_goes_on(data_dir, tmp_path, monkeypatch):
    arguments = tiny(data_dir, tmp_path, "score_epochs=[2,3]", "threads=1", method=METHOD)
    run = Run(tmp_path / f"tiny/{METHOD}_1")
    for how in (signal.SIGTERM, signal.SIGKILL):
        with subprocess.Popen(
            [sys.executable, "src/train.py", *arguments],
            cwd=ROOT,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        ) as process:
            end = time.monotonic() + 100
            while (state := run_state(run.folder)).epoch in (None, 0) or state.state != "running":
                assert time.monotonic() < end
                time.sleep(0.02)
            process.send_signal(how)
        assert (state.holder["host"], state.holder["pid"]) == (socket.gethostname(), process.pid)
        state = run_state(run.folder)
        assert state.state == "interrupted"
        assert state.doing == f"{state.epoch} of 3 epochs trained"
    assert call(train, monkeypatch, *arguments) == 0
    assert run_state(run.folder).state == "done"
    progress = json.loads(run.progress.read_text())
    assert (progress["epoch"], progress["epochs"]) == (3, 3)
    assert 0 < len(progress["seconds"]) <= 3 - state.epoch
    assert all(seconds > 0 for seconds in progress["seconds"])


def test_progress_of_a_run_that_goes_on(data_dir, tmp_path, monkeypatch):
    """It begins with the epochs that are kept, and tells the times of its own process."""
    arguments = tiny(data_dir, tmp_path, "score_epochs=[2,3]", method=METHOD)
    written, stop, write = [], [True], RecordProgress.write

    def spy(self, epoch, trainer):
        write(self, epoch, trainer)
        progress = json.loads(self.run.progress.read_text())
        written.append((progress["epoch"], progress["epochs"], len(progress["seconds"])))
        if epoch == 1 and stop.pop():
            raise KeyboardInterrupt

    monkeypatch.setattr(RecordProgress, "write", spy)
    assert call(train, monkeypatch, *arguments) == 130
    stop.append(False)
    assert call(train, monkeypatch, *arguments) == 0
    assert written == [(0, 3, 0), (1, 3, 1), (1, 3, 0), (2, 3, 1), (3, 3, 2)]


def test_a_run_that_fails_and_goes_on(tmp_path, monkeypatch, capsys):
    for machine, hz in (("fan", 200.0), ("pump", 900.0)):
        make_machine(tmp_path / "data/tiny/all/raw" / machine, hz)
    clip = tmp_path / "data/tiny/all/raw/fan/train/section_00_source_train_normal_0000_speed_1.wav"
    content = clip.read_bytes()
    arguments = tiny(tmp_path / "data", tmp_path, "score_epochs=[1]", method=METHOD)
    run = Run(tmp_path / f"tiny/{METHOD}_1")
    clip.write_bytes(content[:44])
    assert call(train, monkeypatch, *arguments) == 1
    state = run_state(run.folder)
    assert state.state == "failed"
    assert f"error: {state.error}" == capsys.readouterr().err.strip().splitlines()[-1]
    assert str(clip) in state.error

    def bug(*_, **__):
        raise RuntimeError("out of\n memory")

    clip.write_bytes(content)
    with monkeypatch.context() as patch:
        patch.setattr("unlabeledasd.evaluation.embed", bug)
        with pytest.raises(RuntimeError):
            call(train, patch, *arguments)
    assert run_state(run.folder).error == "RuntimeError: out of memory"
    assert call(train, monkeypatch, *arguments) == 0
    assert run_state(run.folder).state == "done"
    assert not run.error.exists()
