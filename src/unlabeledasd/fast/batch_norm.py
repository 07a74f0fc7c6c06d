"""The steps of batch norm one by one, on (B, C, H, W), channels last: statistics, normalisation, gradients."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

aten = torch.ops.aten


def count(x: Tensor) -> int:
    """Numbers per channel."""
    return x.numel() // x.shape[1]


def channel_statistics(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and biased variance (C,) of x (B, C, H, W), in float32 at least."""
    dtype = torch.promote_types(x.dtype, torch.float32)
    if x.device.type == "cpu":  # where torch.var_mean is ten times slower
        unused = x.new_zeros(2, x.shape[1], dtype=dtype)
        return aten.batch_norm_update_stats(x, *unused, 0.0)
    var, mean = torch.var_mean(x.to(dtype), (0, 2, 3), correction=0)
    return mean, var


def pooled_statistics(
    parts: Sequence[Tensor], moments: list[tuple[Tensor, Tensor]]
) -> tuple[Tensor, Tensor]:
    """Mean and biased variance (C,) of all parts from those of each."""
    if len(parts) == 1:  # the whole batch, on a GPU, which would be waited for below
        return moments[0]
    means, variances = (torch.stack(values) for values in zip(*moments, strict=True))
    share = means.new_tensor([len(part) for part in parts])[:, None] / sum(map(len, parts))
    mean = (share * means).sum(0)
    return mean, (share * (variances + (means - mean).square())).sum(0)


def update(norm: nn.BatchNorm1d | nn.BatchNorm2d, mean: Tensor, var: Tensor, n: int) -> None:
    """The running statistics after a batch with n numbers per channel."""
    norm.num_batches_tracked += 1
    norm.running_mean.lerp_(mean, norm.momentum)
    norm.running_var.lerp_(var * (n / (n - 1)), norm.momentum)


def normalize(
    x: Tensor, mean: Tensor, var: Tensor, weight: Tensor, bias: Tensor, eps: float
) -> Tensor:
    """Batch norm by given statistics."""
    return torch.native_batch_norm(x, weight, bias, mean, var, False, 0.0, eps)[0]


def normalize_sums(
    grad: Tensor, x: Tensor, mean: Tensor, var: Tensor, weight: Tensor, bias: Tensor, eps: float
) -> tuple[Tensor, Tensor]:
    """Of `normalize`: gradients of weight and bias."""
    sums = [False, True, True]
    return aten.native_batch_norm_backward(
        grad, x, weight, mean, var, None, None, False, eps, sums
    )[1:]


def input_gradient(
    grad: Tensor,
    x: Tensor,
    mean: Tensor,
    var: Tensor,
    weight: Tensor,
    sums: Sequence[Tensor],
    n: int,
    eps: float,
    out: Tensor | None = None,
) -> Tensor:
    """Gradient of batch norm's input x from that of its output, (B, C, H, W) each; sums: gradients of weight and bias
    over the whole batch, n numbers per channel.

    What the statistics add, constant + slope x, is smaller than the last digit of a bfloat16 gradient, and counts
    only as the sum of millions: so it is rounded by itself, added to the scaled gradient in float32, and their sum
    is rounded. Of the gradient's mean 0.1 % of its standard deviation may stay, more where the mean exceeds it.
    """
    invstd = (var + eps).rsqrt()
    scale = (weight * invstd).to(x.dtype)
    slope = -scale * invstd * sums[0] / n
    constant = -scale * sums[1] / n - slope * mean
    added = normalize(
        x, torch.zeros_like(mean), torch.full_like(var, 1 - eps), slope, constant, eps
    )
    out = added if out is None else out
    # in rows of many pixels: broadcasting along a last axis of 16 channels takes ten times longer on a CPU
    repeats = math.gcd(count(x), 64)
    added, grad, rows = (
        y.permute(0, 2, 3, 1).view(-1, repeats * y.shape[1]) for y in (added, grad, out)
    )
    torch.addcmul(added, grad, scale.repeat(repeats), out=rows)
    return out
