"""Batch norm, with or without ReLU, and its gradients."""

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor, nn

from unlabeledasd.fast.batch_norm import count
from unlabeledasd.fast.gpu.tiles import (
    WARPS,
    channels,
    grid,
    offsets,
    reduced,
    reduction,
    sizes,
    sums_grid,
    sums_of,
)

Pair = tuple[Tensor | None, Tensor | None]


class Normalization(NamedTuple):
    """x -> (x - mean) invstd weight + bias; statistics (2, C) are mean and invstd."""

    statistics: Tensor
    weight: Tensor
    bias: Tensor


@triton.jit
def store_sums(sums, first, second, columns, exist, C: tl.constexpr):
    """sums (programs, 2, C): this program's, of two tiles (ROWS, COLUMNS) over their rows."""
    out = sums + tl.program_id(0) * 2 * C + columns
    tl.store(out, tl.sum(first, 0), mask=exist)
    tl.store(out + C, tl.sum(second, 0), mask=exist)


@triton.jit
def moment_sums_kernel(
    x,
    shift,
    sums,
    n_rows,
    C: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    ACC: tl.constexpr,
):
    """sums (programs, 2, C): of x - shift and of its square, over each program's rows.

    shift (C,) is the mean of the first ROWS rows: sums of squares would lose digits where the mean
    is far from zero.
    """
    columns, exist = channels(C, COLUMNS)
    at, mask = offsets(0, n_rows, columns, C, ROWS)
    first = tl.sum(tl.load(x + at, mask=mask, other=0.0).to(ACC), 0) / tl.minimum(n_rows, ROWS)
    if tl.program_id(0) == 0:
        tl.store(shift + columns, first, mask=exist)
    first = first[None, :]
    total = tl.zeros((ROWS, COLUMNS), ACC)
    squares = tl.zeros((ROWS, COLUMNS), ACC)
    start = tl.program_id(0) * ROWS
    while start < n_rows:  # range() cannot be interpreted with NumPy 2.4
        at, mask = offsets(start, n_rows, columns, C, ROWS)
        value = tl.load(x + at, mask=mask, other=0.0).to(ACC)
        value = tl.where(mask, value - first, 0.0)
        total += value
        squares += value * value
        start += tl.num_programs(0) * ROWS
    store_sums(sums, total, squares, columns, exist, C)


@triton.jit(do_not_specialize=["n_rows", "n_sums"])
def moments_kernel(
    sums,
    statistics,
    running_mean,
    running_var,
    n_rows,
    n_sums,
    C: tl.constexpr,
    SUMS: tl.constexpr,
    COLUMNS: tl.constexpr,
    MOMENTUM: tl.constexpr,
    EPS: tl.constexpr,
    ACC: tl.constexpr,
):
    """statistics (2, C): mean and 1 / sqrt(var + eps) from moment_sums; the running ones follow.

    The shift of the sums is where the mean will be.
    """
    columns, exist = channels(C, COLUMNS)
    at, mask = offsets(0, n_sums, columns, 2 * C, SUMS)
    mask = mask & exist[None, :]
    count = n_rows.to(ACC)
    mean = tl.sum(tl.load(sums + at, mask=mask, other=0.0), 0) / count
    square = tl.sum(tl.load(sums + at + C, mask=mask, other=0.0), 0) / count
    var = tl.maximum(square - mean * mean, 0.0, propagate_nan=tl.PropagateNan.ALL)
    mean += tl.load(statistics + columns, mask=exist, other=0.0)
    tl.store(statistics + columns, mean, mask=exist)
    tl.store(statistics + C + columns, 1 / tl.sqrt(var + EPS), mask=exist)
    running = tl.load(running_mean + columns, mask=exist, other=0.0)
    tl.store(running_mean + columns, running + MOMENTUM * (mean - running), mask=exist)
    running = tl.load(running_var + columns, mask=exist, other=0.0)
    var = var * (count / (count - 1))
    tl.store(running_var + columns, running + MOMENTUM * (var - running), mask=exist)


