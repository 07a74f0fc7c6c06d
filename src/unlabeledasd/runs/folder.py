"""The run folder `<results_dir>/<dataset>/<method>_<seed>/`: its paths, state and one writer."""

import json
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

import yaml

from unlabeledasd.errors import InputError
from unlabeledasd.files import file_hash, write_json
from unlabeledasd.runs.locks import locked

UNTRAINED = "untrained"  # the version of scores without any training


def lock_patience() -> float:
    """Seconds to wait for a locked folder, from UNLABELEDASD_WAIT.

    Jobs of a cluster set it, since they may find the lock of a host that is lost.
    """
    text = os.environ.get("UNLABELEDASD_WAIT", "0")
    if not re.fullmatch(r"\d+", text, re.ASCII):
        raise InputError(f"UNLABELEDASD_WAIT={text}: a whole number of seconds, at least 0")
    return float(text)


@contextmanager
def writing_alone(folder: Path, lock: Path) -> Iterator[None]:
    """Lock `folder` for the block, and remove the temporary files that a killed process left."""
    with locked(folder, lock, lock_patience()):
        for leftover in folder.rglob(".*.tmp"):
            leftover.unlink(missing_ok=True)
        yield


class Run:
    """Paths and state of one run; creates nothing by itself."""

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        self.all = self.folder / "all"
        self.config = self.all / "config.yaml"
        self.labels = self.all / "labels.json"
        self.contents = self.all / "contents.json"  # which clips it is made of
        self.calibration = self.all / "calibration.json"  # clips that are set aside, if any
        self.parts = self.all / "parts.json"  # names of the embedding's bands or branches
        self.environment = self.all / "environment.json"
        self.done_marker = self.all / "done"
        self.progress = self.all / "progress.json"  # epochs trained, of how many, seconds of each
        self.error = self.all / "error"  # what ended the last attempt, in one line
        self.cleared = self.all / "cleared"  # id of the call that last removed the run's files
        self.last_checkpoint = self.all / "checkpoints" / "last.ckpt"
        self.previous_checkpoint = self.all / "checkpoints" / "previous.ckpt"  # if that is corrupt

    def checkpoint(self, epoch: int) -> Path:
        """Weights after `epoch`, counted from 1; 0: before any training."""
        return self.all / "checkpoints" / f"epoch{epoch}.ckpt"

    def embeddings(self, stem: str) -> Path:
        """Of all clips by the weights of an epoch."""
        return self.all / "embeddings" / f"{stem}.npz"

    @property
    def keeps_embeddings(self) -> bool:
        return any((self.all / "embeddings").glob("*.npz"))

    def scorers(self, stem: str) -> Path:
        return self.all / "scorers" / f"{stem}.npz"

    def version(self, machine: str, version: str) -> Path:
        return self.folder / machine / "infer" / f"version_{version}"

    def machines(self, version: str) -> list[str]:
        """Machines that have scores of `version`, sorted."""
        name = f"version_{self.scored(version)}"  # may contain what is special in a pattern
        return sorted(p.parent.name for p in self.folder.glob("*/infer") if (p / name).is_dir())

    def scored(self, version: str) -> str:
        """`version`; UNTRAINED for any epochs of a run that trains nothing: it has no others."""
        of_epochs = re.fullmatch(r"epoch(\d+|(_\d+)+)", version)
        return UNTRAINED if of_epochs and self.checkpoint(0).is_file() else version

    @property
    def epochs(self) -> list[int]:
        """Epochs of which the weights are kept, ascending."""
        return sorted(int(p.stem[5:]) for p in (self.all / "checkpoints").glob("epoch*.ckpt"))

    @property
    def is_done(self) -> bool:
        return self.done_marker.is_file()

    def mark_done(self, settings: str, keep_last: bool = False) -> None:
        """Written last; settings: the hash of what decides the results."""
        if not keep_last:  # nothing is left to resume
            self.last_checkpoint.unlink(missing_ok=True)
            self.previous_checkpoint.unlink(missing_ok=True)
        finished = datetime.now().astimezone().isoformat(timespec="seconds")
        labels = file_hash(self.labels) if self.labels.is_file() else None
        write_json(self.done_marker, {"finished": finished, "settings": settings, "labels": labels})

    def read_done(self) -> dict[str, str | None]:
        try:
            done = json.loads(self.done_marker.read_text(encoding="utf-8"))
            return {"settings": None, "labels": None, **done}
        except (ValueError, TypeError):
            raise InputError(
                f"{self.done_marker}: corrupt; remove it to have the run completed"
            ) from None

    def read_config(self) -> dict:
        """The configuration that the run was made with, resolved."""
        file = self.require(self.config)
        try:
            config = yaml.safe_load(file.read_text(encoding="utf-8"))
        except (ValueError, yaml.YAMLError) as error:
            reason = " ".join(str(error).split())
            raise InputError(f"{file}: not a configuration ({reason})") from None
        if not isinstance(config, dict):
            raise InputError(f"{file}: not a configuration (no keys in it)")
        return config

    def read_parts(self) -> list[str]:
        """Names of the embedding's bands or branches; none where the run does not state them."""
        if not self.parts.is_file():
            return []
        try:
            return [str(name) for name in json.loads(self.parts.read_text(encoding="utf-8"))]
        except (ValueError, TypeError):
            raise InputError(f"{self.parts}: not a list of names") from None

    def clear(self) -> list[str]:
        """Remove all that a run writes -> the paths removed.

        The done marker goes first, so that half of a run is never taken for a finished one.
        """
        versions = sorted(self.folder.glob("*/infer/version_*"))
        names = ("embeddings", "scorers", "infer", "checkpoints", "logs")
        folders = [self.all / name for name in names]
        files = [self.labels, self.contents, self.parts, self.environment, self.progress]
        files += [self.error, self.cleared, self.calibration]
        every = [self.done_marker, *versions, *folders, *files, self.config]
        present = [path for path in every if path.exists()]
        for path in present:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        return [path.relative_to(self.folder).as_posix() for path in present]

    def require(self, path: Path) -> Path:
        """`path`; InputError where the run lacks it."""
        if not path.is_file():
            name = path.relative_to(self.folder)
            raise InputError(f"{self.folder}: {name} is missing; retrain with overwrite=true")
        return path

    @contextmanager
    def claim(self) -> Iterator[None]:
        """Lock the run folder for the block; RunLocked names the process that has locked it."""
        with writing_alone(self.folder, self.all / "lock"):
            yield


def version_name(epochs: Sequence[int]) -> str:
    """[12, 14, 16] -> epoch_12_14_16, [12] -> epoch12, [0] -> untrained: of their mean scores."""
    if list(epochs) == [0]:
        return UNTRAINED
    return f"epoch{epochs[0]}" if len(epochs) == 1 else "epoch_" + "_".join(map(str, epochs))
