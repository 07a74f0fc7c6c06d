"""Squeeze and excitation: gates from each clip's means, and channels times their gates."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from unlabeledasd.fast.gpu.tiles import TILES, WARPS, accumulator, channels, offsets, sizes

CLIP_PROGRAMS = 8  # of the sum of one clip


@triton.jit
def clip_sums_kernel(
    x,
    y,
    sums,
    n_rows,
    C: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    PRODUCT: tl.constexpr,
    ACC: tl.constexpr,
):
    """sums (clips, programs, C) of x (clips, n_rows, C), or with PRODUCT of x times y."""
    columns, exist = channels(C, COLUMNS)
    clip = tl.program_id(2).to(tl.int64)
    total = tl.zeros((ROWS, COLUMNS), ACC)
    start = tl.program_id(0) * ROWS
    while start < n_rows:  # range() cannot be interpreted with NumPy 2.4
        at, mask = offsets(start, n_rows, columns, C, ROWS)
        at += clip * n_rows * C
        value = tl.load(x + at, mask=mask, other=0.0).to(ACC)
        if PRODUCT:
            value *= tl.load(y + at, mask=mask, other=0.0).to(ACC)
        total += value
        start += tl.num_programs(0) * ROWS
    out = sums + (clip * tl.num_programs(0) + tl.program_id(0)) * C + columns
    tl.store(out, tl.sum(total, 0), mask=exist)


@triton.jit
def scale_and_add_kernel(
    x,
    scale,
    added,
    out,
    n_rows,
    C: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    PER_CLIP: tl.constexpr,
    ACC: tl.constexpr,
):
    """out = x scale + added, x (clips, n_rows, C) and scale (clips, C); added with PER_CLIP too."""
    columns, exist = channels(C, COLUMNS)
    clip = tl.program_id(2).to(tl.int64)
    at, mask = offsets(tl.program_id(0) * ROWS, n_rows, columns, C, ROWS)
    at += clip * n_rows * C
    scales = tl.load(scale + clip * C + columns, mask=exist, other=0.0)[None, :]
    if PER_CLIP:
        more = tl.load(added + clip * C + columns, mask=exist, other=0.0)[None, :]
    else:
        more = tl.load(added + at, mask=mask, other=0.0).to(ACC)
    tl.store(out + at, tl.load(x + at, mask=mask, other=0.0).to(ACC) * scales + more, mask=mask)


@triton.jit
def weights_of(C: tl.constexpr, UNITS: tl.constexpr, COLUMNS: tl.constexpr, HIDDEN: tl.constexpr):
    """Channels, hidden units, offsets of a weight (UNITS, C) and which of its values exist."""
    column, unit = tl.arange(0, COLUMNS), tl.arange(0, HIDDEN)
    mask = (unit < UNITS)[:, None] & (column < C)[None, :]
    return column, unit, unit[:, None] * C + column[None, :], mask


@triton.jit
def clip_total(sums, clip, n_sums, C: tl.constexpr, SUMS: tl.constexpr, COLUMNS: tl.constexpr):
    """Sum (COLUMNS,) of a clip's sums (n_sums, C)."""
    row, column = tl.arange(0, SUMS), tl.arange(0, COLUMNS)
    mask = (row < n_sums)[:, None] & (column < C)[None, :]
    at = (clip * n_sums + row)[:, None] * C + column[None, :]
    return tl.sum(tl.load(sums + at, mask=mask, other=0.0), 0)


@triton.jit
def excitation_kernel(
    sums,
    squeeze,
    excite,
    means,
    hidden,
    gates,
    n_rows,
    n_sums,
    C: tl.constexpr,
    UNITS: tl.constexpr,
    SUMS: tl.constexpr,
    COLUMNS: tl.constexpr,
    HIDDEN: tl.constexpr,
):
    """Gates (clips, C) of squeeze and excitation from `clip_sums`, and what is before them.

    squeeze (UNITS, C), excite (C, UNITS); COLUMNS and HIDDEN: C and UNITS as powers of two.
    """
    clip = tl.program_id(0)
    column, unit, at, mask = weights_of(C, UNITS, COLUMNS, HIDDEN)
    mean = clip_total(sums, clip, n_sums, C, SUMS, COLUMNS) / n_rows
    to_unit = tl.load(squeeze + at, mask=mask, other=0.0)
    unit_value = tl.maximum(
        tl.sum(to_unit * mean[None, :], 1), 0.0, propagate_nan=tl.PropagateNan.ALL
    )
    from_unit = tl.load(excite + column[None, :] * UNITS + unit[:, None], mask=mask, other=0.0)
    gate = 1 / (1 + tl.exp(-tl.sum(from_unit * unit_value[:, None], 0)))
    tl.store(means + clip * C + column, mean, mask=column < C)
    tl.store(hidden + clip * UNITS + unit, unit_value, mask=unit < UNITS)
    tl.store(gates + clip * C + column, gate, mask=column < C)


