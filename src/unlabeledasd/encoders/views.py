"""The paper's network with views next to it that no training changes."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from unlabeledasd.encoders.spectral import LogMelStatistics, PowerSpectrum, SpectralEmbedding
from unlabeledasd.networks import MultiResolutionNet


class NetWithSpectra(MultiResolutionNet):
    """MultiResolutionNet; in evaluation, spectra of the clip follow its embedding.

    Training sees the network alone. Embeddings in evaluation are (B, 128 (n + 1) + S), of which the
    last S = `spectra_size` are those of LogMelStatistics (mean and standard deviation) and, with
    `lines`, of PowerSpectrum, whose bands are narrow enough for the lines of rotating machines; in
    dB.
    """

    def __init__(
        self,
        n_ffts: Sequence[int] = (4096, 1024, 256),
        clip_seconds: float = 18,
        sample_rate: int = 16000,
        band_hz: Sequence[float] = (200, 8000),
        time_mean_removed: Sequence[int] = (),
        level_removed: bool = False,
        lines: bool = False,
    ):
        super().__init__(n_ffts, clip_seconds, sample_rate, band_hz, time_mean_removed)
        views: list[SpectralEmbedding] = [
            LogMelStatistics(
                level_removed=level_removed, clip_seconds=clip_seconds, sample_rate=sample_rate
            )
        ]
        if lines:
            range_hz = 10, min(4000, sample_rate / 2)
            views.append(
                PowerSpectrum(range_hz=range_hz, clip_seconds=clip_seconds, sample_rate=sample_rate)
            )
        self.spectra = nn.ModuleList(views)
        self.spectra_size = sum(view.embedding_size for view in views)

    def forward(self, wave: Tensor) -> tuple[Tensor, list[Tensor]]:
        embedding, branches = super().forward(wave)
        if self.training:
            return embedding, branches
        spectra = [view(wave)[0].flatten(1) for view in self.spectra]
        return torch.cat([embedding.float(), *spectra], dim=1), branches
