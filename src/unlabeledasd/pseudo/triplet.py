"""The triplet extractor for pseudo-labels (arXiv 2409.09332, section III-C)."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.optim import Optimizer
from torch.utils.data import Sampler

from unlabeledasd.audio.two_channels import Channel
from unlabeledasd.data import ClipBatches, ClipDataset, tiled_window
from unlabeledasd.errors import InputError, check_range
from unlabeledasd.modules import MakeOptimizer
from unlabeledasd.networks import BRANCH_SIZE, StftBranch
from unlabeledasd.waveforms import to_float


class TripletNet(StftBranch):
    """The extractor of the triplet pseudo-labels: one STFT branch, the mean over time removed.

    Waveforms (B, T), T = clip_seconds x sample_rate -> (embedding (B, 128), [embedding]).
    """

    def __init__(
        self,
        n_fft: int = 1024,
        clip_seconds: float = 18,
        sample_rate: int = 16000,
        band_hz: Sequence[float] = (200, 8000),
    ):
        check_range("n_fft", n_fft, 32, 2**16)
        super().__init__(n_fft, sample_rate, band_hz, time_mean_removed=True)
        self.n_samples = round(clip_seconds * sample_rate)
        self.embedding_size = BRANCH_SIZE

    def forward(self, wave: Tensor) -> tuple[Tensor, list[Tensor]]:  # type: ignore[override]
        embedding = super().forward(wave)
        return embedding, [embedding]


class TripletClips(Sampler):
    """Batches of which one half are clips of the machine, the other half clips of other machines.

    An epoch takes every clip of the machine once, and equally many others from a shuffled order,
    which is shuffled again when it is used up. The last batch is smaller, half and half too, and
    left out if it has a single clip of the machine: another one is needed as a negative.
    Clips of the machine have the indices 0 ... n_machine - 1, others follow.
    """

    def __init__(self, n_machine: int, n_others: int, batch_size: int, seed: int):
        check_range("seed", seed, 0)
        self.n_machine = n_machine
        self.n_others = n_others
        self.half = batch_size // 2
        self.seed = seed
        self.epoch = 0

    def __len__(self) -> int:
        return 2 * (self.n_machine - (self.n_machine % self.half == 1))

    def set_epoch(self, epoch: int) -> None:  # called by Lightning before each epoch
        self.epoch = epoch

    def __iter__(self) -> Iterator[tuple[int, float]]:
        rng = np.random.default_rng((self.seed, self.epoch))
        n_pairs = len(self) // 2
        machine = rng.permutation(self.n_machine)[:n_pairs]
        rounds = [rng.permutation(self.n_others) for _ in range(-(-n_pairs // self.n_others))]
        others = self.n_machine + np.concatenate(rounds)[:n_pairs]
        for start in range(0, n_pairs, self.half):
            batch = [*machine[start : start + self.half], *others[start : start + self.half]]
            yield from zip(map(int, batch), rng.random(len(batch)).tolist(), strict=True)


class TripletDataModule(ClipBatches):
    """Batches of one machine (class 1) and all others, random windows of their repetition."""

    def __init__(
        self,
        root: str | Path,
        table: pd.DataFrame,
        machine: str,
        n_samples: int,
        channel: Channel = None,
        batch_size: int = 64,
        num_workers: int = 0,
        cache_gb: float = 8.0,
        seed: int = 0,
    ):
        if batch_size < 4 or batch_size % 2:
            reason = "an even number from 4, half of it clips of the machine"
            raise InputError(f"batch_size={batch_size}: {reason}")
        training = table[table.split == "train"]
        own = training.path[training.machine == machine].tolist()
        others = training.path[training.machine != machine].tolist()
        if len(own) < 2 or not others:
            counts = f"{len(own)} training clips of it and {len(others)} of other machines"
            machines = ", ".join(table.machine.unique())
            needed = f"at least 2 and 1 are needed (machines: {machines})"
            raise InputError(f"machine={machine}: {counts}; {needed}")
        classes = np.array([1] * len(own) + [0] * len(others))
        dataset = ClipDataset(Path(root), own + others, classes, n_samples, channel, tiled_window)
        sampler = TripletClips(len(own), len(others), batch_size, seed)
        super().__init__(dataset, sampler, batch_size, num_workers, cache_gb)


class TripletModule(pl.LightningModule):
    """Triplet loss for pseudo-labels of one machine (arXiv 2409.09332, section III-C).

    Of a batch (waveforms (2 N, T), class (2 N,)) the first N clips x are of the machine, the others
    are noise n. All are magnitude spectrograms without their mean over time.
    Anchor: x, or x + n with probability `noise_prob`. Positive: x + n', n' permuted. Negative: half
    of the batch x stretched in time or frequency, half another clip of the machine; with the n of
    the anchor added, by a decision and at an SNR of its own, so that noise distinguishes nothing.
    """

    def __init__(
        self,
        extractor: TripletNet,
        optimizer: MakeOptimizer,
        margin: float = 1.0,
        noise_prob: float = 0.5,
        snr_db: Sequence[float] = (-5, 5),
        stretch_ratios: Sequence[Sequence[float]] = ((0.5, 0.8), (1.2, 1.5)),
        seed: int = 0,
    ):
        super().__init__()
        check_range("margin", margin, 0)
        check_range("noise_prob", noise_prob, 0, 1)
        for interval in stretch_ratios:
            check_range("stretch_ratios", interval, 0.01, 100)
        self.extractor = extractor
        self.make_optimizer = optimizer
        self.margin, self.noise_prob = margin, noise_prob
        self.snr_db, self.stretch_ratios = snr_db, stretch_ratios
        self.seed = seed

    def configure_optimizers(self) -> Optimizer:
        return self.make_optimizer(self.parameters())

    def on_train_epoch_start(self) -> None:
        # on the CPU: the ratios of stretching are sizes, which a GPU would have to copy back
        self.generator = torch.Generator().manual_seed(self.seed * 100_003 + self.current_epoch)

    def training_step(self, batch: tuple[Tensor, Tensor], _: int) -> Tensor:
        x, noise = self.extractor.centered(self.extractor.stft(to_float(batch[0]))).chunk(2)
        # three passes: each of the three is normalised by its own batch statistics
        anchor, positive, negative = map(self.extractor.encoder, self.triplet(x, noise))
        loss = F.triplet_margin_loss(anchor, positive, negative, margin=self.margin)
        self.log("loss", loss, on_step=True, on_epoch=True, batch_size=len(x))
        return loss

    def triplet(self, x: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """x, noise (N, F, frames) -> anchor, positive, negative of the same shape."""
        size = len(x)
        anchor = self.add_noise(x, noise, self.noise_prob)
        positive = self.add_noise(x, noise[self.permutation(size)], 1.0)
        shift = int(torch.randint(1, size, (1,), generator=self.generator))
        negative = x.roll(shift, dims=0)  # another clip of the machine
        for i in self.permutation(size)[: size // 2].tolist():
            interval, axis = torch.randint(2, (2,), generator=self.generator).tolist()
            low, high = self.stretch_ratios[interval]
            ratio = low + (high - low) * torch.rand(1, generator=self.generator).item()
            negative[i] = stretch(x[i], ratio, axis)
        return anchor, positive, self.add_noise(negative, noise, self.noise_prob)

    def permutation(self, size: int) -> Tensor:
        return torch.randperm(size, generator=self.generator)

    def add_noise(self, x: Tensor, noise: Tensor, prob: float) -> Tensor:
        low, high = self.snr_db
        snr_db = low + (high - low) * torch.rand(len(x), generator=self.generator)
        noisy = torch.rand(len(x), 1, 1, generator=self.generator) < prob
        return torch.where(noisy.to(x.device), mix_at_snr(x, noise, snr_db.to(x.device)), x)


def mix_at_snr(signal: Tensor, noise: Tensor, snr_db: Tensor) -> Tensor:
    """signal + g noise with a power ratio of snr_db (B,), magnitude spectrograms (B, F, frames)."""
    power, noise_power = (x.square().mean((1, 2)) for x in (signal, noise))
    # the least power: far below one bit of one sample, but silence gets a finite gain
    gain = (power / noise_power.clamp_min(1e-20) / 10 ** (snr_db / 10)).sqrt()
    return signal + gain[:, None, None] * noise


def stretch(spectrogram: Tensor, ratio: float, axis: int) -> Tensor:
    """Stretch a spectrogram (F, frames) by `ratio` in frequency (axis 0) or time (axis 1).

    The result has the same shape. Bilinear with antialiasing, to int(length x ratio) positions.
    What gets longer is cropped; what gets shorter is repeated from its start in time, and padded
    with zeros above in frequency.
    """
    size = list(spectrogram.shape)
    length = size[axis]
    size[axis] = int(length * ratio)
    stretched = F.interpolate(spectrogram[None, None], size, mode="bilinear", antialias=True)[0, 0]
    if axis == 1:
        return stretched.repeat(1, -(-length // size[1]))[:, :length]
    return F.pad(stretched, (0, 0, 0, max(0, length - size[0])))[:length]
