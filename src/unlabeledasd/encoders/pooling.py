"""Pooling of an encoder's tokens over time, each frequency band by itself.

Every module here takes tokens (B, frames, bands, D) and returns (B, bands, D).
"""

import torch
from torch import Tensor, nn

from unlabeledasd.errors import InputError


class TimeMean(nn.Module):
    """Mean over time."""

    def forward(self, tokens: Tensor) -> Tensor:
        return tokens.mean(1)


class TimeMaximum(nn.Module):
    """Maximum over time of each dimension."""

    def forward(self, tokens: Tensor) -> Tensor:
        return tokens.amax(1)


class DeviationPooling(nn.Module):
    """Mean over time with larger weights for tokens far from the plain mean: RDP.

    With d_t = |x_t - mean| of a band: w_t = (1 + d_t / max d)^gamma / sum of these. gamma 0 is the
    plain mean; the publication (arXiv 2603.04605) uses 4 to 19.
    """

    def __init__(self, gamma: float = 8.0):
        super().__init__()
        if gamma < 0:
            raise InputError(f"gamma={gamma}: at least 0")
        self.gamma = gamma

    def forward(self, tokens: Tensor) -> Tensor:
        deviation = (tokens - tokens.mean(1, keepdim=True)).norm(dim=-1)  # (B, frames, bands)
        largest = deviation.amax(1, keepdim=True).clamp(min=torch.finfo(tokens.dtype).tiny)
        weights = (1 + deviation / largest) ** self.gamma
        weights = weights / weights.sum(1, keepdim=True)
        return (weights.unsqueeze(-1) * tokens).sum(1)


class GeneralizedMean(nn.Module):
    """(mean over time of max(x, 0)^p)^(1/p), GeM: the mean for p = 1, the maximum for large p.

    Negative values count as 0 (F. Radenovic et al., TPAMI 2019).
    """

    def __init__(self, p: float = 3.0):
        super().__init__()
        if p <= 0:
            raise InputError(f"p={p}: above 0")
        self.p = p

    def forward(self, tokens: Tensor) -> Tensor:
        positive = tokens.clamp(min=0)
        peak = positive.amax(1, keepdim=True).clamp(min=torch.finfo(tokens.dtype).tiny)
        # relative to the maximum: powers of it could overflow
        return peak.squeeze(1) * ((positive / peak) ** self.p).mean(1) ** (1 / self.p)
