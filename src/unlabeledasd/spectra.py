"""Spectra of a waveform: the inputs of the feature extractor (arXiv 2409.09332, section III)."""

from collections.abc import Sequence

import torch
import torchaudio
from torch import Tensor, nn

from unlabeledasd.errors import InputError, check_range


def magnitude(spectrum: Tensor) -> Tensor:
    """|z|, 3 times as fast as abs on a CPU; squares may not leave the range of their precision."""
    return spectrum.real.square().addcmul_(spectrum.imag, spectrum.imag).sqrt_()


def spectrum_magnitude(wave: Tensor) -> Tensor:
    """|rfft| of the whole clip, unscaled, no logarithm: (B, T) -> (B, T // 2 + 1)."""
    return magnitude(torch.fft.rfft(wave))


class StftMagnitude(nn.Module):
    """STFT magnitude: (B, T) -> (B, F, frames), frames = T // (n_fft / 2) + 1.

    Periodic Hann window, hop n_fft / 2, centred with reflect padding, divided by the window's
    energy sqrt(sum w^2), which `window` contains already; only the F frequency bins with
    band_hz[0] <= f <= band_hz[1]; no logarithm. In memory the frames come first.
    """

    def __init__(
        self, n_fft: int, sample_rate: int = 16000, band_hz: Sequence[float] = (200, 8000)
    ):
        super().__init__()
        check_range("n_fft", n_fft, 2, 2**16)
        check_range("sample_rate", sample_rate, 1)
        check_range("band_hz", band_hz, 0)
        low, high = band_hz
        frequencies = torch.arange(n_fft // 2 + 1, dtype=torch.float64) * sample_rate / n_fft
        bins = torch.nonzero((frequencies >= low) & (frequencies <= high)).flatten()
        if len(bins) == 0:
            raise InputError(f"band_hz={list(band_hz)}: contains no frequency bin of n_fft={n_fft}")
        self.n_fft = n_fft
        self.first = int(bins[0])  # the band is one slice
        self.n_bins = len(bins)
        window = torch.hann_window(n_fft, dtype=torch.float64)  # periodic
        window = (window / window.square().sum().sqrt()).float()
        self.register_buffer("window", window, persistent=False)

    def forward(self, wave: Tensor) -> Tensor:
        # some clips at a time: frames overlap, their complex spectra are 4 times as large
        return torch.cat([self.magnitudes(part) for part in wave.split(8)]).transpose(1, 2)

    def magnitudes(self, wave: Tensor) -> Tensor:
        """(B, T) -> (B, frames, F)."""
        hop = self.n_fft // 2
        spectrum = torchaudio.functional.spectrogram(
            wave, 0, self.window, self.n_fft, hop, self.n_fft, power=None, normalized=False
        )
        return magnitude(spectrum.mT[..., self.first : self.first + self.n_bins])
