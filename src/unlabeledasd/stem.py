"""The first layers of an STFT branch, which see an image of full size: convolution, batch norm, ReLU, max-pooling.

The same function as PyTorch's layers in that order, computed in less time and memory: batch norm and ReLU wait
until the pooling has left a quarter of the positions, and the gradient of the image is found by a convolution.
"""

import math

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

STRIDE = 2  # of the convolution
POOL = (3, 2)  # kernel, stride
PAIR = {2: torch.int32, 4: torch.int64, 8: torch.complex128}  # two numbers of so many bytes, as one


class Stem(nn.Module):
    """(B, 1, H, W) -> (B, channels, H', W'): Conv2d(1, channels, kernel, stride 2), BatchNorm2d, ReLU,
    MaxPool2d(3, 2), none of them padded."""

    def __init__(self, channels: int, kernel: int):
        super().__init__()
        self.conv = nn.Conv2d(1, channels, kernel, STRIDE, bias=False)
        self.norm = nn.BatchNorm2d(channels)

    def forward(self, image: Tensor) -> Tensor:
        device, dtype, norm = image.device.type, image.dtype, self.norm
        if torch.is_autocast_enabled(device):
            dtype = torch.get_autocast_dtype(device)
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
        pooled, indices = F.max_pool2d(x, *POOL, return_indices=True)
        out = affine(pooled, scale, bias - mean * scale).relu_()
        ctx.save_for_backward(x, pooled, indices, out, scale, mean, invstd)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, pooled, indices, out, scale, mean, invstd = ctx.saved_tensors
        grad = torch.ops.aten.threshold_backward(grad, out, 0)
        grad_bias = channel_sums(grad)
        grad_weight = (channel_sums(grad * pooled) - mean * grad_bias) * invstd
        n = x.numel() // x.shape[1]
        slope = -scale * invstd * grad_weight / n
        constant = -scale * grad_bias / n - slope * mean
        grad_x = torch.ops.aten.max_pool2d_with_indices_backward(
            grad * scale.to(grad.dtype).view(-1, 1, 1), x, [POOL[0]] * 2, [POOL[1]] * 2, [0, 0], [1, 1], False, indices
        )
        rows, slope, constant = in_rows(x, slope, constant)
        in_rows(grad_x)[0].addcmul_(rows, slope).add_(constant)
        return grad_x, grad_weight, grad_bias, None, None, None


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
