"""Embeddings from spectra alone: nothing is trained, and no weights are needed.

Both modules have the contract of an extractor: `n_samples`, `embedding_size`, `part_names`, and
waveforms (B, T), T = n_samples -> (embedding (B, bands, D), list of the bands, (B, D) each). Values
are in dB.

Scorers compare embeddings by their angle. The first dimension of each band is the constant ANCHOR,
which is large against the others, so that angles between embeddings follow their Euclidean
distances: 1 - cos = |x - y|^2 / (2 ANCHOR^2), nearly.
"""

import warnings
from collections.abc import Sequence
from itertools import pairwise

import librosa
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unlabeledasd.errors import InputError
from unlabeledasd.spectra import StftMagnitude

ANCHOR = 1000.0  # dB
FLOOR = 1e-10  # power per bin, about that of the rounding to 16 bits
STATISTICS = ("mean", "std", "max")


def band_names(edges: np.ndarray) -> list[str]:
    """Names of the bands between edges in Hz, for example "0.5-1.2 kHz"."""
    return [f"{low / 1000:.2g}-{high / 1000:.2g} kHz" for low, high in pairwise(edges)]


def decibel(power: Tensor) -> Tensor:
    """10 log10 of the power, from -100 dB."""
    return 10 * power.clamp(min=FLOOR).log10()


