"""One writer per folder, on one machine or on several that share a file system.

A lock is a file `<lock>.<n>`, and the highest n counts: whoever takes a lock creates the next number, which one
process alone can do, and then removes the lower ones. The highest is never removed, so a process that was slow
finds a higher one and knows that it lost. A holder renews its file's modification time while it works, and sets it
back to 1970 when it is done.

Nothing more than exclusive creation is asked of a network file system. Process ids mean something on the machine
(and in the container) that gave them, so elsewhere a lock is judged by its age, on the file server's clock.
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

from unlabeledasd.errors import InputError, RunHeld

BEAT_SECONDS = 15
STALE_SECONDS = 180  # without a beat; network file systems may show times up to a minute late
RETRY_SECONDS = 5
RELEASED = 1e9  # a time before this one, whatever the file system makes of 1970


@contextmanager
def holding(folder: Path, lock: Path, wait_seconds: float = 0) -> Iterator[None]:
    """Work on `folder` alone, by the lock `lock`; RunHeld names the process that does otherwise, for longer than
    `wait_seconds` (a job that is queued again waits out the lock that it left behind on another host)."""
    end = time.monotonic() + wait_seconds
    try:
        while (held := take(lock)) is None:
            if time.monotonic() >= end:
                raise RunHeld(f"{folder}: held by {describe(newest(lock)[1])}")
            time.sleep(min(RETRY_SECONDS, max(0.0, end - time.monotonic())))
    except OSError as error:
        raise InputError(f"{lock.parent}: cannot write there ({error.strerror})") from None
    done = threading.Event()
    thread = threading.Thread(target=beat, args=(held, done), daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
        with suppress(
            OSError
        ):  # on a full disk too; a lock of a process that is gone holds nobody up
            os.utime(held, (0, 0))


def take(lock: Path) -> Path | None:
    """The lock file that is ours now; None while another process holds the lock."""
    lock.parent.mkdir(parents=True, exist_ok=True)
    number, last = newest(lock)
    if last is not None and is_held(last):
        return None
    mine = numbered(lock, number + 1)
    try:
        created = mine.open("x", encoding="utf-8")
    except FileExistsError:  # another was faster
        return None
    try:
        with created:
            created.write(json.dumps(me()))
    except OSError:  # a full disk: nobody has to wait for what could not begin
        os.utime(mine, (0, 0))
        raise
    if newest(lock)[0] > number + 1:  # others came and went since we looked
        mine.unlink(missing_ok=True)
        return None
    for n in all_numbers(lock):
        if n <= number:
            numbered(lock, n).unlink(missing_ok=True)
    return mine


def beat(held: Path, done: threading.Event) -> None:
    """Renew the lock until `done`. Without it this process must not write: it slept past the limit, and another one
    that took the lock over works now."""
    while not done.wait(BEAT_SECONDS):
        with suppress(OSError):  # the file system may be away for a moment
            os.utime(held)
        with suppress(OSError):
            if not held.exists():
                print(
                    f"\n{held}: lock lost, another process took it over; stopped",
                    file=sys.stderr,
                    flush=True,
                )
                os._exit(3)


def numbered(lock: Path, number: int) -> Path:
    return lock.with_name(f"{lock.name}.{number}")


def all_numbers(lock: Path) -> list[int]:
    names = (path.name.removeprefix(f"{lock.name}.") for path in lock.parent.iterdir())
    return [int(name) for name in names if name.isascii() and name.isdigit()]


def newest(lock: Path) -> tuple[int, Path | None]:
    number = max(all_numbers(lock), default=0)
    return number, numbered(lock, number) if number else None


def read(file: Path) -> tuple[dict, float]:
    """What a lock file says, {} while it is being written, and when it was renewed."""
    # opening asks the server; a bare stat may be answered from a cache
    with file.open(encoding="utf-8", errors="replace") as opened:
        text, renewed = opened.read(), os.fstat(opened.fileno()).st_mtime
    try:
        return dict(json.loads(text)), renewed
    except (ValueError, TypeError):
        return {}, renewed


def is_held(file: Path, now: float | None = None) -> bool:
    try:
        holder, renewed = read(file)
    except FileNotFoundError:  # taken over since it was listed
        return True
    if renewed < RELEASED:
        return False
    if holder.get("place") == place():
        return started(holder.get("pid")) == holder.get("started", "")
    return (server_time(file) if now is None else now) - renewed < STALE_SECONDS


def look(lock: Path) -> dict | None:
    """Who took the lock last: host, pid, since, ... and `renewed`, `held`; None if it was given back, or never taken.
    Writes nothing, and so judges other machines by this one's clock."""
    if not lock.parent.is_dir() or (file := newest(lock)[1]) is None:
        return None
    try:
        holder, renewed = read(file)
        held = is_held(file, time.time())
    except FileNotFoundError:  # another takes it over at this moment
        return {"renewed": time.time(), "held": True}
    return {**holder, "renewed": renewed, "held": held} if renewed >= RELEASED else None


def server_time(file: Path) -> float:
    """What the clock says that gives `file` its times."""
    probe = file.with_name(f".{file.name}.{os.getpid()}.tmp")
    try:
        with probe.open(
            "w"
        ) as opened:  # others may remove it, as they do with what a killed process left
            os.utime(opened.fileno())
            return os.fstat(opened.fileno()).st_mtime
    finally:
        probe.unlink(missing_ok=True)


def place() -> str:
    """Where process ids mean the same: this boot of this machine, this container."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:  # not Linux
        return socket.gethostname()


def started(pid: int) -> str | None:
    """When a process began, in the system's own terms, since ids are used again; None if it is not there."""
    if not Path("/proc/self/stat").exists():  # not Linux: that it is there must do
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return None
        except PermissionError:
            pass
        return ""
    try:
        fields = (
            Path(f"/proc/{pid}/stat")
            .read_text(encoding="utf-8", errors="replace")
            .rpartition(")")[2]
            .split()
        )
    except OSError:
        return None
    return None if fields[0] == "Z" else fields[19]


def me() -> dict:
    pid = os.getpid()
    since = datetime.now().astimezone().isoformat(sep=" ", timespec="seconds")
    return {
        "host": socket.gethostname(),
        "pid": pid,
        "since": since,
        "place": place(),
        "started": started(pid),
    }


def describe(file: Path | None) -> str:
    try:
        holder, renewed = read(file)
    except (OSError, AttributeError):  # it ends just now
        return "a process that is just beginning or ending"
    if "pid" not in holder:
        return "a process that is just beginning"
    age = (
        ""
        if holder["place"] == place()
        else f", last sign of life {server_time(file) - renewed:.0f} s ago"
    )
    return f"host {holder['host']}, process {holder['pid']}, since {holder['since']}{age}"
