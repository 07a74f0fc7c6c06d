"""LAUNCHER=ray on a real cluster of two nodes on this machine, one of which is killed: pytest -m
cluster"""

import json
import os
import random
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import pytest

from conftest import ROOT, SECONDS, files_below, make_machine
from unlabeledasd.runs.folder import Run

RAY = Path(sys.executable).with_name("ray")
LIMIT_SECONDS = 150  # for whatever is waited for, many times what it takes

pytestmark = [
    pytest.mark.slow,
    pytest.mark.cluster,
    pytest.mark.timeout(1500),
    pytest.mark.skipif(not RAY.exists(), reason="Ray is not installed: pip install -e '.[ray]'"),
]


def wait_for(what, seconds: float = LIMIT_SECONDS):
    deadline = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < deadline, what
        time.sleep(0.05)
    return found


def processes() -> dict[int, int]:
    """Every process that runs, and its parent."""
    found = {}
    for file in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, parent = file.read_text().rpartition(")")[2].split()[:2]
        except OSError:  # it ended just now
            continue
        if state != "Z":
            found[int(file.parent.name)] = int(parent)
    return found


def below(ancestor: int) -> set[int]:
    every, found = processes(), {ancestor}
    while more := {pid for pid, parent in every.items() if parent in found} - found:
        found |= more
    return found - {ancestor}


def command_line(pid: int) -> str:
    try:
        return (
            Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        )
    except OSError:
        return ""


def with_name(ancestor: int, text: str) -> list[int]:
    return [pid for pid in below(ancestor) if text in command_line(pid)]


def free_port() -> int:
    """One that neither Ray's workers (from 10002) nor anybody who asks for any port (from 32768)
    will take."""
    for port in random.sample(range(20000, 32000), 100):
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise AssertionError("no free port")


