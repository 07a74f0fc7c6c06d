"""Layers of the STFT branches that compute the same function as PyTorch's, in less time and memory.

Stem: batch norm and ReLU wait until the pooling has left a quarter of the positions, and the gradient of the image is
found by a convolution. norm_relu_conv: what follows from its input by cheap steps is not kept but computed again.
"""

import math

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

STRIDE = 2  # of the convolution
POOL = (3, 2)  # kernel, stride
CLIPS = 8  # that are treated together, where a whole batch would take much memory
PAIR = {2: torch.int32, 4: torch.int64, 8: torch.complex128}  # two numbers of so many bytes, as one


class Stem(nn.Module):
    """(B, 1, H, W) -> (B, channels, H', W'): Conv2d(1, channels, kernel, stride 2), BatchNorm2d, ReLU,
    MaxPool2d(3, 2), none of them padded."""

    def __init__(self, channels: int, kernel: int):
        super().__init__()
        self.conv = nn.Conv2d(1, channels, kernel, STRIDE, bias=False)
        self.norm = nn.BatchNorm2d(channels)

    def forward(self, image: Tensor) -> Tensor:
        norm, dtype = self.norm, convolution_dtype(image)
        # Channels that batch norm turns over are turned over here: then the maximum commutes with what follows.
        sign = torch.where(norm.weight < 0, -1.0, 1.0)
        kernel = (self.conv.weight * sign.view(-1, 1, 1, 1)).to(dtype, memory_format=torch.channels_last)
        x = ImageConvolution.apply(image.to(dtype, memory_format=torch.channels_last), kernel)
        if self.training:
            with torch.no_grad():  # NormalizedPooling has their gradients
                mean, var = channel_statistics(x)
                n = x.numel() // x.shape[1]
                norm.num_batches_tracked += 1
                norm.running_mean.lerp_(mean * sign, norm.momentum)
                norm.running_var.lerp_(var * (n / (n - 1)), norm.momentum)
            return NormalizedPooling.apply(x, norm.weight * sign, norm.bias, mean, var, norm.eps)
        scale = norm.weight * sign * (norm.running_var + norm.eps).rsqrt()
        shift = norm.bias - norm.running_mean * sign * scale
        pooled = F.max_pool2d(x, *POOL)
        return affine(pooled, scale, shift).relu()


def norm_relu_conv(x: Tensor, norm: nn.BatchNorm2d, conv: nn.Conv2d) -> tuple[Tensor, Tensor]:
    """x (B, C, H, W) -> (skip, conv(relu(norm(x)))); skip is norm(x), pooled as the convolution strides."""
    if norm.training:
        norm.num_batches_tracked += 1
        dtype = convolution_dtype(x)
        weight = conv.weight.to(dtype, memory_format=torch.channels_last)
        return NormReluConv.apply(x.to(dtype), weight, norm, norm.weight, norm.bias, conv.stride[0])
    n = norm(x)
    skip = n if conv.stride[0] == 1 else F.max_pool2d(n, 3, conv.stride, padding=1)
    return skip, conv(F.relu(n))


def convolution_dtype(x: Tensor) -> torch.dtype:
    """The precision in which autocast would convolve x."""
    device = x.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype


class ImageConvolution(Function):
    """conv2d(image (B, 1, H, W), weight (C, 1, k, k), stride 2).

    The gradient of the image at (2 a + p, 2 b + q) takes the taps of parity (p, q) alone: a convolution of stride 1
    with four outputs, one per (p, q), which libraries compute faster than the transposed convolution of stride 2.
    """

    @staticmethod
    def forward(ctx, image: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(image, weight)
        return F.conv2d(image, weight, stride=STRIDE)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, Tensor]:
        image, weight = ctx.saved_tensors
        grad = grad.contiguous(memory_format=torch.channels_last)
        grad_weight = torch.ops.aten.convolution_backward(
            grad, image, weight, None, [STRIDE] * 2, [0, 0], [1, 1], False, [0, 0], 1, [False, True, False]
        )[1]
        grad_image = image_gradient(grad, weight, image.shape) if ctx.needs_input_grad[0] else None
        return grad_image, grad_weight


def image_gradient(grad: Tensor, weight: Tensor, shape: torch.Size) -> Tensor:
    """grad (B, C, H', W') of conv2d(image, weight, stride 2) -> gradient of the image, of `shape` (B, 1, H, W)."""
    taps = -(-weight.shape[-1] // 2)  # per parity
    missing = 2 * taps - weight.shape[-1]
    kernel = F.pad(weight, (0, missing, 0, missing)).view(-1, taps, 2, taps, 2)  # (C, tap, p, tap, q)
    kernel = kernel.permute(2, 4, 0, 1, 3).flip(3, 4).flatten(0, 1)  # (4, C, tap, tap)
    parities = F.conv2d(grad, kernel.contiguous(memory_format=torch.channels_last), padding=taps - 1)
    parities = parities.permute(0, 2, 3, 1).contiguous()  # (B, a, b, (p, q))
    pairs = parities.view(PAIR[parities.element_size()]).transpose(2, 3)  # (B, a, p, b); q stays with its b
    rows = pairs.contiguous().view(parities.dtype).flatten(1, 2)  # (B, (a, p), (b, q))
    height, width = shape[2:]
    rows = F.pad(rows, (0, max(0, width - rows.shape[2]), 0, max(0, height - rows.shape[1])))
    return rows[:, None, :height, :width]


class NormalizedPooling(Function):
    """relu(batch_norm(max_pool(x))) with the statistics of x (B, C, H, W) before pooling; equal to
    max_pool(relu(batch_norm(x))) as long as no weight is negative.

    weight, bias, mean, var: (C,) float. Only the positions that were the maximum of a window have a gradient of
    their own; what the statistics add to the others is one multiple of x and one constant per channel.
    """

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, var: Tensor, eps: float) -> Tensor:
        invstd = (var + eps).rsqrt()
        scale = weight * invstd
        pooled = F.max_pool2d(x, *POOL)
        out = affine(pooled, scale, bias - mean * scale).relu_()
        ctx.save_for_backward(x, pooled, out, scale, mean, invstd)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, pooled, out, scale, mean, invstd = ctx.saved_tensors
        grad = torch.ops.aten.threshold_backward(grad, out, 0)
        grad_bias = channel_sums(grad)
        grad_weight = (channel_sums(grad * pooled) - mean * grad_bias) * invstd
        n = x.numel() // x.shape[1]
        slope = -scale * invstd * grad_weight / n
        constant = -scale * grad_bias / n - slope * mean
        grad *= scale.to(grad.dtype).view(-1, 1, 1)
        pooling = [POOL[0]] * 2, [POOL[1]] * 2, [0, 0], [1, 1], False
        # Some clips at a time, in place of x, which nothing else needs: this is where memory would peak.
        for part, grad_part in zip(x.split(CLIPS), grad.split(CLIPS), strict=True):
            indices = F.max_pool2d(part, *POOL, return_indices=True)[1]
            of_maxima = torch.ops.aten.max_pool2d_with_indices_backward(grad_part, part, *pooling, indices)
            rows, slopes, constants = in_rows(part, slope, constant)
            torch.addcmul(constants, rows, slopes, out=rows).add_(in_rows(of_maxima)[0])
        return x, grad_weight, grad_bias, None, None, None


