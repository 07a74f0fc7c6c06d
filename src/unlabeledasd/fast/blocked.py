"""Strided convolutions as unit-stride convolutions over blocks of samples, for a GPU.

A convolution of one channel with stride s equals one with stride 1 whose channels are the samples
of a block of s. GPU libraries have fast kernels for the second form alone: the gradient of the
first one's image took a quarter of a training step (docs/performance.md).
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

COLUMNS = 4  # neighbouring columns of a result that are computed as channels of one


class BlockedConv1d(nn.Conv1d):
    """Conv1d; without padding, and where its stride divides its kernel, over blocks of samples."""

    def forward(self, x: Tensor) -> Tensor:
        (kernel,), (stride,) = self.kernel_size, self.stride
        if self.padding != (0,) or self.bias is not None or kernel % stride:
            return super().forward(x)
        return conv1d_by_blocks(in_autocast(x), self.weight, stride)


class BlockedConv2d(nn.Conv2d):
    """Conv2d; of one channel with stride 2 and no padding, as in a stem, over blocks of pixels."""

    def forward(self, x: Tensor) -> Tensor:
        geometry = self.in_channels, self.stride, self.padding, self.kernel_size[0] % 2
        if geometry != (1, (2, 2), (0, 0), 1) or self.bias is not None:
            return super().forward(x)
        return conv2d_by_blocks(in_autocast(x), self.weight)


def in_autocast(x: Tensor) -> Tensor:
    """x in the precision in which autocast convolves it, so that blocks are made of fewer bytes."""
    if torch.is_autocast_enabled(x.device.type):
        return x.to(torch.get_autocast_dtype(x.device.type))
    return x


def conv1d_by_blocks(x: Tensor, weight: Tensor, stride: int) -> Tensor:
    """F.conv1d(x, weight, stride=stride) where stride divides kernel: (B, C, L) -> (B, C', L').

    Blocks of `stride` samples become the channels of one position, so that the kernel covers
    kernel / stride positions. In memory the channels of x and of the result come last.
    """
    kernel = weight.shape[2]
    taps = kernel // stride
    length = (x.shape[2] - kernel) // stride + 1
    samples = x.mT[:, : (length + taps - 1) * stride]  # (B, samples, C)
    blocks = samples.reshape(len(x), length + taps - 1, -1)  # (B, blocks, stride C)
    weight = weight.unflatten(2, (taps, stride)).permute(0, 3, 1, 2)  # (C', stride, C, taps)
    # as a 2-d convolution, since only those have kernels for channels last
    weight = weight.flatten(1, 2).unsqueeze(2).contiguous(memory_format=torch.channels_last)
    return F.conv2d(blocks.mT.unsqueeze(2), weight).squeeze(2)


def conv2d_by_blocks(image: Tensor, weight: Tensor, columns: int = COLUMNS) -> Tensor:
    """F.conv2d(image, weight, stride=2) of one channel: (B, 1, H, W) -> (B, C, H', W').

    weight (C, 1, k, k), k odd. A position of the blocked image holds 2 rows x 2 `columns` columns;
    one of its result holds `columns` neighbouring columns of C channels each.
    """
    channels, _, size, _ = weight.shape
    height, width = ((n - size) // 2 + 1 for n in image.shape[2:])
    rows, block = (size + 1) // 2, 2 * columns
    steps = -(-(size + 2 * (columns - 1)) // block)  # blocks that the columns of one result see
    groups = -(-width // columns)

    weight = F.pad(weight[:, 0], (0, 0, 0, 2 * rows - size))  # (C, 2 rows, k)
    margin = steps * block - size
    shifted = [F.pad(weight, (2 * i, margin - 2 * i)) for i in range(columns)]
    kernel = torch.stack(shifted).view(columns, channels, rows, 2, steps, block)
    kernel = kernel.permute(0, 1, 3, 5, 2, 4).flatten(0, 1).flatten(1, 2)

    tall, wide = 2 * (height + rows - 1), (groups + steps - 1) * block
    image = image[:, 0, :tall, :wide]
    image = F.pad(image, (0, wide - image.shape[2], 0, tall - image.shape[1]))
    image = image.view(len(image), tall // 2, 2, wide // block, block)
    image = image.permute(0, 2, 4, 1, 3).flatten(1, 2)  # (B, 2 block, tall / 2, wide / block)

    channels_last = {"memory_format": torch.channels_last}
    out = F.conv2d(image.contiguous(**channels_last), kernel.contiguous(**channels_last))
    out = out.permute(0, 2, 3, 1).reshape(len(out), height, groups * columns, channels)
    return out[:, :, :width].permute(0, 3, 1, 2)
