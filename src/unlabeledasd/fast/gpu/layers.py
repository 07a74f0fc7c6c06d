"""Stems and residual blocks on a GPU: batch norm, ReLU, pooling and rescaling in few passes.

Most convolutions are PyTorch's. What is between them goes through kernels that Triton compiles at
their first use. It is imported there: it takes a moment, and not every machine has it.
"""

import functools
import sys

import torch
from torch import Tensor, nn

from unlabeledasd.networks import ResidualBlock, Stem

FEW = 16  # channels of which cuDNN's tiles are half empty
DEVICES = {"cuda"}  # kinds of device with these kernels


@functools.cache
def try_kernels(device: torch.device) -> None:
    """A small step; where it fails, its reason is printed and PyTorch's layers compute instead."""
    if device.type not in DEVICES:
        return
    try:
        # without a trace in random numbers, nor in the caller's modes
        with torch.random.fork_rng([]), torch.inference_mode(False), torch.enable_grad():
            step = nn.Sequential(GpuStem(31, FEW), GpuResidualBlock(FEW, FEW, 1)).to(device)
            with torch.autocast(device.type, torch.bfloat16):
                step(torch.rand(2, 31, 31, device=device)).float().sum().backward()
    except Exception as error:  # of a compiler, a driver or Triton
        DEVICES.discard(device.type)
        reason = str(error).strip().partition("\n")[0]
        print(f"note: no Triton kernels ({reason}); PyTorch's layers instead", file=sys.stderr)


def usable(module: nn.Module, x: Tensor) -> bool:
    """Whether the kernels compute module(x): their gradients are those of batch statistics alone.

    Triton launches on the current device, and no other.
    """
    here = x.device.type != "cuda" or x.device.index == torch.cuda.current_device()
    modes = {part.training for part in module.modules()}
    known = modes == {True} or (modes == {False} and not torch.is_grad_enabled())
    return x.device.type in DEVICES and here and known


class GpuStem(Stem):
    """A Stem whose batch norm, ReLU and max-pool are one pass after that of the statistics.

    Where a batch-norm weight is exactly 0, all positions of a window are its maximum; the gradient
    is then that of the convolution's maximum, where PyTorch takes the first.
    """

    def forward(self, stft: Tensor) -> Tensor:
        if not usable(self, stft):
            return super().forward(stft)
        from unlabeledasd.fast.gpu.functions import BinNorm, PooledNorm

        bins, norm = self.bin_norm, self.norm
        image = BinNorm.apply(stft, bins, bins.weight, bins.bias)  # (B, 1, frames, F)
        return PooledNorm.apply(self.conv(image), norm, norm.weight, norm.bias)


class GpuResidualBlock(ResidualBlock):
    """A ResidualBlock in few passes."""

    def forward(self, x: Tensor) -> Tensor:
        if not usable(self, x):
            return super().forward(x)
        from unlabeledasd.fast.gpu.functions import NormRelu, Pool, Rescale

        norm1, norm2 = self.norm1, self.norm2
        x, positive = NormRelu.apply(x, norm1, True, norm1.weight, norm1.bias)
        out = convolve(self.conv1, positive)
        out = NormRelu.apply(out, norm2, False, norm2.weight, norm2.bias)
        out = convolve(self.conv2, out)
        if isinstance(self.skip, nn.Sequential):
            x = self.skip[1](Pool.apply(x))
        return Rescale.apply(out, x, self.rescale.squeeze.weight, self.rescale.excite.weight)


def convolve(conv: nn.Conv2d, x: Tensor) -> Tensor:
    """conv(x), by whichever kernel is faster (docs/performance.md)."""
    from unlabeledasd.fast.gpu.functions import NarrowConvolution

    few = conv.in_channels == conv.out_channels == FEW and conv.stride == (1, 1)
    return NarrowConvolution.apply(x, conv.weight) if few and x.itemsize == 2 else conv(x)
