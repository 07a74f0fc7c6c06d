"""Batches of clips for training and for embedding."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from unlabeledasd.errors import InputError
from unlabeledasd.labels import Labels
from unlabeledasd.waveforms import fit_length, read_clip, to_float


class ClipDataset(Dataset):
    """Clips of `root` as waveforms of n_samples with their class index.

    An item is asked for by (index, position): position in [0, 1) places the window in a longer clip. The
    sampler draws it, so that the batches do not depend on the number of workers.
    """

    def __init__(self, root: Path, paths: list[str], classes: np.ndarray, n_samples: int, channel: int | None = None):
        self.root, self.paths, self.classes = root, paths, classes
        self.n_samples, self.channel = n_samples, channel

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, item: tuple[int, float]) -> tuple[np.ndarray, int]:
        index, position = item
        wave = read_clip(self.root / self.paths[index], self.channel)
        return fit_length(wave, self.n_samples, position), self.classes[index]


def collate(items: list[tuple[np.ndarray, int]]) -> tuple[torch.Tensor, torch.Tensor]:
    """-> waveforms (B, T), int16 unless a clip of the batch is stored otherwise, and class indices (B,)."""
    waves, classes = zip(*items, strict=True)
    waves = [torch.from_numpy(wave) for wave in waves]
    if any(wave.is_floating_point() for wave in waves):
        waves = [to_float(wave) for wave in waves]
    return torch.stack(waves), torch.tensor(classes)


class ShuffledClips(Sampler):
    """Every clip once per epoch, in an order given by seed and epoch, with the position of its window.

    The last partial batch is kept unless it is a single clip: batch norm cannot take it.
    """

    def __init__(self, n_clips: int, batch_size: int, seed: int):
        self.n_clips, self.batch_size, self.seed = n_clips, batch_size, seed
        self.epoch = 0

    def __len__(self) -> int:
        return self.n_clips - (self.n_clips % self.batch_size == 1)

    def set_epoch(self, epoch: int) -> None:  # called by Lightning before each epoch
        self.epoch = epoch

    def __iter__(self) -> Iterator[tuple[int, float]]:
        rng = np.random.default_rng((self.seed, self.epoch))
        order, positions = rng.permutation(self.n_clips), rng.random(self.n_clips)
        yield from zip(order[: len(self)].tolist(), positions.tolist(), strict=False)


class ClipDataModule(pl.LightningDataModule):
    """The training clips of all machines together, in shuffled batches."""

    def __init__(
        self,
        root: str | Path,
        table: pd.DataFrame,
        labels: Labels,
        n_samples: int,
        channel: int | None = None,
        batch_size: int = 64,
        num_workers: int = 0,
        seed: int = 0,
    ):
        super().__init__()
        if batch_size < 2:
            raise InputError(f"batch_size={batch_size}: at least 2, batch norm cannot take a single clip")
        paths = table.path[table.split == "train"].tolist()
        if len(paths) < 2:
            raise InputError(f"{root}: {len(paths)} training clip(s), at least 2 are needed")
        self.dataset = ClipDataset(Path(root), paths, labels.of(paths), n_samples, channel)
        self.batch_size, self.num_workers, self.seed = batch_size, num_workers, seed

    def train_dataloader(self) -> DataLoader:
        sampler = ShuffledClips(len(self.dataset), self.batch_size, self.seed)
        return DataLoader(self.dataset, self.batch_size, sampler=sampler, collate_fn=collate,
                          num_workers=self.num_workers, persistent_workers=self.num_workers > 0)  # fmt: skip
