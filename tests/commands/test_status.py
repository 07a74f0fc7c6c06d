"""jobs/status.sh against the job scripts' own plans, and what it reports of folders made by
hand."""

import json
import os
import shlex
import signal
import subprocess
from pathlib import Path

import pytest
from test_state import lock_file, write_progress

from conftest import ROOT, make_machine
from unlabeledasd.files import write_text
from unlabeledasd.runs.folder import Run

NAMES = (
    "DATA_DIR",
    "DATASETS",
    "METHODS",
    "SEEDS",
    "OVERRIDES",
    "DRY_RUN",
    "RESULTS_DIR",
    "LABEL_DIR",
    "LAUNCHER",
)
CLEAN = {name: value for name, value in os.environ.items() if name not in NAMES}


def call_job(
    script: str, *arguments: str, cwd: Path = ROOT, **environment: str
) -> subprocess.CompletedProcess:
    return subprocess.run(
        [ROOT / "jobs" / script, *arguments],
        env={**CLEAN, **environment},
        cwd=cwd,
        text=True,
        capture_output=True,
        check=False,
    )


def status(tmp_path: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess:
    places = {"RESULTS_DIR": str(tmp_path / "results"), "LABEL_DIR": str(tmp_path / "label")}
    done = call_job("status.sh", *arguments, cwd=tmp_path, **places, **environment)
    assert done.stderr == ""
    assert done.returncode == 0
    return done


def states(tmp_path: Path, *arguments: str, **environment: str) -> dict[str, dict]:
    found = json.loads(status(tmp_path, "--json", *arguments, **environment).stdout)
    return {entry["folder"].removeprefix(f"{tmp_path}/"): entry for entry in found}


# --- what is planned ---


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
    [
        ("exp1", {}),
        ("exp2", {}),
        ("exp3", {"DATASETS": "dcase2023", "SEEDS": "3"}),
        ("exp3", {"DATASETS": "dcase2024", "SEEDS": "3"}),
        ("exp1", {"DATASETS": "demo folder:pumps", "METHODS": "na_1024 featex_0256_4096"}),
        (
            "exp3",
            {
                "DATASETS": "demo_unlabeled",
                "METHODS": "pattr_bic_triplet_subloss_0256_4096 pattr_gt_subloss_0256_4096",
                "SEEDS": "2",
            },
        ),
        (
            "exp3",
            {"DATASETS": "dcase2023", "METHODS": "pattr_gt_subloss_0256_4096 subloss_0256_4096"},
        ),
        (
            "exp3",
            {"DATASETS": "demo_unlabeled", "METHODS": "na_1024 pattr_macdom_subloss_0256_4096"},
        ),
    ],
)
def test_the_plan_is_that_of_the_job_script(tmp_path, script, environment):
    programs = {"run": "train.py", "triplet": "train_triplet.py", "labels": "cluster.py"}
    found = states(tmp_path, script, **environment).values()
    planned = [
        (
            programs[entry["kind"]],
            entry["dataset"].removeprefix("folder:"),
            entry["machine"] or entry["method"],
            entry["seed"],
        )
        for entry in found
    ]
    assert len(planned) == len(set(planned)) > 0
    assert set(planned) == commands(script, environment)


def test_all_experiments_and_where_they_are(tmp_path):
    found = states(tmp_path)
    kinds = [entry["kind"] for entry in found.values()]
    assert (kinds.count("run"), kinds.count("triplet"), kinds.count("labels")) == (
        140,
        105,
        2 * 12 + 1,
    )
    for folder in (
        "results/dcase2023/na_1024_1",
        "results/dcase2024/triplet_gearbox_5",
        "label/dcase2024/gt",
        "label/dcase2023/class_2",
    ):
        assert found[folder]["state"] == "missing"
    assert not list(tmp_path.iterdir())


def test_methods_find_their_experiment(tmp_path):
    methods = ["na_1024", "pattr_macdom_subloss_0256_4096", "pattr_gt_subloss_0256_4096"]
    grid = {"DATASETS": "demo_unlabeled", "SEEDS": "1", "METHODS": " ".join(methods)}
    found = [(entry["experiment"], entry["method"]) for entry in states(tmp_path, **grid).values()]
    assert found == [
        ("exp2", methods[0]),
        ("exp2", methods[1]),
        ("exp3", "gt"),
        ("exp3", methods[2]),
    ]


def test_own_recordings(tmp_path):
    """The names of the recordings say which machines are unlabeled, else the models that exist."""
    grid = {
        "DATASETS": "folder:own",
        "SEEDS": "1",
        "METHODS": "pattr_bic_triplet_subloss_0256_4096",
    }
    for machine in ("fan", "pump_2"):
        Run(tmp_path / f"results/own/triplet_{machine}_1").all.mkdir(parents=True)
    assert {entry["machine"] for entry in states(tmp_path, "exp3", **grid).values()} == {
        "",
        "fan",
        "pump_2",
    }
    make_machine(tmp_path / "data/own/all/raw/saw", 200.0)  # its attributes are known
    for split in ("train", "test"):
        folder = tmp_path / f"data/own/all/raw/drill/{split}"
        folder.mkdir(parents=True)
        (folder / "a.wav").touch()
    found = states(tmp_path, "exp3", **grid, DATA_DIR=str(tmp_path / "data"))
    assert {entry["machine"] for entry in found.values()} == {"", "drill"}


