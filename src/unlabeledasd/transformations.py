"""Changes of a waveform, each a class of its own where clips have no other classes.

Each takes waveforms (N, T) float and a generator, and returns the same shape on the same device.
"""

import math

import torch
from torch import Generator, Tensor

from unlabeledasd.errors import check_range


class Filtered:
    """A random filter for each clip: gains at `n_knots` frequencies, between them linear in dB.

    Gains are uniform from -most_db to most_db. The knots have equal ratios, from 1/64 of the
    highest frequency to the highest; what is below the lowest knot has its gain.
    """

    OCTAVES = 6

    def __init__(self, most_db: float = 12.0, n_knots: int = 8):
        check_range("most_db", most_db, 0)
        check_range("n_knots", n_knots, 2)
        self.most_db, self.n_knots = most_db, n_knots

    def __call__(self, wave: Tensor, generator: Generator) -> Tensor:
        draws = torch.rand(len(wave), self.n_knots, generator=generator, device=wave.device)
        gains = self.most_db * (2 * draws - 1)
        spectrum = torch.fft.rfft(wave)
        share = torch.linspace(0, 1, spectrum.shape[1], device=wave.device)  # of the highest
        octaves = share.clamp(min=2.0**-self.OCTAVES).log2() + self.OCTAVES
        place = octaves / self.OCTAVES * (self.n_knots - 1)
        lower = place.long().clamp(max=self.n_knots - 2)
        gain = torch.lerp(gains[:, lower], gains[:, lower + 1], place - lower)
        return torch.fft.irfft(spectrum * 10 ** (gain / 20), n=wave.shape[1])


class Resampled:
    """The clip played `rate` times as fast, and from its beginning again: pitch and tempo rise."""

    def __init__(self, rate: float):
        check_range("rate", rate, 0.5, 2)
        self.rate = rate

    def __call__(self, wave: Tensor, generator: Generator) -> Tensor:
        length = wave.shape[1]
        played = 100 * max(1, round(length / self.rate / 100))  # a length with a fast transform
        resampled = torch.fft.irfft(torch.fft.rfft(wave), n=played) * (played / length)
        return resampled.repeat(1, -(-length // played))[:, :length]


class Stretched:
    """The tempo `rate` times as high at the same pitch, and from its beginning again.

    A phase vocoder: the phase of each bin advances as it does between the frames of the clip.
    """

    def __init__(self, rate: float, n_fft: int = 1024):
        check_range("rate", rate, 0.5, 2)
        check_range("n_fft", n_fft, 32)
        self.rate, self.n_fft = rate, n_fft

    def __call__(self, wave: Tensor, generator: Generator) -> Tensor:
        hop, window = self.n_fft // 4, torch.hann_window(self.n_fft, device=wave.device)
        frames = torch.stft(wave, self.n_fft, hop, window=window, return_complex=True)
        count = frames.shape[2]
        place = torch.arange(count, dtype=wave.dtype, device=wave.device)
        place = place * self.rate % (count - 1)
        before = place.long()
        now, later = frames[:, :, before], frames[:, :, before + 1]
        magnitude = torch.lerp(now.abs(), later.abs(), place - before)
        bins = torch.arange(frames.shape[1], device=wave.device)[:, None]
        expected = 2 * math.pi * hop / self.n_fft * bins  # of the middle of the bin
        turn = later.angle() - now.angle() - expected
        advance = expected + turn - 2 * math.pi * torch.round(turn / (2 * math.pi))
        phase = torch.cat([now[:, :, :1].angle(), advance[:, :, :-1]], dim=2).cumsum(2)
        stretched = torch.polar(magnitude, phase)
        return torch.istft(stretched, self.n_fft, hop, window=window, length=wave.shape[1])
