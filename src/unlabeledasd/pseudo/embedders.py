"""Embedders of clips for pseudo-labels: PANNs, OpenL3, spectra, and any finished run.

All have `embedder.embed(root, paths, channel, device)`. Making an embedder reads its weights, which
the user downloads (pseudoattr/README.md); nothing is fetched.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TypeVar

import librosa
import numpy as np
import torch
from torch import Tensor, nn

from unlabeledasd import evaluation
from unlabeledasd.audio.two_channels import Channel
from unlabeledasd.encoders.spectral import LogMelStatistics
from unlabeledasd.errors import InputError
from unlabeledasd.files import file_hash
from unlabeledasd.pseudo.pretrained import Cnn14, OpenL3Net
from unlabeledasd.runs.checkpoints import load_extractor

PANNS_MD5 = "541141fa2ee191a88f24a3219fff024e"
PANNS_SOURCE = (
    f"Cnn14_mAP=0.431.pth (327,428,481 bytes, md5 {PANNS_MD5}) from "
    "https://zenodo.org/record/3987831; see pseudoattr/README.md"
)
OPENL3_SOURCE = (
    "torchopenl3_mel128_env_512.pth.tar (about 36 MB, no published checksum known) from "
    "https://github.com/torchopenl3/torchopenl3-models; see pseudoattr/README.md"
)
Network = TypeVar("Network", bound=nn.Module)


class Embedder:
    """Embeds files by an extractor: extractor(wave (B, n_samples)) -> (embedding (B, D), ...)."""

    def __init__(
        self,
        extractor: nn.Module,
        description: str,
        batch_size: int = 16,
        unit_norm: bool = False,
        precision: str = "32-true",
    ):
        self.extractor, self.description = extractor, description
        self.batch_size, self.unit_norm, self.precision = batch_size, unit_norm, precision

    def embed(
        self,
        root: Path,
        paths: list[str],
        channel: Channel = None,
        device: str | torch.device = "cpu",
    ) -> np.ndarray:
        """Embeddings (N, D) float32 of the clips `root/path`, in the order of `paths`."""
        embeddings = evaluation.embed(
            self.extractor,
            Path(root),
            paths,
            channel,
            self.batch_size,
            device=device,
            description=self.description,
            precision=self.precision,
        )
        if self.unit_norm:
            embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True).clip(min=1e-12)
        return embeddings


class Panns(Embedder):
    """2048 dimensions by CNN14, of the clip tiled to `clip_seconds` and resampled to 32 kHz.

    weights: the file `Cnn14_mAP=0.431.pth`; md5: its checksum, None takes any file that fits the
    network.
    """

    def __init__(
        self,
        weights: str | Path,
        clip_seconds: float = 18,
        sample_rate: int = 16000,
        md5: str | None = PANNS_MD5,
        batch_size: int = 4,  # at 8 without TF32, cuDNN 9.19 convolves wrongly on an H100
    ):
        network = load_weights(Cnn14, Path(weights), PANNS_SOURCE, md5)
        super().__init__(Resampled(network, clip_seconds, sample_rate), "PANNs", batch_size)


class OpenL3(Embedder):
    """512 dimensions by OpenL3 (environmental sounds, 128 mels).

    The mean over windows every `hop_seconds` of the clip, tiled to `clip_seconds` and resampled to
    48 kHz. weights: the file `torchopenl3_mel128_env_512.pth.tar`; md5: its checksum, None takes
    any file that fits the network. windows_at_once: one-second windows that pass the network
    together.
    """

    def __init__(
        self,
        weights: str | Path,
        clip_seconds: float = 18,
        sample_rate: int = 16000,
        hop_seconds: float = 0.1,
        md5: str | None = None,
        windows_at_once: int = 32,
    ):
        make = partial(OpenL3Net, hop_seconds, windows_at_once)
        network = load_weights(make, Path(weights), OPENL3_SOURCE, md5)
        super().__init__(Resampled(network, clip_seconds, sample_rate), "OpenL3", batch_size=1)


class Spectral(Embedder):
    """Mean and standard deviation over time of a mel spectrogram in dB, 256 dimensions, no weights.

    level_removed: subtract the clip's mean level, so that loudness does not count.
    """

    def __init__(
        self, clip_seconds: float = 18, sample_rate: int = 16000, level_removed: bool = True
    ):
        statistics = LogMelStatistics(
            level_removed=level_removed, clip_seconds=clip_seconds, sample_rate=sample_rate
        )
        super().__init__(WithoutAnchors(statistics), "spectra")


class WithoutAnchors(nn.Module):
    """A spectral embedding as one vector (B, D), without the constant in front of each band."""

    def __init__(self, spectra: LogMelStatistics):
        super().__init__()
        self.spectra, self.n_samples = spectra, spectra.n_samples

    def forward(self, wave: Tensor) -> tuple[Tensor]:
        return (self.spectra(wave)[0][:, :, 1:].flatten(1),)


class OwnModel(Embedder):
    """The embedding of a finished run: its extractor and a checkpoint that it kept.

    unit_norm: embeddings are normalised, as the losses and scorers normalise them.
    """

    def __init__(
        self,
        extractor: nn.Module,
        checkpoint: str | Path,
        unit_norm: bool = False,
        batch_size: int = 16,
        precision: str = "32-true",
    ):
        extractor = load_extractor(extractor, Path(checkpoint))
        super().__init__(extractor, "own model", batch_size, unit_norm, precision)


class Resampled(nn.Module):
    """An extractor by a network of another sample rate: (B, n_samples) -> (embedding (B, D),)."""

    def __init__(self, network: Cnn14 | OpenL3Net, clip_seconds: float, sample_rate: int):
        super().__init__()
        self.network = network
        self.sample_rate, self.target_rate = sample_rate, network.sample_rate
        self.n_samples = round(clip_seconds * sample_rate)

    def forward(self, wave: Tensor) -> tuple[Tensor]:
        return (self.network(resample(wave, self.sample_rate, self.target_rate)),)


def resample(wave: Tensor, sample_rate: int, target_rate: int) -> Tensor:
    """(B, T) -> (B, ceil(T target_rate / sample_rate)) by soxr at high quality, on the CPU."""
    resampled = librosa.resample(
        wave.cpu().numpy(), orig_sr=sample_rate, target_sr=target_rate, res_type="soxr_hq"
    )
    return torch.from_numpy(resampled).to(wave.device)


def load_weights(make: Callable[[], Network], path: Path, source: str, md5: str | None) -> Network:
    """The network that `make()` returns, with the weights of `path`.

    InputError says what is wrong with the file, and where to get the right one.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file; get {source}")
    if md5 and (found := file_hash(path, "md5")) != md5:
        size = f"{path.stat().st_size:,} bytes"
        raise InputError(f"{path}: {size} with md5 {found}, expected md5 {md5}; get {source}")
    with torch.device("meta"):  # all of it comes from the file
        network = make()
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        network.load_state_dict(state.get("model", state), assign=True)
    except Exception as error:  # any error a corrupt file can raise
        reason = " ".join((str(error) or type(error).__name__).split())[:200]
        what = f"not the weights of {type(network).__name__}"
        raise InputError(f"{path}: {what} ({reason}); get {source}") from error
    return network.requires_grad_(False).eval()