@triton.jit
def norm_of(statistics, weight, bias, columns, exist, C: tl.constexpr):
    """Mean, 1 / standard deviation, weight and bias of the channels, (1, COLUMNS) each."""
    mean = tl.load(statistics + columns, mask=exist, other=0.0)
    invstd = tl.load(statistics + C + columns, mask=exist, other=0.0)
    weights = tl.load(weight + columns, mask=exist, other=0.0)
    biases = tl.load(bias + columns, mask=exist, other=0.0)
    return mean[None, :], invstd[None, :], weights[None, :], biases[None, :]


@triton.jit
def standardized(x, at, mask, mean, invstd):
    """x without its mean and deviation, in their precision."""
    return (tl.load(x + at, mask=mask, other=0.0).to(mean.dtype) - mean) * invstd


@triton.jit
def normalize_kernel(
    x,
    statistics,
    weight,
    bias,
    normalized,
    positive,
    n_rows,
    C: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    NORMALIZED: tl.constexpr,
    POSITIVE: tl.constexpr,
    ACC: tl.constexpr,
):
    """normalized: the batch norm of x; positive: its relu. Each where it is wanted."""
    columns, exist = channels(C, COLUMNS)
    at, mask = offsets(tl.program_id(0) * ROWS, n_rows, columns, C, ROWS)
    mean, invstd, weights, biases = norm_of(statistics, weight, bias, columns, exist, C)
    y = standardized(x, at, mask, mean, invstd) * weights + biases
    if NORMALIZED:
        tl.store(normalized + at, y, mask=mask)
    if POSITIVE:
        tl.store(positive + at, tl.where(y <= 0, 0.0, y), mask=mask)  # which keeps nan


@triton.jit
def gradient(
    y,
    at,
    mask,
    grad_normalized,
    grad_positive,
    NORMALIZED: tl.constexpr,
    POSITIVE: tl.constexpr,
):
    """Gradient of the batch norm's output y from those of `normalize`'s results."""
    grad = tl.zeros_like(y)
    if POSITIVE:
        grad += tl.load(grad_positive + at, mask=mask, other=0.0).to(y.dtype)
        grad = tl.where(y <= 0, 0.0, grad)
    if NORMALIZED:
        grad += tl.load(grad_normalized + at, mask=mask, other=0.0).to(y.dtype)
    return grad


@triton.jit
def gradient_sums_kernel(
    x,
    statistics,
    weight,
    bias,
    grad_normalized,
    grad_positive,
    sums,
    n_rows,
    C: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    NORMALIZED: tl.constexpr,
    POSITIVE: tl.constexpr,
    ACC: tl.constexpr,
):
    """sums (programs, 2, C): gradients of weight and bias, over each program's rows."""
    columns, exist = channels(C, COLUMNS)
    mean, invstd, weights, biases = norm_of(statistics, weight, bias, columns, exist, C)
    of_weight = tl.zeros((ROWS, COLUMNS), ACC)
    of_bias = tl.zeros((ROWS, COLUMNS), ACC)
    start = tl.program_id(0) * ROWS
    while start < n_rows:  # range() cannot be interpreted with NumPy 2.4
        at, mask = offsets(start, n_rows, columns, C, ROWS)
        standard = standardized(x, at, mask, mean, invstd)
        y = standard * weights + biases
        grad = gradient(y, at, mask, grad_normalized, grad_positive, NORMALIZED, POSITIVE)
        of_weight += grad * standard
        of_bias += grad
        start += tl.num_programs(0) * ROWS
    store_sums(sums, of_weight, of_bias, columns, exist, C)


