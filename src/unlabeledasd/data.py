"""Batches of clips for training and for embedding."""

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from unlabeledasd.audio.two_channels import Channel, last_channel
from unlabeledasd.cache import ClipCache
from unlabeledasd.errors import InputError, check_range
from unlabeledasd.labels import Labels
from unlabeledasd.waveforms import fit_length, read_clip, tiled_window, to_float


class ClipDataset(Dataset):
    """Clips of `root` as waveforms (n_samples,) with their class index.

    The key of an item is (index, position): position in [0, 1) places the window in a longer
    clip. The sampler draws it, so that batches do not depend on the number of workers.
    channel: counted from 0; near, far, w1 (audio/two_channels); None for mono clips.
    fit: fit_length or tiled_window of waveforms.
    """

    def __init__(
        self,
        root: Path,
        paths: list[str],
        classes: np.ndarray,
        n_samples: int,
        channel: Channel = None,
        fit: Callable[[np.ndarray, int, float], np.ndarray] = fit_length,
    ):
        last_channel(channel)  # checks it
        self.root = root
        self.paths = paths
        self.classes = classes
        self.n_samples = n_samples
        self.channel = channel
        self.fit = fit

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, item: tuple[int, float]) -> tuple[np.ndarray, int]:
        index, position = item
        wave = read_clip(self.root / self.paths[index], self.channel)
        return self.fit(wave, self.n_samples, position), self.classes[index]


