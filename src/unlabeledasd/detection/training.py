"""Training of a network on windows of a detector's references; src/learn.py --train."""

from collections.abc import Sequence
from itertools import islice
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch.utils.data import Dataset
from tqdm import tqdm

from unlabeledasd.audio.two_channels import Channel
from unlabeledasd.data import ClipBatches, ShuffledClips, fitting_batch
from unlabeledasd.detection.recordings import read_blocks, windows
from unlabeledasd.detection.survey import Facts
from unlabeledasd.errors import InputError
from unlabeledasd.files import write_text
from unlabeledasd.runs.folder import Run

LEAST_WINDOWS = 16  # two of the smallest batches
MOST_WINDOWS = 2000  # more are drawn from: hours of training add less than they cost
LEAST_STEPS = 12  # of an epoch, as in method=best_0256_1024_4096


class Windows(Dataset):
    """Windows (n_samples,) float32 in a file, with their class; places as `recording@number`."""

    def __init__(self, waves: np.ndarray, classes: np.ndarray, places: Sequence[str]):
        self.waves, self.classes = waves, classes
        self.paths, self.n_samples = list(places), waves.shape[1]

    def __len__(self) -> int:
        return len(self.waves)

    def __getitem__(self, item: tuple[int, float]) -> tuple[np.ndarray, int]:
        return np.array(self.waves[item[0]]), self.classes[item[0]]


class WindowBatches(ClipBatches):
    """Batches of windows in an order given by the seed and the epoch."""

    def __init__(self, dataset: Windows, batch_size: int, seed: int):
        batch_size = fitting_batch(batch_size, len(dataset), LEAST_STEPS)
        sampler = ShuffledClips(len(dataset), batch_size, seed)
        super().__init__(dataset, sampler, batch_size, num_workers=0, cache_gb=0)  # type: ignore

    def fill_cache(self, device: torch.device) -> None:
        """Windows are no clips that the cache could read."""


def begin(run: Run, mark: str | None) -> None:
    """Remove what an interrupted training left, unless it was of the same `mark`.

    mark: of settings and recordings; None: nothing is trained now.
    """
    file = run.all / "training"
    before = file.read_text(encoding="utf-8") if file.is_file() else None
    if before not in (None, mark):
        run.clear()
        file.unlink()
    if before == mark and run.last_checkpoint.is_file():
        print("resuming an interrupted training of the same recordings")
    if mark is not None:
        write_text(file, mark)


def choose_windows(references: pd.DataFrame, seed: int = 0) -> np.ndarray:
    """Rows to train on: all, or MOST_WINDOWS of them; InputError where they are too few."""
    count = len(references)
    if count < LEAST_WINDOWS:
        raise InputError(
            f"--train: {count} windows to train on, at least {LEAST_WINDOWS} are needed; give more "
            "recordings or a higher rate, or leave --train out: the spectral method needs no "
            "training"
        )
    rows = np.random.default_rng(seed).permutation(count)[:MOST_WINDOWS]
    return np.sort(rows)


def read_windows(
    file: Path,
    chosen: pd.DataFrame,
    facts: dict[str, Facts],
    n_samples: int,
    sample_rate: int,
    channel: Channel,
) -> np.ndarray:
    """Windows (N, n_samples) float32 in `file`, those of the rows of `chosen`, in their order.

    chosen: columns recording and place, the number of the window in its recording, ascending.
    """
    shape = len(chosen), n_samples
    waves = np.lib.format.open_memmap(file, mode="w+", dtype=np.float32, shape=shape)
    row = 0
    groups = chosen.groupby("recording", sort=False).place
    for recording, places in tqdm(groups, desc="reading", unit="file", leave=False, disable=None):
        one = None if facts[recording].channels == 1 else channel
        blocks = read_blocks(Path(recording), sample_rate, one)
        wanted, last = set(places), places.iloc[-1]
        pieces = islice(windows(blocks, n_samples, n_samples // 2), last + 1)
        for place, (_, wave) in enumerate(pieces):
            if place in wanted:
                waves[row] = wave
                row += 1
    if row < len(chosen):
        raise InputError(f"{recording}: has become shorter; call src/learn.py again")
    return waves
