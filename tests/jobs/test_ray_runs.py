"""The driver of LAUNCHER=ray on a stand-in for a cluster; tests/jobs/test_ray_cluster.py has a
real one."""

import io
from concurrent.futures import Future, ThreadPoolExecutor
from types import SimpleNamespace

import pytest
from tqdm import tqdm

from ray_runs import Task, execute, run_all
from unlabeledasd.errors import InputError


class Lost(Exception):
    """What Ray raises for a task on a lost node."""


class Broken(Lost):
    def __init__(self, cause: Exception):
        self.cause = cause


class Cluster:
    """As much of Ray's interface as ray_runs uses, in threads; `end(run, environment)` is what
    comes of a try."""

    exceptions = SimpleNamespace(RayError=Lost, RayTaskError=Broken)

    def __init__(self, end, nodes=({"CPU": 8.0, "GPU": 2.0},)):
        self.end, self.resources = end, nodes
        self.tries, self.cancelled, self.options_given, self.running, self.most = [], [], {}, 0, 0

    def nodes(self):
        return [{"Alive": True, "Resources": r} for r in self.resources] + [
            {"Alive": False, "Resources": {"CPU": 99}}
        ]

    def remote(self, function):
        def options(**given):
            self.options_given = given
            return SimpleNamespace(remote=self.submit)

        assert function is execute
        return SimpleNamespace(options=options)

    def submit(self, run, root, environment, gpus):
        self.tries.append(
            (run.name, environment.get("UNLABELEDASD_WAIT"), environment.get("OMP_NUM_THREADS"))
        )
        self.running += 1
        self.most = max(self.most, self.running)
        future = Future()
        future.begin = lambda: self.end(run, environment)
        return future

    def wait(self, futures):
        return futures[:1], futures[1:]

    def get(self, future):
        self.running -= 1
        with ThreadPoolExecutor(1) as pool:
            return pool.submit(future.begin).result()

    def cancel(self, future, force):
        assert force
        self.cancelled.append(future)


RUNS = [Task(f"run {i}", "folder", "true") for i in range(4)]


def ended(cluster: Cluster, runs=RUNS) -> list[tuple[int, int]]:
    return list(run_all(cluster, runs, tqdm(total=len(runs), file=io.StringIO())))


@pytest.fixture(autouse=True)
def no_settings(monkeypatch):
    for name in ("JOBS_PER_GPU", "CPUS_PER_RUN", "JOBS", "UNLABELEDASD_WAIT", "FAIL_FAST"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize("per_gpu", range(1, 33))
def test_shares_fit_a_gpu(per_gpu, monkeypatch):
    monkeypatch.setenv("JOBS_PER_GPU", str(per_gpu))
    cluster = Cluster(lambda *_: (0, "host", 1.0))
    ended(cluster)
    parts = round(cluster.options_given["num_gpus"] * 10_000)  # what Ray counts in
    assert per_gpu * parts <= 10_000 < (per_gpu + 1) * parts


def test_shares_reach_ray(monkeypatch):
    ended(cluster := Cluster(lambda *_: (0, "host", 1.0)))
    assert (cluster.options_given["num_cpus"], cluster.options_given["num_gpus"]) == (4, 1)
    ended(small := Cluster(lambda *_: (0, "host", 1.0), nodes=({"CPU": 2.0}, {})))
    assert (small.options_given["num_cpus"], small.options_given["num_gpus"]) == (2, 0)
    monkeypatch.setenv("CPUS_PER_RUN", "3")
    ended(cluster := Cluster(lambda *_: (0, "host", 1.0)))
    assert cluster.options_given["num_cpus"] == 3
    assert {threads for _, _, threads in cluster.tries} == {"3"}


def test_no_node_is_large_enough(monkeypatch):
    cluster = Cluster(None, nodes=({"CPU": 8.0}, {"GPU": 1.0}))
    with pytest.raises(
        InputError, match="CPUS_PER_RUN=4: no node of the cluster has as many and a GPU"
    ):
        ended(cluster)
    monkeypatch.setenv("CPUS_PER_RUN", "16")
    cluster = Cluster(None, nodes=({"CPU": 8.0}, {"CPU": 8.0}))
    with pytest.raises(InputError, match=r"CPUS_PER_RUN=16: no node of the cluster has as many$"):
        ended(cluster)
    assert cluster.tries == []


def test_so_many_at_a_time(monkeypatch):
    ended(free := Cluster(lambda *_: (0, "host", 1.0)))
    monkeypatch.setenv("JOBS", "3")
    ended(cluster := Cluster(lambda *_: (0, "host", 1.0)))
    assert (free.most, cluster.most) == (4, 3)
    assert len(cluster.tries) == 4


def test_a_lost_run_is_tried_again_and_waits_for_its_lock(capsys):
    lost = {"run 1": 2, "run 2": 9}  # so often

    def end(run, _):
        lost[run.name] = lost.get(run.name, 0) - 1
        if lost[run.name] >= 0:
            raise Lost("the node died")
        return 0, "host", 1.0

    cluster = Cluster(end)
    assert sorted(ended(cluster)) == [(0, 0), (1, 0), (2, 1), (3, 0)]
    waits = {
        run.name: [wait for name, wait, _ in cluster.tries if name == run.name] for run in RUNS
    }
    assert waits == {"run 0": ["300"], "run 1": ["300"] * 3, "run 2": ["300"] * 4, "run 3": ["300"]}
    assert "run 2: lost 4 times: the node died" in capsys.readouterr().err


def test_every_try_belongs_to_one_call():
    """So that overwrite=true clears a run once (tests/commands/test_resume.py)."""
    begun = []

    def end(run, environment):
        begun.append((run.command, environment["UNLABELEDASD_CALL"]))
        if len(begun) % 3:
            raise Lost("the node died")
        return 0, "host", 1.0

    command = "python src/train.py overwrite=true "
    for _ in range(2):
        assert ended(Cluster(end), [Task("run", "folder", command)]) == [(0, 0)]
    assert {given for given, _ in begun} == {command}
    first, second = [name for _, name in begun[:3]], [name for _, name in begun[3:]]
    assert len(set(first)) == len(set(second)) == 1
    assert first != second


def test_a_run_that_fails_is_not_tried_again(capsys):
    def end(run, _):
        if run.name == "run 3":
            raise Broken(PermissionError(13, "Permission denied", "/results"))
        return {"run 1": 1, "run 2": 3}.get(run.name, 0), "host", 1.0

    cluster = Cluster(end)
    assert sorted(ended(cluster)) == [(0, 0), (1, 1), (2, 3), (3, 1)]
    assert len(cluster.tries) == 4
    printed = capsys.readouterr().err
    assert "run 1: exit status 1 on host" in printed
    assert "run 3: /results: Permission denied" in printed


def test_whoever_stops_listening_ends_what_runs():
    cluster = Cluster(lambda *_: (1, "host", 1.0))
    answers = run_all(cluster, RUNS, tqdm(total=4, file=io.StringIO()))
    assert next(answers) == (0, 1)
    answers.close()
    assert len(cluster.cancelled) == 3
