"""The progress of a run, or of a set of pseudo-labels, read from its folder; writes nothing."""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from unlabeledasd.errors import InputError, one_line
from unlabeledasd.runs.folder import Run
from unlabeledasd.runs.locks import last_owner

STATES = ("done", "running", "interrupted", "failed", "missing")
LAUNCH_LOG = "launch.log"  # in the folder: the output of a run that a launcher started
LAST_BYTES = 8192  # of that log, where the error that ended the run is found
LAST_LINES = 5
# A cancelled job (preempted, out of time) did not fail; srun only repeats that its task did.
ERROR = re.compile(r"^(?!srun: |.*\bCANCELLED\b).*(\berror: |\w(Error|Exception)\b)")


@dataclass
class State:
    """doing: what runs, or how far it came; seconds_left: of the training alone."""

    state: str
    doing: str = ""
    epoch: int | None = None
    epochs: int | None = None
    seconds_left: float | None = None
    holder: dict | None = None
    error: str = ""


def run_state(folder: Path) -> State:
    run = Run(folder)
    try:
        if run.is_done:
            run.read_done()
            return State("done")
        lock = last_owner(run.all / "lock")
        progress, written = read_progress(run.progress)
        epoch, epochs = progress.get("epoch"), progress.get("epochs")
        state = State("running", epoch=epoch, epochs=epochs, holder=lock)
        if lock and lock["locked"]:
            state.doing = "starting" if epoch is None else "scoring"
            if epoch is not None and epochs is not None and epoch < epochs:
                state.doing = f"epoch {epoch + 1} of {epochs}"
                state.seconds_left = seconds_left(progress, max(0.0, lock["renewed"] - written))
            return state
        if epoch is not None:
            state.doing = f"{epoch} of {epochs} epochs trained"
        state.error = read_last(run.error) or error_in_log(
            folder / LAUNCH_LOG, max(written, last_sign(lock))
        )
        begun = run.all.is_dir() or (folder / LAUNCH_LOG).exists()
        state.state = "failed" if state.error else "interrupted" if begun else "missing"
        return State("done") if run.is_done else state  # finished meanwhile
    except (InputError, OSError) as error:  # a corrupt done marker, an unreadable folder
        return State("failed", error=one_line(error))


def labels_state(folder: Path) -> State:
    """The state of the pseudo-labels of one source, <label_dir>/<dataset>/<source>/."""
    try:
        if (folder / "labels.json").is_file():
            return State("done")
        lock = last_owner(folder / "lock")
        embedded = len(list(folder.glob("*/embedding_train.npz")))
        clustered = len(list(folder.glob("*/clusters.json")))
        doing = f"{embedded} machines embedded, {clustered} clustered"
        state = State("running", doing, holder=lock)
        if lock and lock["locked"]:
            return state
        state.error = error_in_log(folder / LAUNCH_LOG, last_sign(lock))
        begun = folder.is_dir() and any(folder.iterdir())
        state.state = "failed" if state.error else "interrupted" if begun else "missing"
        return State("done") if (folder / "labels.json").is_file() else state
    except OSError as error:
        return State("failed", error=one_line(error))


def last_sign(lock: dict | None) -> float:
    """When a process that did not release its lock sent its last heartbeat."""
    return lock["renewed"] if lock else 0.0


def read_progress(file: Path) -> tuple[dict, float]:
    """What training wrote after its last epoch, {} without a valid file, and when."""
    try:
        progress, written = json.loads(file.read_text(encoding="utf-8")), file.stat().st_mtime
        counts = [progress["epoch"], progress["epochs"], *progress["seconds"]]
        if all(type(count) in (int, float) for count in counts):
            return progress, written
    except (FileNotFoundError, ValueError, TypeError, KeyError):
        pass
    return {}, 0.0


def seconds_left(progress: dict, elapsed: float) -> float | None:
    """Seconds of training left, `elapsed` into an epoch; None before the first one is finished."""
    if not progress["seconds"]:
        return None
    pace = median(progress["seconds"])
    return (progress["epochs"] - progress["epoch"] - 1) * pace + max(0.0, pace - elapsed)


def read_last(file: Path) -> str:
    """The last line of a file that has text; "" without the file."""
    try:
        return (last_lines(file) or ["an error without a message"])[-1]
    except FileNotFoundError:
        return ""


def last_lines(file: Path) -> list[str]:
    """The last lines of a file that have text; each state of a progress bar is a line too."""
    with file.open("rb") as opened:
        opened.seek(max(0, opened.seek(0, 2) - LAST_BYTES))
        text = opened.read().decode(errors="replace")
    return [line.strip() for line in re.split(r"[\r\n]+", text) if line.strip()]


def error_in_log(file: Path, since: float) -> str:
    """The error at the end of a log; "" without one, or if the run resumed after `since`.

    Launchers begin an attempt with a line "== ...": lines before the last of them belong to
    earlier attempts.
    """
    try:
        lines, written = last_lines(file), file.stat().st_mtime
    except FileNotFoundError:
        return ""
    begun = max((i for i, line in enumerate(lines) if line.startswith("== ")), default=0)
    last = lines[begun:][-LAST_LINES:]
    return next((line for line in reversed(last) if written >= since and ERROR.search(line)), "")


def duration(seconds: float) -> str:
    """90 -> "1.5 min"."""
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} s"
