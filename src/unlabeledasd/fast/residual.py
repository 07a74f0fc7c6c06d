"""Training of residual blocks in less time and memory than PyTorch's layers need.

Some clips at a time pass all layers up to the next batch norm, which needs the statistics of the
whole batch: what they touch stays in the cache. What follows in little time from tensors that are
kept is not kept for the gradient, but computed again.
"""

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from unlabeledasd.fast.batch_norm import (
    Normalization,
    channel_moments,
    count,
    input_gradient,
    normalize,
    normalize_sums,
    pooled_statistics,
    update,
)
from unlabeledasd.fast.convolution import clips_at_once, convolution_gradients, convolve, in_layout
from unlabeledasd.networks import ResidualBlock

NARROW = 16  # channels of a block's input up to which h is computed again: little work, much memory
aten = torch.ops.aten


class FastResidualBlock(ResidualBlock):
    """A ResidualBlock that trains by ResidualFunction."""

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x)
        weights = [self.rescale.squeeze.weight, self.rescale.excite.weight]
        for norm in (self.norm1, self.norm2):
            weights += [norm.weight, norm.bias]
        weights += [self.conv1.weight, self.conv2.weight, *self.skip.parameters()]
        stride = self.conv1.stride[0]
        return ResidualFunction.apply(in_layout(x), self.norm1, self.norm2, stride, *weights)


