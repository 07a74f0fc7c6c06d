"""The run folder `<results_dir>/<dataset>/<method>_<seed>/`: where things lie, what is done, who works on it."""

import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from unlabeledasd.errors import InputError
from unlabeledasd.files import sha256, write_json
from unlabeledasd.runs.locks import holding


def patience() -> float:
    """Seconds to wait for a folder that is held: a cluster's jobs, which may find the lock of a host that is gone,
    set UNLABELEDASD_WAIT."""
    text = os.environ.get("UNLABELEDASD_WAIT", "0")
    if not re.fullmatch(r"\d+", text, re.ASCII):
        raise InputError(f"UNLABELEDASD_WAIT={text}: a whole number of seconds, at least 0")
    return float(text)


@contextmanager
def writing_alone(folder: Path, lock: Path) -> Iterator[None]:
    """Hold `folder`, after a wait by `patience`, and first remove the temporary files that a killed process left."""
    with holding(folder, lock, patience()):
        for leftover in folder.rglob(".*.tmp"):
            leftover.unlink(missing_ok=True)
        yield


class Run:
    """Paths and state of one run; creates nothing until it is written to."""

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        self.all = self.folder / "all"
        self.config = self.all / "config.yaml"
        self.labels = self.all / "labels.json"
        self.environment = self.all / "environment.json"
        self.done_marker = self.all / "done"
        self.progress = (
            self.all / "progress.json"
        )  # epochs trained and of how many, and how long they took
        self.error = self.all / "error"  # what ended the last attempt, in one line
        self.cleared = self.all / "cleared"  # id of the call that last removed what the run had
        self.last_checkpoint = self.all / "checkpoints" / "last.ckpt"
        self.previous_checkpoint = (
            self.all / "checkpoints" / "previous.ckpt"
        )  # for when the last one is damaged

    def checkpoint(self, epoch: int) -> Path:
        """Weights after `epoch` (counted from 1)."""
        return self.all / "checkpoints" / f"epoch{epoch}.ckpt"

    def scorers(self, stem: str) -> Path:
        return self.all / "scorers" / f"{stem}.npz"

    def version(self, machine: str, version: str) -> Path:
        return self.folder / machine / "infer" / f"version_{version}"

    def machines(self, version: str) -> list[str]:
        """Machines that have scores of `version`, sorted."""
        return sorted(
            p.parent.name
            for p in self.folder.glob("*/infer")
            if (p / f"version_{version}").is_dir()
        )

    @property
    def epochs(self) -> list[int]:
        """Epochs whose weights are kept, ascending."""
        return sorted(int(p.stem[5:]) for p in (self.all / "checkpoints").glob("epoch*.ckpt"))

    @property
    def is_done(self) -> bool:
        return self.done_marker.is_file()

    def mark_done(self, settings: str, keep_last: bool = False) -> None:
        """Written last; `settings` is the hash of what decides the results."""
        if not keep_last:  # there is nothing to go on from
            self.last_checkpoint.unlink(missing_ok=True)
            self.previous_checkpoint.unlink(missing_ok=True)
        finished = datetime.now().astimezone().isoformat(timespec="seconds")
        labels = sha256(self.labels) if self.labels.is_file() else None
        write_json(self.done_marker, {"finished": finished, "settings": settings, "labels": labels})

    def read_done(self) -> dict[str, str | None]:
        try:
            return {
                "settings": None,
                "labels": None,
                **json.loads(self.done_marker.read_text(encoding="utf-8")),
            }
        except (ValueError, TypeError):
            raise InputError(
                f"{self.done_marker}: damaged; remove it to have the run completed"
            ) from None

    def clear(self) -> list[str]:
        """Remove all that a run writes, the done marker first, so that no half of it passes for a run; its paths."""
        versions = sorted(self.folder.glob("*/infer/version_*"))
        folders = [self.all / name for name in ("scorers", "infer", "checkpoints", "logs")]
        files = (
            self.labels,
            self.environment,
            self.progress,
            self.error,
            self.cleared,
            self.config,
        )
        present = [
            path for path in (self.done_marker, *versions, *folders, *files) if path.exists()
        ]
        for path in present:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        return [path.relative_to(self.folder).as_posix() for path in present]

    def require(self, path: Path) -> Path:
        """`path`, or an InputError that says this is no finished run."""
        if not path.is_file():
            name = path.relative_to(self.folder)
            raise InputError(
                f"{self.folder}: {name} is missing; overwrite=true trains this run anew"
            )
        return path

    @contextmanager
    def claim(self) -> Iterator[None]:
        """Hold the run folder for this process; RunHeld names who holds it otherwise, after a wait."""
        with writing_alone(self.folder, self.all / "lock"):
            yield


def version_name(epochs: list[int]) -> str:
    """[12, 14, 16] -> epoch_12_14_16; [12] -> epoch12: the version of these scores, or of their mean."""
    return f"epoch{epochs[0]}" if len(epochs) == 1 else "epoch_" + "_".join(map(str, epochs))