class Cluster:
    """A head and a second node, one CPU each, with a port, a token and a folder of their own."""

    def __init__(self):
        self.folder = Path(
            tempfile.mkdtemp(prefix="ray", dir="/tmp")
        )  # sockets lie in it, and their paths must be short
        self.address = f"127.0.0.1:{free_port()}"
        token = self.folder / "token"
        token.write_text(secrets.token_hex(32))
        self.environment = {
            "RAY_ADDRESS": self.address,
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(token),
            "RAY_USAGE_STATS_ENABLED": "0",
        }
        self.nodes, self.seen = [], set()

    def start(self, *options: str) -> None:
        number = len(self.nodes)
        with (self.folder / f"node{number}.log").open("wb") as log:
            command = [
                RAY,
                "start",
                "--block",
                "--num-cpus=1",
                "--num-gpus=0",
                "--object-store-memory=80000000",
            ]
            environment = {
                key: value
                for key, value in {**os.environ, **self.environment}.items()
                if key != "RAY_ADDRESS"
            }
            node = subprocess.Popen(
                [*command, *options],
                env=environment,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.nodes.append(node)
        wait_for(
            lambda: node.poll() is not None or "Ray runtime started" in Path(log.name).read_text()
        )
        assert node.poll() is None, Path(log.name).read_text()

    def __enter__(self):
        try:
            self.start(
                "--head",
                f"--port={self.address.rpartition(':')[2]}",
                f"--temp-dir={self.folder}/r",
                "--include-dashboard=false",
                f"--ray-client-server-port={free_port()}",
            )
            self.start(f"--address={self.address}")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        for node in self.nodes:
            self.seen |= below(node.pid)
        for node in self.nodes:
            node.terminate()
        for node in self.nodes:
            with suppress(subprocess.TimeoutExpired):
                node.wait(20)
            node.kill()
            node.wait()
        for pid in self.seen & set(processes()):
            if "ray" in command_line(pid):  # not another process that has the id by now
                os.kill(pid, signal.SIGKILL)
        shutil.rmtree(self.folder, ignore_errors=True)

    def trainings(self, node: int) -> list[int]:
        return with_name(self.nodes[node].pid, "src/train")

    def lose_node(self) -> list[int]:
        """Kill what makes the second process group a node -> the trainings that it had."""
        trainings = self.trainings(1)
        self.seen |= below(self.nodes[1].pid)
        (raylet,) = with_name(self.nodes[1].pid, "raylet/raylet ")
        os.kill(raylet, signal.SIGKILL)
        return trainings


@pytest.fixture
def cluster():
    if not sys.platform.startswith("linux"):
        pytest.skip("reads /proc")
    with Cluster() as cluster:
        yield cluster


@pytest.fixture(scope="module")
def clips(tmp_path_factory) -> Path:
    """Two machines, one of them without attributes and of so few clips that each is a cluster
    without UMAP."""
    folder = tmp_path_factory.mktemp("data")
    make_machine(folder / "tiny/all/raw/fan", 200.0, source=2, target=1)
    make_machine(folder / "tiny/all/raw/pump", 900.0)
    for clip in (folder / "tiny/all/raw/fan").glob("train/*.wav"):
        clip.rename(clip.with_name(re.sub(r"speed_\d", "noAttribute", clip.name)))
    return folder


@pytest.fixture
def job(clips, tmp_path):
    def start(script: str, launcher: str, **environment: str) -> subprocess.Popen:
        names = (
            "SEEDS",
            "JOBS",
            "FAIL_FAST",
            "REPORT",
            "DRY_RUN",
            "STAGES",
            "SOURCES",
            "RAY_ADDRESS",
        )
        clean = {name: value for name, value in os.environ.items() if name not in names}
        place = tmp_path / launcher
        overrides = (
            f"dataset.clip_seconds={SECONDS} dataset.batch_size=4 score_epochs=[6,12] "
            "trainer.accelerator=cpu model.extractor.n_ffts=[4096]"
        )
        settings = {
            "DATA_DIR": str(clips),
            "DATASETS": "folder:tiny",
            "RESULTS_DIR": f"{place}/results",
            "LABEL_DIR": f"{place}/label",
            "OVERRIDES": overrides,
            "LAUNCHER": launcher,
            "OMP_NUM_THREADS": "1",
            "CPUS_PER_RUN": "1",
            "SETTINGS": "source.teacher.epoch=6 n_jobs=1 accelerator=cpu",
        }
        place.mkdir(exist_ok=True)
        with (place / "log").open("wb") as log:
            return subprocess.Popen(
                [ROOT / "jobs/exp" / script],
                env={**clean, **settings, **environment},
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def ended(started: subprocess.Popen, launcher: str) -> str:
        started.wait(600)
        printed = (tmp_path / launcher / "log").read_text()
        assert started.returncode == 0, printed
        return printed

    start.ended, start.place = ended, tmp_path
    return start


def csvs(place: Path) -> dict[str, bytes]:
    """Score and result CSVs, tables and pseudo-labels; not the logs of the training."""
    found = {**files_below(place, "results/**/*.csv"), **files_below(place, "label/**/labels.json")}
    return {name: content for name, content in found.items() if "/logs/" not in name}


def lose_a_node_in_the_middle(cluster: Cluster, running: subprocess.Popen, results: Path) -> Run:
    """Once the run there has an epoch to resume from, while another one runs on the other node ->
    that run."""

    def in_the_middle() -> Run | None:
        assert running.poll() is None, "it ended before a node could be lost"
        for pid in cluster.trainings(1):
            if found := re.search(r" method=(\S+) seed=(\d+) ", command_line(pid)):
                run = Run(results / f"tiny/{found[1]}_{found[2]}")
                in_between = run.last_checkpoint.exists() and not run.is_done
                return run if in_between and cluster.trainings(0) else None
        return None

    run = wait_for(in_the_middle, seconds=600)  # of stages before it, too
    lost = cluster.lose_node()
    wait_for(lambda: not set(lost) & set(processes()), seconds=10)
    return run


METHODS = {
    "exp2.sh": "featex_0256_4096 subloss_0256_4096",
    "exp3.sh": " ".join(
        f"pattr_{labels}_subloss_0256_4096" for labels in ("bic_pre", "bic_triplet")
    ),
}


@pytest.mark.parametrize("script", METHODS)
def test_a_node_is_lost(script, cluster, job, tmp_path):
    grid = {"METHODS": METHODS[script], "SEEDS": "1 2" if script == "exp2.sh" else "1"}
    job.ended(job(script, "local", **grid), "local")
    running = job(script, "ray", **grid, **cluster.environment)
    run = lose_a_node_in_the_middle(cluster, running, tmp_path / "ray/results")
    printed = job.ended(running, "ray")
    progress = json.loads(run.progress.read_text())
    assert (
        len(progress["seconds"]) < progress["epochs"]
    )  # the last try resumed where the lost one was
    assert printed.count("its node or worker was lost (NodeDiedError), retried") == 1
    assert "Ray: 2 node(s), 1 CPUs and no GPU a run, 2 at a time" in printed
    begun = [
        log.read_text().count("== 20")
        for log in (tmp_path / "ray/results/tiny").glob("*/launch.log")
    ]
    assert sorted(begun) == [1] * (len(begun) - 1) + [2]
    expected = csvs(tmp_path / "local")
    assert csvs(tmp_path / "ray") == expected
    assert len(begun) == 4  # two methods and seeds; or a teacher, a triplet model, two students
    scored = 4 if script == "exp2.sh" else 3
    assert (
        sum(name.endswith("ensemble_test_score.csv") for name in expected) == 2 * scored
    )  # of two machines


def test_a_run_that_fails_is_reported(cluster, job, tmp_path):
    runs = tmp_path / "ray/results/tiny"
    damaged = Run(runs / "na_4096_2")
    damaged.all.mkdir(parents=True)
    damaged.config.write_text("{")
    (runs / "na_4096_3").touch()
    running = job("exp1.sh", "ray", METHODS="na_4096", SEEDS="1 2 3", **cluster.environment)
    assert running.wait(300) == 1
    printed = (tmp_path / "ray/log").read_text()
    assert "failed: folder:tiny na_4096 2\nfailed: folder:tiny na_4096 3\n" in printed
    failure = (
        f"exit status 1 on {socket.gethostname()}: error: {damaged.config}: not a configuration"
    )
    assert f"na_4096 2: {failure}" in printed
    assert re.search(r"folder:tiny na_4096 3: \S+/na_4096_3: File exists", printed)
    assert (damaged.folder / "launch.log").read_text().count("== 20") == 1
    assert Run(runs / "na_4096_1").is_done


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGKILL])
def test_runs_end_with_the_driver(stop, cluster, job, tmp_path):
    running = job("exp1.sh", "ray", METHODS="na_4096", SEEDS="1 2 3", **cluster.environment)
    trainings = wait_for(
        lambda: len(found := cluster.trainings(0) + cluster.trainings(1)) == 2 and found
    )
    (driver,) = [
        pid
        for pid in with_name(running.pid, "ray_runs.py")
        if command_line(pid).startswith("python")
    ]
    os.kill(driver, stop)
    assert running.wait(LIMIT_SECONDS) == (130 if stop == signal.SIGINT else 137)
    wait_for(lambda: not set(trainings) & set(processes()), seconds=20)
    assert cluster.trainings(0) + cluster.trainings(1) == []  # nor has the third begun
    assert not list((tmp_path / "ray/results").glob("tiny/*/all/done"))
