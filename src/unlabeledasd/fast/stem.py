"""The first layers of an STFT branch, computed as PyTorch's would be, in less time and memory."""

from collections.abc import Callable

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
from unlabeledasd.fast.residual import clips_at_once, convolve, in_layout

GROUP = 4  # columns of its output that column_gradients takes together
aten = torch.ops.aten


class Stem(nn.Module):
    """(B, H, W) -> (B, channels, H', W'): `columns`, their batch norm, in the stem's own mode, Conv2d(1, channels,
    kernel, stride 2), BatchNorm2d, ReLU, MaxPool2d(3, 2), none of them padded.

    Where a batch norm weight is exactly 0, all positions of a window are its maximum, and the gradient is that of the
    convolution's maximum, where PyTorch takes the first."""

    def __init__(self, channels: int, kernel: int):
        super().__init__()
        self.conv = nn.Conv2d(1, channels, kernel, 2, bias=False)
        self.norm = nn.BatchNorm2d(channels)

    def forward(self, image: Tensor, columns: nn.BatchNorm1d) -> Tensor:
        if self.training and image.requires_grad:
            return self.by_layers(image, columns)
        norm = self.norm
        # Channels that batch norm turns over are turned over here: then it can wait until after the pooling.
        sign = torch.where(norm.weight < 0, -1.0, 1.0)
        kernel, weight = self.conv.weight * sign.view(-1, 1, 1, 1), norm.weight * sign
        if self.training:
            parameters = columns.weight, columns.bias, kernel, weight, norm.bias
            return StemFunction.apply(image, columns, norm, sign, *parameters)
        image = in_layout(normalize_columns(image, columns))
        pooled = max_pool(convolve(image, kernel.to(image.dtype), 2))
        return F.batch_norm(
            pooled, norm.running_mean * sign, norm.running_var, weight, norm.bias, eps=norm.eps
        ).relu()

    def by_layers(self, image: Tensor, columns: nn.BatchNorm1d) -> Tensor:
        """The same, one layer of PyTorch after the other: with a gradient of the image, or for another program."""
        return F.max_pool2d(self.norm(self.conv(normalize_columns(image, columns))).relu(), 3, 2)


def normalize_columns(image: Tensor, columns: nn.BatchNorm1d) -> Tensor:
    """(B, H, W) -> (B, 1, H, W)."""
    return columns(image.flatten(0, 1)).view_as(image).unsqueeze(1)


class StemFunction(Function):
    """Training of a Stem whose batch norm has no negative weight, so that ReLU, batch norm and maximum commute.

    Batch norm and ReLU see the pooled quarter of the positions. Only positions that were the maximum of a window have
    a gradient of their own; the statistics add one multiple of the convolution and one constant per channel. The
    image has no gradient: what its columns' batch norm needs is in that of the kernel, column by column.
    """

    @staticmethod
    def forward(
        ctx,
        image: Tensor,
        columns: nn.BatchNorm1d,
        norm: nn.BatchNorm2d,
        sign: Tensor,
        scale: Tensor,
        shift: Tensor,
        kernel: Tensor,
        weight: Tensor,
        bias: Tensor,
    ) -> Tensor:
        image, kernel = image.contiguous(), in_layout(kernel)
        with torch.autocast(image.device.type, enabled=False):
            ctx.clips = clips_at_once(
                image, len(kernel) / 4 * kernel.element_size() / image.element_size()
            )
            parts = by_column(image).split(ctx.clips)
            bins = pooled_statistics(parts, list(map(channel_statistics, parts)))
            update(columns, *bins, count(by_column(image)))
            normalized = kernel.new_zeros(
                *image.shape[:2], padded_width(image.shape[2], kernel.shape[2])
            )
            ones, zeros = torch.ones_like(scale), torch.zeros_like(shift)
            convolved, pooled, moments = [], [], []
            for part, kept in zip(parts, by_column(normalized).split(ctx.clips), strict=True):
                kept[:, : image.shape[2]].copy_(normalize(part, *bins, ones, zeros, columns.eps))
                scaled = normalize(part, *bins, scale, shift, columns.eps).permute(0, 3, 2, 1)
                convolved.append(convolve(scaled.to(kernel.dtype), kernel, 2))
                moments.append(channel_statistics(convolved[-1]))
                pooled.append(max_pool(convolved[-1]))
            mean, var = pooled_statistics(convolved, moments)
            update(norm, mean * sign, var, sum(map(count, convolved)))
            pooled = torch.cat(pooled)
            out = normalize(pooled, mean, var, weight, bias, norm.eps).relu_()
        ctx.eps = norm.eps
        ctx.save_for_backward(
            normalized, scale, shift, kernel, pooled, out, mean, var, weight, bias, *convolved
        )
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
        normalized, scale, shift, kernel, pooled, out, mean, var, weight, bias, *convolved = (
            ctx.saved_tensors
        )
        grad = aten.threshold_backward(grad.contiguous(memory_format=torch.channels_last), out, 0)
        sums = normalize_sums(grad, pooled, mean, var, weight, bias, ctx.eps)
        numbers = sum(map(count, convolved))
        of_columns = 0
        for part, x, grad_part in zip(
            normalized.split(ctx.clips), convolved, grad.split(ctx.clips), strict=True
        ):
            indices = F.max_pool2d(x, 3, 2, return_indices=True)[1]
            grad_x = aten.max_pool2d_with_indices_backward(
                grad_part, x, [3, 3], [2, 2], [0, 0], [1, 1], False, indices
            )
            grad_x = input_gradient(grad_x, x, mean, var, weight, sums, numbers, ctx.eps)
            of_columns = of_columns + column_gradients(grad_x, part, kernel.shape[2]).to(mean.dtype)
        kernel = kernel[:, 0].to(mean.dtype)
        return None, None, None, None, *stem_gradients(of_columns, scale, shift, kernel), *sums


