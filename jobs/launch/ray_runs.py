"""The runs of a job script as tasks of a Ray cluster (LAUNCHER=ray; jobs/launch/ray.sh calls this).

    python jobs/launch/ray_runs.py < RUNS

RUNS are three strings for each run, each ended by a zero byte: its name, its folder, its command
line. The command is called in the root of the repository, its output appended to
<folder>/launch.log. When a run has ended, its index (counted from 0) and exit status are printed as
a line. Settings come from the environment:

    RAY_ADDRESS     the cluster, as Ray reads it (default: the one that `ray start` started on this
                    machine, else a local Ray for the duration of the runs)
    JOBS_PER_GPU    so many runs share a GPU, if the cluster has any (default: 1)
    CPUS_PER_RUN    and threads (default: 4, or what the nodes have)
    JOBS            at most so many runs at a time (default: as many as the cluster has room for)
    FAIL_FAST=1     stop at the first run that fails

A run whose node is lost resumes on another node; one that fails is not retried. Runs end with this
program.
Exit status: 0 all runs have ended, 1 error, 130 interrupted.
"""

import argparse
import os
import re
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Generator
from contextlib import closing
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import NamedTuple
from uuid import uuid4

from tqdm import tqdm

from unlabeledasd.errors import InputError, one_line, one_line_errors
from unlabeledasd.runs.locks import STALE_SECONDS
from unlabeledasd.runs.state import LAUNCH_LOG, last_lines

ROOT = Path(__file__).resolve().parents[2]
RETRIES = 3  # after a lost node
# for the lock that a run left behind, on a lost node or when the last call ended
WAIT_SECONDS = STALE_SECONDS + 120


class Task(NamedTuple):
    """What starts a run."""

    name: str
    folder: str
    command: str


def read_tasks(data: bytes) -> list[Task]:
    """Tasks as the job script writes them; InputError where a string is missing."""
    words = [word.decode(errors="surrogateescape") for word in data.split(b"\0")]
    if len(words) % 3 != 1 or words[-1]:
        raise InputError(
            "standard input: expected three strings for each run, each ended by a zero byte"
        )
    names, folders, commands = words[:-1:3], words[1::3], words[2::3]
    names = [name.replace("\t", " ") for name in names]
    return [Task(*task) for task in zip(names, folders, commands, strict=True)]


def setting(name: str, default: int) -> int:
    """A number from the environment."""
    text = os.environ.get(name) or str(default)
    if not re.fullmatch(r"[1-9]\d*", text, re.ASCII):
        raise InputError(f"{name}={text}: a whole number, at least 1")
    return int(text)


def places(node: dict[str, float], cpus: int, per_gpu: int | None) -> int:
    """How many runs a node takes at a time."""
    by_cpu = int(node.get("CPU", 0)) // cpus
    return min(by_cpu, int(node.get("GPU", 0)) * per_gpu) if per_gpu else by_cpu


