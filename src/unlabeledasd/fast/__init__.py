"""Faster layers: the results of networks.py in less time and memory.

Each class here overrides the `forward` of a plain class and nothing else, so parameters and their
names are equal. `accelerate` puts them into a network, in place.
"""

import torch
from torch import nn

from unlabeledasd.fast.blocked import BlockedConv1d, BlockedConv2d
from unlabeledasd.fast.gpu.layers import GpuResidualBlock, GpuStem, try_kernels
from unlabeledasd.fast.residual import FastResidualBlock
from unlabeledasd.fast.stem import FastStem
from unlabeledasd.networks import ResidualBlock, SpectrumEncoder, Stem

# (plain class, faster class), by measurement: docs/performance.md
ON_CPU = ((Stem, FastStem), (ResidualBlock, FastResidualBlock))
BLOCKED = ((nn.Conv1d, BlockedConv1d), (nn.Conv2d, BlockedConv2d))
ON_GPU = (*BLOCKED, (Stem, GpuStem), (ResidualBlock, GpuResidualBlock))


def accelerate(network: nn.Module, device: torch.device | str, kernels: bool = True) -> nn.Module:
    """The network itself, its layers exchanged for those that are fastest on `device`.

    What the network computes, its parameters and their names stay the same; channels last.
    Networks of others (pseudo/pretrained) stay as they are. kernels: on a GPU, those of fast/gpu
    too; Python needs longer to launch one than PyTorch, so they pay where a CUDA graph records
    them, and on large batches.
    """
    device = torch.device(device)
    faster = ON_CPU if device.type == "cpu" else ON_GPU if kernels else BLOCKED
    if faster is ON_GPU and torch.cuda.is_available():
        try_kernels(device)
    plain_of: dict[type, type] = {kind: pair[0] for pair in (*ON_CPU, *ON_GPU) for kind in pair}
    for part in network.modules():
        if not isinstance(part, (SpectrumEncoder, Stem, ResidualBlock)):
            continue
        for module in part.modules():
            if plain := plain_of.get(type(module)):
                module.__class__ = dict[type, type](faster).get(plain, plain)
        part.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return network
