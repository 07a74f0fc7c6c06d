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


def pooled_statistics(parts: Sequence[Tensor], moments: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """Mean and biased variance (C,) of all parts from those of each."""
    if len(parts) == 1:  # the whole batch, on a GPU, which would be waited for below
        return moments[0]
    means, variances = (torch.stack(values) for values in zip(*moments, strict=True))
    share = means.new_tensor([len(part) for part in parts])[:, None] / sum(map(len, parts))
    mean = (share * means).sum(0)
    return mean, (share * (variances + (means - mean).square())).sum(0)


def update(norm: nn.BatchNorm2d, mean: Tensor, var: Tensor, n: int) -> None:
    """The running statistics after a batch with n numbers per channel."""
    norm.num_batches_tracked += 1
    norm.running_mean.lerp_(mean, norm.momentum)
    norm.running_var.lerp_(var * (n / (n - 1)), norm.momentum)


def normalize(x: Tensor, mean: Tensor, var: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """Batch norm by given statistics."""
    return torch.native_batch_norm(x, weight, bias, mean, var, False, 0.0, eps)[0]


def normalize_gradients(
    grad: Tensor, x: Tensor, mean: Tensor, var: Tensor, weight: Tensor, bias: Tensor, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Of `normalize`: gradients of x, the statistics held fixed, weight and bias."""
    return aten.native_batch_norm_backward(grad, x, weight, mean, var, None, None, False, eps, [True, True, True])


def of_normalize(
    norm: Sequence[Tensor], eps: float, grad_weight: Tensor, grad_bias: Tensor, n: int
) -> tuple[Tensor, Tensor]:
    mean, var, weight, _ = norm
    invstd = (var + eps).rsqrt()
    return of_statistics(weight * invstd, mean, invstd, grad_weight, grad_bias, n)


def of_statistics(
    scale: Tensor, mean: Tensor, invstd: Tensor, grad_weight: Tensor, grad_bias: Tensor, n: int
) -> tuple[Tensor, Tensor]:
    """What the statistics of batch norm add to the gradient of its input x: constant + slope x, (C,) each."""
    slope = -scale * invstd * grad_weight / n
    return -scale * grad_bias / n - slope * mean, slope


def channel_sums(x: Tensor) -> Tensor:
    """(B, C, H, W) -> (C,), added up in float32 at least."""
    return x.sum((0, 2, 3), dtype=torch.promote_types(x.dtype, torch.float32))


def in_rows(x: Tensor, *values: Tensor) -> list[Tensor]:
    """x (B, C, H, W), channels last, as a view of rows of many pixels (n, k C), and values (C,) repeated to (k C,) in
    its precision: broadcasting along a last axis of 16 channels takes ten times longer on a CPU."""
    repeats = math.gcd(count(x), 64)
    rows = x.permute(0, 2, 3, 1).view(-1, repeats * x.shape[1])
    return [rows, *(value.to(x.dtype).repeat(repeats) for value in values)]


def affine(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """scale (C,) times x (B, C, H, W), channels last, plus shift (C,)."""
    rows, scale, shift = in_rows(x, scale, shift)
    return torch.addcmul(shift, rows, scale).view(x.permute(0, 2, 3, 1).shape).permute(0, 3, 1, 2)


def add_affine_(grad: Tensor, x: Tensor, slope: Tensor, constant: Tensor) -> None:
    """grad += slope (C,) x + constant (C,), in place."""
    rows, slope, constant = in_rows(x, slope, constant)
    in_rows(grad)[0].addcmul_(rows, slope).add_(constant)