def by_column(image: Tensor) -> Tensor:
    """(B, H, W) -> (B, W, H, 1), channels last, a view."""
    return image.mT.unsqueeze(3)


def padded_width(width: int, kernel: int) -> int:
    """Columns that the groups of column_gradients see of an image of `width`, some beyond it."""
    groups = -(-((width - kernel) // 2 + 1) // GROUP)
    return 2 * GROUP * (groups - 1) + group_columns(kernel)


def group_columns(kernel: int) -> int:
    """Columns that GROUP outputs see, and one of ones; a multiple of 16 numbers, which a CPU's vectors hold."""
    return -(-(2 * GROUP - 1 + kernel) // 16) * 16


def column_gradients(
    grad: Tensor, image: Tensor, kernel: int, way: Callable | None = None
) -> Tensor:
    """grad (B, C, H', W') of conv2d(image, (C, 1, kernel, kernel), stride 2), image (B, H, padded_width) -> what each
    column of the output gives to the kernel's gradient, (W' / GROUP rounded up, GROUP, C, column, tap along H), where
    column 0 is the first that the group sees, and the last is one of ones instead.

    `GROUP` outputs are multiplied by all columns that one of them sees: few channels leave a CPU's vectors empty.
    """
    channels = grad.shape[1]
    grad = F.pad(grad, (0, -grad.shape[3] % GROUP)) if grad.shape[3] % GROUP else grad
    grad = grad.permute(0, 2, 3, 1).unflatten(2, (-1, GROUP)).flatten(3)  # (B, H', group, (b, C))
    windows = image.unfold(2, group_columns(kernel), 2 * GROUP)  # (B, H, group, column)
    windows = windows.clone(memory_format=torch.contiguous_format)
    windows[..., -1] = 1
    way = way or (gradients_by_convolution if image.device.type == "cpu" else gradients_by_products)
    return way(grad, windows, kernel).unflatten(1, (GROUP, channels))


def gradients_by_convolution(grad: Tensor, windows: Tensor, taps: int) -> Tensor:
    """grad (B, H', G, N), windows (B, H, G, K) -> (G, N, K, taps): sums over clips and H' of grad at h' x windows at
    2 h' + tap. As the kernel's gradient of a grouped convolution, which on a CPU is the fastest way."""
    groups, columns = windows.shape[2:]
    grad, windows = (
        x.flatten(2).mT.unsqueeze(2) for x in (grad, windows)
    )  # (B, (G, N), 1, H'), channels last
    kernel = windows.new_empty(grad.shape[1], columns, 1, taps)
    geometry = [1, 2], [0, 0], [1, 1], False, [0, 0], groups
    found = aten.convolution_backward(grad, windows, kernel, None, *geometry, [False, True, False])[
        1
    ]
    return found.reshape(groups, -1, columns, taps)


def gradients_by_products(grad: Tensor, windows: Tensor, taps: int) -> Tensor:
    """The same as products of matrices, for a GPU."""
    return torch.einsum("bhgn,bhgtk->gnkt", grad, windows.unfold(1, taps, 2).mT)


def stem_gradients(
    of_columns: Tensor, scale: Tensor, shift: Tensor, kernel: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """column_gradients, of an image without scale and shift (W,), and the kernel (C, k, k) of that with them
    -> gradients of scale, shift and kernel (C, 1, k, k)."""
    size = kernel.shape[1]
    width = (len(scale) - size) // 2 + 1
    taps = [of_columns[:, i, :, 2 * i : 2 * i + size] for i in range(GROUP)]
    taps = torch.stack(taps, 1).flatten(0, 1)[:width]  # (W', C, tap along W, tap along H)
    sums = of_columns[..., -1, 0].flatten(0, 1)[:width]  # (W', C)
    seen = (
        torch.arange(size, device=scale.device)
        + 2 * torch.arange(width, device=scale.device)[:, None]
    )
    grad_kernel = torch.einsum("xcwh,xw->chw", taps, scale[seen]) + (sums.T @ shift[seen])[:, None]
    by_tap = torch.einsum("xcwh,chw->xw", taps, kernel), sums @ kernel.sum(1)  # (W', tap along W)
    grads = torch.zeros_like(scale), torch.zeros_like(shift)
    for grad, values in zip(grads, by_tap, strict=True):
        for tap in range(size):
            grad[tap : tap + 2 * width - 1 : 2] += values[:, tap]
    return *grads, grad_kernel[:, None]


def max_pool(x: Tensor) -> Tensor:
    """max_pool2d(x, 3, 2); on a CPU of columns, then of rows: half the time of all nine numbers with their index."""
    if x.device.type != "cpu":
        return F.max_pool2d(x, 3, 2)
    height, width = ((size - 1) // 2 for size in x.shape[2:])
    for dim, size in ((3, width), (2, height)):
        first, second, third = (x.narrow(dim, start, 2 * size - 1) for start in range(3))
        every_second = (slice(None),) * dim + (slice(None, None, 2),)
        x = torch.maximum(
            torch.maximum(first[every_second], second[every_second]), third[every_second]
        )
    return x
