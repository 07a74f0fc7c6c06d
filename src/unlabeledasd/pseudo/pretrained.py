"""The networks of PANNs and OpenL3 up to their embeddings, with their front ends.

Every parameter and buffer has its name and shape in the published weights, so that those load
unchanged. The constants of the front ends (DFT kernels, mel filters) are among them, and the loaded
ones are used. Both networks were trained by others; here they only embed, in evaluation mode.
"""

import librosa
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F


def windowed_dft(n_fft: int) -> tuple[Tensor, Tensor]:
    """Real and imaginary part of the DFT matrix as kernels of a convolution.

    (n_fft/2 + 1, 1, n_fft) each: the first rows, each times a periodic Hann window.
    """
    time, bins = np.arange(n_fft), np.arange(n_fft // 2 + 1)
    window = 0.5 - 0.5 * np.cos(2 * np.pi * time / n_fft)
    turns = (np.outer(bins, time) % n_fft) / n_fft  # without whole turns, for precision
    real, imaginary = np.cos(2 * np.pi * turns) * window, -np.sin(2 * np.pi * turns) * window
    return to_kernel(real), to_kernel(imaginary)


def to_kernel(matrix: np.ndarray) -> Tensor:
    return torch.from_numpy(matrix[:, None].astype(np.float32))


class PowerSpectrogram(nn.Module):
    """(B, T) -> (B, n_fft/2 + 1, frames), |STFT|^2 by two convolutions, with reflected edges."""

    conv_real: nn.Conv1d
    conv_imag: nn.Conv1d

    def __init__(self, n_fft: int, hop: int):
        super().__init__()
        self.n_fft = n_fft
        for name, kernel in zip(("conv_real", "conv_imag"), windowed_dft(n_fft), strict=True):
            conv = nn.Conv1d(1, n_fft // 2 + 1, n_fft, hop, bias=False)
            conv.weight = nn.Parameter(kernel, requires_grad=False)
            setattr(self, name, conv)

    def forward(self, wave: Tensor) -> Tensor:
        wave = F.pad(wave.unsqueeze(1), [self.n_fft // 2] * 2, mode="reflect")
        return self.conv_real(wave).square() + self.conv_imag(wave).square()


class ConvBlock(nn.Module):
    """(B, C_in, frames, mels) -> (B, C_out, frames, mels)."""

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.bn1, self.bn2 = nn.BatchNorm2d(out_channels), nn.BatchNorm2d(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x)), inplace=True)
        return F.relu(self.bn2(self.conv2(x)), inplace=True)


class Cnn14(nn.Module):
    """Waveforms (B, T) at 32 kHz -> embeddings (B, 2048): CNN14 of PANNs, 81 million parameters.

    Q. Kong et al., "PANNs: Large-Scale Pretrained Audio Neural Networks for Audio Pattern
    Recognition", arXiv 1912.10211. 64 log-mel bands from 50 to 14,000 Hz, a frame every 10 ms; the
    embedding is the layer before the tags of AudioSet (`fc_audioset`, unused but in the weights).
    """

    sample_rate = 32000
    embedding_size = 2048

    def __init__(self):
        super().__init__()
        n_fft, n_mels = 1024, 64
        mel = librosa.filters.mel(
            sr=self.sample_rate, n_fft=n_fft, n_mels=n_mels, fmin=50, fmax=14000
        )
        mel = nn.Parameter(torch.from_numpy(mel.T.copy()), requires_grad=False)  # (513, 64)
        self.spectrogram_extractor = nn.ModuleDict({"stft": PowerSpectrogram(n_fft, hop=320)})
        self.logmel_extractor = nn.ParameterDict({"melW": mel})
        self.bn0 = nn.BatchNorm2d(n_mels)
        channels = (1, 64, 128, 256, 512, 1024, 2048)
        for i in range(1, 7):
            setattr(self, f"conv_block{i}", ConvBlock(channels[i - 1], channels[i]))
        self.fc1 = nn.Linear(2048, self.embedding_size)
        self.fc_audioset = nn.Linear(self.embedding_size, 527)

    def forward(self, wave: Tensor) -> Tensor:
        power = self.spectrogram_extractor["stft"](wave).transpose(1, 2)  # (B, frames, 513)
        mel = power @ self.logmel_extractor["melW"]
        x = 10 * mel.clamp(min=1e-10).log10()  # (B, frames, 64), dB
        x = self.bn0(x.transpose(1, 2).unsqueeze(-1)).permute(0, 3, 2, 1)  # (B, 1, frames, 64)
        for i in range(1, 7):
            x = getattr(self, f"conv_block{i}")(x)
            if i < 6:
                x = F.avg_pool2d(x, 2)
        x = x.mean(3)  # (B, 2048, frames / 32)
        return F.relu(self.fc1(x.amax(2) + x.mean(2)))


class MelDecibel(nn.Module):
    """One-second windows (N, 48000) at 48 kHz -> (N, 128 mels, 199 frames) in dB.

    Each window's peak is at 0, its floor at -80. Ten times the logarithm of the magnitude, not of
    the power, as in kapre 0.1.4, with which OpenL3 was trained.
    """

    dft_real_kernels: Tensor
    dft_imag_kernels: Tensor
    mel_basis: Tensor

    def __init__(self):
        super().__init__()
        n_fft, self.hop = 2048, 242
        self.padding = n_fft - 48000 % self.hop  # TensorFlow's "same", the larger part at the end
        real, imaginary = windowed_dft(n_fft)
        self.register_buffer("dft_real_kernels", real)
        self.register_buffer("dft_imag_kernels", imaginary)
        bands = {"n_mels": 128, "fmin": 0, "fmax": 24000, "htk": True, "norm": 1}
        mel = librosa.filters.mel(sr=48000, n_fft=n_fft, **bands)
        self.register_buffer("mel_basis", torch.from_numpy(mel))  # (128, 1025)

    def forward(self, windows: Tensor) -> Tensor:
        left = self.padding // 2
        windows = F.pad(windows.unsqueeze(1), (left, self.padding - left))
        real = F.conv1d(windows, self.dft_real_kernels, stride=self.hop)
        imaginary = F.conv1d(windows, self.dft_imag_kernels, stride=self.hop)
        mel = self.mel_basis @ (real.square() + imaginary.square())
        level = 10 * mel.sqrt().clamp(min=1e-10).log10()
        return (level - level.amax((1, 2), keepdim=True)).clamp(min=-80)


class OpenL3Net(nn.Module):
    """Waveforms (B, T) at 48 kHz -> embeddings (B, 512): the audio network of OpenL3, 128 mels.

    J. Cramer, H.-H. Wu, J. Salamon, J. P. Bello, "Look, Listen and Learn More: Design Choices for
    Deep Audio Embeddings", ICASSP 2019. The mean over one-second windows every `hop_seconds`,
    centred: half a second of silence precedes the clip, and silence completes the last window.
    `windows_at_once` bounds the memory, 25 MB each.
    """

    batch_normalization_1: nn.BatchNorm2d
    audio_embedding_layer: nn.Conv2d

    sample_rate = 48000
    embedding_size = 512

    def __init__(self, hop_seconds: float = 0.1, windows_at_once: int = 32):
        super().__init__()
        self.hop, self.windows_at_once = round(hop_seconds * self.sample_rate), windows_at_once
        self.speclayer = MelDecibel()
        channels = (1, 64, 64, 128, 128, 256, 256, 512, 512)
        for i in range(1, 9):
            setattr(self, f"batch_normalization_{i}", nn.BatchNorm2d(channels[i - 1], eps=1e-3))
            name = f"conv2d_{i}" if i < 8 else "audio_embedding_layer"
            setattr(self, name, nn.Conv2d(channels[i - 1], channels[i], 3, padding=1))

    def forward(self, wave: Tensor) -> Tensor:
        return torch.stack([self.embed_clip(windows) for windows in self.windows(wave)])

    def windows(self, wave: Tensor) -> Tensor:
        """(B, T) -> (B, n_windows, 48000)."""
        size = self.sample_rate
        wave = F.pad(wave, (size // 2, 0))
        beyond = max(wave.shape[1] - size, 0)
        n_windows = 1 + -(-beyond // self.hop)
        wave = F.pad(wave, (0, size + (n_windows - 1) * self.hop - wave.shape[1]))
        return wave.unfold(1, size, self.hop)

    def embed_clip(self, windows: Tensor) -> Tensor:
        """(n_windows, 48000) of one clip -> (512,)."""
        parts = windows.split(self.windows_at_once)
        return torch.cat([self.embed_windows(part) for part in parts]).mean(0)

    def embed_windows(self, windows: Tensor) -> Tensor:
        """(N, 48000) -> (N, 512)."""
        x = self.batch_normalization_1(self.speclayer(windows).unsqueeze(1))  # (N, 1, 128, 199)
        for i in range(1, 8):
            x = getattr(self, f"conv2d_{i}")(x)
            x = F.relu(getattr(self, f"batch_normalization_{i + 1}")(x), inplace=True)
            if i in (2, 4, 6):
                x = F.max_pool2d(x, 2)
        return self.audio_embedding_layer(x).amax((2, 3))  # of (N, 512, 16, 24)
