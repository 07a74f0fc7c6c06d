"""Layers of the STFT branches that compute the same function as PyTorch's, in less time and memory.

Some clips at a time go through all layers up to the next batch norm, whose statistics need every clip: less memory,
and what stays in the cache. What cheap steps make again from a tensor that is kept is not kept for the gradient.
"""

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from unlabeledasd.fast.batch_norm import (
    channel_statistics,
    count,
    input_gradient,
    normalize,
    normalize_sums,
    pooled_statistics,
    update,
)

PART_BYTES = 16 << 20  # of a tensor, that are worked on at a time on a CPU
aten = torch.ops.aten


class ResidualFunction(Function):
    """Training of a residual block, networks.ResidualBlock: x (B, C, H, W) -> out.

    With n = BN(x): convolved = conv(relu(n)); inner = inner_conv(relu(inner BN(convolved))); out = inner x gates + n,
    or + skip_conv(max_pool(n)). Kept are x, convolved, inner and the statistics.
    """

    @staticmethod
    def forward(
        ctx,
        x: Tensor,
        norm: nn.BatchNorm2d,
        inner_norm: nn.BatchNorm2d,
        stride: int,
        squeeze: Tensor,
        excite: Tensor,
        weight: Tensor,
        bias: Tensor,
        inner_weight: Tensor,
        inner_bias: Tensor,
        *kernels: Tensor,
    ) -> Tensor:
        # weights and biases are those of the norms, here to have gradients
        kernels = [kernel.to(x.dtype, memory_format=torch.channels_last) for kernel in kernels]
        kernel, inner_kernel, *skip_kernel = kernels
        with torch.autocast(x.device.type, enabled=False):
            ctx.clips, ctx.stride, ctx.eps = clips_at_once(x), stride, norm.eps
            parts = x.split(ctx.clips)
            outer = *pooled_statistics(parts, list(map(channel_statistics, parts))), weight, bias
            update(norm, *outer[:2], count(x))
            convolved, moments = [], []
            for part in parts:
                convolved.append(
                    convolve(normalize(part, *outer, norm.eps).relu_(), kernel, stride, 1)
                )
                moments.append(channel_statistics(convolved[-1]))
            middle = *pooled_statistics(convolved, moments), inner_weight, inner_bias
            update(inner_norm, *middle[:2], sum(map(count, convolved)))
            inner, gates, out = [], [], []
            for part, h in zip(parts, convolved, strict=True):
                r = convolve(normalize(h, *middle, norm.eps).relu_(), inner_kernel, 1, 1)
                means = r.sum((2, 3), dtype=squeeze.dtype) / r.shape[2:].numel()
                hidden = F.relu(means @ squeeze.T)
                gate = torch.sigmoid(hidden @ excite.T)
                n = normalize(part, *outer, norm.eps)
                skip = convolve(F.max_pool2d(n, 3, stride, 1), *skip_kernel) if skip_kernel else n
                rows(skip).addcmul_(rows(r), per_clip(gate, r))
                out.append(skip)
                inner.append(r)
                gates.append((means, hidden, gate))
        ctx.n_parts = len(parts)
        gates = [torch.cat(values) for values in zip(*gates, strict=True)]
        ctx.save_for_backward(
            x, squeeze, excite, *outer, *middle, *kernels, *convolved, *inner, *gates
        )
        return torch.cat(out)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, squeeze, excite, *saved = ctx.saved_tensors
        outer, middle, saved = saved[:4], saved[4:8], saved[8:]
        n_kernels = len(saved) - 3 - 2 * ctx.n_parts
        kernels, saved = saved[:n_kernels], saved[n_kernels:]
        kernel, inner_kernel, *skip_kernel = kernels
        convolved, inner = saved[: ctx.n_parts], saved[ctx.n_parts : -3]
        gates = zip(*(values.split(ctx.clips) for values in saved[-3:]), strict=True)
        parts = x.split(ctx.clips)
        grads = grad.contiguous(memory_format=torch.channels_last).split(ctx.clips)
        dtype = squeeze.dtype
        grad_kernels = [torch.zeros_like(k, dtype=dtype) for k in kernels]
        grad_squeeze, grad_excite = torch.zeros_like(squeeze), torch.zeros_like(excite)
        grad_middle, grad_outer = (
            norm[0].new_zeros(2, len(norm[0])) for norm in (middle, outer)
        )  # weight, bias

        grads_convolved = []  # of the inner batch norm's output
        for h, r, g, (means, hidden, gate) in zip(convolved, inner, grads, gates, strict=True):
            grad_gate = (g * r).sum((2, 3), dtype=dtype) * gate * (1 - gate)
            grad_excite += grad_gate.T @ hidden
            grad_hidden = (grad_gate @ excite) * (hidden > 0)
            grad_squeeze += grad_hidden.T @ means
            grad_means = grad_hidden @ squeeze / r.shape[2:].numel()
            a = normalize(h, *middle, ctx.eps).relu_()
            grad_r = torch.empty_like(g)
            torch.addcmul(per_clip(grad_means, g), rows(g), per_clip(gate, g), out=rows(grad_r))
            grad_a, grad_kernel = convolution_gradients(grad_r, a, inner_kernel, 1, 1)
            grad_kernels[1] += grad_kernel
            grads_convolved.append(aten.threshold_backward(grad_a, a, 0))
            grad_middle += torch.stack(normalize_sums(grads_convolved[-1], h, *middle, ctx.eps))

        numbers = sum(map(count, convolved))
        grads_x = []
        for part, h, g, grad_h in zip(parts, convolved, grads, grads_convolved, strict=True):
            grad_h = input_gradient(grad_h, h, *middle[:3], grad_middle, numbers, ctx.eps)
            n = normalize(part, *outer, ctx.eps)
            if skip_kernel:
                pooled, indices = F.max_pool2d(n, 3, ctx.stride, 1, return_indices=True)
                g, grad_kernel = convolution_gradients(g, pooled, *skip_kernel, 1, 0)
                grad_kernels[2] += grad_kernel
                pooling = [3, 3], [ctx.stride] * 2, [1, 1], [1, 1], False
                g = aten.max_pool2d_with_indices_backward(g, n, *pooling, indices)
            a = n.relu_()
            grad_a, grad_kernel = convolution_gradients(grad_h, a, kernel, ctx.stride, 1)
            grad_kernels[0] += grad_kernel
            grads_x.append(aten.threshold_backward(grad_a, a, 0).add_(g))
            grad_outer += torch.stack(normalize_sums(grads_x[-1], part, *outer, ctx.eps))

        grad_x = torch.empty_like(x)
        for part, grad_part, out in zip(parts, grads_x, grad_x.split(ctx.clips), strict=True):
            input_gradient(grad_part, part, *outer[:3], grad_outer, count(x), ctx.eps, out)
        return (
            grad_x,
            None,
            None,
            None,
            grad_squeeze,
            grad_excite,
            *grad_outer,
            *grad_middle,
            *grad_kernels,
        )


