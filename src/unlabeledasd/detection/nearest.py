"""The normal clip that a window resembles most, among those a detector was made of."""

from collections.abc import Sequence
from itertools import islice
from pathlib import Path

import numpy as np
import pandas as pd

from unlabeledasd.audio.two_channels import Channel
from unlabeledasd.detection.learning import kept_file, read_learned
from unlabeledasd.detection.recordings import read_blocks, windows
from unlabeledasd.errors import InputError
from unlabeledasd.runs.embeddings import read_embeddings
from unlabeledasd.runs.folder import Run, version_name
from unlabeledasd.scoring import unit_rows


def last_embeddings(run: Run) -> tuple[pd.DataFrame, np.ndarray]:
    """(table of clips, embeddings (N, ...)) that a run has kept of the last epoch it scored.

    Of fused scores: those of the first source that has kept some. InputError where there are none.
    """
    config = run.read_config()
    for source in config.get("fusion", {}).get("sources", []):
        origin = Run(source["run"])
        if origin.keeps_embeddings:
            return last_embeddings(origin)
    version = version_name(config["score_epochs"][-1:])
    return read_embeddings(run.require(run.embeddings(version)))


def nearest_training_clips(
    table: pd.DataFrame, embedding: np.ndarray, paths: Sequence[str]
) -> dict[str, str]:
    """path -> path of the training clip of the same machine with the largest cosine.

    table, embedding: as of `last_embeddings`; paths: test clips. A clip that the table lacks, or
    whose machine has no training clip there, is left out.
    """
    rows = np.flatnonzero(((table.split == "test") & table.path.isin(list(paths))).to_numpy())
    nearest: dict[str, str] = {}
    for machine in table.machine.iloc[rows].unique():
        train = np.flatnonzero((table.machine == machine) & (table.split == "train"))
        test = rows[(table.machine.iloc[rows] == machine).to_numpy()]
        if len(train):
            similar = unit_rows(embedding[test]) @ unit_rows(embedding[train]).T
            best = train[similar.argmax(axis=1)]
            nearest |= dict(zip(table.path.iloc[test], table.path.iloc[best], strict=True))
    return nearest


class NormalClips:
    """Normal clips of each machine: their files and their embeddings by the last kept network."""

    def __init__(self, folder: Path):
        run = Run(folder)
        if not run.config.is_file():
            raise InputError(f"{folder}: has no normal clips to compare with; take the run itself")
        self.files: dict[str, list[Path]] = {}
        self.embeddings: dict[str, np.ndarray] = {}
        if kept_file(run).is_file():
            learned = read_learned(run)
            table, embedding = learned.windows, learned.embedding
            paths = [Path(recording) for recording in table.recording]
        else:
            root = run.read_config()["data"]["root"]
            table, embedding = last_embeddings(run)
            train = (table.split == "train").to_numpy()
            table, embedding = table[train], embedding[train]
            paths = [Path(root, path) for path in table.path]
        for machine in table.machine.unique():
            rows = np.flatnonzero(table.machine == machine)
            self.files[machine] = [paths[row] for row in rows]
            self.embeddings[machine] = unit_rows(embedding[rows])

    def nearest(self, machine: str, embedding: np.ndarray) -> Path:
        """The file whose embedding has the largest cosine with one of a window (1, ...)."""
        similar = self.embeddings[machine] @ unit_rows(embedding)[0]
        return self.files[machine][int(similar.argmax())]


def window_at(
    path: Path, start: int, sample_rate: int, length: int, hop: int, channel: Channel
) -> np.ndarray:
    """The window (length,) of a recording that begins at sample `start`, as a Detector cuts it."""
    every = windows(read_blocks(path, sample_rate, channel), length, hop)
    for place, wave in every:
        if place == start:
            return wave
    raise InputError(f"{path}: no window at sample {start}")


def first_window(path: Path, sample_rate: int, length: int, channel: Channel) -> np.ndarray:
    """The first window of a normal clip, in one line where the clip is no longer there."""
    if not path.is_file():
        raise InputError(f"{path}: the nearest normal clip is not there any more")
    every = windows(read_blocks(path, sample_rate, channel), length, length)
    return next(islice((wave for _, wave in every), 1))
