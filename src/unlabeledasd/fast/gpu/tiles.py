"""How the kernels of this folder divide an image among programs.

PyTorch's kernels for batch norm and pooling were written for hundreds of channels; with 16 they
reach a tenth of a GPU's memory bandwidth (docs/performance.md). Those here read and write each
value once. All sums are in a fixed order: equal inputs give equal bytes. Without a GPU they run
with TRITON_INTERPRET=1, slowly, which is how the tests do it.

An image (B, C, H, W), channels last, is `rows` of C values each. A program takes ROWS rows and
COLUMNS channels at a time. ACC is the precision of sums: float32, or float64 for float64.
"""

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from unlabeledasd.fast.batch_norm import count

VALUES = 4096  # of a program at a time
TILES = 4  # times its rows that a program of a sum takes at least
PROGRAMS = 512  # of a sum at most: some for each multiprocessor of a GPU
COLUMNS = 128  # channels of a program at most
WARPS = {"num_warps": 8}


class Sizes(NamedTuple):
    """What the kernels are compiled for."""

    C: int
    ROWS: int
    COLUMNS: int
    ACC: tl.dtype


def sizes(x: Tensor) -> Sizes:
    """Of an image (B, C, H, W)."""
    columns = min(COLUMNS, triton.next_power_of_2(x.shape[1]))
    acc = tl.float64 if x.dtype == torch.float64 else tl.float32
    return Sizes(x.shape[1], VALUES // columns, columns, acc)


def accumulator(x: Tensor) -> torch.dtype:
    """The precision of sums of x."""
    return torch.promote_types(x.dtype, torch.float32)


def channels_last(x: Tensor) -> Tensor:
    """x (B, C, H, W), a copy if its channels do not come last in memory."""
    return x.contiguous(memory_format=torch.channels_last)


def grid(x: Tensor) -> tuple[int, int]:
    """Programs along the positions and along the channels of x."""
    shape = sizes(x)
    return triton.cdiv(count(x), shape.ROWS), triton.cdiv(shape.C, shape.COLUMNS)


def sums_grid(x: Tensor) -> tuple[int, int]:
    """The same of sums, whose programs take several times their rows."""
    programs, columns = grid(x)
    return min(triton.cdiv(programs, TILES), PROGRAMS), columns


def sums_of(x: Tensor) -> Tensor:
    """Memory for two sums per program and channel."""
    return x.new_empty(sums_grid(x)[0], 2, x.shape[1], dtype=accumulator(x))


@triton.jit
def channels(C: tl.constexpr, COLUMNS: tl.constexpr):
    """The program's channels, and which of them exist, (COLUMNS,) each."""
    columns = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    return columns, columns < C


@triton.jit
def offsets(start, n_rows, columns, C: tl.constexpr, ROWS: tl.constexpr):
    """Offsets of the values of ROWS rows, and which of them exist, (ROWS, COLUMNS) each."""
    rows = start + tl.arange(0, ROWS)
    mask = (rows < n_rows)[:, None] & (columns < C)[None, :]
    return rows.to(tl.int64)[:, None] * C + columns[None, :], mask


@triton.jit(do_not_specialize=["n_sums"])
def total_kernel(
    sums,
    out,
    n_sums,
    C: tl.constexpr,
    SUMS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """out (C,): sums (n_sums, C) of all programs; SUMS is n_sums rounded up to a power of two."""
    columns, exist = channels(C, COLUMNS)
    at, mask = offsets(0, n_sums, columns, C, SUMS)
    tl.store(out + columns, tl.sum(tl.load(sums + at, mask=mask, other=0.0), 0), mask=exist)


def reduction(sums: Tensor, channels: int) -> tuple[tuple[int, int], dict]:
    """Grid and sizes of the kernels that add the sums of all programs."""
    columns = min(triton.next_power_of_2(channels), 16)
    shape = {"C": channels, "SUMS": triton.next_power_of_2(len(sums)), "COLUMNS": columns}
    return (1, triton.cdiv(channels, columns)), {**shape, **WARPS}


def reduced(sums: Tensor) -> Tensor:
    """The sum of all programs' sums (programs, ...)."""
    out = torch.empty_like(sums[0])
    programs, shape = reduction(sums, out.numel())
    total_kernel[programs](sums, out, len(sums), **shape)
    return out
