"""The run folder `<results_dir>/<dataset>/<method>_<seed>/`: where things lie, what is done, who works on it."""

import io
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

import numpy as np
import pandas as pd

from unlabeledasd.errors import InputError
from unlabeledasd.locks import holding


@contextmanager
def replacing(path: Path):
    """A temporary path beside `path` that takes its place when the block ends, so that readers see the old file
    or the whole new one; removed if the block fails."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value) -> None:
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False) + "\n")


def write_csv(path: Path, table: pd.DataFrame) -> None:
    write_text(path, table.to_csv(index=False))


def write_npz(path: Path, arrays: dict[str, np.ndarray]) -> None:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    with replacing(path) as temporary:
        temporary.write_bytes(buffer.getvalue())


class Run:
    """Paths and state of one run; creates nothing until it is written to."""

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        self.all = self.folder / "all"
        self.config = self.all / "config.yaml"
        self.labels = self.all / "labels.json"
        self.environment = self.all / "environment.json"
        self.done_marker = self.all / "done"
        self.last_checkpoint = self.all / "checkpoints" / "last.ckpt"

    def checkpoint(self, epoch: int) -> Path:
        """Weights after `epoch` (counted from 1)."""
        return self.all / "checkpoints" / f"epoch{epoch}.ckpt"

    def scorers(self, stem: str) -> Path:
        return self.all / "scorers" / f"{stem}.npz"

    def version(self, machine: str, version: str) -> Path:
        return self.folder / machine / "infer" / f"version_{version}"

    def machines(self, version: str) -> list[str]:
        """Machines that have scores of `version`, sorted."""
        return sorted(p.parent.parent.name for p in self.folder.glob(f"*/infer/version_{version}"))

    @property
    def epochs(self) -> list[int]:
        """Epochs whose weights are kept, ascending."""
        return sorted(int(p.stem[5:]) for p in (self.all / "checkpoints").glob("epoch*.ckpt"))

    @property
    def is_done(self) -> bool:
        return self.done_marker.is_file()

    def mark_done(self) -> None:
        self.last_checkpoint.unlink(missing_ok=True)  # there is nothing to go on from
        write_text(self.done_marker, datetime.now().astimezone().isoformat(timespec="seconds") + "\n")

    def require(self, path: Path) -> Path:
        """`path`, or an InputError that says this is no finished run."""
        if not path.is_file():
            name = path.relative_to(self.folder)
            raise InputError(f"{self.folder}: {name} is missing; remove the folder to train this run anew")
        return path

    @contextmanager
    def claim(self) -> Iterator[None]:
        """Hold the run folder for this process; RunHeld names who holds it otherwise."""
        with holding(self.folder, self.all / "lock"):
            for leftover in self.last_checkpoint.parent.glob(".*.tmp"):  # of a process that was killed
                leftover.unlink()
            yield


def version_name(epochs: list[int]) -> str:
    """[12, 14, 16] -> epoch_12_14_16; [12] -> epoch12: the version of these scores, or of their mean."""
    return f"epoch{epochs[0]}" if len(epochs) == 1 else "epoch_" + "_".join(map(str, epochs))
