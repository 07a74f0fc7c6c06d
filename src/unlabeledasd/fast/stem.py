"""Training and inference of the first layers of an STFT branch in less time and memory."""

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
from unlabeledasd.fast.convolution import clips_at_once, convolve, in_layout
from unlabeledasd.networks import Stem

GROUP = 4  # columns of its output that column_gradients takes together
aten = torch.ops.aten


class FastStem(Stem):
    """A Stem whose batch norm follows the max-pool, which leaves it a quarter of the positions.

    Batch norm and maximum commute unless a batch-norm weight is negative: such channels are
    sign-flipped in the kernel. Where a weight is exactly 0, all positions of a window are its
    maximum; the gradient is then that of the convolution's maximum, where PyTorch takes the first.
    """

    def forward(self, stft: Tensor) -> Tensor:
        if self.training and stft.requires_grad:
            return super().forward(stft)
        norm = self.norm
        sign = torch.where(norm.weight < 0, -1.0, 1.0)
        kernel, weight = self.conv.weight * sign.view(-1, 1, 1, 1), norm.weight * sign
        image = stft.transpose(1, 2)  # (B, frames, F), contiguous as the transform leaves it
        if self.training:
            weights = self.bin_norm.weight, self.bin_norm.bias, kernel, weight, norm.bias
            return StemFunction.apply(image, self.bin_norm, norm, sign, *weights)
        normalized = self.bin_norm(image.flatten(0, 1)).view_as(image).unsqueeze(1)
        normalized = in_layout(normalized)
        pooled = max_pool(convolve(normalized, kernel.to(normalized.dtype), 2))
        mean, var, _ = norm.buffers()
        return F.batch_norm(pooled, mean * sign, var, weight, norm.bias, eps=norm.eps).relu()


class StemFunction(Function):
    """image (B, H, W) -> the output of a Stem in training mode, W frequency bins, weights >= 0.

    Batch norm and ReLU see the pooled quarter of the positions. Only positions that were the
    maximum of a window have a gradient of their own; the statistics add a multiple of the
    convolution and a constant per channel. The image has no gradient: what the batch norm of its
    bins needs follows from the kernel's gradient, column by column. The convolution, four times as
    large as the output, is computed again for the gradient rather than kept.
    """

    @staticmethod
    def forward(
        ctx,
        image: Tensor,
        bin_norm: nn.BatchNorm1d,
        norm: nn.BatchNorm2d,
        sign: Tensor,
        scale: Tensor,
        shift: Tensor,
        kernel: Tensor,
        weight: Tensor,
        bias: Tensor,
    ) -> Tensor:
        # scale and shift are bin_norm's weights; kernel and weight are multiplied by the sign
        image, kernel = image.contiguous(), in_layout(kernel)
        with torch.autocast(image.device.type, enabled=False):
            growth = len(kernel) / 4 * kernel.element_size() / image.element_size()
            ctx.clips, ctx.eps = clips_at_once(image, growth), (bin_norm.eps, norm.eps)
            parts = by_column(image).split(ctx.clips)
            moments = [m for part in parts for m in channel_moments(part)]
            statistics = pooled_statistics(moments, scale.dtype)
            update(bin_norm, *statistics, count(by_column(image)))
            bins = Normalization(*statistics, scale, shift, bin_norm.eps)
            pooled, moments, ctx.n_positions = [], [], 0
            for part in parts:
                x = convolve_image(part, bins, kernel)
                moments += channel_moments(x)
                ctx.n_positions += count(x)
                pooled.append(max_pool(x))
            mean, var = pooled_statistics(moments, weight.dtype)
            update(norm, mean * sign, var, ctx.n_positions)
            kept = torch.cat(pooled)
            after = Normalization(mean, var, weight, bias, norm.eps)
            out = normalize(kept, after).relu_()
        ctx.save_for_backward(image, kernel, kept, out, *bins[:4], *after[:4])
        return out

    @staticmethod
    @torch.autocast("cpu", enabled=False)
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
        image, kernel, pooled, out, *saved = ctx.saved_tensors
        statistics = zip((saved[:4], saved[4:]), ctx.eps, strict=True)
        bins, norm = (Normalization._make([*values, eps]) for values, eps in statistics)
        *_, scale, shift, _ = bins
        unscaled = bins._replace(weight=torch.ones_like(scale), bias=torch.zeros_like(shift))
        grad = aten.threshold_backward(grad.contiguous(memory_format=torch.channels_last), out, 0)
        sums = normalize_sums(grad, pooled, norm)
        width, taps = image.shape[2], kernel.shape[2]
        of_columns = torch.zeros((), dtype=scale.dtype)
        for part, grad_part in zip(image.split(ctx.clips), grad.split(ctx.clips), strict=True):
            x = convolve_image(by_column(part), bins, kernel)
            indices = F.max_pool2d(x, 3, 2, return_indices=True)[1]
            pooling = [3, 3], [2, 2], [0, 0], [1, 1], False
            grad_x = aten.max_pool2d_with_indices_backward(grad_part, x, *pooling, indices)
            grad_x = input_gradient(grad_x, x, norm, sums, ctx.n_positions)
            padded = kernel.new_zeros(*part.shape[:2], padded_width(width, taps))
            by_column(padded)[:, :width].copy_(normalize(by_column(part), unscaled))
            contribution = column_gradients(grad_x, padded, taps)
            of_columns = of_columns + contribution.to(scale.dtype)
        kernel = kernel[:, 0].to(scale.dtype)
        return None, None, None, None, *stem_gradients(of_columns, scale, shift, kernel), *sums


