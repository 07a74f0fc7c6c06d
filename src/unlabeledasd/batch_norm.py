"""The steps of batch norm one by one, on (B, C, H, W), channels last: statistics, normalisation, gradients."""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

CACHED = 1 << 19  # numbers whose intermediate results in float32 stay in a CPU's cache
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
) -> Callable[[Tensor, Tensor, Tensor], None]:
    """How the gradient of batch norm's input follows from that of its output and the input: a function that writes it
    into its third argument, (B, C, H, W) each; n: numbers per channel of the batch.

    What the statistics add, constant + slope x, is smaller than the last digit of a bfloat16 gradient, and counts
    only as the sum of millions: so one sum in float32, rounded once.
    """
    invstd = (var + eps).rsqrt()
    scale = weight * invstd
    slope = -scale * invstd * grad_weight / n
    constant = -scale * grad_bias / n - slope * mean

    def write(grad: Tensor, x: Tensor, out: Tensor) -> None:
        # in rows of many pixels: broadcasting along a last axis of 16 channels takes ten times longer on a CPU
        repeats = math.gcd(count(x), 64)
        tensors = [y.permute(0, 2, 3, 1).view(-1, repeats * y.shape[1]) for y in (grad, x, out)]
        a, b, c = (values.repeat(repeats) for values in (scale, slope, constant))
        rows = CACHED // len(a) if x.device.type == "cpu" else len(tensors[0])
        for g, x, o in zip(*(y.split(rows) for y in tensors), strict=True):
            o.copy_(torch.addcmul(c, g.to(a.dtype), a).addcmul_(x.to(a.dtype), b))

    return write
