"""Pretrained encoders as extractors: frozen, or with LoRA.

Each has `n_samples`, `embedding_size`, and waveforms (B, n_samples) -> (embedding, list of its
parts). What was read from a file of the user is never saved with a run. Its SHA-256 is, and weights
that were trained on another file are refused.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from unlabeledasd.encoders.beats import CHECKPOINTS, SAMPLE_RATE, load_beats
from unlabeledasd.encoders.lora import AttentiveStatistics, add_lora, freeze
from unlabeledasd.errors import InputError

KNOWN = tuple(CHECKPOINTS)


class BeatsExtractor(nn.Module):
    """Base: the network of a checkpoint, frozen, for clips of one length.

    weights: file of a published checkpoint. hashes: the SHA-256 that are allowed; None takes any
    file of a network of the same form.
    """

    base_hash: Tensor  # (32,) uint8: saved with a run

    def __init__(
        self,
        weights: str | Path,
        clip_seconds: float,
        sample_rate: int,
        hashes: Sequence[str] | None,
    ):
        super().__init__()
        if sample_rate != SAMPLE_RATE:
            raise InputError(f"sample_rate={sample_rate}: BEATs takes {SAMPLE_RATE}")
        self.weights = Path(weights)
        self.n_samples = round(clip_seconds * sample_rate)
        network, digest = load_beats(self.weights, hashes)
        if self.n_samples < network.least_samples:
            least = network.least_samples / SAMPLE_RATE
            raise InputError(f"clip_seconds={clip_seconds}: BEATs needs at least {least:g}")
        freeze(network)
        self.beats = network
        stored = torch.frombuffer(bytearray.fromhex(digest), dtype=torch.uint8)
        self.register_buffer("base_hash", stored)

    def tokens(self, wave: Tensor) -> Tensor:
        """Waveforms (B, n_samples) -> tokens (B, frames, bands, D)."""
        if wave.dim() != 2 or wave.shape[1] != self.n_samples:
            shape = tuple(wave.shape)
            raise InputError(f"waveforms of shape {shape}: expected (batch, {self.n_samples})")
        return self.beats(wave)

    def _load_from_state_dict(self, state, prefix, *arguments) -> None:
        kept = state.get(f"{prefix}base_hash")
        if kept is not None and not torch.equal(kept.cpu(), self.base_hash.cpu()):
            names = bytes(kept.tolist()).hex(), bytes(self.base_hash.tolist()).hex()
            raise InputError(
                f"{self.weights}: sha256 {names[1]}, but the run was made with {names[0]}"
            )
        super()._load_from_state_dict(state, prefix, *arguments)


class FrozenBeats(BeatsExtractor):
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
        self.embedding_size = self.beats.n_bands * self.beats.token_size

    def forward(self, wave: Tensor) -> tuple[Tensor, list[Tensor]]:
        embedding = self.pooling(self.tokens(wave))
        return embedding, list(embedding.unbind(1))


class LoraBeats(BeatsExtractor):
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
        add_lora(self.beats, targets, rank, alpha, dropout)
        self.pooling = AttentiveStatistics(self.beats.token_size)
        self.linear = nn.Linear(2 * self.beats.token_size, embedding_size)
        self.embedding_size, self.n_branches = embedding_size, 1

    def forward(self, wave: Tensor) -> tuple[Tensor, list[Tensor]]:
        with torch.autocast(wave.device.type, enabled=False):
            embedding = self.linear(self.pooling(self.tokens(wave).flatten(1, 2)))
        return embedding, [embedding]
