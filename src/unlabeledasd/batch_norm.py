"""The steps of batch norm one by one, on (B, C, H, W), channels last: statistics, normalisation, gradients."""

import math
from collections.abc import Callable, Sequence

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


def normalize_sums(
    grad: Tensor, x: Tensor, mean: Tensor, var: Tensor, weight: Tensor, bias: Tensor, eps: float
) -> tuple[Tensor, Tensor]:
    """Of `normalize`: gradients of weight and bias."""
    sums = [False, True, True]
    return aten.native_batch_norm_backward(grad, x, weight, mean, var, None, None, False, eps, sums)[1:]


def input_gradient(
    mean: Tensor, var: Tensor, weight: Tensor, eps: float, grad_weight: Tensor, grad_bias: Tensor, n: int
) -> Callable[[Tensor, Tensor], Tensor]:
    """The gradient of batch norm's input as a function of the gradient of its output and the input, (B, C, H, W) each;
    n: numbers per channel of the batch.

    What the statistics add, constant + slope x, is smaller than the last digit of a bfloat16 gradient, and counts
    only as the sum of millions: so one sum in float32, rounded once.
    """
    invstd = (var + eps).rsqrt()
    scale = weight * invstd
    slope = -scale * invstd * grad_weight / n
    constant = -scale * grad_bias / n - slope * mean
    return lambda grad, x: affine(constant, (grad, scale), (x, slope))


def channel_sums(x: Tensor) -> Tensor:
    """(B, C, H, W) -> (C,), added up in float32 at least."""
    return x.sum((0, 2, 3), dtype=torch.promote_types(x.dtype, torch.float32))


def affine(shift: Tensor, *terms: tuple[Tensor, Tensor]) -> Tensor:
    """shift (C,) plus each x (B, C, H, W) times its scale (C,): in float32 at least, rounded once to x's precision.

    In rows of many pixels: broadcasting along a last axis of 16 channels takes ten times longer on a CPU.
    """
    x = terms[0][0]
    repeats = math.gcd(count(x), 64)
    total = shift.repeat(repeats)
    for x, scale in terms:
        rows = x.permute(0, 2, 3, 1).reshape(-1, repeats * x.shape[1]).to(scale.dtype)
        total = torch.addcmul(total, rows, scale.repeat(repeats))
    return total.to(x.dtype).view(x.permute(0, 2, 3, 1).shape).permute(0, 3, 1, 2)
