"""The feature extractors of arXiv 2409.09332, section III, in PyTorch's own layers.

One branch on the spectrum of the whole clip and one per STFT resolution, 128 dimensions each. No
convolution or linear layer has a bias. Embeddings are raw: losses and scorers normalise them.
Shapes: B clips, F frequency bins; F' and F'' are what strided layers leave of them.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unlabeledasd.errors import InputError, check_range
from unlabeledasd.spectra import StftMagnitude, spectrum_magnitude

BRANCH_SIZE = 128  # dimensions of a branch's embedding
SPECTRUM_CONVS = ((256, 64), (64, 32), (16, 4))  # kernel, stride
STFT_STAGES = ((16, 1), (32, 2), (64, 2), (128, 2))  # channels, stride of the first block


class FullPrecision(nn.Sequential):
    """Layers that autocast leaves in the precision of their weights."""

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            return super().forward(x.to(next(self.parameters()).dtype))


class SqueezeExcitation(nn.Module):
    """(B, C, ...) -> the same, each channel times a gate in (0, 1) from all channels' means."""

    def __init__(self, channels: int, reduction: int = 16):
        super().__init__()
        self.squeeze = nn.Linear(channels, channels // reduction, bias=False)
        self.excite = nn.Linear(channels // reduction, channels, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        means = x.flatten(2).sum(2) / x.shape[2:].numel()  # (B, C), faster than mean() in bfloat16
        gates = torch.sigmoid(self.excite(F.relu(self.squeeze(means))))  # (B, C)
        return x * gates.view(*gates.shape, *[1] * (x.dim() - 2))


class SpectrumEncoder(nn.Module):
    """Magnitude spectrum of the whole clip (B, F) -> (B, 128)."""

    def __init__(self, n_bins: int):
        super().__init__()
        convs: list[nn.Module] = []
        channels, length = 1, n_bins
        for kernel, stride in SPECTRUM_CONVS:
            convs.append(nn.Conv1d(channels, BRANCH_SIZE, kernel, stride, bias=False))
            convs += [nn.ReLU(), SqueezeExcitation(BRANCH_SIZE)]
            channels, length = BRANCH_SIZE, (length - kernel) // stride + 1
        layers: list[nn.Module] = []
        size = BRANCH_SIZE * length
        for _ in range(5):
            layers.append(nn.Linear(size, BRANCH_SIZE, bias=False))
            layers += [nn.BatchNorm1d(BRANCH_SIZE), nn.ReLU()]
            size = BRANCH_SIZE
        self.convs = nn.Sequential(*convs)
        self.head = FullPrecision(*layers, nn.Linear(size, BRANCH_SIZE, bias=False))

    def forward(self, spectrum: Tensor) -> Tensor:
        x = self.convs(spectrum.unsqueeze(1))  # (B, 128, positions): 14 at 18 s
        return self.head(x.flatten(1))


class Stem(nn.Module):
    """The first layers of an STFT branch: magnitudes (B, F, frames) -> (B, C, frames'', F'')."""

    def __init__(self, n_bins: int, channels: int):
        super().__init__()
        self.bin_norm = nn.BatchNorm1d(n_bins)
        self.conv = nn.Conv2d(1, channels, 7, stride=2, bias=False)
        self.norm = nn.BatchNorm2d(channels)

    def forward(self, stft: Tensor) -> Tensor:
        image = self.bin_norm(stft).transpose(1, 2).unsqueeze(1)  # (B, 1, frames, F)
        x = F.relu(self.norm(self.conv(image)))  # (B, C, frames', F')
        return F.max_pool2d(x, 3, stride=2)


class ResidualBlock(nn.Module):
    """(B, C, H, W) -> (B, C', H / stride, W / stride), rounded up; both paths start from BN(x)."""

    def __init__(self, in_channels: int, channels: int, stride: int):
        super().__init__()
        self.norm1 = nn.BatchNorm2d(in_channels)
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.rescale = SqueezeExcitation(channels)
        self.skip: nn.Module = nn.Identity()
        if stride > 1:
            conv = nn.Conv2d(in_channels, channels, 1, bias=False)
            self.skip = nn.Sequential(nn.MaxPool2d(3, stride, padding=1), conv)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm1(x)
        out = self.conv1(F.relu(x))  # (B, C', H / stride, W / stride)
        out = self.conv2(F.relu(self.norm2(out)))
        return self.rescale(out) + self.skip(x)


class StftEncoder(nn.Module):
    """STFT magnitude (B, F, frames) -> (B, 128)."""

    def __init__(self, n_bins: int):
        super().__init__()
        channels = STFT_STAGES[0][0]
        self.stem = Stem(n_bins, channels)
        blocks: list[nn.Module] = []
        n_bins = ((n_bins - 7) // 2 + 1 - 3) // 2 + 1  # F'', what the stem leaves
        for out_channels, stride in STFT_STAGES:
            blocks.append(ResidualBlock(channels, out_channels, stride))
            blocks.append(ResidualBlock(out_channels, out_channels, 1))
            channels, n_bins = out_channels, -(-n_bins // stride)
        self.blocks = nn.Sequential(*blocks)
        size = channels * n_bins
        self.head = FullPrecision(nn.BatchNorm1d(size), nn.Linear(size, BRANCH_SIZE, bias=False))

    def forward(self, stft: Tensor) -> Tensor:
        x = self.blocks(self.stem(stft))  # (B, 128, time, frequency)
        return self.head(x.amax(2).flatten(1))  # max over time


class StftBranch(nn.Module):
    """Waveforms (B, T) -> (B, 128) by one STFT resolution.

    time_mean_removed: subtract from each frequency bin of a clip its mean over time.
    """

    def __init__(
        self,
        n_fft: int,
        sample_rate: int,
        band_hz: Sequence[float],
        time_mean_removed: bool = False,
    ):
        super().__init__()
        self.time_mean_removed = time_mean_removed
        self.stft = StftMagnitude(n_fft, sample_rate, band_hz)
        self.encoder = StftEncoder(self.stft.n_bins)

    def forward(self, wave: Tensor) -> Tensor:
        return self.encode(self.stft(wave))

    def encode(self, stft: Tensor) -> Tensor:
        """(B, F, frames) -> (B, 128)."""
        return self.encoder(self.centered(stft))

    def centered(self, stft: Tensor) -> Tensor:
        """(B, F, frames) -> the same; without its mean over time if `time_mean_removed`."""
        return stft - stft.mean(2, keepdim=True) if self.time_mean_removed else stft


class MultiResolutionNet(nn.Module):
    """Waveforms (B, T) -> (embedding (B, 128 (n + 1)), its n + 1 parts (B, 128) in a list).

    T = clip_seconds x sample_rate. The branches are the spectrum of the whole clip, then one STFT
    per entry of `n_ffts`, in the order given (larger first by convention). `time_mean_removed`
    lists the n_ffts whose frequency bins have their mean over time subtracted: none in the paper;
    [4096] gives what the authors' na_0256_1024_4096 computes.
    """

    def __init__(
        self,
        n_ffts: Sequence[int] = (4096, 256),
        clip_seconds: float = 18,
        sample_rate: int = 16000,
        band_hz: Sequence[float] = (200, 8000),
        time_mean_removed: Sequence[int] = (),
    ):
        super().__init__()
        check_range("n_ffts", n_ffts, 32, 2**16)
        check_range("sample_rate", sample_rate, 1)
        self.n_samples = round(clip_seconds * sample_rate)
        least = least_samples()
        if self.n_samples < least:
            seconds = -(-least * 1000 // sample_rate) / 1000
            raise InputError(
                f"clip_seconds={clip_seconds}: too short, the spectrum branch needs at least "
                f"{least:,} samples ({seconds:.3f} s at {sample_rate} Hz)"
            )
        unknown = sorted(set(time_mean_removed) - set(n_ffts))
        if unknown:
            raise InputError(f"time_mean_removed={unknown}: not among n_ffts={list(n_ffts)}")
        self.spectrum = SpectrumEncoder(self.n_samples // 2 + 1)
        self.stfts = nn.ModuleList(
            StftBranch(n_fft, sample_rate, band_hz, n_fft in time_mean_removed) for n_fft in n_ffts
        )
        self.n_branches = 1 + len(self.stfts)
        self.part_names = ["spectrum", *(f"n_fft {n_fft}" for n_fft in n_ffts)]
        self.embedding_size = BRANCH_SIZE * self.n_branches

    def forward(self, wave: Tensor) -> tuple[Tensor, list[Tensor]]:
        if wave.dim() != 2 or wave.shape[1] != self.n_samples:
            shape = tuple(wave.shape)
            raise InputError(f"waveforms of shape {shape}: expected (batch, {self.n_samples})")
        stfts = [branch.stft(wave) for branch in self.stfts]  # type: ignore[operator]
        branches = self.encode(spectrum_magnitude(wave), stfts)
        return torch.cat(branches, dim=1), branches

    def encode(self, spectrum: Tensor, stfts: Sequence[Tensor]) -> list[Tensor]:
        """Spectrum (B, F) and STFT magnitudes (B, F, frames) -> the parts of the embedding."""
        parts = [self.spectrum(spectrum)]
        for branch, stft in zip(self.stfts, stfts, strict=True):
            parts.append(branch.encode(stft))  # type: ignore[operator]
        return parts


def least_samples() -> int:
    """The shortest clip that leaves the spectrum branch one position after its convolutions."""
    n_bins = 1
    for kernel, stride in reversed(SPECTRUM_CONVS):
        n_bins = (n_bins - 1) * stride + kernel
    return 2 * (n_bins - 1)