class SpectralEmbedding(nn.Module):
    """Base: power spectrogram -> `describe` -> the anchor in front of each band."""

    embedding_size: int  # of all bands together

    def __init__(self, n_fft: int, clip_seconds: float, sample_rate: int):
        super().__init__()
        self.n_samples = round(clip_seconds * sample_rate)
        if self.n_samples < n_fft:
            raise InputError(
                f"clip_seconds={clip_seconds}: at least {n_fft / sample_rate:g} for n_fft={n_fft}"
            )
        self.stft = StftMagnitude(n_fft, sample_rate, (0, sample_rate / 2))

    def forward(self, wave: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Waveforms (B, n_samples) float -> (embedding (B, bands, D), its bands)."""
        if wave.dim() != 2 or wave.shape[1] != self.n_samples:
            shape = tuple(wave.shape)
            raise InputError(f"waveforms of shape {shape}: expected (batch, {self.n_samples})")
        with torch.autocast(wave.device.type, enabled=False):
            return self.embed(self.stft(wave.float()))

    def embed(self, stft: Tensor) -> tuple[Tensor, list[Tensor]]:
        """STFT magnitudes (B, F, frames) -> (embedding (B, bands, D), its bands)."""
        embedding = F.pad(self.describe(stft.square()), (1, 0), value=ANCHOR)
        return embedding, list(embedding.unbind(1))

    def describe(self, power: Tensor) -> Tensor:
        """Power (B, F, frames) -> values in dB (B, bands, D - 1)."""
        raise NotImplementedError


class LogMelStatistics(SpectralEmbedding):
    """Statistics over time of a mel spectrogram in dB, in `n_bands` groups of neighbouring mels.

    statistics: any of mean, std, max, each a value per mel. level_removed: subtract the mean of
    the clip's spectrogram over mels and time, so that loudness does not count.
    """

    mel: Tensor  # (n_mels, F)

    def __init__(
        self,
        statistics: Sequence[str] = ("mean", "std"),
        level_removed: bool = True,
        n_mels: int = 128,
        n_bands: int = 8,
        n_fft: int = 1024,
        clip_seconds: float = 18,
        sample_rate: int = 16000,
    ):
        super().__init__(n_fft, clip_seconds, sample_rate)
        if not statistics or not set(statistics) <= set(STATISTICS):
            raise InputError(
                f"statistics={list(statistics)}: allowed are {', '.join(STATISTICS)}, at least one"
            )
        if n_bands < 1 or n_mels % n_bands:
            raise InputError(f"n_bands={n_bands}: n_mels={n_mels} must be a multiple of it")
        self.statistics, self.level_removed = list(statistics), level_removed
        self.n_bands = n_bands
        self.embedding_size = n_bands * (1 + len(self.statistics) * n_mels // n_bands)
        self.register_buffer("mel", mel_filters(n_mels, n_fft, sample_rate), persistent=False)
        centers = librosa.mel_frequencies(n_mels + 2, fmax=sample_rate / 2)
        between = (centers[:-1] + centers[1:]) / 2  # neighbouring filters are equal there
        self.part_names = band_names(between[:: n_mels // n_bands])

    def describe(self, power: Tensor) -> Tensor:
        level = decibel(self.mel @ power)  # (B, n_mels, frames)
        if self.level_removed:
            level = level - level.mean((1, 2), keepdim=True)
        of_statistic = {
            "mean": lambda x: x.mean(-1),
            "std": lambda x: x.std(-1, correction=0),
            "max": lambda x: x.amax(-1),
        }
        values = [of_statistic[name](level) for name in self.statistics]  # (B, n_mels) each
        bands = [value.unflatten(1, (self.n_bands, -1)) for value in values]
        return torch.cat(bands, dim=2)


class PowerSpectrum(SpectralEmbedding):
    """Mean power over time in `n_values` frequency intervals of equal ratio, in dB.

    A long window (n_fft 8192: 2 Hz at 16 kHz) separates close lines of rotating machines. An
    interval that is narrower than a frequency bin takes the power of the bins that it lies in.
    level_removed: subtract the mean of the values, so that loudness does not count.
    """

    intervals: Tensor  # (n_values, F)

    def __init__(
        self,
        level_removed: bool = True,
        n_values: int = 96,
        n_bands: int = 1,
        n_fft: int = 8192,
        range_hz: Sequence[float] = (10, 4000),
        clip_seconds: float = 18,
        sample_rate: int = 16000,
    ):
        super().__init__(n_fft, clip_seconds, sample_rate)
        low, high = range_hz
        if not 0 < low < high <= sample_rate / 2:
            raise InputError(
                f"range_hz={list(range_hz)}: ascending, above 0 and at most {sample_rate / 2:g}"
            )
        if n_bands < 1 or n_values % n_bands:
            raise InputError(f"n_bands={n_bands}: n_values={n_values} must be a multiple of it")
        self.level_removed, self.n_bands = level_removed, n_bands
        self.embedding_size = n_values + n_bands
        edges = np.geomspace(low, high, n_values + 1)
        self.part_names = band_names(edges[:: n_values // n_bands])
        self.register_buffer(
            "intervals", interval_means(edges, n_fft, sample_rate), persistent=False
        )

    def describe(self, power: Tensor) -> Tensor:
        level = decibel(power.mean(-1) @ self.intervals.T)  # (B, n_values)
        if self.level_removed:
            level = level - level.mean(1, keepdim=True)
        return level.unflatten(1, (self.n_bands, -1))


def mel_filters(n_mels: int, n_fft: int, sample_rate: int) -> Tensor:
    """Triangular filters (n_mels, n_fft / 2 + 1) on Slaney's mel scale, each of sum 1.

    InputError where a filter lies between two frequency bins.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about empty filters
        filters = librosa.filters.mel(sr=sample_rate, n_fft=n_fft, n_mels=n_mels, norm=1)
    if not filters.any(axis=1).all():
        raise InputError(f"n_mels={n_mels}: too many for the frequency bins of n_fft={n_fft}")
    return torch.from_numpy(filters.astype(np.float32))


def interval_means(edges: np.ndarray, n_fft: int, sample_rate: int) -> Tensor:
    """Weights (n_values, n_fft / 2 + 1) of the mean power between neighbouring edges in Hz.

    Bin k stands for the frequencies (k - 1/2) to (k + 1/2) times sample_rate / n_fft.
    """
    centers = np.arange(n_fft // 2 + 1)
    scaled = edges[:, None] * n_fft / sample_rate  # in bins
    upper = np.minimum(scaled[1:], centers + 0.5)
    lower = np.maximum(scaled[:-1], centers - 0.5)
    overlap = np.maximum(upper - lower, 0)
    return torch.from_numpy((overlap / np.diff(scaled, axis=0)).astype(np.float32))
