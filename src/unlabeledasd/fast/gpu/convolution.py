"""Convolutions 3 x 3 of few channels, which cuDNN computes in tiles that are half empty."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from unlabeledasd.fast.batch_norm import count
from unlabeledasd.fast.gpu.pooling import position
from unlabeledasd.fast.gpu.tiles import reduced

ROWS = 256  # positions of a program at a time
PROGRAMS = 132  # of the kernel's gradient at most, for each of its rows
WARPS = {"num_warps": 4}


@triton.jit
def convolution_kernel(
    x,
    weight,
    out,
    n_rows,
    height,
    width,
    C: tl.constexpr,
    ROWS: tl.constexpr,
    OF_GRADIENT: tl.constexpr,
):
    """out: x convolved, padded by 1; OF_GRADIENT: x is the result's gradient, out the input's.

    x and out (clips, height, width, C); weight (C, 3, 3, C): result, taps, input.
    """
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    _, row, column = position(rows, height, width)
    channel, result = tl.arange(0, C), tl.arange(0, C)
    total = tl.zeros((ROWS, C), tl.float32)
    for tap in tl.static_range(9):
        down, right = tap // 3 - 1, tap % 3 - 1
        inside = (rows < n_rows) & (row + down >= 0) & (row + down < height)
        inside &= (column + right >= 0) & (column + right < width)
        at = (rows + down * width + right).to(tl.int64)[:, None] * C + channel[None, :]
        value = tl.load(x + at, mask=inside[:, None], other=0.0)
        if OF_GRADIENT:
            of_tap = (channel[:, None] * 9 + 8 - tap) * C + result[None, :]
        else:
            of_tap = (result[None, :] * 9 + tap) * C + channel[:, None]
        total = tl.dot(value, tl.load(weight + of_tap).to(value.dtype), total)
    at = rows.to(tl.int64)[:, None] * C + result[None, :]
    tl.store(out + at, total, mask=(rows < n_rows)[:, None])


@triton.jit
def weight_gradient_kernel(
    x,
    grad,
    sums,
    n_rows,
    height,
    width,
    C: tl.constexpr,
    ROWS: tl.constexpr,
):
    """sums (programs, C, 3, 3, C): the weight's gradients, over each program's positions.

    The second index of a program is the row of the weight.
    """
    channel = tl.arange(0, C)
    down = tl.program_id(1) - 1
    left = tl.zeros((C, C), tl.float32)
    middle = tl.zeros((C, C), tl.float32)
    right = tl.zeros((C, C), tl.float32)
    start = tl.program_id(0) * ROWS
    while start < n_rows:
        rows = start + tl.arange(0, ROWS)
        _, row, column = position(rows, height, width)
        exist = rows < n_rows
        inside = exist & (row + down >= 0) & (row + down < height)
        at = rows.to(tl.int64)[:, None] * C + channel[None, :]
        of_result = tl.trans(tl.load(grad + at, mask=exist[:, None], other=0.0))
        source = x + at + down * width * C
        value = tl.load(source - C, mask=(inside & (column > 0))[:, None], other=0.0)
        left = tl.dot(of_result, value, left)
        value = tl.load(source, mask=inside[:, None], other=0.0)
        middle = tl.dot(of_result, value, middle)
        value = tl.load(source + C, mask=(inside & (column < width - 1))[:, None], other=0.0)
        right = tl.dot(of_result, value, right)
        start += tl.num_programs(0) * ROWS
    taps = (channel[:, None] * 9 + 3 * tl.program_id(1)) * C + channel[None, :]
    out = sums + tl.program_id(0) * 9 * C * C + taps
    tl.store(out, left)
    tl.store(out + C, middle)
    tl.store(out + 2 * C, right)


def convolution(x: Tensor, weight: Tensor, of_gradient: bool = False) -> Tensor:
    """conv2d(x, weight, padding=1) of C to C channels; or the gradient of x from the result's x.

    x (B, C, H, W) of 16 bits and weight (C, C, 3, 3), channels last both; C a power of two from 16.
    """
    out = torch.empty_like(x)
    convolution_kernel[triton.cdiv(count(x), ROWS),](
        *(x, weight, out, count(x), *x.shape[2:]),
        C=len(weight),
        ROWS=ROWS,
        OF_GRADIENT=of_gradient,
        **WARPS,
    )
    return out


def weight_gradient(x: Tensor, grad: Tensor) -> Tensor:
    """Gradient of `convolution`'s weight from its input and the gradient of its result."""
    channels = x.shape[1]
    programs = min(PROGRAMS, triton.cdiv(count(x), ROWS))
    sums = x.new_empty(programs, channels, 3, 3, channels, dtype=torch.float32)
    weight_gradient_kernel[programs, 3](
        x, grad, sums, count(x), *x.shape[2:], C=channels, ROWS=ROWS, **WARPS
    )
    return reduced(sums).permute(0, 3, 1, 2)