def in_layout(x: Tensor) -> Tensor:
    """x (B, C, H, W) channels last, in the precision in which autocast would convolve it."""
    device = x.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype
    return x.to(dtype).contiguous(memory_format=torch.channels_last)


def clips_at_once(x: Tensor, factor: float = 1) -> int:
    """How many clips to work on at a time, where a tensor has `factor` times the numbers of x: parts of nearly equal
    size, of PART_BYTES times 2/3 to 3/2, or of one clip."""
    if x.device.type != "cpu":
        return len(x)
    parts = min(len(x), max(1, round(x.numel() * x.element_size() * factor / PART_BYTES)))
    return -(-len(x) // parts)


def convolution_gradients(
    grad: Tensor, x: Tensor, kernel: Tensor, stride: int, padding: int, image: bool = True
) -> tuple[Tensor | None, Tensor]:
    """Gradients of x (none unless `image`) and of the kernel."""
    geometry = [stride] * 2, [padding] * 2, [1, 1], False, [0, 0], 1
    grad_x, grad_kernel, _ = aten.convolution_backward(
        grad, x, kernel, None, *geometry, [image, True, False]
    )
    return grad_x.contiguous(memory_format=torch.channels_last) if image else None, grad_kernel


def convolve(x: Tensor, kernel: Tensor, stride: int = 1, padding: int = 0) -> Tensor:
    """conv2d, channels last whichever library computes it."""
    return F.conv2d(x, kernel, None, stride, padding).contiguous(memory_format=torch.channels_last)


def rows(x: Tensor) -> Tensor:
    """(B, C, H, W), channels last -> (B, H, W C), a view: operations with `per_clip` are fast along long rows."""
    return x.permute(0, 2, 3, 1).view(len(x), x.shape[2], -1)


def per_clip(values: Tensor, x: Tensor) -> Tensor:
    """(B, C) -> (B, 1, W C) in the precision of x (B, C, H, W)."""
    return values.to(x.dtype).repeat(1, x.shape[3])[:, None]