@triton.jit
def excitation_gradient_kernel(
    sums,
    squeeze,
    excite,
    hidden,
    gates,
    grad_gates,
    grad_hidden,
    grad_means,
    n_rows,
    n_sums,
    C: tl.constexpr,
    UNITS: tl.constexpr,
    SUMS: tl.constexpr,
    COLUMNS: tl.constexpr,
    HIDDEN: tl.constexpr,
):
    """Gradients of `excitation`'s layers before their functions, and of each value of a mean.

    sums: those of the gates' gradients.
    """
    clip = tl.program_id(0)
    column, unit, at, mask = weights_of(C, UNITS, COLUMNS, HIDDEN)
    gate = tl.load(gates + clip * C + column, mask=column < C, other=0.0)
    unit_value = tl.load(hidden + clip * UNITS + unit, mask=unit < UNITS, other=0.0)
    grad = clip_total(sums, clip, n_sums, C, SUMS, COLUMNS) * gate * (1 - gate)
    tl.store(grad_gates + clip * C + column, grad, mask=column < C)
    from_unit = tl.load(excite + column[None, :] * UNITS + unit[:, None], mask=mask, other=0.0)
    grad_unit = tl.where(unit_value > 0, tl.sum(from_unit * grad[None, :], 1), 0.0)
    tl.store(grad_hidden + clip * UNITS + unit, grad_unit, mask=unit < UNITS)
    to_unit = tl.load(squeeze + at, mask=mask, other=0.0)
    grad_mean = tl.sum(to_unit * grad_unit[:, None], 0) / n_rows
    tl.store(grad_means + clip * C + column, grad_mean, mask=column < C)


def clip_sums(x: Tensor, y: Tensor | None = None) -> Tensor:
    """Sums over positions of each clip of x, or of x times y: (B, programs, C)."""
    shape, positions = sizes(x), x.shape[2:].numel()
    programs = min(triton.cdiv(positions, TILES * shape.ROWS), CLIP_PROGRAMS)
    sums = x.new_empty(len(x), programs, shape.C, dtype=accumulator(x))
    clip_sums_kernel[programs, triton.cdiv(shape.C, shape.COLUMNS), len(x)](
        x, y, sums, positions, **shape._asdict(), PRODUCT=y is not None, **WARPS
    )
    return sums


def scale_and_add(x: Tensor, scale: Tensor, added: Tensor) -> Tensor:
    """x (B, C, H, W) times scale (B, C), plus `added` in one of these shapes."""
    shape, out, positions = sizes(x), torch.empty_like(x), x.shape[2:].numel()
    programs = triton.cdiv(positions, shape.ROWS), triton.cdiv(shape.C, shape.COLUMNS), len(x)
    per_clip = added.dim() == 2
    scale_and_add_kernel[programs](
        x, scale, added, out, positions, **shape._asdict(), PER_CLIP=per_clip, **WARPS
    )
    return out


def excitation(x: Tensor, squeeze: Tensor, excite: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Means of x over its positions, the hidden units and the gates of SqueezeExcitation."""
    sums = clip_sums(x)
    means, gates = (sums.new_empty(len(x), x.shape[1]) for _ in range(2))
    hidden = sums.new_empty(len(x), len(squeeze))
    excitation_kernel[len(x),](
        *(sums, squeeze, excite, means, hidden, gates, x.shape[2:].numel(), sums.shape[1]),
        **layer_sizes(sums, squeeze),
    )
    return means, hidden, gates


def excitation_gradient(
    grad: Tensor, x: Tensor, squeeze: Tensor, excite: Tensor, hidden: Tensor, gates: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of excite's and squeeze's outputs, and of x through its means, (B, C).

    grad: gradient of x times gates.
    """
    sums = clip_sums(grad, x)
    grads = torch.empty_like(gates), torch.empty_like(hidden), torch.empty_like(gates)
    excitation_gradient_kernel[len(x),](
        *(sums, squeeze, excite, hidden, gates, *grads, x.shape[2:].numel(), sums.shape[1]),
        **layer_sizes(sums, squeeze),
    )
    return grads


def layer_sizes(sums: Tensor, squeeze: Tensor) -> dict:
    """Constants of the kernels: channels, hidden units, and both rounded up to powers of two."""
    units, channels = squeeze.shape
    rounded = (triton.next_power_of_2(n) for n in (sums.shape[1], channels, units))
    return {
        "C": channels,
        "UNITS": units,
        **dict(zip(("SUMS", "COLUMNS", "HIDDEN"), rounded, strict=True)),
    }
