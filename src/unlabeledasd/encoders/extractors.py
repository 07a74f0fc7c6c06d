"""Pretrained encoders as extractors: frozen, or with LoRA.

Each has `n_samples`, and waveforms (B, n_samples) -> (embedding, list of its parts). The weights of
the user's file are never saved with a run. Their SHA-256 is, and what was made with another file is
refused.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from unlabeledasd.encoders.beats import (
    CHECKPOINTS,
    LOWEST_HZ,
    N_MELS,
    SAMPLE_RATE,
    load_beats,
    mel,
)
from unlabeledasd.encoders.lora import AttentiveStatistics, add_lora, freeze
from unlabeledasd.encoders.spectral import band_names
from unlabeledasd.errors import InputError
from unlabeledasd.files import file_hash
from unlabeledasd.pseudo.embedders import (
    OPENL3_SOURCE,
    PANNS_MD5,
    PANNS_SOURCE,
    Resampled,
    load_weights,
)
from unlabeledasd.pseudo.pretrained import Cnn14, OpenL3Net

KNOWN = tuple(CHECKPOINTS)
CLIPS_AT_ONCE = 4  # that pass a frozen network together


class PretrainedExtractor(nn.Module):
    """Base: a network whose weights are a file of the user.

    A subclass sets `base`, which takes waveforms (B, n_samples), and then calls `keep_base`.
    """

    base: nn.Module
    base_hash: Tensor  # (32,) uint8: saved with a run

    def __init__(self, weights: str | Path, clip_seconds: float, sample_rate: int):
        super().__init__()
        self.weights = Path(weights)
        self.n_samples = round(clip_seconds * sample_rate)

    def keep_base(self, digest: str) -> None:
        """Freeze the network; digest: the SHA-256 of its file."""
        freeze(self.base)
        stored = torch.frombuffer(bytearray.fromhex(digest), dtype=torch.uint8)
        self.register_buffer("base_hash", stored)

    def encode(self, wave: Tensor) -> Tensor:
        """What the network makes of waveforms (B, n_samples)."""
        if wave.dim() != 2 or wave.shape[1] != self.n_samples:
            shape = tuple(wave.shape)
            raise InputError(f"waveforms of shape {shape}: expected (batch, {self.n_samples})")
        with torch.autocast(wave.device.type, enabled=False):
            return self.base(wave.float())

    def _load_from_state_dict(self, state, prefix, *arguments) -> None:
        kept = state.get(f"{prefix}base_hash")
        if kept is not None and not torch.equal(kept.cpu(), self.base_hash.cpu()):
            found, made_with = (bytes(x.tolist()).hex() for x in (self.base_hash, kept))
            raise InputError(
                f"{self.weights}: sha256 {found}, but the run was made with {made_with}"
            )
        super()._load_from_state_dict(state, prefix, *arguments)


class Beats(PretrainedExtractor):
    """Base: the network of a checkpoint of BEATs.

    weights: file of a published checkpoint. hashes: the SHA-256 that are allowed; None takes any
    file of a network of the same form.
    """

    def __init__(
        self,
        weights: str | Path,
        clip_seconds: float,
        sample_rate: int,
        hashes: Sequence[str] | None,
    ):
        super().__init__(weights, clip_seconds, sample_rate)
        if sample_rate != SAMPLE_RATE:
            raise InputError(f"sample_rate={sample_rate}: BEATs takes {SAMPLE_RATE}")
        network, digest = load_beats(self.weights, hashes)
        if self.n_samples < network.least_samples:
            least = network.least_samples / SAMPLE_RATE
            raise InputError(f"clip_seconds={clip_seconds}: BEATs needs at least {least:g}")
        self.n_bands, self.token_size = network.n_bands, network.token_size
        self.base = network
        self.keep_base(digest)


class FrozenBeats(Beats):
    """Tokens of BEATs, pooled over time in each of 8 frequency bands: embedding (B, 8, 768).

    pooling: a module of encoders/pooling.
    """

    def __init__(
        self,
        weights: str | Path,
        pooling: nn.Module,
        clip_seconds: float = 18,
        sample_rate: int = SAMPLE_RATE,
        hashes: Sequence[str] | None = KNOWN,
    ):
        super().__init__(weights, clip_seconds, sample_rate, hashes)
        self.pooling = pooling
        self.embedding_size = self.n_bands * self.token_size
        # neighbouring triangles of the mel filters are equal half-way between their peaks
        mels = np.linspace(mel(LOWEST_HZ), mel(SAMPLE_RATE / 2), 2 * N_MELS + 3)[1::2]
        edges = 700 * np.expm1(mels / 1127)
        self.part_names = band_names(edges[:: N_MELS // self.n_bands])

    def forward(self, wave: Tensor) -> tuple[Tensor, list[Tensor]]:
        embedding = torch.cat([self.pool(self.encode(part)) for part in wave.split(CLIPS_AT_ONCE)])
        return embedding, list(embedding.unbind(1))

    def pool(self, tokens: Tensor) -> Tensor:
        """Tokens (B, frames, bands, D) -> (B, bands, D)."""
        return self.pooling(tokens)


class LoraBeats(Beats):
    """BEATs with LoRA, attentive statistics pooling and a linear layer: embedding (B, 256).

    targets: names of the linear layers that LoRA adapts; the rest of BEATs stays as it was read.
    """

    def __init__(
        self,
        weights: str | Path,
        rank: int = 64,
        alpha: float = 64.0,
        dropout: float = 0.0,
        targets: Sequence[str] = ("q_proj", "v_proj"),
        embedding_size: int = 256,
        clip_seconds: float = 18,
        sample_rate: int = SAMPLE_RATE,
        hashes: Sequence[str] | None = KNOWN,
    ):
        super().__init__(weights, clip_seconds, sample_rate, hashes)
        add_lora(self.base, targets, rank, alpha, dropout)
        self.base.train()  # it has no layers that differ but the dropout of LoRA
        self.pooling = AttentiveStatistics(self.token_size)
        self.linear = nn.Linear(2 * self.token_size, embedding_size)
        self.embedding_size = embedding_size

    def forward(self, wave: Tensor) -> tuple[Tensor, list[Tensor]]:
        tokens = self.encode(wave)
        with torch.autocast(wave.device.type, enabled=False):
            embedding = self.pool(tokens)
        return embedding, [embedding]

    def pool(self, tokens: Tensor) -> Tensor:
        """Tokens (B, frames, bands, D) -> (B, embedding_size)."""
        return self.linear(self.pooling(tokens.flatten(1, 2)))


class Panns(PretrainedExtractor):
    """The embedding (B, 2048) of CNN14; weights and md5 as in pseudo/embedders.Panns."""

    embedding_size = Cnn14.embedding_size

    def __init__(
        self,
        weights: str | Path,
        clip_seconds: float = 18,
        sample_rate: int = 16000,
        md5: str | None = PANNS_MD5,
    ):
        super().__init__(weights, clip_seconds, sample_rate)
        network = load_weights(Cnn14, self.weights, PANNS_SOURCE, md5)
        self.base = Resampled(network, clip_seconds, sample_rate)
        self.keep_base(file_hash(self.weights))

    def forward(self, wave: Tensor) -> tuple[Tensor, list[Tensor]]:
        embedding = torch.cat([self.encode(part)[0] for part in wave.split(CLIPS_AT_ONCE)])
        return embedding, [embedding]


class OpenL3(PretrainedExtractor):
    """The embedding (B, 512) of OpenL3; weights, hop_seconds, md5 as in pseudo/embedders.OpenL3."""

    embedding_size = OpenL3Net.embedding_size

    def __init__(
        self,
        weights: str | Path,
        clip_seconds: float = 18,
        sample_rate: int = 16000,
        hop_seconds: float = 0.1,
        md5: str | None = None,
    ):
        super().__init__(weights, clip_seconds, sample_rate)
        make = partial(OpenL3Net, hop_seconds)
        network = load_weights(make, self.weights, OPENL3_SOURCE, md5)
        self.base = Resampled(network, clip_seconds, sample_rate)
        self.keep_base(file_hash(self.weights))

    def forward(self, wave: Tensor) -> tuple[Tensor, list[Tensor]]:
        embedding = torch.cat([self.encode(part)[0] for part in wave.split(1)])
        return embedding, [embedding]