def collate(items: list[tuple[np.ndarray, int]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Waveforms (B, T), int16 unless a clip is stored otherwise, and class indices (B,)."""
    waves = [torch.from_numpy(wave) for wave, _ in items]
    if any(wave.is_floating_point() for wave in waves):
        waves = [to_float(wave) for wave in waves]
    return torch.stack(waves), torch.tensor([label for _, label in items])


class ShuffledClips(Sampler):
    """Every clip once per epoch, in an order given by seed and epoch, with its window's position.

    The last partial batch is kept unless it is a single clip: batch norm cannot take it.
    """

    def __init__(self, n_clips: int, batch_size: int, seed: int):
        check_range("seed", seed, 0)
        self.n_clips = n_clips
        self.batch_size = batch_size
        self.seed = seed
        self.epoch = 0

    def __len__(self) -> int:
        return self.n_clips - (self.n_clips % self.batch_size == 1)

    def set_epoch(self, epoch: int) -> None:  # called by Lightning before each epoch
        self.epoch = epoch

    def __iter__(self) -> Iterator[tuple[int, float]]:
        rng = np.random.default_rng((self.seed, self.epoch))
        order, positions = rng.permutation(self.n_clips), rng.random(self.n_clips)
        yield from zip(order[: len(self)].tolist(), positions.tolist(), strict=False)


SHARED_MEMORY = Path("/dev/shm")
LEAST_BATCH = 8  # clips, whose statistics batch norm still takes
BATCHES_OF_A_WORKER = 3  # two that wait, as torch sets it, and one in the making


def fitting_workers(num_workers: int, batch_size: int, n_samples: int) -> int:
    """At most `num_workers`, as many as have room in shared memory for their batches.

    Without room a worker dies or waits forever: containers often have 64 MB. Results do not depend
    on the number of workers.
    """
    if not num_workers or sys.platform != "linux":
        return num_workers
    free = free_bytes(SHARED_MEMORY)
    need = BATCHES_OF_A_WORKER * batch_size * n_samples * 4  # bytes of float32
    fitting = min(num_workers, free // need)
    if fitting < num_workers:
        print(
            f"note: num_workers={num_workers}: {SHARED_MEMORY} has {free / 1e6:.0f} MB free, "
            f"{num_workers * need / 1e6:.0f} MB are needed; {fitting} used (docker run --shm-size)"
        )
    return fitting


def free_bytes(folder: Path) -> int:
    """Of the file system of `folder`; 0 where it does not exist."""
    if not folder.is_dir():
        return 0
    status = os.statvfs(folder)
    return status.f_bavail * status.f_frsize


def fitting_batch(batch_size: int, n_clips: int, least_steps: int) -> int:
    """`batch_size`, or fewer clips where an epoch would have fewer than `least_steps` batches."""
    if not least_steps:
        return batch_size
    return min(batch_size, max(LEAST_BATCH, n_clips // least_steps))


class ClipBatches(pl.LightningDataModule):
    """Batches (waveforms, class indices) of a dataset in a sampler's order.

    On a device other than the CPU up to `cache_gb` of 16-bit clips are kept there, and windows
    are cut there. (On a CPU the operating system keeps the files that it has read in memory.)
    """

    def __init__(
        self,
        dataset: ClipDataset,
        sampler: Sampler,
        batch_size: int,
        num_workers: int,
        cache_gb: float,
    ):
        super().__init__()
        check_range("num_workers", num_workers, 0)
        check_range("cache_gb", cache_gb, 0)
        self.dataset = dataset
        self.sampler = sampler
        self.batch_size = batch_size
        self.num_workers = num_workers
        self.cache_gb = cache_gb
        self.cache: ClipCache | None = None

    def train_dataloader(self) -> DataLoader:
        device = self.trainer.strategy.root_device if self.trainer else torch.device("cpu")
        if self.cache is None and device.type != "cpu":
            self.fill_cache(device)
        if self.cache:
            return DataLoader(Places(self.dataset.classes), self.batch_size, sampler=self.sampler)
        n_workers = fitting_workers(self.num_workers, self.batch_size, self.dataset.n_samples)
        return DataLoader(
            self.dataset,
            self.batch_size,
            sampler=self.sampler,
            collate_fn=collate,
            num_workers=n_workers,
            persistent_workers=n_workers > 0,
            pin_memory=device.type == "cuda",
        )

    def fill_cache(self, device: torch.device) -> None:
        clips, most_bytes = self.dataset, 1e9 * self.cache_gb
        self.cache = ClipCache.read(clips.root, clips.paths, clips.channel, device, most_bytes)

    def teardown(self, stage: str) -> None:  # called by Lightning: scoring needs the memory
        self.cache = None

    def transfer_batch_to_device(
        self, batch: Any, device: torch.device, dataloader_idx: int
    ) -> tuple[Tensor, Tensor]:
        if self.cache is None:
            return super().transfer_batch_to_device(batch, device, dataloader_idx)
        index, position, classes = batch
        tiled = self.dataset.fit is tiled_window
        waves = self.cache.windows(index, position, self.dataset.n_samples, tiled)
        return waves, classes.to(device, non_blocking=True)


class Places(Dataset):
    """The item (index, position) with its class, in place of its waveform."""

    def __init__(self, classes: np.ndarray):
        self.classes = classes

    def __getitem__(self, item: tuple[int, float]) -> tuple[int, float, int]:
        return (*item, self.classes[item[0]])


class ClipDataModule(ClipBatches):
    """The training clips of all machines together, in shuffled batches.

    least_steps: where there are fewer batches of `batch_size` than that, batches are smaller, down
    to LEAST_BATCH clips; 0: never.
    """

    def __init__(
        self,
        root: str | Path,
        table: pd.DataFrame,
        labels: Labels,
        n_samples: int,
        channel: Channel = None,
        batch_size: int = 64,
        num_workers: int = 0,
        cache_gb: float = 8.0,
        seed: int = 0,
        least_steps: int = 0,
    ):
        if batch_size < 2:
            reason = "at least 2, batch norm cannot take a single clip"
            raise InputError(f"batch_size={batch_size}: {reason}")
        check_range("least_steps", least_steps, 0)
        paths = table.path[table.split == "train"].tolist()
        if len(paths) < 2:
            raise InputError(f"{root}: {len(paths)} training clip(s), at least 2 are needed")
        batch_size = fitting_batch(batch_size, len(paths), least_steps)
        dataset = ClipDataset(Path(root), paths, labels.of(paths), n_samples, channel)
        sampler = ShuffledClips(len(paths), batch_size, seed)
        super().__init__(dataset, sampler, batch_size, num_workers, cache_gb)
