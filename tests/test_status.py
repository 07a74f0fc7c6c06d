"""jobs/status.sh against hand-made folders, against the job scripts' own plans, and against runs that are stopped."""

import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import ROOT, call, make_machine, tiny

import train
from unlabeledasd import locks
from unlabeledasd.progress import labels_state, run_state
from unlabeledasd.runs import Run, write_json, write_text
from unlabeledasd.training import RecordProgress

NAMES = ("DATA_DIR", "DATASETS", "METHODS", "SEEDS", "OVERRIDES", "DRY_RUN", "RESULTS_DIR", "LABEL_DIR", "LAUNCHER")
CLEAN = {name: value for name, value in os.environ.items() if name not in NAMES}
METHOD = "na_4096"  # the cheapest of them


def call_job(script: str, *arguments: str, cwd: Path = ROOT, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run([ROOT / "jobs" / script, *arguments], env={**CLEAN, **environment}, cwd=cwd, text=True,
                          capture_output=True, check=False)  # fmt: skip


def status(tmp_path: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess:
    places = {"RESULTS_DIR": str(tmp_path / "results"), "LABEL_DIR": str(tmp_path / "label")}
    done = call_job("status.sh", *arguments, cwd=tmp_path, **places, **environment)
    assert done.stderr == ""
    assert done.returncode == 0
    return done


def states(tmp_path: Path, *arguments: str, **environment: str) -> dict[str, dict]:
    found = json.loads(status(tmp_path, "--json", *arguments, **environment).stdout)
    return {entry["folder"].removeprefix(f"{tmp_path}/"): entry for entry in found}


def hold(run: Run, age: float = 0.0, number: int = 1, **holder) -> Path:
    """A lock, renewed `age` seconds ago, of a process on another host, or as `holder` says."""
    file = run.all / f"lock.{number}"
    far = {"host": "far", "pid": 7, "since": "2026-11-24 10:00:00+00:00", "place": "far", "started": "1"}
    write_text(file, json.dumps({**far, **holder}))
    os.utime(file, (time.time() - age,) * 2)
    return file


def write_progress(run: Run, epoch: int, seconds: list[float], age: float = 0.0) -> None:
    write_json(run.progress, {"epoch": epoch, "epochs": 16, "seconds": seconds})
    os.utime(run.progress, (time.time() - age,) * 2)


@pytest.fixture
def run(tmp_path) -> Run:
    return Run(tmp_path / "results/demo/na_1024_1")


# --- what is planned ------------------------------------------------------------------------------------------------


def commands(script: str, environment: dict[str, str]) -> set[tuple]:
    """What a job script would call: (program, dataset, method, machine or source, seed)."""
    planned = set()
    for line in call_job(f"exp/{script}.sh", DRY_RUN="1", **environment).stdout.splitlines():
        words = shlex.split(line)
        settings = dict(word.split("=", 1) for word in words[2:])
        dataset = settings.get("dataset.name", settings["dataset"])
        what = next(settings[name] for name in ("method", "machine", "source") if name in settings)
        if not words[1].endswith("embed.py"):  # cluster.py ends what it begins
            planned.add((words[1].rpartition("/")[2], dataset, what, settings.get("seed", "")))
    return planned


@pytest.mark.parametrize(
    ("script", "environment"),
    [("exp1", {}), ("exp2", {}), ("exp3", {"DATASETS": "dcase2023", "SEEDS": "3"}),
     ("exp3", {"DATASETS": "dcase2024", "SEEDS": "3"}),
     ("exp1", {"DATASETS": "demo folder:pumps", "METHODS": "na_1024 featex_0256_4096"}),
     ("exp3", {"DATASETS": "demo_unlabeled", "METHODS": "pattr_bic_triplet_x pattr_gt_x", "SEEDS": "2"}),
     ("exp3", {"DATASETS": "demo_unlabeled", "METHODS": "na_1024 pattr_macdom_subloss_0256_4096"})],
)  # fmt: skip
def test_the_plan_is_that_of_the_job_script(tmp_path, script, environment):
    programs = {"run": "train.py", "triplet": "train_triplet.py", "labels": "cluster.py"}
    found = states(tmp_path, script, **environment).values()
    planned = [(programs[entry["kind"]], entry["dataset"].removeprefix("folder:"),
                entry["machine"] or entry["method"], entry["seed"]) for entry in found]  # fmt: skip
    assert len(planned) == len(set(planned))
    assert set(planned) == commands(script, environment)


def test_all_experiments_and_where_they_are(tmp_path):
    found = states(tmp_path)
    kinds = [entry["kind"] for entry in found.values()]
    assert (kinds.count("run"), kinds.count("triplet"), kinds.count("labels")) == (140, 105, 2 * 12 + 1)
    for folder in ("results/dcase2023/na_1024_1", "results/dcase2024/triplet_gearbox_5", "label/dcase2024/gt",
                   "label/dcase2023/class_2"):  # fmt: skip
        assert found[folder]["state"] == "missing"
    assert not list(tmp_path.iterdir())


def test_methods_find_their_experiment(tmp_path):
    found = states(tmp_path, DATASETS="demo", SEEDS="1", METHODS="na_1024 pattr_macdom_subloss_0256_4096")
    assert [(entry["experiment"], entry["method"]) for entry in found.values()] == [
        ("exp2", "na_1024"), ("exp3", "pattr_macdom_subloss_0256_4096")
    ]  # fmt: skip


def test_own_recordings(tmp_path):
    """Which machines are unlabeled is told by the names of the recordings, else by the models that are there."""
    grid = {"DATASETS": "folder:own", "SEEDS": "1", "METHODS": "pattr_bic_triplet_subloss_0256_4096"}
    for machine in ("fan", "pump_2"):
        Run(tmp_path / f"results/own/triplet_{machine}_1").all.mkdir(parents=True)
    assert {entry["machine"] for entry in states(tmp_path, "exp3", **grid).values()} == {"", "fan", "pump_2"}
    make_machine(tmp_path / "data/own/all/raw/saw", 200.0)  # whose attributes are known
    for split in ("train", "test"):
        folder = tmp_path / f"data/own/all/raw/drill/{split}"
        folder.mkdir(parents=True)
        (folder / "a.wav").touch()
    found = states(tmp_path, "exp3", **grid, DATA_DIR=str(tmp_path / "data"))
    assert {entry["machine"] for entry in found.values()} == {"", "drill"}


@pytest.mark.parametrize(
    ("arguments", "environment", "message"),
    [(["exp4"], {}, "error: exp4: no such experiment; allowed are exp1 exp2 exp3\n"),
     (["exp3"], {"DATASETS": "nope"}, "error: dataset nope: unknown; allowed are "),
     (["--watch", "0"], {}, "argument --watch: invalid seconds value: '0'\n")],
)  # fmt: skip
def test_errors_in_one_line(arguments, environment, message):
    done = call_job("status.sh", *arguments, **environment)
    assert done.returncode != 0
    assert message in done.stderr
    assert "Traceback" not in done.stderr


# --- hand-made folders ----------------------------------------------------------------------------------------------


def test_done(run):
    assert run_state(run.folder).state == "missing"
    run.mark_done("hash")
    hold(run)  # src/infer.py works on it
    assert run_state(run.folder).state == "done"
    run.done_marker.write_text("{")
    assert run_state(run.folder).state == "failed"
    assert run_state(run.folder).error == f"{run.done_marker}: damaged; remove it to have the run completed"


def test_running(run):
    hold(run, age=100)  # elsewhere, with a sign of life not long ago
    state = run_state(run.folder)
    assert (state.state, state.doing, state.seconds_left, state.holder["host"]) == ("running", "starting", None, "far")
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
    hold(run, age=9999, **locks.me())
    assert run_state(run.folder).state == "running"
    hold(run, **{**locks.me(), "started": "1"})  # an id that was given again
    assert run_state(run.folder).state == "interrupted"


@pytest.mark.parametrize("content", ["", "{", "[]", "7", '"x"', '{"epoch": 1}', '{"epoch": "a", "epochs": 2}', "\xff",
                                     '{"epoch": 1, "epochs": null, "seconds": []}'])  # fmt: skip
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
    assert (state.state, state.doing, state.holder["host"]) == ("interrupted", "5 of 16 epochs trained", "far")
    os.utime(run.all / "lock.1", (0, 0))  # given back
    assert run_state(run.folder).holder is None


def test_failed(run):
    write_text(run.error, "x.wav: no samples in it\n")
    assert (run_state(run.folder).state, run_state(run.folder).error) == ("failed", "x.wav: no samples in it")
    hold(run)
    assert run_state(run.folder).state == "running"  # it was begun again


TRACEBACK = 'Traceback (most recent call last):\n  File "x.py", line 1\nRuntimeError: CUDA error: no device\n'


@pytest.mark.parametrize(
    ("log", "error"),
    [("error: trainer.devices=2: a run is for one device\n", "error: trainer.devices=2: a run is for one device"),
     (TRACEBACK + "srun: error: n1: task 0: Exited with exit code 1\n", "RuntimeError: CUDA error: no device"),
     ("epoch 1/16\rslurmstepd: error: Detected 1 oom_kill event in StepId=7.batch\n",
      "slurmstepd: error: Detected 1 oom_kill event in StepId=7.batch"),
     ("slurmstepd: error: *** JOB 7 ON n1 CANCELLED AT 2026-11-24T10:00:00 DUE TO PREEMPTION ***\n", ""),
     (TRACEBACK + "precision 32-true\n" + 9 * "epoch 2/16\r", ""), ("", ""), ("\xff\xfe", "")],
)  # fmt: skip
def test_what_a_launcher_kept(run, log, error):
    run.folder.mkdir(parents=True)
    (run.folder / "launch.log").write_text(log)
    assert (run_state(run.folder).state, run_state(run.folder).error) == ("failed" if error else "interrupted", error)
    write_progress(run, 3, [], age=-9)  # it went on since, elsewhere
    assert run_state(run.folder).state == "interrupted"


def test_what_cannot_be_read(run):
    run.error.mkdir(parents=True)
    assert run_state(run.folder).state == "failed"
    assert run_state(run.folder).error.endswith("error: Is a directory")


def test_labels(tmp_path):
    folder = tmp_path / "label/demo/class_1"
    assert labels_state(folder).state == "missing"
    for name in ("gearbox/embedding_train.npz", "fan/embedding_train.npz", "fan/clusters.json"):
        write_text(folder / name, "x")
    state = labels_state(folder)
    assert (state.state, state.doing) == ("interrupted", "2 machines embedded, 1 clustered")
    with locks.holding(folder, folder / "lock"):
        assert labels_state(folder).state == "running"
    write_text(folder / "launch.log", "error: weights.pth: no such file\n")
    assert labels_state(folder).error == "error: weights.pth: no such file"
    write_text(folder / "labels.json", "{}")
    assert labels_state(folder).state == "done"


# --- the page -------------------------------------------------------------------------------------------------------


def test_what_a_person_reads(tmp_path):
    def made(name):
        return Run(tmp_path / "results/demo" / name)

    made("na_1024_1").mark_done("hash")
    hold(made("na_1024_2"), age=30)
    write_progress(made("na_1024_2"), 8, [60.0], age=30)
    hold(made("na_1024_3"), age=7200)
    for seed in "45":
        write_text(made(f"na_1024_{seed}").error, "OutOfMemoryError: CUDA out of memory")
    grid = {"DATASETS": "demo", "METHODS": "na_1024 na_0256", "SEEDS": "1 2 3 4 5", "DATA_DIR": "/my data"}
    lines = status(tmp_path, "exp1", **grid).stdout.splitlines()
    assert [line.split() for line in lines[:4]] == [
        ["dataset", "method", "done", "running", "interrupted", "failed", "missing"],
        ["exp1", "demo", "na_1024", "1", "1", "1", "2", "."],
        ["exp1", "demo", "na_0256", ".", ".", ".", ".", "5"],
        ["all", "1", "1", "1", "2", "5"],
    ]
    assert lines[4:] == [
        "",
        "running:",
        "  demo na_1024, seed 2: epoch 9 of 16, about 8.0 min of training left (host far, process 7, since "
        "2026-11-24 10:00:00+00:00)",
        "",
        "interrupted, or waiting to go on:",
        "  demo na_1024, seed 3: nothing trained yet, last sign of life 2.0 h ago on host far",
        "",
        "failed:",
        "  demo na_1024, seed 4 (and 1 more): OutOfMemoryError: CUDA out of memory",
        f"    DATA_DIR='/my data' RESULTS_DIR={tmp_path}/results LABEL_DIR={tmp_path}/label DATASETS=demo "
        "METHODS=na_1024 SEEDS='4 5' jobs/exp/exp1.sh",
    ]


def test_the_commands_that_go_on(tmp_path):
    """What failed is among what each of them makes."""
    failed = {"results/demo_unlabeled/subloss_0256_4096_2": "exp/exp2.sh",
              "results/demo_unlabeled/triplet_gearbox_2": "exp/exp3_triplet.sh",
              "results/demo_unlabeled/pattr_gt_subloss_0256_4096_2": "exp/exp3.sh"}  # fmt: skip
    for folder in failed:
        write_text(Run(tmp_path / folder).error, "x")
    write_text(tmp_path / "label/demo_unlabeled/class_2/launch.log", "error: x")
    shown = status(tmp_path, "exp3", DATASETS="demo_unlabeled", SEEDS="1 2").stdout.splitlines()
    found = [line.strip() for line in shown if "DATASETS=" in line]
    assert len(found) == 4
    assert found.pop(2).endswith(" DATASETS=demo_unlabeled SOURCES=class SEEDS=2 pseudoattr/pseudo_attr.sh")
    for command, (folder, script) in zip(found, failed.items(), strict=True):
        assert command.startswith("DATA_DIR=<data_dir> ")
        words = shlex.split(command.partition(" ")[2])
        assert words[-1] == f"jobs/{script}"
        environment = dict(word.split("=", 1) for word in words[:-1])
        lines = call_job(script, DRY_RUN="1", **environment).stdout.splitlines()
        name = folder.removeprefix("results/demo_unlabeled/")
        method, _, seed = name.removeprefix("triplet_").rpartition("_")
        assert any(f"={method} seed={seed} " in f"{line} " for line in lines)


def test_many_runs_quickly(tmp_path):
    for i, method in enumerate(("na_1024", "na_0256", "featex_0256_4096", "subloss_0256_4096")):
        for seed in range(1, 36):
            run = Run(tmp_path / f"results/demo/{method}_{seed}")
            hold(run, age=60 * i)
            write_progress(run, seed % 16, [50.0] * 16)
            write_text(run.folder / "launch.log", "epoch 1/16\r" * 10000)
    before, counts = os.times(), {}
    for entry in states(tmp_path, "exp1", DATASETS="demo", SEEDS=" ".join(map(str, range(1, 36))),
                        METHODS="na_1024 na_0256 featex_0256_4096 subloss_0256_4096").values():  # fmt: skip
        counts[entry["state"]] = counts.get(entry["state"], 0) + 1
    after = os.times()
    assert counts == {"running": 105, "interrupted": 35}
    assert after.children_user + after.children_system - before.children_user - before.children_system < 2


def test_nothing_is_written(tmp_path):
    """Not even for a moment: that would change the times of folders."""
    run = Run(tmp_path / "results/demo/na_1024_1")
    hold(run, age=100)
    write_text(tmp_path / "label/demo/class_1/lock.3", "")
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    status(tmp_path, "exp1", "exp3", DATASETS="demo", METHODS="na_1024 pattr_bic_pre_subloss_0256_4096")
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


def test_watch(tmp_path):
    run = Run(tmp_path / "results/demo/na_1024_1")
    environment = {**CLEAN, "RESULTS_DIR": str(tmp_path / "results"), "DATASETS": "demo", "METHODS": "na_1024"}
    for end in ("Ctrl-C", "all done"):
        arguments = [ROOT / "jobs/status.sh", "exp1", "--watch", "0.1"]
        with subprocess.Popen(arguments, env={**environment, "SEEDS": "1"}, stdout=subprocess.PIPE, text=True) as watch:
            for _ in range(8):  # a time, a heading, two rows each
                watch.stdout.readline()
            if end == "Ctrl-C":
                watch.send_signal(signal.SIGINT)
            else:
                run.mark_done("hash")
            assert watch.wait(20) == 0


# --- runs that are stopped ------------------------------------------------------------------------------------------


def test_a_run_that_is_stopped_and_goes_on(data_dir, tmp_path, monkeypatch):
    arguments = tiny(data_dir, tmp_path, "score_epochs=[2,3]", "threads=1", method=METHOD)
    run = Run(tmp_path / f"tiny/{METHOD}_1")
    for how in (signal.SIGTERM, signal.SIGKILL):
        with subprocess.Popen([sys.executable, "src/train.py", *arguments], cwd=ROOT, stdout=subprocess.DEVNULL,
                              stderr=subprocess.DEVNULL) as process:  # fmt: skip
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