def by_column(image: Tensor) -> Tensor:
    """(B, H, W) -> a view (B, W, H, 1), channels last."""
    return image.mT.unsqueeze(3)


def convolve_image(columns: Tensor, bins: Normalization, kernel: Tensor) -> Tensor:
    """by_column(image), the batch norm of its bins -> the convolution with kernel, stride 2."""
    normalized = normalize(columns, bins).permute(0, 3, 2, 1)
    return convolve(normalized.to(kernel.dtype), kernel, 2)


def padded_width(width: int, kernel: int) -> int:
    """Columns that the groups of column_gradients cover of an image of `width`, or more."""
    groups = -(-((width - kernel) // 2 + 1) // GROUP)
    return 2 * GROUP * (groups - 1) + group_columns(kernel)


def group_columns(kernel: int) -> int:
    """Columns that GROUP outputs cover, and one of ones; a multiple of 16, as in CPU vectors."""
    return -(-(2 * GROUP - 1 + kernel) // 16) * 16


def column_gradients(grad: Tensor, image: Tensor, kernel: int) -> Tensor:
    """What each column of the output contributes to the kernel's gradient.

    grad (B, C, H', W') of conv2d(image, (C, 1, kernel, kernel), stride 2); image (B, H,
    padded_width) -> (W' / GROUP rounded up, GROUP, C, column, tap along H), where column 0 is the
    first that the group covers; the last is one of ones instead.

    `GROUP` outputs are multiplied by all columns that one of them covers: few channels would leave
    the vector units of a CPU partly empty.
    """
    channels = grad.shape[1]
    grad = F.pad(grad, (0, -grad.shape[3] % GROUP)) if grad.shape[3] % GROUP else grad
    grad = grad.permute(0, 2, 3, 1).unflatten(2, (-1, GROUP)).flatten(3)  # (B, H', group, (b, C))
    windows = image.unfold(2, group_columns(kernel), 2 * GROUP)  # (B, H, group, column)
    windows = windows.clone(memory_format=torch.contiguous_format)
    windows[..., -1] = 1
    return strided_products(grad, windows, kernel).unflatten(1, (GROUP, channels))


def strided_products(grad: Tensor, windows: Tensor, taps: int) -> Tensor:
    """Sums over clips and h' of grad at h' x windows at 2 h' + tap.

    grad (B, H', G, N), windows (B, H, G, K) -> (G, N, K, taps), as the kernel's gradient of a
    grouped convolution: the fastest way on a CPU.
    """
    groups, columns = windows.shape[2:]
    # (B, (G, N), 1, H'), channels last
    grad, windows = (x.flatten(2).mT.unsqueeze(2) for x in (grad, windows))
    kernel = windows.new_empty(grad.shape[1], columns, 1, taps)
    geometry = [1, 2], [0, 0], [1, 1], False, [0, 0], groups
    wanted = [False, True, False]
    found = aten.convolution_backward(grad, windows, kernel, None, *geometry, wanted)[1]
    return found.reshape(groups, -1, columns, taps)


def stem_gradients(
    of_columns: Tensor, scale: Tensor, shift: Tensor, kernel: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of scale and shift (W,) and of the kernel (C, 1, k, k).

    of_columns: column_gradients of an image without scale and shift; kernel (C, k, k): that of
    the image with them.
    """
    size = kernel.shape[1]
    width = (len(scale) - size) // 2 + 1
    taps = [of_columns[:, i, :, 2 * i : 2 * i + size] for i in range(GROUP)]
    kernels = torch.stack(taps, 1).flatten(0, 1)[:width]  # (W', C, tap along W, tap along H)
    sums = of_columns[..., -1, 0].flatten(0, 1)[:width]  # (W', C)
    columns = torch.arange(size) + 2 * torch.arange(width)[:, None]  # (W', tap along W)
    grad_kernel = torch.einsum("xcwh,xw->chw", kernels, scale[columns])
    grad_kernel = grad_kernel + (sums.T @ shift[columns])[:, None]
    by_tap = torch.einsum("xcwh,chw->xw", kernels, kernel), sums @ kernel.sum(1)
    grads = torch.zeros_like(scale), torch.zeros_like(shift)
    for grad, values in zip(grads, by_tap, strict=True):  # (W', tap along W)
        for tap in range(size):
            grad[tap : tap + 2 * width - 1 : 2] += values[:, tap]
    return *grads, grad_kernel[:, None]


def max_pool(x: Tensor) -> Tensor:
    """max_pool2d(x, 3, 2), along rows, then columns: half the time of nine values and an index."""
    height, width = ((size - 1) // 2 for size in x.shape[2:])
    for dim, size in ((3, width), (2, height)):
        first, second, third = (x.narrow(dim, start, 2 * size - 1) for start in range(3))
        stride2 = (slice(None),) * dim + (slice(None, None, 2),)
        x = torch.maximum(torch.maximum(first[stride2], second[stride2]), third[stride2])
    return x
