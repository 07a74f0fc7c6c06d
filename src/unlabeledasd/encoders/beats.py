"""BEATs: patches of a mel spectrogram through a transformer, trained on AudioSet by others.

S. Chen et al., "BEATs: Audio Pre-Training with Acoustic Tokenizers", ICML 2023, arXiv 2212.09058.
Plain layers; every parameter has the name and shape of the published checkpoints, except for the
position convolution, whose weight normalisation is computed once, when the weights are read.
Shapes: B clips, T = frames x bands tokens, frames first, H heads.
"""

import math
import pickle
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unlabeledasd.errors import InputError
from unlabeledasd.files import file_hash

SAMPLE_RATE = 16000
N_MELS = 128
FRAME, HOP, N_FFT = 400, 160, 512  # samples: 25 and 10 ms
PREEMPHASIS = 0.97
LOWEST_HZ = 20.0
FBANK_MEAN, FBANK_STD = 15.41663, 6.55582  # of the training data, as published
CHECKPOINTS = {  # SHA-256 -> name, bytes
    "8d1b234032a9ccff353612dc6c20982346dc2968b205b79d97303eb5e77bfb34": (
        "BEATs_iter3.pt",
        361_499_833,
    ),
    "d43cbfad4d7b56381c061d7a24774f908d4d94c72961f6eb1d9090ff18cd8d34": (
        "BEATs_iter3_plus_AS2M.pt",
        361_499_833,
    ),
    "e5815275a04b6885e7b8af63d120b29bffae2cd2225cf4915e1ec6d819d3022c": (
        "BEATs_iter3_plus_AS2M_finetuned_on_AS2M_cpt2.pt",
        363_145_291,
    ),
}
PLACES = (
    "https://github.com/microsoft/unilm/tree/master/beats or "
    "https://huggingface.co/datasets/Bencr/beats-checkpoints"
)


@dataclass(frozen=True)
class BeatsSizes:
    """What a checkpoint says of its network, under its own names; the defaults are BEATs-base."""

    embed_dim: int = 512
    input_patch_size: int = 16
    encoder_embed_dim: int = 768
    encoder_ffn_embed_dim: int = 3072
    encoder_attention_heads: int = 12
    encoder_layers: int = 12
    conv_pos: int = 128
    conv_pos_groups: int = 16
    num_buckets: int = 320
    max_distance: int = 800


# The form of the published networks, which is the only one that is computed here.
FORM = {
    "layer_norm_first": False,
    "deep_norm": True,
    "relative_position_embedding": True,
    "gru_rel_pos": True,
    "conv_bias": False,
    "activation_fn": "gelu",
}


class KaldiFbank(nn.Module):
    """Waveforms (B, T) at 16 kHz -> log mel power (B, frames, 128), frames = 1 + (T - 400) // 160.

    As Kaldi computes it from 16-bit samples: the mean of each frame subtracted, pre-emphasis,
    Povey's window (a symmetric Hann window to the power of 0.85), FFT of 512, triangles between 20
    and 8000 Hz on the scale 1127 ln(1 + f / 700). All but the squares and the logarithm is linear
    in the frame, so that one matrix does it.
    """

    basis: Tensor  # (400, 514)
    mel: Tensor  # (257, 128)

    def __init__(self):
        super().__init__()
        self.register_buffer("basis", frame_to_spectrum().float(), persistent=False)
        self.register_buffer("mel", kaldi_mel().float(), persistent=False)

    def forward(self, wave: Tensor) -> Tensor:
        frames = (2**15 * wave).unfold(1, FRAME, HOP)  # (B, frames, 400)
        real, imaginary = (frames @ self.basis).chunk(2, dim=-1)
        power = (real.square() + imaginary.square()) @ self.mel
        return power.clamp(min=torch.finfo(torch.float32).eps).log()


def frame_to_spectrum() -> Tensor:
    """(400, 2 x 257): the real and the imaginary parts of a frame's spectrum, float64."""
    centered = np.eye(FRAME) - 1 / FRAME
    shift = np.eye(FRAME, k=1)  # x @ shift: the sample before, and for the first one itself
    shift[0, 0] = 1
    emphasized = centered @ (np.eye(FRAME) - PREEMPHASIS * shift)
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(FRAME) / (FRAME - 1))
    spectrum = np.fft.rfft(emphasized * hann**0.85, N_FFT)
    return torch.from_numpy(np.concatenate([spectrum.real, spectrum.imag], axis=1))


def mel(hz: float | np.ndarray) -> np.ndarray:
    """Kaldi's mel scale."""
    return 1127 * np.log(1 + hz / 700)


