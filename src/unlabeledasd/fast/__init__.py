"""Faster layers: the results of networks.py in less time and memory.

Each class here overrides the `forward` of a plain class and nothing else, so parameters and their
names are equal. `accelerate` puts them into a network, in place.
"""

import torch
from torch import nn

from unlabeledasd.fast.blocked import BlockedConv1d, BlockedConv2d
from unlabeledasd.fast.residual import FastResidualBlock
from unlabeledasd.fast.stem import FastStem
from unlabeledasd.networks import ResidualBlock, Stem

# (plain class, faster class), by measurement: docs/performance.md
ON_CPU = ((Stem, FastStem), (ResidualBlock, FastResidualBlock))
ON_GPU = ((nn.Conv1d, BlockedConv1d), (nn.Conv2d, BlockedConv2d))


def accelerate(network: nn.Module, device: torch.device | str) -> nn.Module:
    """The network itself, its layers exchanged for those that are fastest on `device`.

    What the network computes, its parameters and their names stay the same; channels last.
    """
    faster = ON_CPU if torch.device(device).type == "cpu" else ON_GPU
    for module in network.modules():
        for plain, fast in (*ON_CPU, *ON_GPU):
            if type(module) in (plain, fast):
                module.__class__ = fast if (plain, fast) in faster else plain
    return network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
