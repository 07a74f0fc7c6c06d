"""The feature extractor of arXiv 2409.09332: one branch on the whole-clip spectrum, one per STFT resolution.

No convolution or linear layer has a bias, and the embedding is returned raw: the losses and scorers normalise.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unlabeledasd.errors import InputError, check_range
from unlabeledasd.fast.residual import ResidualFunction, in_layout
from unlabeledasd.fast.stem import Stem
from unlabeledasd.spectra import StftMagnitude, spectrum_magnitude

BRANCH_SIZE = 128  # numbers per branch
SPECTRUM_CONVS = ((256, 64), (64, 32), (16, 4))  # kernel, stride


def in_full_precision(head: nn.Sequential, x: Tensor) -> Tensor:
    """head(x) without autocast: the last layers of a branch are cheap, and their digits are the scores'."""
    with torch.autocast(x.device.type, enabled=False):
        return head(x.to(head[-1].weight.dtype))


class SqueezeExcitation(nn.Module):
    """Rescales the channels of (B, C, ...) by gates in (0, 1) computed from their global means."""

    def __init__(self, channels: int, reduction: int = 16):
        super().__init__()
        self.squeeze = nn.Linear(channels, channels // reduction, bias=False)
        self.excite = nn.Linear(channels // reduction, channels, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        positions = tuple(range(2, x.dim()))
        # a sum and not a mean, whose gradient would be a tensor as large as x, in another memory layout
        means = x.sum(positions) / x.shape[2:].numel()
        gates = torch.sigmoid(self.excite(F.relu(self.squeeze(means))))  # (B, C)
        return x * gates.view(*gates.shape, *[1] * len(positions))


class SpectrumEncoder(nn.Module):
    """Whole-clip magnitude spectrum (B, n_bins) -> (B, 128)."""

    def __init__(self, n_bins: int):
        super().__init__()
        layers: list[nn.Module] = []
        channels, length = 1, n_bins
        for kernel, stride in SPECTRUM_CONVS:
            layers += [
                nn.Conv1d(channels, BRANCH_SIZE, kernel, stride, bias=False),
                nn.ReLU(),
                SqueezeExcitation(BRANCH_SIZE),
            ]
            channels, length = BRANCH_SIZE, (length - kernel) // stride + 1
        self.convs = nn.Sequential(*layers)
        layers, size = [], BRANCH_SIZE * length
        for _ in range(5):
            layers += [
                nn.Linear(size, BRANCH_SIZE, bias=False),
                nn.BatchNorm1d(BRANCH_SIZE),
                nn.ReLU(),
            ]
            size = BRANCH_SIZE
        self.head = nn.Sequential(*layers, nn.Linear(size, BRANCH_SIZE, bias=False))

    def forward(self, spectrum: Tensor) -> Tensor:
        return in_full_precision(self.head, self.convs(spectrum.unsqueeze(1)).flatten(1))


class ResidualBlock(nn.Module):
    """(B, C_in, frames, F) -> (B, C_out, ceil(frames / stride), ceil(F / stride)); both paths start from BN(x)."""

    def __init__(self, in_channels: int, out_channels: int, stride: int):
        super().__init__()
        self.norm = nn.BatchNorm2d(in_channels)
        self.conv = nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False)
        self.inner_norm = nn.BatchNorm2d(out_channels)
        self.inner_conv = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.rescale = SqueezeExcitation(out_channels)
        self.skip = (
            nn.Conv2d(in_channels, out_channels, 1, bias=False) if stride > 1 else nn.Identity()
        )

    def forward(self, x: Tensor) -> Tensor:
        stride = self.conv.stride[0]
        if self.training:
            norms, kernels = (
                (self.norm, self.inner_norm),
                [self.conv.weight, self.inner_conv.weight],
            )
            kernels += [self.skip.weight] if stride > 1 else []
            return ResidualFunction.apply(
                in_layout(x),
                *norms,
                stride,
                self.rescale.squeeze.weight,
                self.rescale.excite.weight,
                *(p for norm in norms for p in (norm.weight, norm.bias)),
                *kernels,
            )
        x = self.norm(x)
        out = self.rescale(self.inner_conv(F.relu(self.inner_norm(self.conv(F.relu(x))))))
        return out.add_(self.skip(F.max_pool2d(x, 3, stride, padding=1) if stride > 1 else x))


class StftEncoder(nn.Module):
    """STFT magnitude (B, n_bins, frames) -> (B, 128).

    Its images are (B, C, frames, F): the order in which the transform leaves the frames in memory.
    """

    def __init__(self, n_bins: int):
        super().__init__()
        self.norm = nn.BatchNorm1d(n_bins)
        layers: list[nn.Module] = [Stem(16, kernel=7)]
        in_channels, height = 16, ((n_bins - 7) // 2 + 1 - 3) // 2 + 1
        for channels, stride in ((16, 1), (32, 2), (64, 2), (128, 2)):
            layers += [
                ResidualBlock(in_channels, channels, stride),
                ResidualBlock(channels, channels, 1),
            ]
            in_channels, height = channels, -(-height // stride)
        # the layout in which a CPU convolves these few channels faster
        self.blocks = nn.Sequential(*layers).to(memory_format=torch.channels_last)
        self.head = nn.Sequential(
            nn.BatchNorm1d(in_channels * height),
            nn.Linear(in_channels * height, BRANCH_SIZE, bias=False),
        )

    def forward(self, stft: Tensor) -> Tensor:
        frames = stft.transpose(1, 2)  # (B, frames, n_bins)
        stem, *blocks = self.blocks
        x = stem(
            frames, self.norm
        )  # which takes the statistics of each bin over all frames of all clips
        for block in blocks:
            x = block(x)
        x = x.permute(0, 2, 3, 1)  # (B, frames', F', 128), as in memory
        return in_full_precision(self.head, x.amax(1).mT.flatten(1))


class StftBranch(nn.Module):
    """(B, T) -> (B, 128) by one STFT resolution."""

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
        if self.time_mean_removed:
            stft = stft - stft.mean(-1, keepdim=True)
        return self.encoder(stft)


class MultiResolutionNet(nn.Module):
    """(B, T) float waveforms, T = clip_seconds x sample_rate -> (embedding (B, 128 (n + 1)), list of (B, 128)).

    The branches are the whole-clip spectrum, then one STFT per entry of `n_ffts`, in the order given (larger
    first by convention). `time_mean_removed` names the n_ffts whose bins have their mean over time subtracted:
    none in the paper; [4096] gives what the released na_0256_1024_4096 computes.
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
        if self.n_samples < (least := least_samples()):
            raise InputError(
                f"clip_seconds={clip_seconds}: too short, the spectrum branch needs at least {least:,} samples "
                f"({-(-least * 1000 // sample_rate) / 1000:.3f} s at {sample_rate} Hz)"
            )
        if unknown := set(time_mean_removed) - set(n_ffts):
            raise InputError(
                f"time_mean_removed={sorted(unknown)}: not among n_ffts={list(n_ffts)}"
            )
        self.spectrum = SpectrumEncoder(self.n_samples // 2 + 1)
        self.stfts = nn.ModuleList(
            StftBranch(n_fft, sample_rate, band_hz, n_fft in time_mean_removed) for n_fft in n_ffts
        )
        self.n_branches = 1 + len(self.stfts)
        self.embedding_size = BRANCH_SIZE * self.n_branches

    def forward(self, wave: Tensor) -> tuple[Tensor, list[Tensor]]:
        if wave.dim() != 2 or wave.shape[1] != self.n_samples:
            raise InputError(
                f"waveforms of shape {tuple(wave.shape)}: expected (batch, {self.n_samples})"
            )
        branches = [
            self.spectrum(spectrum_magnitude(wave)),
            *(branch(wave) for branch in self.stfts),
        ]
        return torch.cat(branches, dim=1), branches


class TripletNet(StftBranch):
    """The extractor of the triplet pseudo-labels: one STFT branch, the mean of each bin over time subtracted.

    (B, T) float waveforms, T = clip_seconds x sample_rate -> (embedding (B, 128), [embedding]).
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

    def forward(self, wave: Tensor) -> tuple[Tensor, list[Tensor]]:
        embedding = super().forward(wave)
        return embedding, [embedding]


def least_samples() -> int:
    """The shortest clip that leaves the spectrum branch one position after its convolutions."""
    n_bins = 1
    for kernel, stride in reversed(SPECTRUM_CONVS):
        n_bins = (n_bins - 1) * stride + kernel
    return 2 * (n_bins - 1)