@triton.jit
def through_statistics(grad, standard, sums, columns, exist, invstd, weights, count, C):
    """Gradient of a batch norm's input from that of its output; sums (2, C) as above, of all."""
    of_weight = tl.load(sums + columns, mask=exist, other=0.0)[None, :]
    of_bias = tl.load(sums + C + columns, mask=exist, other=0.0)[None, :]
    return weights * invstd * (grad - (of_bias + standard * of_weight) / count)


@triton.jit(do_not_specialize=["n_rows"])
def input_gradient_kernel(
    x,
    statistics,
    weight,
    bias,
    sums,
    grad_normalized,
    grad_positive,
    out,
    n_rows,
    C: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    NORMALIZED: tl.constexpr,
    POSITIVE: tl.constexpr,
    ACC: tl.constexpr,
):
    """out: gradient of the input x of `normalize`."""
    columns, exist = channels(C, COLUMNS)
    at, mask = offsets(tl.program_id(0) * ROWS, n_rows, columns, C, ROWS)
    mean, invstd, weights, biases = norm_of(statistics, weight, bias, columns, exist, C)
    standard = standardized(x, at, mask, mean, invstd)
    y = standard * weights + biases
    grad = gradient(y, at, mask, grad_normalized, grad_positive, NORMALIZED, POSITIVE)
    count = n_rows.to(ACC)
    grad = through_statistics(grad, standard, sums, columns, exist, invstd, weights, count, C)
    tl.store(out + at, grad, mask=mask)


def normalization(x: Tensor, norm: nn.BatchNorm1d | nn.BatchNorm2d) -> Normalization:
    """By the statistics of x in training, which the running ones follow, else by these."""
    running_mean, running_var, n_batches = norm.buffers()
    weight, bias = norm.weight.detach(), norm.bias.detach()
    if not norm.training:
        statistics = torch.stack([running_mean, (running_var + norm.eps).rsqrt()])
        return Normalization(statistics, weight, bias)
    if count(x) == 1:
        raise ValueError(f"batch norm of {tuple(x.shape)}: more than one position needed")
    shape, sums = sizes(x), sums_of(x)
    statistics = sums.new_empty(2, shape.C)
    moment_sums_kernel[sums_grid(x)](x, statistics[0], sums, count(x), **shape._asdict(), **WARPS)
    n_batches += 1
    programs, reduction_sizes = reduction(sums, shape.C)
    moments_kernel[programs](
        *(sums, statistics, running_mean, running_var, count(x), len(sums)),
        MOMENTUM=float(norm.momentum),  # type: ignore[arg-type]  # None: not used here
        EPS=norm.eps,
        ACC=shape.ACC,
        **reduction_sizes,
    )
    return Normalization(statistics, weight, bias)


def normalize(x: Tensor, norm: Normalization, out: Pair) -> None:
    """out: the norm of x and its relu, or None where one is not wanted."""
    normalize_kernel[grid(x)](x, *norm, *out, count(x), **sizes(x)._asdict(), **wanted(out))


def gradient_sums(x: Tensor, norm: Normalization, grads: Pair) -> Tensor:
    """Gradients of weight and bias (2, C) from those of `normalize`'s results."""
    sums = sums_of(x)
    gradient_sums_kernel[sums_grid(x)](
        x, *norm, *grads, sums, count(x), **sizes(x)._asdict(), **wanted(grads)
    )
    return reduced(sums)


def input_gradient(x: Tensor, norm: Normalization, sums: Tensor, grads: Pair) -> Tensor:
    """Gradient of x from those of `normalize`'s results and their `gradient_sums`."""
    out = torch.empty_like(x)
    input_gradient_kernel[grid(x)](
        x, *norm, sums, *grads, out, count(x), **sizes(x)._asdict(), **wanted(grads)
    )
    return out


def wanted(pair: Pair) -> dict:
    """Constants of the kernels: which of a pair there are."""
    normalized, positive = (x is not None for x in pair)
    return {"NORMALIZED": normalized, "POSITIVE": positive, **WARPS}
