"""One writer per folder, on one machine or on several that share a file system.

A lock is a file `<lock>.<n>`, of which the highest n counts. A process takes a lock by creating
the next number, which only one process can do, and then removes the lower ones. The highest is
never removed: a process that was slow finds a higher one and knows that it lost. The owner renews
the modification time of its file (a heartbeat), and sets it to 1970 to release the lock.

Of a network file system this needs exclusive creation and nothing else. Process ids are valid on
the machine and in the container that gave them; elsewhere a lock expires by its age, on the file
server's clock.

filelock's SoftFileLease (4.3.1) is not used: it takes over the lease of a lost host only after
watching it for the whole lease time, so a command that does not wait could never resume its run.
"""

import json
import os
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path

from unlabeledasd.errors import InputError, RunLocked

HEARTBEAT_SECONDS = 15
STALE_SECONDS = 180  # without a heartbeat; network file systems may show times a minute late
RETRY_SECONDS = 5
RELEASED = 1e9  # a time before this one, however the file system represents 1970


@contextmanager
def locked(folder: Path, lock: Path, wait_seconds: float = 0) -> Iterator[None]:
    """Lock `folder` by the lock `lock` for the block.

    RunLocked names the process that has locked it for longer than `wait_seconds` (a job that is
    queued again waits for the expiry of the lock that it left on another host).
    """
    end = time.monotonic() + wait_seconds
    try:
        while (mine := take(lock)) is None:
            if time.monotonic() >= end:
                raise RunLocked(f"{folder}: locked by {describe(newest(lock)[1])}")
            time.sleep(min(RETRY_SECONDS, max(0.0, end - time.monotonic())))
    except OSError as error:
        raise InputError(f"{lock.parent}: cannot write there ({error.strerror})") from None
    done = threading.Event()
    thread = threading.Thread(target=send_heartbeats, args=(mine, done), daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
        release(mine)


def take(lock: Path) -> Path | None:
    """The lock file that this process now owns; None where another process owns the lock."""
    lock.parent.mkdir(parents=True, exist_ok=True)
    number, last = newest(lock)
    if last is not None and is_locked(last):
        return None
    mine = numbered(lock, number + 1)
    try:
        created = mine.open("x", encoding="utf-8")
    except FileExistsError:  # another process was faster
        return None
    try:
        with created:
            created.write(json.dumps(this_process()))
    except OSError:  # a full disk: nobody should wait for what could not begin
        release(mine)
        raise
    if newest(lock)[0] > number + 1:  # others took and released it since the first look
        mine.unlink(missing_ok=True)
        return None
    for n in all_numbers(lock):
        if n <= number:
            numbered(lock, n).unlink(missing_ok=True)
    return mine


def release(mine: Path) -> None:
    with suppress(OSError):  # a full disk; the lock of an ended process blocks nobody
        os.utime(mine, (0, 0))


def send_heartbeats(mine: Path, done: threading.Event) -> None:
    """Renew the lock until `done`; end this process if another one has taken the lock over.

    That happens to a process that was suspended for longer than STALE_SECONDS: the other one
    writes to the folder now.
    """
    while not done.wait(HEARTBEAT_SECONDS):
        with suppress(OSError):  # the file system may be away for a moment
            os.utime(mine)
        with suppress(OSError):
            if not mine.exists():
                print(f"\n{mine}: lock lost to another process; stopped", file=sys.stderr)
                sys.stderr.flush()
                os._exit(3)


def numbered(lock: Path, number: int) -> Path:
    return lock.with_name(f"{lock.name}.{number}")


def all_numbers(lock: Path) -> list[int]:
    names = (path.name.removeprefix(f"{lock.name}.") for path in lock.parent.iterdir())
    return [int(name) for name in names if name.isascii() and name.isdigit()]


def newest(lock: Path) -> tuple[int, Path | None]:
    number = max(all_numbers(lock), default=0)
    return number, numbered(lock, number) if number else None


def read_owner(file: Path) -> tuple[dict, float]:
    """What a lock file says, {} while it is being written; the time of its last heartbeat."""
    # opening asks the server; a bare stat may be answered from a cache
    with file.open(encoding="utf-8", errors="replace") as opened:
        text, renewed = opened.read(), os.fstat(opened.fileno()).st_mtime
    try:
        return dict(json.loads(text)), renewed
    except (ValueError, TypeError):
        return {}, renewed


def is_locked(file: Path, now: float | None = None) -> bool:
    """Whether the owner of a lock file still works; now: None asks the file server's clock."""
    try:
        owner, renewed = read_owner(file)
    except FileNotFoundError:  # taken over since it was listed
        return True
    if renewed < RELEASED:
        return False
    if owner.get("place") == place():
        return start_time(owner.get("pid")) == owner.get("started", "")
    return (server_time(file) if now is None else now) - renewed < STALE_SECONDS


def last_owner(lock: Path) -> dict | None:
    """The last owner (host, pid, since, ...), with the keys `renewed` and `locked`.

    None where the lock was released or never taken. Writes nothing, so other machines' locks
    expire by this machine's clock.
    """
    if not lock.parent.is_dir() or (file := newest(lock)[1]) is None:
        return None
    try:
        owner, renewed = read_owner(file)
        still_locked = is_locked(file, time.time())
    except FileNotFoundError:  # another process takes it over at this moment
        return {"renewed": time.time(), "locked": True}
    return {**owner, "renewed": renewed, "locked": still_locked} if renewed >= RELEASED else None


def server_time(file: Path) -> float:
    """The time by the clock that sets the times of `file`."""
    probe = file.with_name(f".{file.name}.{os.getpid()}.tmp")
    try:
        # others may remove the probe, as they do with what a killed process left
        with probe.open("w") as opened:
            os.utime(opened.fileno())
            return os.fstat(opened.fileno()).st_mtime
    finally:
        probe.unlink(missing_ok=True)


def place() -> str:
    """Where process ids are valid: this boot of this machine, this container."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:  # not Linux
        return socket.gethostname()


def start_time(pid: int | None) -> str | None:
    """When a process started, in the system's units, since ids are reused; None without it."""
    if pid is None:
        return None
    if not Path("/proc/self/stat").exists():  # not Linux: existence must do
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return None
        except PermissionError:
            pass
        return ""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    fields = text.rpartition(")")[2].split()
    return None if fields[0] == "Z" else fields[19]


def this_process() -> dict:
    try:  # in a PID namespace /proc may have the ids of the machine
        pid = int(Path("/proc/self").readlink().name)
    except (OSError, ValueError):  # not Linux
        pid = os.getpid()
    return {
        "host": socket.gethostname(),
        "pid": pid,
        "since": datetime.now().astimezone().isoformat(sep=" ", timespec="seconds"),
        "place": place(),
        "started": start_time(pid),
    }


def describe(file: Path | None) -> str:
    """The owner of a lock file, for a message."""
    if file is None:
        return "a process that is just ending"
    try:
        owner, renewed = read_owner(file)
        if "pid" not in owner:
            return "a process that is just starting"
        age = ""
        if owner["place"] != place():
            age = f" (last heartbeat {server_time(file) - renewed:.0f} s ago)"
    except OSError:
        return "a process that is just ending"
    return f"process {owner['pid']} on host {owner['host']} since {owner['since']}{age}"
