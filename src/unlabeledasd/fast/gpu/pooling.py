"""Max-pooling of 3 x 3 windows with stride 2, alone or after batch norm and ReLU."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from unlabeledasd.fast.batch_norm import count
from unlabeledasd.fast.gpu.norm import Normalization, norm_of, standardized, through_statistics
from unlabeledasd.fast.gpu.tiles import WARPS, channels, grid, offsets, sizes


@triton.jit
def position(rows, height, width):
    """Clip, row and column of positions of images (height, width)."""
    return rows // (height * width), rows // width % height, rows % width


@triton.jit
def pool_kernel(
    x,
    statistics,
    weight,
    bias,
    maximum,
    positive,
    winner,
    n_rows,
    height,
    width,
    out_height,
    out_width,
    C: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    PADDING: tl.constexpr,
    NORM: tl.constexpr,
    ACC: tl.constexpr,
):
    """maximum of 3 x 3 windows of x with stride 2; winner: which of the nine it was, 0 to 8.

    With NORM it is that of the batch norm of x, whose relu is `positive`; maximum is the value of x
    itself, and the winner is 9 where relu leaves no gradient.
    """
    columns, exist = channels(C, COLUMNS)
    at, mask = offsets(tl.program_id(0) * ROWS, n_rows, columns, C, ROWS)
    clip, out_row, out_column = position(
        tl.program_id(0) * ROWS + tl.arange(0, ROWS), out_height, out_width
    )
    best = tl.full((ROWS, COLUMNS), float("-inf"), ACC)
    which = tl.zeros((ROWS, COLUMNS), tl.int32)
    if NORM:
        mean, invstd, weights, biases = norm_of(statistics, weight, bias, columns, exist, C)
        sign = tl.where(weights < 0, -1.0, 1.0)
    for i in tl.static_range(9):
        row = 2 * out_row - PADDING + i // 3
        column = 2 * out_column - PADDING + i % 3
        inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
        inside = inside[:, None] & mask
        source = ((clip * height + row) * width + column).to(tl.int64)[:, None] * C + columns
        value = tl.load(x + source, mask=inside, other=float("-inf")).to(ACC)
        if NORM:
            value *= sign
        better = ((value > best) | (value != value)) & inside
        best = tl.where(better, value, best)
        which = tl.where(better, i, which)
    if NORM:
        best *= sign
        y = (best - mean) * invstd * weights + biases
        tl.store(positive + at, tl.where(y <= 0, 0.0, y), mask=mask)
        which = tl.where(y <= 0, 9, which)
    tl.store(maximum + at, best, mask=mask)
    tl.store(winner + at, which.to(tl.uint8), mask=mask)


@triton.jit(do_not_specialize=["n_rows"])
def pool_gradient_kernel(
    x,
    statistics,
    weight,
    bias,
    sums,
    grad,
    winner,
    out,
    n_rows,
    height,
    width,
    out_height,
    out_width,
    C: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    PADDING: tl.constexpr,
    NORM: tl.constexpr,
    ACC: tl.constexpr,
):
    """out: gradient of the input x of `pool`, from that of its output: at most 4 windows' each."""
    columns, exist = channels(C, COLUMNS)
    at, mask = offsets(tl.program_id(0) * ROWS, n_rows, columns, C, ROWS)
    clip, row, column = position(tl.program_id(0) * ROWS + tl.arange(0, ROWS), height, width)
    total = tl.zeros((ROWS, COLUMNS), ACC)
    for i in tl.static_range(4):
        out_row = (row + PADDING) // 2 - i // 2
        out_column = (column + PADDING) // 2 - i % 2
        row_in = row + PADDING - 2 * out_row
        column_in = column + PADDING - 2 * out_column
        inside = (out_row >= 0) & (out_row < out_height) & (row_in < 3)
        inside &= (out_column >= 0) & (out_column < out_width) & (column_in < 3)
        inside = inside[:, None] & mask
        source = (clip * out_height + out_row) * out_width + out_column
        source = source.to(tl.int64)[:, None] * C + columns
        won = tl.load(winner + source, mask=inside, other=9) == (3 * row_in + column_in)[:, None]
        total += tl.load(grad + source, mask=inside & won, other=0.0).to(ACC)
    if NORM:
        mean, invstd, weights, _ = norm_of(statistics, weight, bias, columns, exist, C)
        standard = standardized(x, at, mask, mean, invstd)
        count = n_rows.to(ACC)
        total = through_statistics(total, standard, sums, columns, exist, invstd, weights, count, C)
    tl.store(out + at, total, mask=mask)


def pool(
    x: Tensor, padding: int, norm: Normalization | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """max_pool2d of x (3, 2, padding), or of relu(norm of x) if given; its x, and winner 0 to 8."""
    size = [(n + 2 * padding - 3) // 2 + 1 for n in x.shape[2:]]
    maximum = torch.empty(
        *x.shape[:2], *size, dtype=x.dtype, device=x.device, memory_format=torch.channels_last
    )
    winner = torch.empty_like(maximum, dtype=torch.uint8)
    result = maximum if norm is None else torch.empty_like(maximum)
    pool_kernel[grid(maximum)](
        *(x, *(norm or (None,) * 3), maximum, result, winner),
        *(count(maximum), *x.shape[2:], *size),
        **sizes(x)._asdict(),
        PADDING=padding,
        NORM=norm is not None,
        **WARPS,
    )
    return result, maximum, winner


def pool_gradient(
    grad: Tensor,
    winner: Tensor,
    x: Tensor,
    padding: int,
    norm: Normalization | None = None,
    sums: Tensor | None = None,
) -> Tensor:
    """Gradient of x from that of `pool`'s result."""
    out = torch.empty_like(x)
    pool_gradient_kernel[grid(x)](
        *(x, *(norm or (None,) * 3), sums, grad, winner, out),
        *(count(x), *x.shape[2:], *grad.shape[2:]),
        **sizes(x)._asdict(),
        PADDING=padding,
        NORM=norm is not None,
        **WARPS,
    )
    return out
