"""How far a run, or a set of pseudo-labels, is: read from its folder alone, without writing there."""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from unlabeledasd.errors import InputError, one_line
from unlabeledasd.runs.folder import Run
from unlabeledasd.runs.locks import look

STATES = ("done", "running", "interrupted", "failed", "missing")
LAUNCH_LOG = "launch.log"  # in the folder: what a run printed that was not started from a terminal
LAST_BYTES, LAST_LINES = 8192, 5  # of that log, where an error that ended the run is found
# A job that was cancelled (preempted, out of time) did not fail; srun only repeats that its task did.
ERROR = re.compile(r"^(?!srun: |.*\bCANCELLED\b).*(\berror: |\w(Error|Exception)\b)")


@dataclass
class State:
    """`doing` tells what runs, or how far it had come; `seconds_left` is of the training alone."""

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
        lock = look(run.all / "lock")
        progress, written = read_progress(run.progress)
        epoch, epochs = progress.get("epoch"), progress.get("epochs")
        state = State("running", epoch=epoch, epochs=epochs, holder=lock)
        if lock and lock["held"]:
            state.doing = "starting" if epoch is None else "scoring"
            if epoch is not None and epoch < epochs:
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
        return State("done") if run.is_done else state  # by now
    except (InputError, OSError) as error:  # a damaged done marker, a folder that must not be read
        return State("failed", error=one_line(error))


def labels_state(folder: Path) -> State:
    """Of the pseudo-labels of one source: <label_dir>/<dataset>/<source>/."""
    try:
        if (folder / "labels.json").is_file():
            return State("done")
        lock = look(folder / "lock")
        counts = [
            len(list(folder.glob(f"*/{name}"))) for name in ("embedding_train.npz", "clusters.json")
        ]
        state = State("running", "{} machines embedded, {} clustered".format(*counts), holder=lock)
        if lock and lock["held"]:
            return state
        state.error = error_in_log(folder / LAUNCH_LOG, last_sign(lock))
        begun = folder.is_dir() and any(folder.iterdir())
        state.state = "failed" if state.error else "interrupted" if begun else "missing"
        return State("done") if (folder / "labels.json").is_file() else state  # by now
    except OSError as error:
        return State("failed", error=one_line(error))


def last_sign(lock: dict | None) -> float:
    """When the process that did not give its lock back lived last."""
    return lock["renewed"] if lock else 0.0


def read_progress(file: Path) -> tuple[dict, float]:
    """What training wrote after its last epoch, {} where it is damaged or not there, and when it did."""
    try:
        progress, written = json.loads(file.read_text(encoding="utf-8")), file.stat().st_mtime
        numbers = [progress["epoch"], progress["epochs"], *progress["seconds"]]
        if all(type(number) in (int, float) for number in numbers):
            return progress, written
    except (FileNotFoundError, ValueError, TypeError, KeyError):
        pass
    return {}, 0.0


def seconds_left(progress: dict, elapsed: float) -> float | None:
    """Of training, `elapsed` seconds into an epoch; None before this process has finished one."""
    if not progress["seconds"]:
        return None
    pace = median(progress["seconds"])
    return (progress["epochs"] - progress["epoch"] - 1) * pace + max(0.0, pace - elapsed)


def read_last(file: Path) -> str:
    """The last line of a file that has text, "" where there is none."""
    try:
        return (last_lines(file) or ["an error without a word"])[-1]
    except FileNotFoundError:
        return ""


def last_lines(file: Path) -> list[str]:
    """The last lines of a file that have text; what a progress bar drew over is a line too."""
    with file.open("rb") as opened:
        opened.seek(max(0, opened.seek(0, 2) - LAST_BYTES))
        text = opened.read().decode(errors="replace")
    return [line.strip() for line in re.split(r"[\r\n]+", text) if line.strip()]


def error_in_log(file: Path, since: float) -> str:
    """The last error that a log ends with; "" if there is none, or if the run went on after it was written.

    Launchers begin an attempt with a line "== ...": what is before the last of them was another one's.
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