class ResidualFunction(Function):
    """x (B, C, H, W), channels last -> the output of a ResidualBlock in training mode.

    With n = norm1(x), h = conv1(relu(n)) and r = conv2(relu(norm2(h))), out = r x gates + skip(n).
    Kept for the gradient are x, h (unless x has few channels), r and the statistics of both batch
    norms.
    """

    @staticmethod
    def forward(
        ctx,
        x: Tensor,
        norm1: nn.BatchNorm2d,
        norm2: nn.BatchNorm2d,
        stride: int,
        squeeze: Tensor,
        excite: Tensor,
        weight1: Tensor,
        bias1: Tensor,
        weight2: Tensor,
        bias2: Tensor,
        *kernels: Tensor,
    ) -> Tensor:
        # weights and biases are those of the batch norms, here so that they have gradients
        kernels = tuple(k.to(x.dtype, memory_format=torch.channels_last) for k in kernels)
        kernel1, kernel2, *skip_kernel = kernels
        with torch.autocast(x.device.type, enabled=False):
            ctx.clips, ctx.stride, ctx.eps = clips_at_once(x), stride, norm1.eps
            parts = x.split(ctx.clips)
            moments = [m for part in parts for m in channel_moments(part)]
            statistics = pooled_statistics(moments, weight1.dtype)
            update(norm1, *statistics, count(x))
            first = Normalization(*statistics, weight1, bias1, norm1.eps)
            hs, moments = [], []
            for part in parts:
                hs.append(first_convolution(part, first, kernel1, stride))
                moments += channel_moments(hs[-1])
            statistics = pooled_statistics(moments, weight2.dtype)
            update(norm2, *statistics, sum(map(count, hs)))
            second = Normalization(*statistics, weight2, bias2, norm2.eps)
            shape = len(x), *hs[0].shape[1:]
            out = torch.empty(shape, dtype=x.dtype, memory_format=torch.channels_last)
            rs, excitations = [], []
            for part, h, out_part in zip(parts, hs, out.split(ctx.clips), strict=True):
                r = convolve(normalize(h, second).relu_(), kernel2, 1, 1)
                means = r.sum((2, 3), dtype=squeeze.dtype) / r.shape[2:].numel()
                hidden = F.relu(means @ squeeze.T)
                gates = torch.sigmoid(hidden @ excite.T)
                skip = normalize(part, first)
                if skip_kernel:
                    skip = convolve(F.max_pool2d(skip, 3, stride, 1), skip_kernel[0])
                torch.addcmul(rows(skip), rows(r), per_clip(gates, r), out=rows(out_part))
                rs.append(r)
                excitations.append((means, hidden, gates))
        ctx.n_kernels = len(kernels)
        ctx.save_for_backward(
            *(x, squeeze, excite, *first[:4], *second[:4]),
            *(torch.cat(values) for values in zip(*excitations, strict=True)),
            *(*kernels, *rs, *(hs if x.shape[1] > NARROW else [])),
        )
        return out

    @staticmethod
    @torch.autocast("cpu", enabled=False)
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, squeeze, excite, *saved = ctx.saved_tensors
        first, second = (Normalization._make([*saved[i : i + 4], ctx.eps]) for i in (0, 4))
        excitations, saved = saved[8:11], saved[11:]
        kernel1, kernel2, *skip_kernel = kernels = saved[: ctx.n_kernels]
        parts, saved = x.split(ctx.clips), saved[ctx.n_kernels :]
        rs, hs = saved[: len(parts)], saved[len(parts) :]
        hs = hs or [first_convolution(part, first, kernel1, ctx.stride) for part in parts]
        grads = grad.contiguous(memory_format=torch.channels_last).split(ctx.clips)
        dtype = squeeze.dtype
        grad_kernels = [torch.zeros_like(kernel, dtype=dtype) for kernel in kernels]
        grad_squeeze, grad_excite = torch.zeros_like(squeeze), torch.zeros_like(excite)
        grad_first, grad_second = (n.bias.new_zeros(2, len(n.bias)) for n in (first, second))

        grads_h = []  # of norm2's output
        by_part = zip(*(values.split(ctx.clips) for values in excitations), strict=True)
        for h, r, g, (means, hidden, gates) in zip(hs, rs, grads, by_part, strict=True):
            grad_gates = (g * r).sum((2, 3), dtype=dtype) * gates * (1 - gates)
            grad_excite += grad_gates.T @ hidden
            grad_hidden = (grad_gates @ excite) * (hidden > 0)
            grad_squeeze += grad_hidden.T @ means
            grad_means = grad_hidden @ squeeze / r.shape[2:].numel()
            grad_r = torch.empty_like(g)
            torch.addcmul(per_clip(grad_means, g), rows(g), per_clip(gates, g), out=rows(grad_r))
            a = normalize(h, second).relu_()
            grad_a, grad_kernel = convolution_gradients(grad_r, a, kernel2, 1, 1)
            grad_kernels[1] += grad_kernel
            grads_h.append(aten.threshold_backward(grad_a, a, 0))
            grad_second += torch.stack(normalize_sums(grads_h[-1], h, second))

        n_positions = sum(map(count, hs))
        grads_n = []  # of norm1's output
        for part, h, g, grad_h in zip(parts, hs, grads, grads_h, strict=True):
            grad_h = input_gradient(grad_h, h, second, grad_second, n_positions)
            n = normalize(part, first)
            if skip_kernel:
                pooled, indices = F.max_pool2d(n, 3, ctx.stride, 1, return_indices=True)
                g, grad_kernel = convolution_gradients(g, pooled, skip_kernel[0], 1, 0)
                grad_kernels[2] += grad_kernel
                pooling = [3, 3], [ctx.stride] * 2, [1, 1], [1, 1], False
                g = aten.max_pool2d_with_indices_backward(g, n, *pooling, indices)
            a = n.relu_()
            grad_a, grad_kernel = convolution_gradients(grad_h, a, kernel1, ctx.stride, 1)
            grad_kernels[0] += grad_kernel
            grads_n.append(aten.threshold_backward(grad_a, a, 0).add_(g))
            grad_first += torch.stack(normalize_sums(grads_n[-1], part, first))

        grad_x = torch.empty_like(x)
        for part, grad_n, out in zip(parts, grads_n, grad_x.split(ctx.clips), strict=True):
            input_gradient(grad_n, part, first, grad_first, count(x), out)
        grads_norms = *grad_first, *grad_second
        return grad_x, None, None, None, grad_squeeze, grad_excite, *grads_norms, *grad_kernels


def first_convolution(x: Tensor, norm: Normalization, kernel: Tensor, stride: int) -> Tensor:
    """h of ResidualFunction."""
    return convolve(normalize(x, norm).relu_(), kernel, stride, 1)


def rows(x: Tensor) -> Tensor:
    """x (B, C, H, W), channels last -> a view (B, H, W C): `per_clip` is fast along long rows."""
    return x.permute(0, 2, 3, 1).view(len(x), x.shape[2], -1)


def per_clip(values: Tensor, x: Tensor) -> Tensor:
    """values (B, C) -> (B, 1, W C), in the precision of x (B, C, H, W)."""
    return values.to(x.dtype).repeat(1, x.shape[3])[:, None]