def execute(
    task: Task, root: str, environment: dict[str, str], on_gpu: bool
) -> tuple[int, str, float]:
    """Exit status, host and seconds of the run, in a process that does not outlive this one.

    A node of the cluster calls this.
    """
    # which GPU is Ray's choice, and one that was not asked for is not used
    devices = {
        name: value for name, value in os.environ.items() if name.endswith("_VISIBLE_DEVICES")
    }
    environment = {**environment, **(devices if on_gpu else {"CUDA_VISIBLE_DEVICES": ""})}
    start, host = time.monotonic(), socket.gethostname()
    log = Path(root, task.folder, LAUNCH_LOG)
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as output:
        now = datetime.now().astimezone().isoformat(sep=" ", timespec="seconds")
        output.write(f"== {now} on {host}: {task.command}\n".encode(errors="surrogateescape"))
        output.flush()
        bound = [sys.executable, str(Path(root, "jobs/launch/with_parent.py")), str(os.getpid())]
        process = subprocess.Popen(
            [*bound, "bash", "-c", f"exec {task.command}"],
            cwd=root,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        try:
            return process.wait(), host, time.monotonic() - start
        finally:
            process.kill()


def last_line(folder: str) -> str:
    """The last line that a run printed."""
    try:
        return last_lines(Path(ROOT, folder, LAUNCH_LOG))[-1]
    except (OSError, IndexError):
        return ""


def connect():
    """The module ray, connected to a cluster."""
    # Ray would send usage statistics to its makers, and warn of what does not matter here
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    try:
        import ray
    except ImportError:
        raise InputError(
            "LAUNCHER=ray needs Ray, which is not installed here: pip install -e '.[ray]'"
        ) from None
    try:
        ray.init(log_to_driver=False, logging_level="ERROR")
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise InputError(
            f"RAY_ADDRESS={os.environ.get('RAY_ADDRESS', '')}: {one_line(error)}"
        ) from error
    return ray


def run_all(ray, tasks: list[Task], bar: tqdm) -> Generator[tuple[int, int], None, None]:
    """Run them on the cluster; index and exit status of each that has ended."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    largest = int(max(node.get("CPU", 0) for node in nodes))
    per_gpu = setting("JOBS_PER_GPU", 1) if any(node.get("GPU") for node in nodes) else None
    cpus = setting("CPUS_PER_RUN", max(1, min(4, largest)))
    jobs = setting("JOBS", len(tasks))
    at_once = min(jobs, sum(places(node, cpus, per_gpu) for node in nodes))
    if not at_once:
        gpu = " and a GPU" if per_gpu else ""
        raise InputError(f"CPUS_PER_RUN={cpus}: no node of the cluster has as many{gpu}")
    gpu = f"1/{per_gpu} GPU" if per_gpu else "no GPU"
    bar.write(
        f"Ray: {len(nodes)} node(s), {cpus} CPUs and {gpu} a run, {at_once} at a time",
        file=sys.stderr,
    )

    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("RAY_") and not name.endswith("_VISIBLE_DEVICES")
    }
    environment |= {
        "OMP_NUM_THREADS": str(cpus),
        "UNLABELEDASD_WAIT": str(WAIT_SECONDS),
        "UNLABELEDASD_CALL": str(uuid4()),  # overwrite=true clears a run once, not at every try
        "PYTHONUNBUFFERED": "1",
    }  # so that the log is in order
    # Ray rounds to four digits; 7 x 0.1429 would be too much
    share = int(10000 / per_gpu) / 10000 if per_gpu else 0
    remote = ray.remote(execute).options(
        num_cpus=cpus, num_gpus=share, max_retries=0, scheduling_strategy="SPREAD"
    )

    tries: Counter[int] = Counter()

    def submit(index: int):
        return remote.remote(tasks[index], str(ROOT), environment, bool(per_gpu))

    waiting = iter(range(len(tasks)))
    pending = {submit(index): index for index in islice(waiting, jobs)}
    try:
        while pending:
            (ended,), _ = ray.wait(list(pending))
            index = pending.pop(ended)
            name, folder, _ = tasks[index]
            try:
                status, host, seconds = ray.get(ended)
                message = f"{seconds / 60:.1f} min on {host}"
                if status:
                    message = f"exit status {status} on {host}: {last_line(folder)}"
                    message += f" (all of it: {folder}/{LAUNCH_LOG})"
            except ray.exceptions.RayTaskError as error:  # it could not begin
                status, message = 1, one_line(error.cause)
            except ray.exceptions.RayError as error:
                if tries[index] < RETRIES:
                    tries[index] += 1
                    lost = f"its node or worker was lost ({type(error).__name__}), retried"
                    bar.write(f"{name}: {lost}", file=sys.stderr)
                    pending[submit(index)] = index
                    continue
                status, message = 1, f"lost {RETRIES + 1} times: {one_line(error)[:300]}"
            bar.write(f"{name}: {message}", file=sys.stderr)
            bar.update()
            yield index, status
            pending |= {submit(index): index for index in islice(waiting, 1)}
    finally:
        for left in pending:
            ray.cancel(left, force=True)  # its worker ends, and with it the run


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.parse_args()
    tasks = read_tasks(sys.stdin.buffer.read())
    ray = connect()
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # Ray prints news of its nodes there
    try:
        with (
            tqdm(total=len(tasks), unit="run", dynamic_ncols=True, smoothing=0) as bar,
            closing(run_all(ray, tasks, bar)) as all_ended,
        ):
            for index, status in all_ended:
                print(index, status, file=answers, flush=True)
                if status not in (0, 3) and os.environ.get("FAIL_FAST"):
                    break
    except ray.exceptions.RayError as error:  # the cluster itself is gone
        raise InputError(f"Ray: {one_line(error)[:300]}") from error
    finally:
        ray.shutdown()


if __name__ == "__main__":
    with one_line_errors(OSError):
        main()
