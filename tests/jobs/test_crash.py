"""SIGKILL at random moments of every phase of a job, then the same command again: the same files,
the same scores.

CRASH_ROUNDS=9 python -m pytest -m crash tests/jobs/test_crash.py

makes 54 kills, 9 in each phase (1 round otherwise).
"""

import json
import multiprocessing
import os
import shutil
import time
from pathlib import Path

import numpy as np
import pytest

from conftest import files_below, make_machine

ROUNDS = int(os.environ.get("CRASH_ROUNDS", 1))
PHASES = ("training", "checkpoint", "embedding", "scoring", "ensemble", "labels")
LIMIT_SECONDS = 120  # for one job, many times what it takes
METHODS = ("featex_0256_4096", "subloss_0256_4096")

pytestmark = [pytest.mark.slow, pytest.mark.crash, pytest.mark.timeout(3600)]


class Job:
    """One process of the job, forked from a server that has imported everything."""

    def __init__(self, context, folder: Path, data_dir: Path):
        import crash_job

        self.pipe, other = context.Pipe(duplex=False)
        self.process = context.Process(target=crash_job.job, args=(folder, data_dir, other))
        self.process.start()
        other.close()

    def events(self):
        """(phase, started or ended, time) as they happen, until the process ends."""
        while True:
            assert self.pipe.poll(LIMIT_SECONDS), "the job hangs"
            try:
                yield self.pipe.recv()
            except EOFError:
                self.process.join(LIMIT_SECONDS)
                return

    def kill_in(self, phase: tuple, delay: float) -> bool:
        """SIGKILL `delay` seconds after the phase has started; False if the job had ended
        before."""
        for current, what, _ in self.events():
            if (current, what) == (phase, "started"):
                time.sleep(delay)
                self.process.kill()
                self.process.join(LIMIT_SECONDS)
        return self.process.exitcode == -9


@pytest.fixture(scope="module")
def context(tmp_path_factory):
    """Starts processes that have a temporary folder of their own, which is watched."""
    temporary = tmp_path_factory.mktemp("temporary")
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setenv("TMPDIR", str(temporary))
        monkeypatch.setenv("OMP_NUM_THREADS", "1")
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["crash_job"])
        context.temporary = temporary
        yield context


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    make_machine(
        folder / "tiny/all/raw/fan", 200.0, source=2, target=1
    )  # so few have one cluster each, without UMAP
    make_machine(folder / "tiny/all/raw/pump", 900.0)
    return folder


@pytest.fixture(scope="module")
def whole(context, data_dir, tmp_path_factory):
    """The job without a kill -> (its folder, seconds of every phase, what it leaves in the
    temporary folder)."""
    folder, begun, seconds = tmp_path_factory.mktemp("whole") / "job", {}, {}
    folder.mkdir()
    job = Job(context, folder, data_dir)
    for phase, what, now in job.events():
        if what == "started":
            begun[phase] = now
        else:
            seconds[phase] = now - begun[phase]
        if phase[1] == "checkpoint" and what == "started":  # which ends the training of an epoch
            seconds[(phase[0], "training", phase[2])] = (
                now - begun[(phase[0], "training", phase[2])]
            )
    assert job.process.exitcode == 0, folder.with_suffix(".log").read_text()[-2000:]
    assert {phase for _, phase, _ in seconds} == set(PHASES)
    return folder, seconds, set(context.temporary.iterdir())


def compared(folder: Path) -> dict[str, bytes]:
    """Every file, but logs and locks, which count the processes."""
    return {
        name: content
        for name, content in files_below(folder).items()
        if "/logs/" not in name and not name.rpartition("/")[2].startswith("lock.")
    }


@pytest.mark.parametrize("round_", range(ROUNDS))
def test_killed_and_called_again(context, data_dir, whole, tmp_path, round_):
    expected, seconds, temporary = whole
    rng = np.random.default_rng(round_)
    method, trained, scored = METHODS[round_ % 2], int(rng.integers(1, 3)), str(rng.integers(1, 3))
    parts = {
        "training": trained,
        "checkpoint": trained,
        "embedding": scored,
        "scoring": scored,
        "ensemble": 0,
        "labels": str(rng.choice(["embed", "cluster"])),
    }
    folder, kills = tmp_path / "job", {}
    folder.mkdir()
    for phase in PHASES:
        of = METHODS[1] if phase == "labels" else method
        delay = float(rng.uniform(0, 0.9 * seconds[(of, phase, parts[phase])]))
        kills[phase] = Job(context, folder, data_dir).kill_in((of, phase, parts[phase]), delay)
    # a phase may be over before its kill, where the machine has become faster since `whole`
    assert sum(kills.values()) >= 2, kills
    last = Job(context, folder, data_dir)
    for _ in last.events():
        pass
    assert last.process.exitcode == 0, folder.with_suffix(".log").read_text()[-2000:]

    found, wanted = compared(folder), compared(expected)
    assert found.keys() == wanted.keys()
    assert not [name for name in found if name.endswith(".tmp")]
    assert set(context.temporary.iterdir()) == temporary
    csvs = [name for name in wanted if name.endswith(".csv")]
    kinds = [
        name.rpartition("/")[2].partition("_")[2] for name in csvs if name.endswith("_score.csv")
    ]
    assert {kind: kinds.count(kind) for kind in ("train_score.csv", "test_score.csv")} == {
        "train_score.csv": 2 * 2 * 3,
        "test_score.csv": 2 * 2 * 3,  # methods, machines, versions
    }
    assert {name: found[name] for name in csvs} == {name: wanted[name] for name in csvs}
    labels = [
        json.loads(files["label/tiny/class_1/labels.json"])["clips"] for files in (found, wanted)
    ]
    assert labels[0] == labels[1]
    assert len(labels[0]) == 3
    shutil.rmtree(folder)
