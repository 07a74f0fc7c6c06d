"""Spectra of a waveform, the two kinds of input of the feature extractor (arXiv 2409.09332, section III)."""

from collections.abc import Sequence

import torch
import torchaudio
from torch import Tensor, nn

from unlabeledasd.errors import InputError


def spectrum_magnitude(wave: Tensor) -> Tensor:
    """|rfft| of the whole clip, unscaled, no logarithm: (B, T) -> (B, T // 2 + 1)."""
    return torch.fft.rfft(wave).abs()


class StftMagnitude(nn.Module):
    """STFT magnitude: (B, T) -> (B, F, frames), frames = T // (n_fft / 2) + 1.

    Periodic Hann window, hop n_fft / 2, centred with reflect padding, divided by the window's energy
    sqrt(sum w^2); only the F frequency bins with band_hz[0] <= f <= band_hz[1]; no logarithm.
    """

    def __init__(self, n_fft: int, sample_rate: int = 16000, band_hz: Sequence[float] = (200, 8000)):
        super().__init__()
        low, high = band_hz
        frequencies = torch.arange(n_fft // 2 + 1, dtype=torch.float64) * sample_rate / n_fft
        bins = torch.nonzero((frequencies >= low) & (frequencies <= high)).flatten()
        if len(bins) == 0:
            raise InputError(f"band_hz={list(band_hz)}: no frequency bin of n_fft={n_fft} lies in it")
        self.first, self.n_bins = int(bins[0]), len(bins)  # the band is one slice
        self.stft = torchaudio.transforms.Spectrogram(n_fft, hop_length=n_fft // 2, power=1, normalized=True)

    def forward(self, wave: Tensor) -> Tensor:
        return self.stft(wave).narrow(-2, self.first, self.n_bins)
