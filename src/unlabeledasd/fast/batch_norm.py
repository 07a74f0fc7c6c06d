"""Batch norm of (B, C, H, W), channels last, in steps: statistics, normalisation, gradients."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

ROWS = 512  # positions that PyTorch's kernel adds up one by one in float32
VALUES = 2048  # sums that it keeps at a time, few enough for the cache
aten = torch.ops.aten
Moments = tuple[int, Tensor, Tensor]


class Normalization(NamedTuple):
    """x -> (x - mean) / sqrt(var + eps) weight + bias, channel by channel, (C,) each."""

    mean: Tensor
    var: Tensor
    weight: Tensor
    bias: Tensor
    eps: float


def count(x: Tensor) -> int:
    """Positions per channel, over all clips."""
    return x.numel() // x.shape[1]


def channel_moments(x: Tensor) -> list[Moments]:
    """Positions per group, means and biased variances (groups, C) of groups of x (B, C, H, W).

    PyTorch's kernel (torch.var_mean takes ten times longer) adds up one position after the other
    in float32. Here it adds ROWS positions at most: `width` neighbouring positions are passed as if
    they were channels.
    """
    n_channels, dtype = x.shape[1], torch.promote_types(x.dtype, torch.float32)
    most = max(1, VALUES // n_channels)
    moments = []
    for block in x.permute(0, 2, 3, 1).view(-1, n_channels).split(ROWS * most):
        whole = len(block) // most * most
        for rows, width in ((block[:whole], most), (block[whole:], 1)):
            if len(rows):
                wide = rows.view(-1, width * n_channels, 1, 1)
                unused = x.new_zeros(2, wide.shape[1], dtype=dtype)
                mean, var = aten.batch_norm_update_stats(wide, *unused, 0.0)
                moments.append((len(wide), mean.view(width, -1), var.view(width, -1)))
    return moments


def pooled_statistics(moments: list[Moments], dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Mean and biased variance (C,) of all groups together; sums in float64."""
    share = torch.cat([torch.full((len(mean), 1), float(n)) for n, mean, _ in moments]).double()
    share /= share.sum()
    means = torch.cat([mean for _, mean, _ in moments])
    variances = torch.cat([var for _, _, var in moments])
    mean = (share * means).sum(0)
    var = (share * (variances + (means - mean).square())).sum(0)
    return mean.to(dtype), var.to(dtype)


def update(norm: nn.BatchNorm1d | nn.BatchNorm2d, mean: Tensor, var: Tensor, n: int) -> None:
    """Update the running statistics by a batch with n positions per channel."""
    running_mean, running_var, n_batches = norm.buffers()
    n_batches += 1
    momentum = float(norm.momentum)  # type: ignore[arg-type]  # None: not used here
    running_mean.lerp_(mean, momentum)
    running_var.lerp_(var * (n / (n - 1)), momentum)


def normalize(x: Tensor, norm: Normalization) -> Tensor:
    """Batch norm of x by given statistics."""
    mean, var, weight, bias, eps = norm
    return torch.native_batch_norm(x, weight, bias, mean, var, False, 0.0, eps)[0]


def normalize_sums(grad: Tensor, x: Tensor, norm: Normalization) -> tuple[Tensor, Tensor]:
    """Gradients of weight and bias from that of normalize(x, norm)."""
    wanted = [False, True, True]
    mean, var, weight, _, eps = norm
    return aten.native_batch_norm_backward(
        grad, x, weight, mean, var, None, None, False, eps, wanted
    )[1:]


def input_gradient(
    grad: Tensor,
    x: Tensor,
    norm: Normalization,
    sums: Sequence[Tensor] | Tensor,
    n: int,
    out: Tensor | None = None,
) -> Tensor:
    """Gradient of batch norm's input x from that of its output, (B, C, H, W) each.

    sums: gradients of weight and bias over the whole batch, n positions per channel.

    The statistics add constant + slope x. In a bfloat16 gradient that is less than the last digit,
    but over millions of positions it counts. Therefore it is rounded by itself and added to the
    scaled gradient in float32, and the sum is rounded. Up to 0.1 % of the gradient's standard
    deviation may stay as its mean, more where the mean exceeds the standard deviation.
    """
    invstd = (norm.var + norm.eps).rsqrt()
    scale = (norm.weight * invstd).to(x.dtype)
    slope = -scale * invstd * sums[0] / n
    constant = -scale * sums[1] / n - slope * norm.mean
    zeros, ones = torch.zeros_like(norm.mean), torch.full_like(norm.var, 1 - norm.eps)
    added = normalize(x, Normalization(zeros, ones, slope, constant, norm.eps))
    out = added if out is None else out
    # long rows: broadcasting along a last axis of 16 channels takes ten times longer on a CPU
    repeats = math.gcd(count(x), 64)
    added, grad, rows = (
        y.permute(0, 2, 3, 1).view(-1, repeats * y.shape[1]) for y in (added, grad, out)
    )
    torch.addcmul(added, grad, scale.repeat(repeats), out=rows)
    return out
