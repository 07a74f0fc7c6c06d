"""Changes of a waveform, each a class of its own where clips have no other classes.

Each takes waveforms (N, T) float and a generator, and returns the same shape on the same device.
"""

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

    Grains of `grain` samples, which overlap by half, are taken `rate` times as far apart as they
    are put together (a phase vocoder would wait for a GPU, and sum without an order there).
    """

    def __init__(self, rate: float, grain: int = 1024):
        check_range("rate", rate, 0.5, 2)
        check_range("grain", grain, 32)
        self.rate, self.hop = rate, grain // 2

    def __call__(self, wave: Tensor, generator: Generator) -> Tensor:
        length, hop, device = wave.shape[1], self.hop, wave.device
        count = 2 * -(-(length + hop) // (2 * hop))  # the first begins half a grain before the clip
        starts = (hop * self.rate * torch.arange(-1, count - 1, device=device)).long()
        places = starts[:, None] + torch.arange(2 * hop, device=device)
        window = torch.hann_window(2 * hop, device=device)  # and the next one: 1 in sum
        grains = wave[:, places % length] * window  # (N, count, 2 hop)
        even, odd = grains[:, ::2].flatten(1), grains[:, 1::2].flatten(1)
        return even[:, hop : hop + length] + odd[:, :length]