@pytest.mark.parametrize(
    ("arguments", "environment", "message"),
    [
        (["exp4"], {}, "error: exp4: no such experiment; allowed are exp1 exp2 exp3\n"),
        (["exp3"], {"DATASETS": "nope"}, "error: dataset nope: unknown; allowed are "),
        (["--watch", "0"], {}, "argument --watch: invalid seconds value: '0'\n"),
    ],
)
def test_errors_in_one_line(arguments, environment, message):
    done = call_job("status.sh", *arguments, **environment)
    assert done.returncode != 0
    assert message in done.stderr
    assert "Traceback" not in done.stderr


# --- the page ---


def test_what_a_person_reads(tmp_path):
    def made(name):
        return Run(tmp_path / "results/demo" / name)

    made("na_1024_1").mark_done("hash")
    lock_file(made("na_1024_2"), age=30)
    write_progress(made("na_1024_2"), 8, [60.0], age=30)
    lock_file(made("na_1024_3"), age=7200)
    for seed in "45":
        write_text(made(f"na_1024_{seed}").error, "OutOfMemoryError: CUDA out of memory")
    grid = {
        "DATASETS": "demo",
        "METHODS": "na_1024 na_0256",
        "SEEDS": "1 2 3 4 5",
        "DATA_DIR": "/my data",
    }
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
        "  demo na_1024, seed 2: epoch 9 of 16, about 8.0 min of training left "
        "(host far, process 7, since 2026-11-24 10:00:00+00:00)",
        "",
        "interrupted, or waiting to resume:",
        "  demo na_1024, seed 3: nothing trained yet, last heartbeat 2.0 h ago on host far",
        "",
        "failed:",
        "  demo na_1024, seed 4 (and 1 more): OutOfMemoryError: CUDA out of memory",
        f"    DATA_DIR='/my data' RESULTS_DIR={tmp_path}/results LABEL_DIR={tmp_path}/label "
        "DATASETS=demo METHODS=na_1024 SEEDS='4 5' jobs/exp/exp1.sh",
    ]


def test_the_commands_that_resume(tmp_path):
    """What failed is among what each of them makes."""
    failed = {
        "results/demo_unlabeled/subloss_0256_4096_2": "exp/exp3.sh",
        "results/demo_unlabeled/triplet_gearbox_2": "exp/exp3_triplet.sh",
        "results/demo_unlabeled/pattr_gt_subloss_0256_4096_2": "exp/exp3.sh",
    }
    for folder in failed:
        write_text(Run(tmp_path / folder).error, "x")
    write_text(tmp_path / "label/demo_unlabeled/class_2/launch.log", "error: x")
    shown = status(tmp_path, "exp3", DATASETS="demo_unlabeled", SEEDS="1 2").stdout.splitlines()
    found = [line.strip() for line in shown if "DATASETS=" in line]
    assert len(found) == 4
    assert found.pop(2).endswith(
        " DATASETS=demo_unlabeled SOURCES=class SEEDS=2 pseudoattr/pseudo_attr.sh"
    )
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
            lock_file(run, age=60 * i)
            write_progress(run, seed % 16, [50.0] * 16)
            write_text(run.folder / "launch.log", "epoch 1/16\r" * 10000)
    before, counts = os.times(), {}
    for entry in states(
        tmp_path,
        "exp1",
        DATASETS="demo",
        SEEDS=" ".join(map(str, range(1, 36))),
        METHODS="na_1024 na_0256 featex_0256_4096 subloss_0256_4096",
    ).values():
        counts[entry["state"]] = counts.get(entry["state"], 0) + 1
    after = os.times()
    assert counts == {"running": 105, "interrupted": 35}
    assert (
        after.children_user + after.children_system - before.children_user - before.children_system
        < 2
    )


def test_nothing_is_written(tmp_path):
    """Not even for a moment: that would change the times of folders."""
    run = Run(tmp_path / "results/demo/na_1024_1")
    lock_file(run, age=100)
    write_text(tmp_path / "label/demo/class_1/lock.3", "")
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    status(
        tmp_path, "exp1", "exp3", DATASETS="demo", METHODS="na_1024 pattr_bic_pre_subloss_0256_4096"
    )
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


def test_watch(tmp_path):
    run = Run(tmp_path / "results/demo/na_1024_1")
    environment = {
        **CLEAN,
        "RESULTS_DIR": str(tmp_path / "results"),
        "DATASETS": "demo",
        "METHODS": "na_1024",
    }
    for end in ("Ctrl-C", "all done"):
        arguments = [ROOT / "jobs/status.sh", "exp1", "--watch", "0.1"]
        with subprocess.Popen(
            arguments, env={**environment, "SEEDS": "1"}, stdout=subprocess.PIPE, text=True
        ) as watch:
            for _ in range(8):  # a time, a heading, two rows each
                watch.stdout.readline()
            if end == "Ctrl-C":
                watch.send_signal(signal.SIGINT)
            else:
                run.mark_done("hash")
            assert watch.wait(20) == 0