def kaldi_mel() -> Tensor:
    """Triangles (257, 128) of height 1, of equal width on the mel scale, float64."""
    points = np.linspace(mel(LOWEST_HZ), mel(SAMPLE_RATE / 2), N_MELS + 2)
    bins = mel(np.arange(N_FFT // 2 + 1) * SAMPLE_RATE / N_FFT)[:, None]
    left, center, right = points[:-2], points[1:-1], points[2:]
    triangles = np.minimum((bins - left) / (center - left), (right - bins) / (right - center))
    triangles[-1] = 0  # Kaldi leaves the last bin out
    return torch.from_numpy(np.maximum(triangles, 0))


class Attention(nn.Module):
    """Self-attention with a relative position bias that each query scales by a gate.

    (B, T, D), bias (H, T, T) -> (B, T, D). The gate of a query q is g_a (g_b a_h - 1) + 2, with g_a
    and g_b sigmoids of linear functions of q.
    """

    def __init__(self, sizes: BeatsSizes):
        super().__init__()
        size, self.n_heads = sizes.encoder_embed_dim, sizes.encoder_attention_heads
        self.q_proj = nn.Linear(size, size)
        self.k_proj = nn.Linear(size, size)
        self.v_proj = nn.Linear(size, size)
        self.out_proj = nn.Linear(size, size)
        self.grep_linear = nn.Linear(size // self.n_heads, 8)
        self.grep_a = nn.Parameter(torch.ones(1, self.n_heads, 1, 1))

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        q, k, v = (
            projection(x).unflatten(2, (self.n_heads, -1)).transpose(1, 2)  # (B, H, T, D / H)
            for projection in (self.q_proj, self.k_proj, self.v_proj)
        )
        halves = self.grep_linear(q).unflatten(-1, (2, 4)).sum(-1)  # (B, H, T, 2)
        gate_a, gate_b = torch.sigmoid(halves).chunk(2, dim=-1)
        gate = gate_a * (gate_b * self.grep_a - 1) + 2  # (B, H, T, 1)
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=gate * bias)
        return self.out_proj(torch.cat(mixed.unbind(1), dim=2))  # heads next to each other


class Layer(nn.Module):
    """(B, T, D), bias (H, T, T) -> (B, T, D); a norm follows each sum, in which x counts alpha."""

    def __init__(self, sizes: BeatsSizes):
        super().__init__()
        size = sizes.encoder_embed_dim
        self.self_attn = Attention(sizes)
        self.self_attn_layer_norm = nn.LayerNorm(size)
        self.fc1 = nn.Linear(size, sizes.encoder_ffn_embed_dim)
        self.fc2 = nn.Linear(sizes.encoder_ffn_embed_dim, size)
        self.final_layer_norm = nn.LayerNorm(size)
        self.alpha = (2 * sizes.encoder_layers) ** 0.25

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        x = self.self_attn_layer_norm(self.alpha * x + self.self_attn(x, bias))
        return self.final_layer_norm(self.alpha * x + self.fc2(F.gelu(self.fc1(x))))


class Encoder(nn.Module):
    """Tokens (B, T, D) -> (B, T, D): positions by a convolution, then the layers."""

    def __init__(self, sizes: BeatsSizes):
        super().__init__()
        size, kernel = sizes.encoder_embed_dim, sizes.conv_pos
        convolution = nn.Conv1d(
            size, size, kernel, padding=kernel // 2, groups=sizes.conv_pos_groups
        )
        self.pos_conv = nn.ModuleList([convolution])
        self.layer_norm = nn.LayerNorm(size)
        self.layers = nn.ModuleList(Layer(sizes) for _ in range(sizes.encoder_layers))
        # one for all layers; in the checkpoints it is a part of each
        self.relative_attention_bias = nn.Embedding(
            sizes.num_buckets, sizes.encoder_attention_heads
        )
        self.max_distance = sizes.max_distance

    def forward(self, x: Tensor) -> Tensor:
        positions = self.pos_conv[0](x.mT)[..., : x.shape[1]].mT  # an even kernel adds one
        x = self.layer_norm(x + F.gelu(positions))
        bias = self.position_bias(x.shape[1])
        for layer in self.layers:
            x = layer(x, bias)
        return x

    def position_bias(self, n_tokens: int) -> Tensor:
        """(H, n_tokens, n_tokens), by the distance from the query (row) to the key (column)."""
        places = torch.arange(n_tokens, device=self.relative_attention_bias.weight.device)
        buckets = distance_bucket(
            places - places[:, None], self.relative_attention_bias.num_embeddings, self.max_distance
        )
        return self.relative_attention_bias(buckets).permute(2, 0, 1)


def distance_bucket(distance: Tensor, n_buckets: int, max_distance: int) -> Tensor:
    """Signed distances -> indices 0 ... n_buckets - 1, the upper half for keys after the query.

    Exact up to a quarter of n_buckets, then logarithmic up to max_distance.
    """
    half = n_buckets // 2
    exact = half // 2
    size = distance.abs()
    octaves = (size.clamp(min=1).float() / exact).log() / math.log(max_distance / exact)
    far = (exact + (octaves * (half - exact)).long()).clamp(max=half - 1)
    return torch.where(size < exact, size, far) + half * (distance > 0)


class Beats(nn.Module):
    """Waveforms (B, T) at 16 kHz -> tokens (B, frames, 8, 768), one each 160 ms and 16 mels.

    Always in float32. What is left of the clip after the last whole token is not used.
    """

    sample_rate = SAMPLE_RATE

    def __init__(self, sizes: BeatsSizes | None = None):
        super().__init__()
        sizes = sizes or BeatsSizes()
        patch = sizes.input_patch_size
        self.token_size = sizes.encoder_embed_dim
        self.n_bands = N_MELS // patch
        self.least_samples = FRAME + (patch - 1) * HOP  # of one token
        self.fbank = KaldiFbank()
        self.patch_embedding = nn.Conv2d(1, sizes.embed_dim, patch, patch, bias=False)
        self.layer_norm = nn.LayerNorm(sizes.embed_dim)
        self.post_extract_proj = nn.Linear(sizes.embed_dim, sizes.encoder_embed_dim)
        self.encoder = Encoder(sizes)

    def forward(self, wave: Tensor) -> Tensor:
        with torch.autocast(wave.device.type, enabled=False):
            return self.encode(self.fbank(wave.float()))

    def encode(self, fbank: Tensor) -> Tensor:
        """Log mel power (B, frames, 128) -> tokens (B, frames / 16, 8, 768)."""
        normalized = (fbank - FBANK_MEAN) / (2 * FBANK_STD)
        patches = self.patch_embedding(normalized.unsqueeze(1))  # (B, D, frames / 16, 8)
        x = self.post_extract_proj(self.layer_norm(patches.flatten(2).mT))
        return self.encoder(x).unflatten(1, (-1, self.n_bands))


def load_beats(path: Path, hashes: Sequence[str] | None = tuple(CHECKPOINTS)) -> tuple[Beats, str]:
    """(the network with the weights of a published checkpoint, its SHA-256); InputError otherwise.

    hashes: the SHA-256 that are allowed; None takes any file of a network of this form.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such file; get {wanted()}")
    size, found = path.stat().st_size, file_hash(path)
    if hashes is not None and found not in hashes:
        raise InputError(
            f"{path}: {size:,} bytes, sha256 {found}: not a known file; get {wanted()}"
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of pickles in another form
            checkpoint = torch.load(path, map_location="cpu", weights_only=True)
        return from_checkpoint(checkpoint["cfg"], checkpoint["model"]), found
    except pickle.UnpicklingError:
        reason = "contains code or objects, which are not loaded"
    except InputError as error:
        reason = str(error)
    except Exception as error:  # any error a corrupt file can raise
        reason = " ".join((str(error) or type(error).__name__).split())[:200]
    raise InputError(f"{path}: not a checkpoint of BEATs ({reason}); get {wanted()}")


def wanted() -> str:
    """The files that are taken and where they are, for messages."""
    files = [
        f"{name} ({size:,} bytes, sha256 {digest})" for digest, (name, size) in CHECKPOINTS.items()
    ]
    return f"{' or '.join(files)} from {PLACES}"


def from_checkpoint(settings: dict[str, Any], state: dict[str, Tensor]) -> Beats:
    """The network that `settings` describe, in evaluation mode, with the weights `state`."""
    for name, value in FORM.items():
        if settings.get(name) != value:
            raise InputError(f"{name}={settings.get(name)}, only {value} is computed here")
    names = [field.name for field in fields(BeatsSizes)]
    sizes = BeatsSizes(**{name: int(settings[name]) for name in names if name in settings})
    with torch.device("meta"):  # all of it comes from the file
        network = Beats(sizes)
    network.fbank = KaldiFbank()
    network.load_state_dict(plain_state(state), assign=True)
    return network.float().requires_grad_(False).eval()


def plain_state(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The state of a checkpoint under the names of `Beats`, without its classifier."""
    bias = "self_attn.relative_attention_bias.weight"
    plain = {
        name: value
        for name, value in state.items()
        if not name.startswith("predictor") and not name.endswith(bias)
    }
    plain["encoder.relative_attention_bias.weight"] = state[f"encoder.layers.0.{bias}"]
    scale = plain.pop("encoder.pos_conv.0.weight_g")  # (1, 1, kernel)
    direction = plain.pop("encoder.pos_conv.0.weight_v")  # (D, D / groups, kernel)
    norm = direction.norm(dim=(0, 1), keepdim=True)
    plain["encoder.pos_conv.0.weight"] = scale * direction / norm
    return plain