class NormReluConv(Function):
    """x (B, C, H, W) -> (skip, conv2d(relu(n), weight, padding 1)), n = batch_norm(x) by the statistics of the batch.

    skip is n, or n after MaxPool2d(3, 2, padding 1) where the convolution has stride 2. Of the tensors of this size
    x alone is kept; n and relu(n) are computed again for the gradient.
    """

    @staticmethod
    def forward(
        ctx, x: Tensor, weight: Tensor, norm: nn.BatchNorm2d, norm_weight: Tensor, norm_bias: Tensor, stride: int
    ):
        # norm_weight, norm_bias: those of norm, here to have gradients
        n, mean, invstd = torch.native_batch_norm(
            x, norm_weight, norm_bias, norm.running_mean, norm.running_var, True, norm.momentum, norm.eps
        )
        ctx.stride, ctx.eps = stride, norm.eps
        out = F.conv2d(n.relu(), weight, None, stride, 1)
        indices = None
        if stride > 1:
            n, indices = F.max_pool2d(n, 3, stride, 1, return_indices=True)
        ctx.save_for_backward(x, weight, norm_weight, norm_bias, mean, invstd, indices)
        return n, out

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_skip: Tensor, grad_out: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, norm_weight, norm_bias, mean, invstd, indices = ctx.saved_tensors
        var = invstd.square().reciprocal() - ctx.eps
        n = torch.native_batch_norm(x, norm_weight, norm_bias, mean, var, False, 0.0, ctx.eps)[0]
        if indices is not None:
            pooling = [3, 3], [ctx.stride] * 2, [1, 1], [1, 1], False
            grad_skip = torch.ops.aten.max_pool2d_with_indices_backward(grad_skip, n, *pooling, indices)
        n.relu_()
        grad, grad_weight, _ = torch.ops.aten.convolution_backward(
            grad_out, n, weight, None, [ctx.stride] * 2, [1, 1], [1, 1], False, [0, 0], 1, [True, True, False]
        )
        grad = torch.ops.aten.threshold_backward(grad, n, 0).add_(grad_skip)
        grad_x, *grads = torch.ops.aten.native_batch_norm_backward(
            grad, x, norm_weight, None, None, mean, invstd, True, ctx.eps, [True, True, True]
        )
        return grad_x, grad_weight, None, *grads, None


def in_rows(x: Tensor, *values: Tensor) -> list[Tensor]:
    """x (B, C, H, W), channels last, as a view of rows of many pixels (n, k C), and values (C,) repeated to (k C,) in
    its precision: broadcasting along a last axis of 16 channels takes ten times longer on a CPU."""
    repeats = math.gcd(x.numel() // x.shape[1], 64)
    rows = x.permute(0, 2, 3, 1).flatten().view(-1, repeats * x.shape[1])
    return [rows, *(value.to(x.dtype).repeat(repeats) for value in values)]


def affine(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """scale (C,) times x (B, C, H, W), channels last, plus shift (C,)."""
    rows, scale, shift = in_rows(x, scale, shift)
    return torch.addcmul(shift, rows, scale).view(x.permute(0, 2, 3, 1).shape).permute(0, 3, 1, 2)


def channel_sums(x: Tensor) -> Tensor:
    """(B, C, H, W) -> (C,), added up in float32 at least."""
    return x.sum((0, 2, 3), dtype=torch.promote_types(x.dtype, torch.float32))


def channel_statistics(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and biased variance (C,) of x (B, C, H, W), in float32 at least."""
    dtype = torch.promote_types(x.dtype, torch.float32)
    if x.device.type != "cpu":
        var, mean = torch.var_mean(x.to(dtype), (0, 2, 3), correction=0)
        return mean, var
    # torch.var_mean is ten times slower here; clip by clip, since sums of millions of float32 lose digits
    unused = x.new_zeros(2, x.shape[1], dtype=dtype)
    clips = [torch.ops.aten.batch_norm_update_stats(clip, *unused, 0.0) for clip in x.split(1)]
    means, variances = (torch.stack(values) for values in zip(*clips, strict=True))  # (B, C)
    return means.mean(0), variances.mean(0) + means.var(0, correction=0)
