"""Convolutions on a CPU: channels last, some clips of a batch at a time."""

import torch
from torch import Tensor
from torch.nn import functional as F

PART_BYTES = 16 << 20  # size of a tensor that is processed at a time
aten = torch.ops.aten


def in_layout(x: Tensor) -> Tensor:
    """x (B, C, H, W), channels last, in the precision in which autocast would convolve it."""
    device = x.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype
    return x.to(dtype).contiguous(memory_format=torch.channels_last)


def clips_at_once(x: Tensor, factor: float = 1) -> int:
    """How many clips of x (B, ...) to process at a time, where tensors are `factor` times as large.

    Parts have nearly equal sizes, 2/3 to 3/2 of PART_BYTES, or one clip.
    """
    parts = min(len(x), max(1, round(x.numel() * x.element_size() * factor / PART_BYTES)))
    return -(-len(x) // parts)


def convolve(x: Tensor, kernel: Tensor, stride: int = 1, padding: int = 0) -> Tensor:
    """conv2d, its result channels last whichever library computes it."""
    return F.conv2d(x, kernel, None, stride, padding).contiguous(memory_format=torch.channels_last)


def convolution_gradients(
    grad: Tensor, x: Tensor, kernel: Tensor, stride: int, padding: int
) -> tuple[Tensor, Tensor]:
    """Gradients of x and kernel from that of convolve(x, kernel, stride, padding)."""
    geometry = [stride] * 2, [padding] * 2, [1, 1], False, [0, 0], 1
    grad_x, grad_kernel, _ = aten.convolution_backward(
        grad, x, kernel, None, *geometry, [True, True, False]
    )
    return grad_x.contiguous(memory_format=torch.channels_last), grad_kernel
