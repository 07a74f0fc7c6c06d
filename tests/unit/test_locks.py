"""Locks between processes of one machine, and, played with two identities, of several."""

import json
import multiprocessing
import os
import resource
import subprocess
import sys
import time

import pytest

from conftest import ROOT
from unlabeledasd.errors import InputError, RunLocked
from unlabeledasd.runs import locks
from unlabeledasd.runs.locks import locked

HERE = {**os.environ, "PYTHONPATH": str(ROOT / "src")}


@pytest.fixture
def lock(tmp_path):
    return tmp_path / "all/lock"


def files(lock):
    return sorted(path.name for path in lock.parent.iterdir())


def elsewhere(lock, age=0.0, number=1):
    """A lock of a process on another host, with its last heartbeat `age` seconds ago."""
    lock.parent.mkdir(exist_ok=True)
    file = lock.with_name(f"lock.{number}")
    holder = {
        "host": "far",
        "pid": os.getpid(),
        "since": "2026-01-01 00:00:00",
        "place": "far",
        "started": "1",
    }
    file.write_text(json.dumps(holder))
    os.utime(file, (time.time() - age,) * 2)
    return file


def hold(lock, code: str) -> subprocess.Popen:
    program = (
        f"import os\nfrom pathlib import Path\nfrom unlabeledasd.runs.locks import locked\n"
        f"with locked(Path('run'), Path({str(lock)!r})):\n print(flush=True); {code}"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program], env=HERE, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdout.readline() == b"\n"  # it has the lock
    return process


def test_one_after_the_other(lock, tmp_path):
    for _ in range(3):
        with locked(tmp_path, lock):
            with pytest.raises(
                RunLocked, match=rf": locked by process {os.getpid()} on host \S+ since \d{{4}}-"
            ):
                locked(tmp_path, lock).__enter__()
            assert len(files(lock)) == 1
    assert files(lock) == ["lock.3"]


@pytest.mark.parametrize("end", ["pass", "os._exit(0)", "os.kill(os.getpid(), 9)"])
def test_a_lock_of_a_dead_process_is_taken_at_once(lock, tmp_path, end):
    with hold(lock, end):
        pass
    with locked(tmp_path, lock):
        pass


def test_a_killed_process_that_nobody_waited_for_is_dead(lock, tmp_path):
    with hold(lock, "input()") as holder:
        holder.kill()
        os.waitid(os.P_PID, holder.pid, os.WEXITED | os.WNOWAIT)  # it stays as a zombie
        with locked(tmp_path, lock):
            pass


def test_an_id_that_was_reused(lock, tmp_path):
    file = elsewhere(lock)
    file.write_text(
        json.dumps({**locks.this_process(), "started": "1"})
    )  # this process's id, begun at another time
    with locked(tmp_path, lock):
        pass


def test_another_host_counts_by_age(lock, tmp_path):
    elsewhere(lock, age=locks.STALE_SECONDS - 20)
    with pytest.raises(
        RunLocked,
        match=r"locked by process \d+ on host far since 2026-.* \(last heartbeat 1[56]\d s ago\)",
    ):
        locked(tmp_path, lock).__enter__()
    elsewhere(lock, age=locks.STALE_SECONDS + 1)
    with locked(tmp_path, lock):
        assert files(lock) == ["lock.2"]


def test_age_is_by_the_clock_of_the_file_server(lock, tmp_path, monkeypatch):
    """A local clock that is a day off changes nothing."""
    elsewhere(lock)
    monkeypatch.setattr(time, "time", lambda now=time.time: now() + 86400)
    with pytest.raises(RunLocked):
        locked(tmp_path, lock).__enter__()


def test_a_lock_that_is_being_written(lock, tmp_path):
    elsewhere(lock).write_text("")
    with pytest.raises(RunLocked, match="just starting"):
        locked(tmp_path, lock).__enter__()


def test_a_full_disk_leaves_no_lock_in_force(lock, tmp_path):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(
        resource.RLIMIT_FSIZE, (0, limits[1])
    )  # files can be created, nothing can be written into them
    try:
        with pytest.raises(InputError, match=r"cannot write there \(File too large\)"):
            locked(tmp_path, lock).__enter__()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    with locked(tmp_path, lock):
        assert files(lock) == ["lock.2"]


def test_waiting(lock, tmp_path, monkeypatch):
    monkeypatch.setattr(locks, "RETRY_SECONDS", 0.1)
    elsewhere(lock, age=locks.STALE_SECONDS - 1)
    with locked(tmp_path, lock, wait_seconds=30):
        assert files(lock) == ["lock.2"]
        begin = time.monotonic()
        with pytest.raises(RunLocked):
            locked(tmp_path, lock, wait_seconds=0.3).__enter__()
        assert 0.3 <= time.monotonic() - begin < 5


def test_the_owner_sends_heartbeats(lock, tmp_path, monkeypatch):
    monkeypatch.setattr(locks, "HEARTBEAT_SECONDS", 0.05)
    with locked(tmp_path, lock):
        os.utime(lock.with_name("lock.1"), (5, 5))
        end = time.monotonic() + 10
        while lock.with_name("lock.1").stat().st_mtime < locks.RELEASED:
            assert time.monotonic() < end
            time.sleep(0.02)


def test_whoever_lost_its_lock_stops(tmp_path):
    """It slept past the limit."""
    program = f"""
from pathlib import Path
from unlabeledasd.runs import locks
locks.HEARTBEAT_SECONDS = 0.05
with locks.locked(Path("run"), Path({str(tmp_path / "b")!r})):
    print(flush=True)
    input()
"""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", program], env=HERE, text=True, **pipes) as sleeper:
        sleeper.stdout.readline()
        (tmp_path / "b.1").unlink()  # as the one that takes over does
        assert sleeper.wait(30) == 3
        assert "b.1: lock lost" in sleeper.stderr.read()


def contend(lock, begin, ground, count):
    """Take the lock again and again; count the times that somebody else was on the ground."""
    begin.wait()
    for _ in range(60):
        if held := locks.take(lock):
            try:
                ground.touch(exist_ok=False)
            except FileExistsError:
                count.value += 1
            else:
                time.sleep(0.0005)
                ground.unlink()
            os.utime(held, (0, 0))


def test_never_two_owners(lock, tmp_path):
    """Processes that fight for a lock that was left behind, and then for each other's."""
    elsewhere(lock, age=10 * locks.STALE_SECONDS)
    context = multiprocessing.get_context("fork")
    begin, count = context.Event(), context.Value("i", 0)
    processes = [
        context.Process(target=contend, args=(lock, begin, tmp_path / "ground", count))
        for _ in range(8)
    ]
    for process in processes:
        process.start()
    begin.set()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0] * 8
    assert count.value == 0
    assert len(files(lock)) == 1
    assert int(files(lock)[0].removeprefix("lock.")) > 8  # they did take turns


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"file: cannot write there"):
        locked(tmp_path, tmp_path / "file/lock").__enter__()
