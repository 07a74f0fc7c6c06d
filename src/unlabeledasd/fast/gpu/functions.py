"""Differentiable steps between convolutions, and the convolutions of few channels.

Where there is a norm, weight and bias are its own, arguments so that they have gradients.
"""

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from unlabeledasd.fast.blocked import in_autocast
from unlabeledasd.fast.gpu.convolution import convolution, weight_gradient
from unlabeledasd.fast.gpu.norm import (
    Normalization,
    gradient_sums,
    input_gradient,
    normalization,
    normalize,
)
from unlabeledasd.fast.gpu.pooling import pool, pool_gradient
from unlabeledasd.fast.gpu.rescaling import excitation, excitation_gradient, scale_and_add
from unlabeledasd.fast.gpu.tiles import channels_last


class BinNorm(Function):
    """stft (B, F, frames) -> norm(stft) as images (B, 1, frames, F), for a convolution.

    Under autocast in its precision.
    """

    @staticmethod
    def forward(ctx, stft: Tensor, norm: nn.BatchNorm1d, weight: Tensor, bias: Tensor) -> Tensor:
        x = channels_last(stft.unsqueeze(3))
        by = normalization(x, norm)
        out = torch.empty_like(x, dtype=in_autocast(x[:0]).dtype)
        normalize(x, by, (out, None))
        ctx.save_for_backward(x, *by)
        return out.permute(0, 3, 2, 1)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, *by = ctx.saved_tensors
        by = Normalization(*by)
        grads = channels_last(grad.permute(0, 3, 2, 1)), None
        sums = gradient_sums(x, by, grads)
        wanted = ctx.needs_input_grad[0]
        grad_x = input_gradient(x, by, sums, grads).squeeze(3) if wanted else None
        return grad_x, None, *sums


class PooledNorm(Function):
    """x (B, C, H, W) -> max_pool2d(relu(norm(x)), 3, 2)."""

    @staticmethod
    def forward(ctx, x: Tensor, norm: nn.BatchNorm2d, weight: Tensor, bias: Tensor) -> Tensor:
        x = channels_last(x)
        by = normalization(x, norm)
        result, maximum, winner = pool(x, 0, by)
        ctx.save_for_backward(x, maximum, winner, *by)
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, maximum, winner, *by = ctx.saved_tensors
        by = Normalization(*by)
        grad = channels_last(grad)
        sums = gradient_sums(maximum, by, (None, grad))
        return pool_gradient(grad, winner, x, 0, by, sums), None, *sums


class NormRelu(Function):
    """x (B, C, H, W) -> relu(norm(x)); with `both` norm(x) before it."""

    @staticmethod
    def forward(ctx, x: Tensor, norm: nn.BatchNorm2d, both: bool, weight: Tensor, bias: Tensor):
        x = channels_last(x)
        by = normalization(x, norm)
        normalized, positive = torch.empty_like(x) if both else None, torch.empty_like(x)
        normalize(x, by, (normalized, positive))
        ctx.save_for_backward(x, *by)
        return (normalized, positive) if both else positive

    @staticmethod
    @once_differentiable
    def backward(ctx, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, *by = ctx.saved_tensors
        by = Normalization(*by)
        *normalized, positive = map(channels_last, grads)
        given = (normalized[0] if normalized else None), positive
        sums = gradient_sums(x, by, given)
        return input_gradient(x, by, sums, given), None, None, *sums


class Pool(Function):
    """max_pool2d(x, 3, 2, 1)."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        x = channels_last(x)
        maximum, _, winner = pool(x, 1)
        ctx.save_for_backward(x, winner)
        return maximum

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> Tensor:
        x, winner = ctx.saved_tensors
        return pool_gradient(channels_last(grad), winner, x, 1)


class Rescale(Function):
    """x, skip (B, C, H, W) -> SqueezeExcitation(x) + skip, in the precision of x.

    Weights (C / 16, C) and (C, C / 16).
    """

    @staticmethod
    def forward(ctx, x: Tensor, skip: Tensor, squeeze: Tensor, excite: Tensor) -> Tensor:
        x, skip = channels_last(x), channels_last(skip)
        means, hidden, gates = excitation(x, squeeze, excite)
        ctx.save_for_backward(x, squeeze, excite, means, hidden, gates)
        return scale_and_add(x, gates, skip)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor, ...]:
        x, squeeze, excite, means, hidden, gates = ctx.saved_tensors
        grad = channels_last(grad)
        of_gates, of_hidden, of_x = excitation_gradient(grad, x, squeeze, excite, hidden, gates)
        grad_x = scale_and_add(grad, gates, of_x)
        return grad_x, grad, of_hidden.T @ means, of_gates.T @ hidden


class NarrowConvolution(Function):
    """x (B, C, H, W) of 16 bits -> conv2d(x, weight, padding=1) of as many channels."""

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor) -> Tensor:
        x, weight = channels_last(x), channels_last(weight)
        ctx.save_for_backward(x, weight)
        return convolution(x, weight)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor, Tensor]:
        x, weight = ctx.saved_tensors
        grad = channels_last(grad)
        return convolution(grad, weight, of_gradient=True), weight_gradient(x, grad)
